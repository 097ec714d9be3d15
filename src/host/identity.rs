//! The host's own identity: a key, and a certificate that carries it.
//!
//! A certificate is the form in which TLS takes a key, and no more: guests pin the key, and look at
//! nothing else.

use std::{fmt, sync::Arc};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
};
use tether_wire::identity::{Pin, Secret};

use crate::tls;

/// A key of the host with its certificate. Clones are the same.
#[derive(Clone)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: Arc<PrivateKeyDer<'static>>,
    pin: Pin,
    server: Arc<ServerConfig>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A key or its certificate cannot be made.
    #[error("the host's key: {0}")]
    Make(#[from] rcgen::Error),
    /// There is no certificate, or no key, in a text.
    #[error("no certificate with its key: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// The certificate and the key cannot be used, or do not go together.
    #[error("the host's certificate: {0}")]
    Certificate(#[from] rustls::Error),
}

impl Identity {
    /// A new key, for ECDSA on P-256, and a certificate for it.
    pub fn generate() -> Result<Self, IdentityError> {
        Self::of_key(&KeyPair::generate()?)
    }

    /// The identity of a key in PKCS#8, in DER: the certificate is made anew, the pin is that of
    /// the key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, IdentityError> {
        Self::of_key(&KeyPair::try_from(&PrivatePkcs8KeyDer::from(der))?)
    }

    /// A certificate and its key, each in DER; the key in PKCS#8, or as SEC 1 or PKCS#1 have it.
    pub fn from_der(
        certificate: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, IdentityError> {
        let pin = tls::pin_of(&certificate)?;
        let server = tls::server(certificate.clone(), key.clone_key())?;
        Ok(Self { certificate, key: Arc::new(key), pin, server: Arc::new(server) })
    }

    /// A certificate and its key in PEM, one after the other.
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let certificate = CertificateDer::from_pem_slice(text.as_bytes())?;
        Self::from_der(certificate, PrivateKeyDer::from_pem_slice(text.as_bytes())?)
    }

    /// What [`from_pem`](Self::from_pem) reads: to be kept where nobody else can read it.
    pub fn to_pem(&self) -> Secret {
        let label = match *self.key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        let blocks = [("CERTIFICATE", self.certificate.as_ref()), (label, self.key.secret_der())];
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        blocks.map(|(label, der)| pem::encode_config(&pem::Pem::new(label, der), config)).concat().into()
    }

    /// What guests know it by.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// What connections are served with.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    fn of_key(key: &KeyPair) -> Result<Self, IdentityError> {
        let mut parameters = CertificateParams::default();
        // What is in it is nobody's business, least of all a date: these are rcgen's own, 1975 to 4096.
        parameters.distinguished_name = DistinguishedName::new();
        let certificate = parameters.self_signed(key)?;
        let pkcs8 = PrivatePkcs8KeyDer::from(key.serialize_der());
        debug_assert_eq!(
            tls::pin_of(certificate.der()).ok(),
            Some(Pin::of_public_key(&key.subject_public_key_info()))
        );
        Self::from_der(certificate.der().clone(), pkcs8.into())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("pin", &self.pin).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_the_same_identity() {
        let identity = Identity::generate().unwrap();
        let text = identity.to_pem();
        let again = Identity::from_pem(text.reveal()).unwrap();
        assert_eq!(again.pin(), identity.pin());
        assert_eq!(again.to_pem(), text);
        assert_ne!(Identity::generate().unwrap().pin(), identity.pin());
        let by_key = Identity::from_pkcs8(identity.key.secret_der()).unwrap();
        assert_eq!(by_key.pin(), identity.pin());
        assert!(!format!("{identity:?}").contains("key"));
    }

    #[test]
    fn another_key_does_not_go_with_a_certificate() {
        let (one, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let wrong = Identity::from_der(one.certificate.clone(), other.key.clone_key());
        assert!(matches!(wrong, Err(IdentityError::Certificate(_))), "{wrong:?}");
        assert!(matches!(Identity::from_pem("x"), Err(IdentityError::Pem(_))));
    }
}
