//! Places on the PCI bus.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::value::{ParseError, quoted, wrong};

/// A PCI device's address, `0000:00:03.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciAddress {
    /// The domain, which machines with one bus system have as 0.
    pub domain: u32,
    /// The bus. Numbers of buses behind bridges are the firmware's choice.
    pub bus: u8,
    /// The device's place on its bus, 0 to 31, and its function there, 0 to 7.
    pub slot: Slot,
}

/// A device's place on one bus, `03.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// 0 to 31.
    pub device: u8,
    /// 0 to 7.
    pub function: u8,
}

/// How a document says where a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PciPlace {
    /// By its address.
    Address(PciAddress),
    /// By the slots on the way to it: that of a bridge on the root bus, that on the bus behind
    /// it, and so on.
    Path(Vec<Slot>),
}

/// The most bridges on a way: firmware gives up much earlier.
const MAX_DEPTH: usize = 16;

impl PciPlace {
    /// Whether a device whose own address comes last in `way`, after those of the bridges that
    /// lead to it, is at this place.
    pub fn is_at(&self, way: &[PciAddress]) -> bool {
        match self {
            Self::Address(address) => way.last() == Some(address),
            Self::Path(slots) => slots.iter().eq(way.iter().map(|address| &address.slot)),
        }
    }
}

impl FromStr for Slot {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (device, function) = text.split_once('.').unwrap_or((text, "0"));
        let device = hexadecimal(device, 2).and_then(|n| u8::try_from(n).ok()).filter(|n| *n < 32);
        let function = hexadecimal(function, 1).and_then(|n| u8::try_from(n).ok()).filter(|n| *n < 8);
        Ok(Self { device: device.ok_or(())?, function: function.ok_or(())? })
    }
}

impl FromStr for PciAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.rsplit(':');
        let slot = parts.next().filter(|slot| slot.contains('.')).ok_or(())?.parse()?;
        let bus = parts.next().and_then(|bus| hexadecimal(bus, 2)).and_then(|n| u8::try_from(n).ok());
        let domain = parts.next().map_or(Some(0), |domain| hexadecimal(domain, 8));
        if parts.next().is_some() {
            return Err(());
        }
        Ok(Self { domain: domain.ok_or(())?, bus: bus.ok_or(())?, slot })
    }
}

impl FromStr for PciPlace {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let place = if text.contains(':') {
            text.parse().map(Self::Address).ok()
        } else {
            let slots: Result<Vec<Slot>, ()> = text.split('/').take(MAX_DEPTH + 1).map(str::parse).collect();
            slots.ok().filter(|slots| slots.len() <= MAX_DEPTH).map(Self::Path)
        };
        place.map_or_else(
            || {
                wrong(format!(
                    "{} is no place on the PCI bus: write an address, 0000:00:03.0, or the slots on the \
                     way to it, 02.0/00.0",
                    quoted(text)
                ))
            },
            Ok,
        )
    }
}

/// Up to `most` hexadecimal digits, at least one.
fn hexadecimal(text: &str, most: usize) -> Option<u32> {
    let digits = (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, slot } = self;
        write!(f, "{domain:04x}:{bus:02x}:{:02x}.{:x}", slot.device, slot.function)
    }
}

impl fmt::Display for PciPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Path(slots) => slots.iter().enumerate().try_for_each(|(n, slot)| {
                let between = if n == 0 { "" } else { "/" };
                write!(f, "{between}{:02x}.{:x}", slot.device, slot.function)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_found() {
        let way: Vec<PciAddress> =
            ["0000:00:02.0", "0000:01:00.0"].iter().map(|text| text.parse().unwrap()).collect();
        for (text, found) in [
            ("0000:01:00.0", true),
            ("01:00.0", true),
            ("0000:00:02.0", false),
            ("02.0/00.0", true),
            ("2/0", true),
            ("02.0", false),
            ("02.1/00.0", false),
        ] {
            assert_eq!(text.parse::<PciPlace>().unwrap().is_at(&way), found, "{text}");
        }
        assert_eq!(way[1].to_string(), "0000:01:00.0");
        for text in ["", "/", "20.0", "00.8", "0:0:0:0.0", "00:00", "00:00.0/1", "0000:00:03.0 "] {
            assert!(text.parse::<PciPlace>().is_err(), "{text}");
        }
    }
}
