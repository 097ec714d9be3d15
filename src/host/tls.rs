//! TLS as guests get it: version 1.3 alone, both sides with a certificate, whose key is all that
//! counts. Every key is let through the handshake, so that what is wrong with it can be said in
//! the protocol's own words; [`admission`](crate::admission) judges it.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, ring::default_provider, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use tether_wire::{
    identity::Pin,
    line::{RECORD, SEALED},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// What serves guests with this certificate.
pub(crate) fn server(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(default_provider());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(AnyKey(provider)))
        .with_single_cert(vec![certificate], key)?;
    // Each connection shows its key itself: nothing is resumed.
    config.send_tls13_tickets = 0;
    config.max_fragment_size = Some(RECORD);
    Ok(config)
}

/// Shakes hands with a guest. Its stream, and the pin of its key.
pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: Arc<ServerConfig>,
) -> std::io::Result<(TlsStream<S>, Pin)> {
    let mut stream = TlsAcceptor::from(config).accept(stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    // The handshake fails without one.
    let shown = shown.ok_or(rustls::Error::NoCertificatesPresented).and_then(pin_of);
    let pin = shown.map_err(std::io::Error::other)?;
    stream.get_mut().1.set_buffer_limit(Some(SEALED));
    Ok((stream, pin))
}

/// The pin of a certificate's key.
pub(crate) fn pin_of(certificate: &CertificateDer<'_>) -> Result<Pin, rustls::Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    Ok(Pin::of_public_key(&parsed.subject_public_key_info()))
}

/// Wants a certificate, and that whoever shows it has its key.
#[derive(Debug)]
struct AnyKey(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        pin_of(certificate).map(|_| ClientCertVerified::assertion())
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
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::{
        ClientConfig,
        client::danger::{ServerCertVerified, ServerCertVerifier},
        pki_types::{PrivatePkcs8KeyDer, ServerName},
        sign::{CertifiedKey, SingleCertAndKey},
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio_rustls::TlsConnector;

    use super::*;

    /// How much is on its way between the two at most.
    const PIPE: usize = 1 << 10;

    /// A host that would be believed anything.
    #[derive(Debug)]
    struct Anybody;

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            unreachable!("the version is not offered")
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            default_provider().signature_verification_algorithms.supported_schemes()
        }
    }

    fn key_and_certificate() -> (KeyPair, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        (key, certificate.der().clone())
    }

    /// A guest that shows `certificate` and signs with `key` shakes hands with a host. The host's end of it
    /// with the guest's pin, and the guest's end.
    async fn shake(
        certificate: &CertificateDer<'static>,
        key: &KeyPair,
    ) -> (
        std::io::Result<(TlsStream<DuplexStream>, Pin)>,
        std::io::Result<tokio_rustls::client::TlsStream<DuplexStream>>,
    ) {
        let (host_key, host_certificate) = key_and_certificate();
        let host_key = PrivatePkcs8KeyDer::from(host_key.serialize_der());
        let server = Arc::new(server(host_certificate, host_key.into()).unwrap());
        let provider = Arc::new(default_provider());
        let signing = PrivatePkcs8KeyDer::from(key.serialize_der());
        let signing = provider.key_provider.load_private_key(signing.into()).unwrap();
        let shown = CertifiedKey::new(vec![certificate.clone()], signing);
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        let (near, far) = tokio::io::duplex(PIPE);
        let name = ServerName::try_from("host").unwrap();
        let dialling =
            tokio::spawn(async move { TlsConnector::from(Arc::new(client)).connect(name, far).await });
        let taken = accept(near, server).await;
        (taken, dialling.await.unwrap())
    }

    async fn is_taken(certificate: &CertificateDer<'static>, key: &KeyPair) -> bool {
        shake(certificate, key).await.0.is_ok_and(|(_, pin)| pin == pin_of(certificate).unwrap())
    }

    #[tokio::test]
    async fn a_certificate_without_its_key_is_nobody() {
        let (key, certificate) = key_and_certificate();
        assert!(is_taken(&certificate, &key).await);
        let (other, _) = key_and_certificate();
        assert!(!is_taken(&certificate, &other).await);
    }

    #[tokio::test]
    async fn what_has_not_left_is_little() {
        let (key, certificate) = key_and_certificate();
        let (taken, _guest) = shake(&certificate, &key).await;
        let (mut stream, _) = taken.unwrap();
        let mut sealed = 0;
        while let Some(written) = stream.write(&[7; 1 << 10]).now_or_never() {
            sealed += written.unwrap();
        }
        assert!((SEALED..SEALED + 2 * PIPE).contains(&sealed), "{sealed}");
    }

    #[tokio::test]
    async fn records_are_short() {
        let (key, certificate) = key_and_certificate();
        let (taken, guest) = shake(&certificate, &key).await;
        let (mut stream, _) = taken.unwrap();
        let _ = stream.write(&[7; 1 << 14]).now_or_never();
        // Its type, its version, its length (RFC 8446 section 5.1).
        let mut header = [0; 5];
        guest.unwrap().get_mut().0.read_exact(&mut header).await.unwrap();
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        // Its tag and inner type besides, and rustls counts the header.
        assert!((RECORD - 64..=RECORD + 64).contains(&length), "{length}");
    }
}
