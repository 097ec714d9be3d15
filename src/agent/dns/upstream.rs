//! One server that is asked: over UDP, over TCP when its answer did not fit, over TLS where the
//! host says so.
//!
//! Every question has a port and an id of its own; the kernel drops what does not come from the
//! server, `Answer::read` what is no answer to this question. It must not know who is asked next.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockRef, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

use super::{
    asking::is_trouble,
    health::Health,
    packet::{Code, Query},
    relayed::{Answer, NotAnswer, as_request},
    settings::ServerAddress,
    tls::TlsClient,
};

/// The longest datagram there is.
const LONGEST: usize = 64 << 10;
/// Sockets that are kept for further questions.
const KEPT: usize = 64;
/// How long the rest of a cut answer may take.
const OVER_TCP: Duration = Duration::from_millis(1_500);
/// How long a probe's answer may take.
const PROBE: Duration = Duration::from_millis(1_200);
/// How long what was sent on a connection may go unacknowledged: a way that has died says nothing,
/// and the kernel would go on trying for a quarter of an hour.
const UNACKNOWLEDGED: Duration = Duration::from_secs(3);

thread_local! {
    /// Where datagrams are read to: one at a time, and copied when they are answers.
    static DATAGRAM: std::cell::RefCell<Box<[u8]>> = std::cell::RefCell::new(vec![0; LONGEST].into());
}

/// A server, and what is known of it.
#[derive(Debug)]
pub(super) struct Server {
    at: ServerAddress,
    tls: Option<TlsClient>,
    health: Mutex<Health>,
    /// Sockets whose question was answered. To make one, have it watched and close it again takes
    /// longer than all that a question needs otherwise.
    idle: Mutex<Vec<UdpSocket>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("its answer is malformed")]
    Malformed,
    #[error("TLS: {0}")]
    Tls(String),
}

impl AskError {
    /// Whether it is the server's doing, or the way's to it, and not this machine's.
    fn is_its(&self) -> bool {
        use io::ErrorKind::{
            ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut, UnexpectedEof,
        };
        match self {
            Self::Socket(error) => matches!(
                error.kind(),
                ConnectionRefused
                    | ConnectionReset
                    | HostUnreachable
                    | NetworkUnreachable
                    | TimedOut
                    | UnexpectedEof
            ),
            Self::Malformed => false,
            Self::Tls(_) => true,
        }
    }
}

impl Server {
    pub(super) fn new(at: ServerAddress) -> Self {
        let tls = at.tls.as_ref().map(|known_by| TlsClient::new(&at, known_by));
        Self { at, tls, health: Mutex::default(), idle: Mutex::default() }
    }

    /// Where it is.
    pub(super) fn at(&self) -> &ServerAddress {
        &self.at
    }

