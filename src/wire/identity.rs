//! Who the two ends of a tether are: pins of their keys, and the token a guest joins with.
//!
//! Values only: keys are made, and certificates looked at, by the two ends themselves.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::value::{ParseError, quoted, wrong};

/// The most keys of a host that are valid at one time: the present one and the next.
pub const MAX_PINS: usize = 2;

/// What a key is known by: the SHA-256 of its `SubjectPublicKeyInfo` in DER, as RFC 7469 pins
/// keys. Written as 64 hexadecimal digits, sent as 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of the key with this `SubjectPublicKeyInfo`, in DER.
    pub fn of_public_key(info: &[u8]) -> Self {
        Self(Sha256::digest(info).into())
    }

    /// The pin with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for Pin {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match digits(text) {
            Some(bytes) => Ok(Self(bytes)),
            None => wrong(format!(
                "{} is no pin: write the SHA-256 of the key, 64 hexadecimal digits",
                quoted(text)
            )),
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Pin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            Deserialize::deserialize(deserializer).map(Self)
        }
    }
}

/// What a guest shows at its first connection, and its host has given to it alone: 256 bits.
///
/// It is not shown, neither by `Debug` nor in JSON; it is zeroed when it goes; comparing two takes
/// the same time wherever they differ.
#[derive(Clone)]
pub struct JoinToken([u8; 32]);

impl JoinToken {
    /// The token with these bytes, which have to be random ones.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The text for a boot document: 64 hexadecimal digits.
    pub fn to_secret(&self) -> Secret {
        let mut text = String::with_capacity(2 * self.0.len());
        for byte in self.0 {
            for digit in [byte >> 4, byte & 15] {
                text.extend(char::from_digit(digit.into(), 16));
            }
        }
        Secret(text)
    }

    /// Forgets it: zeros are left.
    pub fn wipe(&mut self) {
        self.0.zeroize();
    }
}

impl FromStr for JoinToken {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match digits(text) {
            Some(bytes) => Ok(Self(bytes)),
            // The text stays out of it: it may be a token with one digit missing.
            None => wrong("no join token: write the one the host has made, 64 hexadecimal digits".to_owned()),
        }
    }
}

impl PartialEq for JoinToken {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for JoinToken {}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(…)")
    }
}

impl Drop for JoinToken {
    fn drop(&mut self) {
        self.wipe();
    }
}

impl Serialize for JoinToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Messages are told as JSON for people and logs; the boot document has a Secret.
        if serializer.is_human_readable() {
            serializer.serialize_str("…")
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for JoinToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Deserialize::deserialize(deserializer).map(Self)
    }
}

/// A text of a document that is nobody else's business: not shown by `Debug`, zeroed when it goes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The 32 bytes that 64 hexadecimal digits spell.
fn digits(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    const DIGITS: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn bytes() -> [u8; 32] {
        std::array::from_fn(|n| u8::try_from(n).unwrap())
    }

    #[test]
    fn pins_are_digits_for_people_and_bytes_for_machines() {
        let pin: Pin = DIGITS.parse().unwrap();
        assert_eq!(pin, Pin::from_bytes(bytes()));
        assert_eq!(pin, DIGITS.to_uppercase().parse().unwrap());
        assert_eq!((pin.to_string(), format!("{pin:?}")), (DIGITS.to_owned(), DIGITS.to_owned()));
        let json = serde_json::to_string(&pin).unwrap();
        assert_eq!(
            (json.clone(), serde_json::from_str::<Pin>(&json).unwrap()),
            (format!("\"{DIGITS}\""), pin)
        );
        assert_eq!(codec::encode(&pin), bytes());
        assert_eq!(codec::decode::<Pin, 64>(&bytes()).unwrap(), pin);
        for wrong in
            ["", "00", &DIGITS[1..], &DIGITS.replace('0', "g"), &format!("{DIGITS}0"), &"é".repeat(32)]
        {
            assert!(wrong.parse::<Pin>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        let token: JoinToken = DIGITS.parse().unwrap();
        assert_eq!(token.to_secret().reveal(), DIGITS);
        let shown = [
            format!("{token:?} {:?}", token.to_secret()),
            serde_json::to_string(&token).unwrap(),
            format!("{:?}", DIGITS[1..].parse::<JoinToken>()),
        ];
        for text in shown {
            assert!(!text.contains("0102"), "{text}");
        }
    }

    #[test]
    fn tokens_are_the_same_where_every_bit_is() {
        let token = JoinToken::from_bytes(bytes());
        assert_eq!(token, token.clone());
        for bit in 0..256 {
            let mut other = bytes();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(token, JoinToken::from_bytes(other));
        }
        let mut wiped = token;
        wiped.wipe();
        assert_eq!(wiped, JoinToken::from_bytes([0; 32]));
    }
}
