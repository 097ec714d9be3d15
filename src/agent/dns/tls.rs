//! Servers behind TLS (RFC 7858), by hickory: one connection for each, kept for as long as it
//! lives, with many questions in flight on it.
//!
//! A server is known by the name its certificate is for and by who vouches for it, both from the
//! host; nobody else's word counts. It must not know what is in a message.

use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use hickory_net::{
    runtime::{RuntimeProvider, TokioHandle, TokioTime, iocompat::AsyncIoTokioAsStd},
    tls::tls_exchange,
    xfer::{DnsExchange, DnsHandle, FirstAnswer},
};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, Message};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    net::{TcpStream, UdpSocket},
    sync::Mutex,
};

use super::{
    relayed::Answer,
    settings::ServerAddress,
    upstream::{AskError, connect},
};

/// How long a connection may take to come about, and a question on it to be answered: whoever asks
/// has less patience.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions in flight on one connection.
const IN_FLIGHT: usize = 256;

/// The client of one server.
pub(super) struct TlsClient {
    known_by: Result<(ServerName<'static>, ClientConfig), String>,
    way: Way,
    connection: Mutex<Option<DnsExchange<Way>>>,
}

impl std::fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsClient").field("to", &self.way.to).finish_non_exhaustive()
    }
}

impl TlsClient {
    /// A client of the server `at`, which is known by this name and these certificates in PEM.
    pub(super) fn new(at: &ServerAddress, (name, ca): &(String, String)) -> Self {
        Self {
            known_by: configuration(name, ca),
            way: Way { to: at.clone(), tasks: TokioHandle::default() },
            connection: Mutex::default(),
        }
    }

    /// Asks `request`.
    pub(super) async fn ask(&self, request: &[u8]) -> Result<Answer, AskError> {
        let failed = |error: &dyn std::fmt::Display| AskError::Tls(error.to_string());
        let message = Message::from_vec(request).map_err(|error| failed(&error))?;
        // A connection that was idle may have been closed: that shows when it is used.
        for fresh in [false, true] {
            let exchange = self.connection(fresh).await?;
            let asked = DnsRequest::new(message.clone(), DnsRequestOptions::default());
            match exchange.send(asked).first_answer().await {
                Ok(answer) => {
                    let bytes = answer.into_buffer();
                    // The id on the connection is hickory's, and it has compared it.
                    let asked = [bytes.get(..2).unwrap_or_default(), &request[2..]].concat();
                    return Answer::read(&bytes, &asked).map_err(|_| AskError::Malformed);
                }
                Err(error) if fresh => return Err(failed(&error)),
                Err(_) => {}
            }
        }
        Err(AskError::Malformed)
    }

    async fn connection(&self, fresh: bool) -> Result<DnsExchange<Way>, AskError> {
        let mut connection = self.connection.lock().await;
        if let Some(exchange) = connection.as_ref().filter(|_| !fresh) {
            return Ok(exchange.clone());
        }
        let (name, config) = self.known_by.clone().map_err(AskError::Tls)?;
        let connecting =
            tls_exchange(self.way.to.address, name, config, PATIENCE, Some(IN_FLIGHT), self.way.clone());
        let exchange = connecting.await.map_err(|error| AskError::Tls(error.to_string()))?;
        *connection = Some(exchange.clone());
        Ok(exchange)
    }
}

fn configuration(name: &str, ca: &str) -> Result<(ServerName<'static>, ClientConfig), String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("tls.ca: {error}"))?;
        roots.add(certificate).map_err(|error| format!("tls.ca: {error}"))?;
    }
    let name = ServerName::try_from(name.to_owned()).map_err(|error| format!("tls.name: {error}"))?;
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((name, config))
}

/// How hickory gets a connection to the server.
#[derive(Clone)]
struct Way {
    to: ServerAddress,
    /// Owns the tasks that read connections, and ends them when the last of it is dropped.
    tasks: TokioHandle,
}

impl RuntimeProvider for Way {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.tasks.clone()
    }

    fn connect_tcp(
        &self,
        _: SocketAddr,
        _: Option<SocketAddr>,
        _: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        let to = self.to.clone();
        Box::pin(async move {
            match tokio::time::timeout(PATIENCE, connect(&to)).await {
                Ok(stream) => stream.map(AsyncIoTokioAsStd),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }

    fn bind_udp(
        &self,
        _: SocketAddr,
        _: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Udp>>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}
