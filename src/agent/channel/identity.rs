//! The guest's own identity: its key, and what it knows its host by.
//!
//! The key is made when the agent first starts and kept in one small file, replaced as a whole, so
//! that an agent which was killed comes back as itself. The file is for one boot and one boot
//! document: anything else makes the guest another one, that has to be enrolled again. It must not
//! leave this machine, and nobody else is told of the token.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};
use serde::{Deserialize, Serialize};
use tether_wire::{
    boot::Tether,
    codec,
    identity::{JoinToken, MAX_PINS, Pin},
    status::Digest,
    value::GuestId,
};
use zeroize::Zeroizing;

use super::tls;
use crate::{journal, report};

/// The file in the agent's directory.
const FILE: &str = "key";
/// The longest file that is read, in bytes.
const LIMIT: usize = 4 << 10;
/// The number of the file's layout.
const VERSION: u32 = 1;

/// What the guest is known by, and knows its host by.
#[derive(Debug)]
pub struct Identity {
    guest: GuestId,
    directory: PathBuf,
    page: Page,
    certificate: CertificateDer<'static>,
    token: JoinToken,
    client: Arc<ClientConfig>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A key cannot be made.
    #[error("cannot make a key: {0}")]
    Make(#[from] rcgen::Error),
    /// It cannot be used.
    #[error("cannot use the key: {0}")]
    Use(#[from] rustls::Error),
}

/// The file's content.
#[derive(Serialize, Deserialize)]
struct Page {
    version: u32,
    /// What the key is for.
    occasion: Digest,
    /// The key, PKCS#8 in DER.
    key: Zeroizing<Vec<u8>>,
    /// What the host is known by: the boot document's pins, or those it has told of since.
    pins: Vec<Pin>,
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Page").field("pins", &self.pins).finish_non_exhaustive()
    }
}

impl Identity {
    /// The identity that is kept in `directory` for this guest and this way to its host; a new one
    /// where there is none that can be used.
    pub fn open(directory: &Path, guest: &GuestId, tether: &Tether) -> Result<Self, IdentityError> {
        match kept(&directory.join(FILE), occasion(guest, tether)) {
            Some((key, page)) => Self::new(directory, guest, tether, &key, page),
            None => Self::make(directory, guest, tether),
        }
    }

    /// A new identity in the place of the one that is kept in `directory`, whatever that is for.
    pub fn make(directory: &Path, guest: &GuestId, tether: &Tether) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let der = Zeroizing::new(key.serialize_der());
        let occasion = occasion(guest, tether);
        let page = Page { version: VERSION, occasion, key: der, pins: tether.pins.clone() };
        let identity = Self::new(directory, guest, tether, &key, page)?;
        // Before its first use: an agent that is killed right after that is known already.
        let _ = identity.write();
        Ok(identity)
    }

    fn new(
        directory: &Path,
        guest: &GuestId,
        tether: &Tether,
        key: &KeyPair,
        page: Page,
    ) -> Result<Self, IdentityError> {
        let mut parameters = CertificateParams::default();
        // The certificate is the form in which TLS takes a key: what else it says is looked at by
        // nobody. Its dates are rcgen's own, 1975 to 4096; this machine has perhaps no clock.
        parameters.distinguished_name = DistinguishedName::new();
        let certificate = parameters.self_signed(key)?.der().clone();
        let client = Arc::new(tls::client(&page.pins, &certificate, &page.key)?);
        let (guest, directory, token) = (guest.clone(), directory.to_owned(), tether.token.clone());
        Ok(Self { guest, directory, page, certificate, token, client })
    }

    /// Who the guest is.
    pub(super) fn guest(&self) -> &GuestId {
        &self.guest
    }

    /// What the host knows the guest by when it comes for the first time.
    pub(super) fn token(&self) -> &JoinToken {
        &self.token
    }

    /// What connects to the host.
    pub(super) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    /// Knows the host by these pins from now on. `false` where an agent that is killed would not
    /// know them any more, or they are none.
    pub(super) fn trust(&mut self, pins: &[Pin]) -> bool {
        if !(1..=MAX_PINS).contains(&pins.len()) {
            tracing::warn!("the host tells of {} keys of its own; 1 or {MAX_PINS} are possible", pins.len());
            return false;
        }
        let client = match tls::client(pins, &self.certificate, &self.page.key) {
            Ok(client) => Arc::new(client),
            Err(error) => {
                tracing::warn!("{}", IdentityError::Use(error));
                return false;
            }
        };
        self.client = client;
        pins.clone_into(&mut self.page.pins);
        self.write().is_ok()
    }

