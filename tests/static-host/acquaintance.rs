//! What this host and its guests know each other by. It keeps nothing, so the same file has to lead
//! to the same keys and tokens. For tests alone: everybody can know them.

use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tether_host::{Admission, GuestId, Identity, IdentityError, JoinToken};

/// An Ed25519 key in PKCS#8 (RFC 8410), up to the key's own 32 bytes.
const KEY: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// What guests know the host by.
pub(crate) fn identity() -> Result<Identity, IdentityError> {
    let mut der = KEY.to_vec();
    der.extend(digest("static-host"));
    Identity::from_pkcs8(&der)
}

/// What the host knows a guest by. It is there for as long as anybody tests.
pub(crate) fn admission(guest: &GuestId) -> Admission {
    let token = JoinToken::from_bytes(digest(&format!("join token of {guest}")));
    Admission { token, expires: SystemTime::now() + Duration::from_hours(24), key: None }
}

fn digest(of: &str) -> [u8; 32] {
    Sha256::digest(of).into()
}
