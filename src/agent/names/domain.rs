//! Domain names as they are in packets (RFC 1035 section 3.1): labels, each behind its length.
//! Without the root, which every name has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest name, its root included (RFC 1035 section 2.3.4).
pub(crate) const MAX_NAME: usize = 255;

/// A name of letters, digits, `-`, `_` and dots, as in a packet, folded to lower case if so
/// wished. A name that has been checked fits.
pub(crate) fn wire(text: &str, folded: bool) -> Box<[u8]> {
    let mut wire = Vec::with_capacity(text.len() + 1);
    for label in text.split('.') {
        wire.push(u8::try_from(label.len()).unwrap_or(0));
        wire.extend_from_slice(label.as_bytes());
    }
    if folded {
        wire.make_ascii_lowercase();
    }
    wire.into()
}

/// Copies a name of a packet, without its root, into `into` in lower case (RFC 4343). Lengths of
/// labels are below `A` and stay as they are.
pub(crate) fn fold<'b>(name: &[u8], into: &'b mut [u8; MAX_NAME]) -> &'b [u8] {
    let length = name.len().saturating_sub(1).min(MAX_NAME);
    let into = &mut into[..length];
    for (to, from) in into.iter_mut().zip(name) {
        *to = from.to_ascii_lowercase();
    }
    into
}

/// Whether a name is `above` or below it; everything is below the root, which is empty here.
pub(crate) fn is_at_or_below(name: &[u8], above: &[u8]) -> bool {
    above.is_empty() || name == above || labels(name).any(|at| name[at..] == *above)
}

/// Where the labels of a name begin, but for the first.
pub(super) fn labels(name: &[u8]) -> impl Iterator<Item = usize> {
    let next = |at: &usize| Some(at + 1 + usize::from(*name.get(*at)?)).filter(|at| *at < name.len());
    std::iter::successors(Some(0), next).skip(1)
}

/// The address a reverse name is about: `2.0.18.172.in-addr.arpa` (RFC 1035 section 3.5) or 32
/// nibbles under `ip6.arpa` (RFC 3596 section 2.5).
pub(super) fn reversed(name: &[u8]) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(b"\x07in-addr\x04arpa") {
        let mut rest = octets;
        let mut address = [0; 4];
        for octet in address.iter_mut().rev() {
            let (length, after) = rest.split_first()?;
            let (digits, after) = after.split_at_checked(usize::from(*length))?;
            // Written as every number is: no sign, and no zero in front.
            let plain = digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits[0] != b'0');
            *octet = std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()?;
            rest = after;
        }
        return rest.is_empty().then(|| Ipv4Addr::from(address).into());
    }
    let nibbles = name.strip_suffix(b"\x03ip6\x04arpa").filter(|nibbles| nibbles.len() == 64)?;
    let mut bits: u128 = 0;
    for label in nibbles.rchunks_exact(2) {
        let digit = char::from(label[1]).to_digit(16).filter(|_| label[0] == 1)?;
        bits = bits << 4 | u128::from(digit);
    }
    Some(Ipv6Addr::from_bits(bits).into())
}
