//! TLS to the host: version 1.3 alone, the host known by its key and by nothing else. Names, dates
//! and whoever has signed a certificate count for nothing: this machine has neither a clock nor a CA.

use std::{error::Error, fmt, io, net::Ipv4Addr, sync::Arc, time::Duration};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring::default_provider, verify_tls13_signature},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use tether_wire::{
    identity::Pin,
    line::{RECORD, SEALED},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How long a host may take to shake hands.
const PATIENCE: Duration = Duration::from_secs(10);

/// What connects to a host with one of these pins, as whoever has this key in PKCS#8.
pub(super) fn client(
    pins: &[Pin],
    certificate: &CertificateDer<'static>,
    key: &[u8],
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(default_provider());
    let pinned = Pinned { pins: pins.to_owned(), provider: Arc::clone(&provider) };
    let key = PrivatePkcs8KeyDer::from(key.to_owned());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pinned))
        .with_client_auth_cert(vec![certificate.clone()], key.into())?;
    // Each connection shows both keys: nothing is resumed.
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.max_fragment_size = Some(RECORD);
    Ok(config)
}

/// Shakes hands with the host; what stands in the way in one line.
pub(super) async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    client: Arc<ClientConfig>,
) -> Result<TlsStream<S>, String> {
    // A host has no name: this one is neither sent nor looked at.
    let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let shaking = TlsConnector::from(client).connect(nobody, stream);
    match timeout(PATIENCE, shaking).await {
        Ok(Ok(mut stream)) => {
            stream.get_mut().1.set_buffer_limit(Some(SEALED));
            Ok(stream)
        }
        Ok(Err(error)) => Err(obstacle(&error)),
        Err(_) => Err(format!("no TLS with the host: no answer in {PATIENCE:?}")),
    }
}

/// Why the host is not believed to be it.
#[derive(Debug)]
struct NotPinned(Pin);

impl fmt::Display for NotPinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the host's key is not the pinned one: it has {}", self.0)
    }
}

impl Error for NotPinned {}

fn obstacle(error: &io::Error) -> String {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) => why.to_string(),
        _ => format!("no TLS with the host: {error}"),
    }
}

/// Knows the host by its key.
#[derive(Debug)]
struct Pinned {
    pins: Vec<Pin>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Pin::of_public_key(&ParsedCertificate::try_from(certificate)?.subject_public_key_info());
        if self.pins.contains(&shown) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::Other(OtherError(Arc::new(NotPinned(shown)))).into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Not reached: the version is not offered.
        Err(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::{
        ServerConfig,
        sign::{CertifiedKey, SingleCertAndKey},
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;

    fn key_and_certificate() -> (KeyPair, CertificateDer<'static>, Pin) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap().der().clone();
        let parsed = ParsedCertificate::try_from(&certificate).unwrap();
        let pin = Pin::of_public_key(&parsed.subject_public_key_info());
        (key, certificate, pin)
    }

    /// What a guest with this pin says to a host that shows `certificate` and signs with `key`.
    async fn believed(pin: Pin, certificate: &CertificateDer<'static>, key: &KeyPair) -> Result<(), String> {
        let provider = Arc::new(default_provider());
        let signing = PrivatePkcs8KeyDer::from(key.serialize_der());
        let signing = provider.key_provider.load_private_key(signing.into()).unwrap();
        let shown = CertifiedKey::new(vec![certificate.clone()], signing);
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        let (own, own_certificate, _) = key_and_certificate();
        let client = Arc::new(client(&[pin], &own_certificate, &own.serialize_der()).unwrap());
        let (near, far) = tokio::io::duplex(1 << 16);
        let serving = tokio::spawn(async move { TlsAcceptor::from(Arc::new(server)).accept(far).await });
        let said = secure(near, client).await;
        drop(serving.await);
        said.map(drop)
    }

    #[tokio::test]
    async fn a_pinned_certificate_without_its_key_is_not_the_host() {
        let (key, certificate, pin) = key_and_certificate();
        assert_eq!(believed(pin, &certificate, &key).await, Ok(()));
        let (other, other_certificate, _) = key_and_certificate();
        assert!(believed(pin, &certificate, &other).await.unwrap_err().starts_with("no TLS with the host"));
        let refused = believed(pin, &other_certificate, &other).await.unwrap_err();
        assert!(refused.starts_with("the host's key is not the pinned one"), "{refused}");
    }
}
