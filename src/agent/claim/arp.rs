//! ARP packets (RFC 826), written and read as RFC 5227 has them.

use std::net::Ipv4Addr;

use tether_wire::value::MacAddr;

use super::{Heard, Sign};

/// The length of a packet for IPv4 over Ethernet. On the wire padding follows.
const LENGTH: usize = 28;
/// Hardware type Ethernet, protocol type IPv4, and the lengths of their addresses.
const FORMAT: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// Asks who has `address`, from no address: nobody's table learns from it (RFC 5227 section 2.1.1).
pub(super) fn probe(mac: MacAddr, address: Ipv4Addr) -> [u8; LENGTH] {
    request(mac, Ipv4Addr::UNSPECIFIED, address)
}

/// Tells everybody that `address` is at `mac` (RFC 5227 section 2.3).
pub(super) fn announcement(mac: MacAddr, address: Ipv4Addr) -> [u8; LENGTH] {
    request(mac, address, address)
}

/// Reads what a packet says about somebody's address, if it says something.
pub(super) fn read(packet: &[u8]) -> Option<Heard> {
    let (format, rest) = packet.split_first_chunk()?;
    let (operation, rest) = rest.split_first_chunk()?;
    let (mac, rest) = rest.split_first_chunk()?;
    let (sender, rest) = rest.split_first_chunk::<4>()?;
    let (_target_mac, rest) = rest.split_first_chunk::<6>()?;
    let target = Ipv4Addr::from(*rest.first_chunk::<4>()?);
    let sender = Ipv4Addr::from(*sender);
    if *format != FORMAT || !matches!(*operation, REQUEST | REPLY) {
        return None;
    }
    let (address, sign) = if !sender.is_unspecified() {
        (sender, Sign::Uses)
    } else if *operation == REQUEST {
        (target, Sign::Probes)
    } else {
        return None;
    };
    Some(Heard { address: address.into(), mac: MacAddr::from_bytes(*mac)?, sign })
}

fn request(mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    packet[..6].copy_from_slice(&FORMAT);
    packet[6..8].copy_from_slice(&REQUEST);
    packet[8..14].copy_from_slice(&mac.bytes());
    packet[14..18].copy_from_slice(&sender.octets());
    // The target's MAC address is what nobody knows: zero.
    packet[24..].copy_from_slice(&target.octets());
    packet
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);

    fn mac() -> MacAddr {
        "02:42:ac:12:00:02".parse().unwrap()
    }

    /// An announcement with one byte changed.
    fn with(position: usize, byte: u8) -> [u8; LENGTH] {
        let mut packet = announcement(mac(), ADDRESS);
        packet[position] = byte;
        packet
    }

    #[test]
    fn packets_are_rfc_826s() {
        assert_eq!(
            probe(mac(), ADDRESS),
            [0, 1, 8, 0, 6, 4, 0, 1, 2, 66, 172, 18, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 172, 18, 0, 2]
        );
        assert_eq!(announcement(mac(), ADDRESS)[14..18], ADDRESS.octets());
    }

    #[test]
    fn what_is_written_is_read_with_its_padding() {
        let heard = |sign| Some(Heard { address: ADDRESS.into(), mac: mac(), sign });
        assert_eq!(read(&probe(mac(), ADDRESS)), heard(Sign::Probes));
        let padded = [&announcement(mac(), ADDRESS)[..], &[0; 18]].concat();
        assert_eq!(read(&padded), heard(Sign::Uses));
        assert_eq!(read(&with(7, 2)), heard(Sign::Uses));
    }

    #[test]
    fn what_is_not_ipv4_over_ethernet_says_nothing() {
        for position in 0..6 {
            assert_eq!(read(&with(position, 0xff)), None, "byte {position}");
        }
        assert_eq!(read(&with(7, 3)), None, "reverse ARP");
        assert_eq!(read(&with(8, 1)), None, "a group address as the sender");
        let mut nobodys_reply = probe(mac(), ADDRESS);
        nobodys_reply[7] = 2;
        assert_eq!(read(&nobodys_reply), None);
        for cut in 0..LENGTH {
            assert_eq!(read(&announcement(mac(), ADDRESS)[..cut]), None, "{cut} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, good in 0..=LENGTH) {
            let _ = read(&bytes);
            // As far as it goes a packet, then anything.
            let _ = read(&[&announcement(mac(), ADDRESS)[..good], &bytes].concat());
        }
    }
}
