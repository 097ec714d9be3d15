//! Values to bytes and back: bincode 2 behind one door.
//!
//! The encoding is bincode's standard configuration (little endian, variable-length integers);
//! `docs/protocol.md` spells it out and `tests/golden.rs` pins the bytes. bincode 2.0.1 is the
//! last version its authors will make: nothing outside this module may name it.

use bincode::{
    config::{self, Configuration, Limit, LittleEndian, Varint},
    serde::{decode_from_slice, encode_to_vec},
};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use crate::status::Digest;

/// Why bytes are not the value they should be.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes do not spell a value of the type.
    #[error("malformed: {0}")]
    Malformed(#[from] bincode::error::DecodeError),
    /// The value ended before the bytes did.
    #[error("{0} bytes too many after the value")]
    Trailing(usize),
}

/// Encodes a value. It never fails for the types of this crate: none has an unsized or
/// self-describing part.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // An error here would be a programming error in a type of this crate, found by its tests;
    // no bytes then, which no decoder takes for a message.
    encode_to_vec(value, config::standard()).unwrap_or_default()
}

/// Decodes a value that uses all of `bytes`, allocating at most about `LIMIT` bytes whatever
/// they say.
///
/// Without the limit, bincode lets seven bytes claim a vector of 206 GB.
pub fn decode<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, DecodeError> {
    let limited: Configuration<LittleEndian, Varint, Limit<LIMIT>> = config::standard().with_limit::<LIMIT>();
    let (value, used) = decode_from_slice(bytes, limited)?;
    match bytes.len() - used {
        0 => Ok(value),
        trailing => Err(DecodeError::Trailing(trailing)),
    }
}

/// The digest of a document: the SHA-256 of its encoding.
pub fn digest<T: Serialize>(document: &T) -> Digest {
    Digest(Sha256::digest(encode(document)).into())
}
