//! Somebody for whom a test speaks: TLS and frames by hand, so that anything can be said.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme,
    StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use tether_host::{
    JoinToken, Pin,
    message::{FromGuest, FromHost, Hello, Ping, Pong},
};
use tether_tests::{DEADLINE, Space};
use tether_wire::{frame::Frame, protocols::Protocols};

use crate::place::within;

/// A key and its certificate.
pub(crate) struct Key {
    certificate: CertificateDer<'static>,
    private: Vec<u8>,
    pub(crate) pin: Pin,
}

impl Key {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::default().self_signed(&key).expect("a certificate");
        let pin = Pin::of_public_key(&key.subject_public_key_info());
        Self { certificate: certificate.der().clone(), private: key.serialize_der(), pin }
    }

    fn signing(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.private.clone()).into()
    }

    /// What shakes hands with whoever there is, as whoever has this key.
    pub(crate) fn client(&self) -> ClientConnection {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("it has that")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_auth_cert(vec![self.certificate.clone()], self.signing())
            .expect("they fit");
        let name = ServerName::try_from("host").expect("a name");
        ClientConnection::new(Arc::new(config), name).expect("a connection")
    }

    fn server(&self) -> ServerConnection {
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("it has that")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.signing())
            .expect("they fit");
        ServerConnection::new(Arc::new(config)).expect("a connection")
    }
}

/// Believes anybody.
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

/// A connection out of `space`.
pub(crate) fn connect(space: &Space, to: &str, port: u16) -> TcpStream {
    let to: SocketAddr = format!("{to}:{port}").parse().expect("an address");
    let connecting = within(space, move || TcpStream::connect_timeout(&to, DEADLINE));
    let stream = connecting.join().expect("no panic").expect("somebody listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    stream
}

/// A port in `space`.
pub(crate) fn listen(space: &Space, at: &str, port: u16) -> TcpListener {
    let at: SocketAddr = format!("{at}:{port}").parse().expect("an address");
    within(space, move || TcpListener::bind(at)).join().expect("no panic").expect("a free port")
}

/// One end of a connection that speaks the protocol, as far as the test wants.
pub(crate) struct Speaker<C> {
    pub(crate) stream: C,
}

/// A guest, or somebody who says so.
pub(crate) type FalseGuest = Speaker<StreamOwned<ClientConnection, TcpStream>>;
/// A host, or somebody who says so.
pub(crate) type FalseHost = Speaker<StreamOwned<ServerConnection, TcpStream>>;

impl FalseGuest {
    pub(crate) fn new(stream: TcpStream, key: &Key) -> Self {
        Self { stream: StreamOwned::new(key.client(), stream) }
    }

    /// Greets as the guest `id`, and hears what the host says to that.
    pub(crate) fn greet(&mut self, id: &str, token: JoinToken) -> io::Result<FromHost> {
        self.say(FromGuest::from(Hello {
            protocol_min: Protocols::SPOKEN.min,
            protocol_max: Protocols::SPOKEN.max,
            guest: id.to_owned(),
            agent_version: String::new(),
            capabilities: vec![],
            boot_id: "b".into(),
            applied: None,
            names: None,
            token,
        }))?;
        let frame = self.frame()?;
        Ok(FromHost::from_frame(&frame).expect("it decodes").expect("it is known"))
    }

    pub(crate) fn say(&mut self, message: impl Into<FromGuest>) -> io::Result<()> {
        self.send(&message.into().to_frame())
    }
}

impl FalseHost {
    /// Waits for a guest that takes it for its host.
    pub(crate) fn accept(listener: &TcpListener, key: &Key) -> io::Result<Self> {
        let (stream, _) = listener.accept()?;
        // Not long: a guest that goes away in the middle is to keep nobody.
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut speaker = Self { stream: StreamOwned::new(key.server(), stream) };
        while speaker.stream.conn.is_handshaking() {
            speaker.stream.conn.complete_io(&mut speaker.stream.sock)?;
        }
        Ok(speaker)
    }

    pub(crate) fn say(&mut self, message: impl Into<FromHost>) {
        self.send(&message.into().to_frame()).expect("the guest reads");
    }

    /// The next message that is neither a heartbeat nor a status.
    pub(crate) fn hear(&mut self) -> FromGuest {
        loop {
            let frame = self.frame().expect("the guest speaks");
            match FromGuest::from_frame(&frame).expect("it decodes").expect("it is known") {
                FromGuest::Ping(Ping { nonce }) => self.say(Pong { nonce }),
                FromGuest::Pong(_) | FromGuest::Status(_) => {}
                message => return message,
            }
        }
    }
}

impl<C: Read + Write> Speaker<C> {
    /// Sends bytes, whatever they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    pub(crate) fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.raw(&[&header(frame)[..], &frame.payload].concat())
    }

    fn frame(&mut self) -> io::Result<Frame> {
        let (mut length, mut kind, mut rest) = ([0; 4], [0; 2], [0; 2]);
        self.stream.read_exact(&mut length)?;
        self.stream.read_exact(&mut kind)?;
        self.stream.read_exact(&mut rest)?;
        let mut payload = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut payload)?;
        Ok(Frame { kind: u16::from_be_bytes(kind), version: rest[0], payload: payload.into() })
    }
}

/// The header of a frame (docs/protocol.md, "Frames").
pub(crate) fn header(frame: &Frame) -> Vec<u8> {
    let length = u32::try_from(frame.payload.len()).expect("a short one").to_be_bytes();
    [&length[..], &frame.kind.to_be_bytes(), &[frame.version, 0]].concat()
}
