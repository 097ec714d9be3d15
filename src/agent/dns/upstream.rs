//! One server that is asked: over UDP, over TCP when its answer did not fit, over TLS where the
//! host says so.
//!
//! Every question has a socket, and so a port, and an id of its own; the kernel drops what does
//! not come from the server, `Answer::read` what is no answer to this question. It must not know
//! who is asked next.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use socket2::{Domain, Protocol, Socket, Type};
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
        Self { at, tls, health: Mutex::default() }
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
        let socket = UdpSocket::from_std(self.socket(Type::DGRAM)?.into())?;
        let request = as_request(query, rand::random(), with_edns);
        socket.send(&request).await?;
        loop {
            socket.readable().await?;
            let read = DATAGRAM.with_borrow_mut(|datagram| {
                let length = socket.try_recv(datagram)?;
                io::Result::Ok(Answer::read(&datagram[..length], &request))
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

    async fn ask_tcp(&self, query: &Query<'_>) -> Result<Answer, AskError> {
        let request = as_request(query, rand::random(), true);
        let mut stream = self.connect().await?;
        let length = u16::try_from(request.len()).map_err(|_| AskError::Malformed)?;
        stream.write_all(&[&length.to_be_bytes()[..], &request].concat()).await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        Answer::read(&answer, &request).map_err(|_| AskError::Malformed)
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        connect(&self.at).await
    }

    /// A socket that hears nobody but the server.
    fn socket(&self, kind: Type) -> io::Result<Socket> {
        let socket = unconnected(&self.at, kind)?;
        socket.connect(&self.at.address.into())?;
        Ok(socket)
    }
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
    if let Some(interface) = &to.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    Ok(socket)
}