    /// What is known of it.
    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        // Nothing panics while it is held.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks it, for as long as it takes, and notes how it went.
    ///
    /// A cut answer is what there is when TCP does not work: TC tells the client.
    pub(super) async fn ask(&self, query: &Query<'_>) -> Result<Answer, AskError> {
        let (began, mut with_edns) = (Instant::now(), true);
        let answer = match &self.tls {
            Some(tls) => tls.ask(&as_request(query, 0, true)).await,
            None => match self.ask_udp(query, true).await {
                // A server from before EDNS (RFC 6891 section 7): ask it without.
                Ok(answer) if answer.code() == Code::FormErr as u8 => {
                    with_edns = false;
                    self.ask_udp(query, false).await
                }
                other => other,
            },
        };
        match &answer {
            Ok(answer) if is_trouble(answer) => self.health().in_trouble(Instant::now()),
            Ok(_) => self.health().answered(began.elapsed()),
            Err(error) if error.is_its() => self.health().failed(Instant::now()),
            Err(_) => {}
        }
        match answer {
            answer if self.tls.is_some() => answer,
            Ok(answer) if !answer.is_truncated() => Ok(answer),
            Ok(cut) => match timeout(OVER_TCP, self.ask_tcp(query, with_edns)).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(_)) | Err(_) => Ok(cut),
            },
            Err(AskError::Malformed) => self.ask_tcp(query, with_edns).await,
            Err(error) => Err(error),
        }
    }

    /// Asks it for nobody's sake, to know whether and how soon it answers.
    pub(super) fn probe(self: Arc<Self>, query: &Query<'_>) {
        self.health().tried(Instant::now());
        let packet: Box<[u8]> = query.packet().into();
        tokio::spawn(async move {
            let Ok(query) = Query::read(&packet) else { return };
            if timeout(PROBE, self.ask(&query)).await.is_err() {
                self.health().missed(PROBE, Instant::now());
            }
        });
    }

    /// Asks over UDP, again when the answer takes longer than usual: a datagram may be lost.
    async fn ask_udp(&self, query: &Query<'_>, with_edns: bool) -> Result<Answer, AskError> {
        let socket = self.socket()?;
        let request = as_request(query, crate::random::random(), with_edns);
        let mut patience = self.health().patience();
        loop {
            socket.send(&request).await?;
            match timeout(patience, self.hear(&socket, &request)).await {
                Ok(heard) => {
                    let answer = heard?;
                    let mut idle = self.idle();
                    if idle.len() < KEPT {
                        idle.push(socket);
                    }
                    return Ok(answer);
                }
                Err(_) => patience *= 2,
            }
        }
    }

    /// Waits for the answer to `request`.
    async fn hear(&self, socket: &UdpSocket, request: &[u8]) -> Result<Answer, AskError> {
        loop {
            socket.readable().await?;
            let read = DATAGRAM.with_borrow_mut(|datagram| {
                let length = socket.try_recv(datagram)?;
                io::Result::Ok(Answer::read(&datagram[..length], request))
            });
            match read {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(NotAnswer::Malformed)) => return Err(AskError::Malformed),
                // Somebody guesses, or an earlier question's answer is late.
                Ok(Err(NotAnswer::Stray)) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn ask_tcp(&self, query: &Query<'_>, with_edns: bool) -> Result<Answer, AskError> {
        let request = as_request(query, crate::random::random(), with_edns);
        let mut stream = connect(&self.at).await?;
        let length = u16::try_from(request.len()).map_err(|_| AskError::Malformed)?;
        stream.write_all(&[&length.to_be_bytes()[..], &request].concat()).await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        Answer::read(&answer, &request).map_err(|_| AskError::Malformed)
    }

    /// A socket that hears nobody but the server, on a port that no question had before it.
    fn socket(&self) -> io::Result<UdpSocket> {
        let kept = self.idle().pop();
        let socket = match kept {
            Some(socket) => {
                disconnect(&socket)?;
                bind_interface(&SockRef::from(&socket), &self.at)?;
                socket
            }
            None => UdpSocket::from_std(unconnected(&self.at, Type::DGRAM)?.into())?,
        };
        SockRef::from(&socket).connect(&self.at.address.into())?;
        Ok(socket)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<UdpSocket>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a socket's peer from it, and with it port and interface: the next connect(2) gives it
/// another port, as random as the first (`__udp_disconnect` in net/ipv4/udp.c).
fn disconnect(socket: &UdpSocket) -> io::Result<()> {
    let nobody = SockAddrStorage::zeroed();
    let length = nobody.size_of();
    // SAFETY: zeros are an address of the family AF_UNSPEC, as long as said.
    let nobody = unsafe { SockAddr::new(nobody, length) };
    SockRef::from(socket).connect(&nobody)
}

/// A TCP connection to a server.
pub(super) async fn connect(to: &ServerAddress) -> io::Result<TcpStream> {
    let socket = unconnected(to, Type::STREAM)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    let stream = TcpSocket::from_std_stream(socket.into()).connect(to.address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn unconnected(to: &ServerAddress, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(to.address), kind.nonblocking().cloexec(), Some(protocol))?;
    bind_interface(&socket, to)?;
    Ok(socket)
}

fn bind_interface(socket: &Socket, to: &ServerAddress) -> io::Result<()> {
    to.interface.as_ref().map_or(Ok(()), |interface| socket.bind_device(Some(interface.as_bytes())))
}
