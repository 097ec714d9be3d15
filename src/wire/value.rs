//! Values that cannot be wrong: each is made in one place, by parsing.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Why a text is not the value it should be. Its display is one line that says what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

pub(crate) fn wrong<T>(message: String) -> Result<T, ParseError> {
    Err(ParseError(message))
}

/// The name a host knows a guest by: 1 to 64 of `A-Z a-z 0-9 _ . -`.
///
/// 64 is the length of a Docker container id in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestId(String);

impl FromStr for GuestId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if text.is_empty() || text.len() > 64 || !text.bytes().all(legal) {
            return wrong(format!(
                "{} is not a guest id: write 1 to 64 letters, digits, '_', '.' or '-'",
                quoted(text)
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for GuestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a network interface, as Linux takes it: 1 to 15 bytes, not `.` or `..`, without
/// `/`, `:`, `%` and white space.
///
/// The kernel's `dev_valid_name` refuses all of these but `%`, which it reads as a template
/// (`eth%d`) and would turn into another name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName(String);

impl IfName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let legal = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
        if text.len() > 15 {
            return wrong(format!(
                "{} is too long for an interface name: {} bytes, 15 at most",
                quoted(text),
                text.len()
            ));
        }
        if text.is_empty() || text == "." || text == ".." || !text.bytes().all(legal) {
            return wrong(format!(
                "{} is not an interface name: write up to 15 printable characters without '/', \
                 ':', '%' and spaces",
                quoted(text)
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A unicast Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// The address with these bytes, unless it is zero or a group address (IEEE 802: the lowest
    /// bit of the first byte), which no interface can own.
    pub fn from_bytes(bytes: [u8; 6]) -> Option<Self> {
        (bytes != [0; 6] && bytes[0] & 1 == 0).then_some(Self(bytes))
    }

    /// The six bytes in the order they are sent.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        let well_formed = bytes.iter_mut().all(|byte| {
            parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .map(|value| *byte = value)
                .is_some()
        }) && parts.next().is_none();
        match Self::from_bytes(bytes) {
            _ if !well_formed => wrong(format!(
                "{} is not a MAC address: write six hexadecimal pairs, such as 02:42:ac:12:00:02",
                quoted(text)
            )),
            None => {
                wrong(format!("{text} is zero or a group address: an interface has a unicast MAC address"))
            }
            Some(mac) => Ok(mac),
        }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

/// An IP address with a prefix length: an interface's address, or (with no bits after the
/// prefix) a network. Written `172.18.0.2/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix, or `None` when `length` is over 32 (IPv4) or 128 (IPv6).
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        (length <= bits(address)).then_some(Self { address, length })
    }

    /// The link-local IPv6 address with this interface identifier (RFC 4291 section 2.5.6).
    pub fn link_local(interface_id: u64) -> Self {
        let address = Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(interface_id));
        Self { address: address.into(), length: 64 }
    }

    /// The address, with its host part.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many leading bits are the network's: 0 to 32, or 0 to 128.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether the prefix covers a single address.
    pub fn is_host(self) -> bool {
        self.length == bits(self.address)
    }

    /// The same prefix with a host part of zeros.
    #[must_use]
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Self { address, ..self }
    }

    /// The last address: for IPv4 networks of two bits and more, the broadcast address.
    pub fn last(self) -> IpAddr {
        match self.address {
            IpAddr::V4(v4) => {
                let host = u32::MAX.checked_shr(u32::from(self.length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | host))
            }
            IpAddr::V6(v6) => {
                let host = u128::MAX.checked_shr(u32::from(self.length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() | host))
            }
        }
    }

    /// Whether `address` is inside this prefix. Addresses of the other family never are.
    pub fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Self { address, ..self }.network() == self.network()
    }
}

