//! Servers behind TLS (RFC 7858): one connection for each, kept for as long as it lives, with many
//! questions in flight on it. The connection is rustls's, what travels on it hickory's.
//!
//! A server is known by the name its certificate is for and by who vouches for it, both from the
//! host; nobody else's word counts. It must not know what is in a message.

use std::{fmt, sync::Arc, time::Duration};

use hickory_net::{
    runtime::{TokioRuntimeProvider, iocompat::AsyncIoTokioAsStd},
    tcp::{TcpClientStream, TcpStream},
    xfer::{BufDnsStreamHandle, DnsExchange, DnsHandle, DnsMultiplexer, FirstAnswer},
};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, Message};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    sync::Mutex,
    task::AbortHandle,
    time::{error::Elapsed, timeout},
};
use tokio_rustls::TlsConnector;

use super::{
    relayed::Answer,
    settings::ServerAddress,
    upstream::{AskError, connect},
};

/// How long a connection may take to come about, and a question on it to be answered: whoever asks
/// has less patience.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions in flight on one connection: more than there can be, so that it is never too busy.
const IN_FLIGHT: usize = 4_096;

/// What asks on a connection.
type Exchange = DnsExchange<TokioRuntimeProvider>;

/// The client of one server.
#[derive(Clone)]
pub(super) struct TlsClient(Arc<Inner>);

struct Inner {
    to: ServerAddress,
    known_by: Result<(ServerName<'static>, Arc<ClientConfig>), String>,
    connection: Mutex<Option<Connection>>,
}

/// A connection.
struct Connection {
    /// It tells it from those before it.
    number: u64,
    exchange: Exchange,
    /// The task that reads it, and ends with it.
    reading: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").field("to", &self.0.to).finish_non_exhaustive()
    }
}

impl TlsClient {
    /// A client of the server `to`, which is known by this name and these certificates in PEM.
    pub(super) fn new(to: &ServerAddress, (name, ca): &(String, String)) -> Self {
        let known_by = configuration(name, ca);
        Self(Arc::new(Inner { to: to.clone(), known_by, connection: Mutex::default() }))
    }

    /// Asks `request`.
    pub(super) async fn ask(&self, request: &[u8]) -> Result<Answer, AskError> {
        let message = Message::from_vec(request).map_err(failed)?;
        let ask = |exchange: Exchange| {
            let asked = DnsRequest::new(message.clone(), DnsRequestOptions::default());
            exchange.send(asked).first_answer()
        };
        let (number, exchange) = self.exchange(0).await?;
        let mut answer = ask(exchange).await;
        if answer.is_err() {
            // A connection that was idle may have been closed: that shows when it is used.
            let (_, exchange) = self.exchange(number).await?;
            answer = ask(exchange).await;
        }
        let answer = answer.map_err(failed)?.into_buffer();
        // The id on the connection is hickory's, which has compared it.
        let asked = [answer.get(..2).unwrap_or_default(), &request[2..]].concat();
        Answer::read(&answer, &asked).map_err(|_| AskError::Malformed)
    }

    /// What there is to ask by, and its number: another connection than that of number `broken`,
    /// 0 for any. One that is being made goes on when nobody waits for it any more.
    async fn exchange(&self, broken: u64) -> Result<(u64, Exchange), AskError> {
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move { inner.exchange(broken).await }).await.map_err(failed)?
    }
}

impl Inner {
    async fn exchange(&self, broken: u64) -> Result<(u64, Exchange), AskError> {
        let mut connection = self.connection.lock().await;
        if let Some(Connection { number, exchange, .. }) = connection.as_ref()
            && *number != broken
        {
            return Ok((*number, exchange.clone()));
        }
        let (name, config) = self.known_by.clone().map_err(AskError::Tls)?;
        let connecting = async {
            let stream = connect(&self.to).await?;
            TlsConnector::from(config).connect(name, stream).await
        };
        let late = |_: Elapsed| AskError::Tls(format!("no connection in {PATIENCE:?}"));
        let stream = timeout(PATIENCE, connecting).await.map_err(late)?.map_err(failed)?;
        let (handle, outgoing) = BufDnsStreamHandle::with_buffer_size(self.to.address, IN_FLIGHT);
        let stream =
            TcpStream::from_stream_with_receiver(AsyncIoTokioAsStd(stream), self.to.address, outgoing);
        let multiplexer = DnsMultiplexer::new(TcpClientStream::from_stream(stream), handle)
            .with_timeout(PATIENCE)
            .with_max_active_requests(IN_FLIGHT);
        let (exchange, reading) = Exchange::from_stream(multiplexer);
        let reading = tokio::spawn(reading).abort_handle();
        let number = connection.as_ref().map_or(0, |before| before.number) + 1;
        *connection = Some(Connection { number, exchange: exchange.clone(), reading });
        Ok((number, exchange))
    }
}

fn failed(error: impl fmt::Display) -> AskError {
    AskError::Tls(error.to_string())
}

fn configuration(name: &str, ca: &str) -> Result<(ServerName<'static>, Arc<ClientConfig>), String> {
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
    Ok((name, Arc::new(config)))
}
