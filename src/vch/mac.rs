//! MAC addresses that follow from what they are for, so that a restart makes the same ones.

use std::net::IpAddr;

use sha2::{Digest, Sha256};
use tether_wire::value::{MacAddr, Prefix};

/// A MAC address that follows from a name: locally administered, unicast (`02:7e` and 32 bits).
pub fn of_name(name: &str) -> MacAddr {
    let digest = Sha256::digest(name.as_bytes());
    MacAddr::from_bytes([0x02, 0x7e, digest[0], digest[1], digest[2], digest[3]])
        .unwrap_or_else(|| unreachable!("the first byte says unicast"))
}

/// The MAC address of an endpoint, as Docker makes it: `02:42` and the IPv4 address. One without
/// such an address has that of its name.
pub fn of_endpoint(addresses: &[Prefix], name: &str) -> MacAddr {
    let v4 = addresses.iter().find_map(|prefix| match prefix.address() {
        IpAddr::V4(v4) => Some(v4.octets()),
        IpAddr::V6(_) => None,
    });
    let made = v4.and_then(|[a, b, c, d]| MacAddr::from_bytes([0x02, 0x42, a, b, c, d]));
    made.unwrap_or_else(|| of_name(name))
}