/// Whether an address means something on one link only: IPv6 `fe80::/10`.
pub fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// The number of bits in an address of this family.
fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl FromStr for Prefix {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let Some((address, length)) = text.split_once('/') else {
            return match text.parse::<IpAddr>() {
                Ok(address) => wrong(format!("{text} has no prefix length: write {address}/{}, say", {
                    if address.is_ipv4() { 24 } else { 64 }
                })),
                Err(_) => wrong(format!(
                    "{} is not an address with a prefix length: write 172.18.0.2/16, say",
                    quoted(text)
                )),
            };
        };
        let Ok(address) = address.parse::<IpAddr>() else {
            return wrong(format!(
                "{} is not an IP address: write 172.18.0.2/16 or fd00::2/64, say",
                quoted(address)
            ));
        };
        let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        match length.parse::<u8>().ok().filter(|_| digits).and_then(|l| Self::new(address, l)) {
            Some(prefix) => Ok(prefix),
            None => wrong(format!(
                "{} is not a prefix length: write a number from 0 to {}",
                quoted(length),
                bits(address)
            )),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// The most of a stranger's text that is shown in an error.
const SHOWN: usize = 60;

/// A stranger's text made fit for an error line: quoted, escaped, cut at [`SHOWN`] characters.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// Makes a value serialize as its text and deserialize by parsing it.
macro_rules! serde_as_text {
    ($($type:ty),+) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
    )+};
}
serde_as_text!(GuestId, IfName, MacAddr, Prefix);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_know_their_network() {
        let prefix: Prefix = "172.18.5.2/16".parse().unwrap();
        assert_eq!(prefix.network().to_string(), "172.18.0.0/16");
        assert_eq!(prefix.last().to_string(), "172.18.255.255");
        assert!(prefix.contains("172.18.0.1".parse().unwrap()));
        assert!(!prefix.contains("172.19.0.1".parse().unwrap()));
        assert!(!prefix.contains("::".parse().unwrap()));
        let all: Prefix = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.255.255.255".parse().unwrap()));
        assert_eq!(all.last().to_string(), "255.255.255.255");
        let one: Prefix = "fd00::7/128".parse().unwrap();
        assert_eq!(one.network(), one);
        assert_eq!(one.last(), one.address());
    }

    #[test]
    fn texts_that_are_no_prefix_say_what_to_write() {
        for (text, remedy) in [
            ("172.18.0.2", "write 172.18.0.2/24"),
            ("172.18.0.2/33", "from 0 to 32"),
            ("fd00::1/129", "from 0 to 128"),
            ("fd00::1/+4", "from 0 to 128"),
            ("banana", "write 172.18.0.2/16"),
            ("172.18.0/16", "not an IP address"),
        ] {
            let error = text.parse::<Prefix>().unwrap_err().to_string();
            assert!(error.contains(remedy), "{text}: {error}");
        }
    }

    #[test]
    fn mac_addresses_are_unicast() {
        assert_eq!("02:42:AC:12:00:02".parse::<MacAddr>().unwrap().to_string(), "02:42:ac:12:00:02");
        for text in ["", "02:42:ac:12:00", "02:42:ac:12:00:02:03", "2:42:ac:12:0:2", "02:42:ac:12:00:+2"] {
            assert!(text.parse::<MacAddr>().unwrap_err().to_string().contains("six hexadecimal"));
        }
        for text in ["ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "01:00:5e:00:00:01"] {
            assert!(text.parse::<MacAddr>().unwrap_err().to_string().contains("unicast"));
        }
    }

    #[test]
    fn interface_names_are_what_the_kernel_takes() {
        assert!("eth0".parse::<IfName>().is_ok());
        for text in ["", ".", "..", "a/b", "a b", "eth%d", "a:1", "a-name-of-16-byt"] {
            assert!(text.parse::<IfName>().is_err(), "{text}");
        }
    }

    #[test]
    fn long_strangers_are_cut() {
        let error = "x".repeat(100_000).parse::<GuestId>().unwrap_err().to_string();
        assert!(error.len() < 300, "{}", error.len());
    }
}
