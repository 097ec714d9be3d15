//! One server that is asked: over UDP, over TCP when its answer did not fit, over TLS where the
//! host says so.
//!
//! Every question has a port and an id of its own; the kernel drops what does not come from the
//! server, `Answer::read` what is no answer to this question. It must not know who is asked next.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockRef, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
};

use super::{
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

    /// Asks it, for as long as it takes. A cut answer is what there is when TCP does not work: TC
    /// tells the client.
    pub(super) async fn ask(&self, query: &Query<'_>) -> Result<Answer, AskError> {
        if let Some(tls) = &self.tls {
            return tls.ask(&as_request(query, 0, true)).await;
        }
        let over_udp = match self.ask_udp(query, true).await {
            // A server from before EDNS (RFC 6891 section 7): ask it without.
            Ok(answer) if answer.code() == Code::FormErr as u8 => self.ask_udp(query, false).await,
            other => other,
        };
        match over_udp {
            Ok(answer) if !answer.is_truncated() => Ok(answer),
            Ok(cut) => Ok(self.ask_tcp(query).await.unwrap_or(cut)),
            Err(AskError::Malformed) => self.ask_tcp(query).await,
            Err(error) => Err(error),
        }
    }

    async fn ask_udp(&self, query: &Query<'_>, with_edns: bool) -> Result<Answer, AskError> {
        let socket = self.socket()?;
        let request = as_request(query, rand::random(), with_edns);
        socket.send(&request).await?;
        loop {
            socket.readable().await?;
            let read = DATAGRAM.with_borrow_mut(|datagram| {
                let length = socket.try_recv(datagram)?;
                io::Result::Ok(Answer::read(&datagram[..length], &request))
            });
            match read {
                Ok(Ok(answer)) => {
                    let mut idle = self.idle();
                    if idle.len() < KEPT {
                        idle.push(socket);
                    }
                    return Ok(answer);
                }
                Ok(Err(NotAnswer::Malformed)) => return Err(AskError::Malformed),
                // Somebody guesses, or an earlier question's answer is late.
                Ok(Err(NotAnswer::Stray)) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn ask_tcp(&self, query: &Query<'_>) -> Result<Answer, AskError> {
        let request = as_request(query, rand::random(), true);
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