    fn write(&self) -> io::Result<()> {
        let bytes = Zeroizing::new(codec::encode(&self.page));
        let written = journal::replace(&self.directory, FILE, &bytes);
        if let Err(error) = &written {
            let path = self.directory.join(FILE);
            tracing::warn!(
                "{} cannot be written: {error}; an agent that is killed will be a stranger to its host",
                path.display()
            );
        }
        written
    }
}

/// The key that was made on this occasion before, if it can be used.
fn kept(path: &Path, occasion: Digest) -> Option<(KeyPair, Page)> {
    let bytes = Zeroizing::new(fs::read(path).ok()?);
    let page: Page = codec::decode::<_, LIMIT>(&bytes).ok()?;
    let ours = page.version == VERSION && page.occasion == occasion && !page.pins.is_empty();
    let der = PrivatePkcs8KeyDer::from(page.key.as_slice());
    let key = ours.then(|| KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256));
    Some((key?.ok()?, page))
}

/// One guest, in one boot, with one boot document.
fn occasion(guest: &GuestId, tether: &Tether) -> Digest {
    codec::digest(&(report::boot_id(), guest.to_string(), &tether.pins, &tether.token))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tether_wire::boot::Way;

    use super::*;

    const PIN: Pin = Pin::from_bytes([1; 32]);
    const NEXT: Pin = Pin::from_bytes([2; 32]);

    fn tether(token: u8) -> Tether {
        Tether {
            way: Way::Unix("/run/host.sock".into()),
            pins: vec![PIN],
            token: JoinToken::from_bytes([token; 32]),
        }
    }

    #[test]
    fn the_next_agent_is_the_same_guest_and_knows_the_newest_pins() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run");
        let guest = "a".parse().unwrap();
        let open = |guest: &GuestId, token| Identity::open(&path, guest, &tether(token)).unwrap();
        let mut first = open(&guest, 7);
        assert_eq!(first.page.pins, [PIN]);
        let file = path.join(FILE);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(first.trust(&[PIN, NEXT]));
        assert!(!first.trust(&[]) && !first.trust(&[PIN; 3]));
        let next = open(&guest, 7);
        assert_eq!((&next.page.key, &next.page.pins), (&first.page.key, &vec![PIN, NEXT]));
        // A copy of this machine is another guest, though nothing else has changed.
        let copy = Identity::make(&path, &guest, &tether(7)).unwrap();
        assert_ne!(copy.page.key, first.page.key);
        assert_eq!(open(&guest, 7).page.key, copy.page.key);
        // Another guest or another token: another key, and the boot document's pins.
        let bytes = fs::read(&file).unwrap();
        for (guest, token) in [("b", 7), ("a", 8)] {
            let other = open(&guest.parse().unwrap(), token);
            assert_ne!(other.page.key, first.page.key);
            assert_eq!(other.page.pins, [PIN]);
        }
        // Torn, foreign or without a key: a new one, which is there the next time.
        let mut keyless: Page = codec::decode::<_, LIMIT>(&bytes).unwrap();
        keyless.key.truncate(9);
        for wrong in [&bytes[..bytes.len() - 1], b"", &[0xff; 64], &codec::encode(&keyless)] {
            fs::write(&file, wrong).unwrap();
            let new = open(&guest, 7);
            assert_ne!(new.page.key, first.page.key);
            assert_eq!(open(&guest, 7).page.key, new.page.key);
        }
        assert!(!format!("{first:?}").contains("key: ["), "{first:?}");
    }

    #[test]
    fn a_key_that_cannot_be_kept_is_used_all_the_same() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut identity = Identity::open(file.path(), &"a".parse().unwrap(), &tether(7)).unwrap();
        assert!(!identity.trust(&[NEXT]), "the next agent would not know it");
        assert_eq!(identity.page.pins, [NEXT]);
    }
}
