//! Neighbour advertisements and solicitations (RFC 4861), as whole IPv6 packets.
//!
//! Whole, because the source has to be the address that is advertised, of which a link may have
//! thousands, and because a solicitation of somebody else's duplicate-address detection names its
//! sender nowhere but in the Ethernet frame, which a raw `ICMPv6` socket does not show.

use std::net::Ipv6Addr;

use tether_wire::value::MacAddr;

use super::{Heard, Sign};

/// The Ethernet address of `ff02::1`, all nodes (RFC 2464 section 7).
pub(super) const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
pub(super) const ICMPV6: u8 = 58;
/// No router has handed it on, so its sender is on this link (RFC 4861 sections 7.1.1 and 7.1.2).
pub(super) const HOP_LIMIT: u8 = 255;
pub(super) const SOLICITATION: u8 = 135;
pub(super) const ADVERTISEMENT: u8 = 136;

const HEADER: usize = 40;
/// A solicitation or an advertisement without options.
const FIXED: usize = 24;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Tells everybody that `address` is at `mac` (RFC 4861 section 7.2.6).
pub(super) fn advertisement(mac: MacAddr, address: Ipv6Addr) -> [u8; HEADER + FIXED + 8] {
    let mut packet = [0; HEADER + FIXED + 8];
    packet[0] = 6 << 4;
    packet[5] = 8 + 24;
    packet[6] = ICMPV6;
    packet[7] = HOP_LIMIT;
    packet[8..24].copy_from_slice(&address.octets());
    packet[24..40].copy_from_slice(&ALL_NODES.octets());
    packet[40] = ADVERTISEMENT;
    packet[44] = OVERRIDE;
    packet[48..64].copy_from_slice(&address.octets());
    packet[64] = TARGET_LINK_LAYER_ADDRESS;
    packet[65] = 1;
    packet[66..].copy_from_slice(&mac.bytes());
    let sum = !checksum(&packet);
    packet[42..44].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Reads what a packet, which came in a frame from `source`, says about somebody's address, if it
/// says something. What RFC 4861 tells receivers to discard says nothing.
pub(super) fn read(packet: &[u8], source: Option<MacAddr>) -> Option<Heard> {
    let (header, rest) = packet.split_first_chunk::<HEADER>()?;
    let message = rest.get(..usize::from(u16::from_be_bytes([header[4], header[5]])))?;
    let (fixed, options) = message.split_first_chunk::<FIXED>()?;
    let sound = header[0] >> 4 == 6
        && header[6] == ICMPV6
        && header[7] == HOP_LIMIT
        && fixed[1] == 0
        && checksum(&packet[..HEADER + message.len()]) == u16::MAX;
    if !sound {
        return None;
    }
    let target = Ipv6Addr::from(*fixed.last_chunk::<16>()?);
    let from_nobody = header[8..24] == [0; 16];
    let to_many = header[24] == 0xff;
    let (mac, sign) = match fixed[0] {
        ADVERTISEMENT if fixed[4] & SOLICITED != 0 && to_many => return None,
        ADVERTISEMENT => (target_mac(options, source)?, Sign::Uses),
        // Duplicate-address detection is what asks from no address (RFC 4862 section 5.4.2).
        SOLICITATION if from_nobody => (source?, Sign::Probes),
        _ => return None,
    };
    Some(Heard { address: target.into(), mac, sign })
}

/// The MAC address in the options, or `source` when there is none; `None` when they are not options.
fn target_mac(mut options: &[u8], source: Option<MacAddr>) -> Option<MacAddr> {
    let mut found = source;
    while let [kind, eights, ..] = *options {
        let (option, rest) = options.split_at_checked(usize::from(eights) * 8)?;
        let value = option.get(2..)?;
        if kind == TARGET_LINK_LAYER_ADDRESS
            && let Ok(mac) = value.try_into()
        {
            found = MacAddr::from_bytes(mac);
        }
        options = rest;
    }
    found.filter(|_| options.is_empty())
}

/// The sum of RFC 4443 section 2.3 over a packet with its pseudo-header: all ones when the
/// checksum is in it, the checksum's complement when that is zero.
fn checksum(packet: &[u8]) -> u16 {
    let (addresses, message) = (&packet[8..HEADER], &packet[HEADER..]);
    let words = addresses.chunks(2).chain(message.chunks(2));
    let sum = words.fold(message.len() as u64 + u64::from(ICMPV6), |sum, word| {
        sum + u64::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]))
    });
    // A packet has less than 2^16 words, so after two foldings nothing is carried any more.
    let fold = |sum: u64| (sum & 0xffff) + (sum >> 16);
    u16::try_from(fold(fold(sum))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, 2);

    fn mac(last: u8) -> MacAddr {
        MacAddr::from_bytes([2, 0x42, 0xac, 0x12, 0, last]).unwrap()
    }

    /// An advertisement, changed, with a good checksum.
    fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut packet = advertisement(mac(2), ADDRESS).to_vec();
        change(&mut packet);
        packet[42..44].fill(0);
        let sum = !checksum(&packet);
        packet[42..44].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn heard(mac: MacAddr, sign: Sign) -> Heard {
        Heard { address: ADDRESS.into(), mac, sign }
    }

    #[test]
    fn what_is_written_is_read() {
        let packet = advertisement(mac(2), ADDRESS);
        assert_eq!(read(&packet, None), Some(heard(mac(2), Sign::Uses)));
        assert_eq!(packet[44] & (SOLICITED | OVERRIDE), OVERRIDE);
        assert_eq!(
            read(&[&packet[..], &[0; 9]].concat(), None),
            Some(heard(mac(2), Sign::Uses)),
            "with padding"
        );
    }

    #[test]
    fn the_checksum_is_rfc_4443s() {
        // An echo request without content from fe80::1 to fe80::2: two addresses, a length of 8,
        // the protocol 58 and the type 128, which is the upper half of its word.
        let mut packet = [0; HEADER + 8];
        packet[5] = 8;
        packet[8..10].copy_from_slice(&[0xfe, 0x80]);
        packet[23] = 1;
        packet[24..26].copy_from_slice(&[0xfe, 0x80]);
        packet[39] = 2;
        packet[40] = 128;
        let sum: u32 = 2 * 0xfe80 + 1 + 2 + 8 + 58 + 0x8000;
        assert_eq!(u32::from(checksum(&packet)), (sum & 0xffff) + (sum >> 16));
    }

    #[test]
    fn the_frame_tells_who_sent_what_has_no_option() {
        let bare = |packet: &mut Vec<u8>| {
            packet.truncate(HEADER + FIXED);
            packet[5] = 24;
        };
        let packet = changed(bare);
        assert_eq!(read(&packet, Some(mac(9))), Some(heard(mac(9), Sign::Uses)));
        assert_eq!(read(&packet, None), None);
        let solicitation = changed(|packet| {
            bare(packet);
            packet[8..24].fill(0);
            packet[40] = SOLICITATION;
        });
        assert_eq!(read(&solicitation, Some(mac(9))), Some(heard(mac(9), Sign::Probes)));
        let ordinary = changed(|packet| packet[40] = SOLICITATION);
        assert_eq!(read(&ordinary, Some(mac(9))), None, "it asks for another's address");
    }

    #[test]
    fn what_is_to_be_discarded_says_nothing() {
        let says_nothing = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
            assert_eq!(read(&changed(|packet| change(packet)), Some(mac(9))), None, "{what}");
        };
        says_nothing("from beyond a router", &|packet| packet[7] = 254);
        says_nothing("another protocol", &|packet| packet[6] = 17);
        says_nothing("IPv4", &|packet| packet[0] = 0x45);
        says_nothing("a code", &|packet| packet[41] = 1);
        says_nothing("an echo request", &|packet| packet[40] = 128);
        says_nothing("solicited by many", &|packet| packet[44] |= SOLICITED);
        says_nothing("an option without length", &|packet| packet[65] = 0);
        says_nothing("an option that is too long", &|packet| packet[65] = 2);
        says_nothing("longer than it is", &|packet| packet[5] = 200);
        let mut damaged = advertisement(mac(2), ADDRESS);
        damaged[63] ^= 1;
        assert_eq!(read(&damaged, Some(mac(9))), None, "damaged");
        for cut in 0..damaged.len() {
            assert_eq!(read(&advertisement(mac(2), ADDRESS)[..cut], Some(mac(9))), None, "{cut} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, good in 0..=72_usize) {
            let _ = read(&bytes, Some(mac(9)));
            let _ = read(&[&advertisement(mac(2), ADDRESS)[..good], &bytes].concat(), None);
            let _ = target_mac(&bytes, None);
            // Anything in a packet whose checksum is good.
            let options = changed(|packet| {
                packet.extend(&bytes);
                packet.extend([0; 8]);
                let length = u16::try_from(packet.len() - HEADER).unwrap();
                packet[4..6].copy_from_slice(&length.to_be_bytes());
            });
            let _ = read(&options, None);
        }
    }
}
