//! The embedded DNS server on 127.0.0.11, UDP and TCP.
//!
//! It runs on a thread of its own, so that a configuration being applied never delays an answer,
//! and its sockets live as long as the agent: names and upstreams are swapped under it. Local
//! names are answered by `answer`, everything else goes to `upstream`.

mod answer;
mod upstream;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hickory_proto::op::{Message, ResponseCode};
use tether_wire::status::DnsCounters;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Notify, Semaphore, mpsc},
    time::{sleep, timeout},
};

use crate::names::Names;
use answer::{Outcome, Transport};
use upstream::Forwarder;

/// Questions that may be at upstreams at one time; more are answered with SERVFAIL.
const IN_FLIGHT: usize = 512;
/// TCP connections that may be open at one time.
const CONNECTIONS: usize = 64;
/// How long a TCP connection may be idle (RFC 7766 section 6.2.3 leaves the number to us).
const IDLE: Duration = Duration::from_secs(10);
/// How often a port that is taken is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// The server, as the rest of the agent sees it.
#[derive(Clone, Debug)]
pub struct Server {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    names: RwLock<Arc<Names>>,
    upstreams: RwLock<Arc<[SocketAddr]>>,
    forwarder: Forwarder,
    in_flight: Semaphore,
    turn: AtomicUsize,
    queries: AtomicU64,
    local: AtomicU64,
    forwarded: AtomicU64,
    failed: AtomicU64,
    ignored: AtomicU64,
    condition: Mutex<Option<String>>,
    changed: Notify,
}

impl Server {
    /// Starts the server's thread. A port that is taken is a [condition](Self::condition) and
    /// tried again; an error here means that there is no thread.
    pub fn start(address: SocketAddr) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            names: RwLock::default(),
            upstreams: RwLock::new(Arc::new([])),
            forwarder: Forwarder::default(),
            in_flight: Semaphore::new(IN_FLIGHT),
            turn: AtomicUsize::new(0),
            queries: AtomicU64::new(0),
            local: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            ignored: AtomicU64::new(0),
            condition: Mutex::default(),
            changed: Notify::new(),
        });
        let server = Self { shared: Arc::clone(&shared) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("dns".to_owned())
            .spawn(move || runtime.block_on(serve(address, shared)))?;
        Ok(server)
    }

    /// Answers by these names from now on. No socket closes and no query is lost.
    pub fn set_names(&self, names: Names) {
        *self.shared.names.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(names);
    }

    /// Asks these servers from now on.
    pub fn set_upstreams(&self, upstreams: Vec<SocketAddr>) {
        *self.shared.upstreams.write().unwrap_or_else(PoisonError::into_inner) = upstreams.into();
    }

    /// What it has done so far.
    pub fn counters(&self) -> DnsCounters {
        DnsCounters {
            queries: self.shared.queries.load(Relaxed),
            local: self.shared.local.load(Relaxed),
            forwarded: self.shared.forwarded.load(Relaxed),
            failed: self.shared.failed.load(Relaxed),
            ignored: self.shared.ignored.load(Relaxed),
            ..DnsCounters::default()
        }
    }

    /// Waits until the [condition](Self::condition) has changed. One caller at a time.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Why it does not listen, if it does not.
    pub fn condition(&self) -> Option<String> {
        self.shared.condition.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Listens, for ever.
async fn serve(address: SocketAddr, shared: Arc<Shared>) {
    let set = |condition: Option<String>| {
        let mut now = shared.condition.lock().unwrap_or_else(PoisonError::into_inner);
        if *now != condition {
            *now = condition;
            shared.changed.notify_one();
        }
    };
    let (udp, tcp) = loop {
        match bind(address).await {
            Ok(sockets) => break sockets,
            Err(error) => {
                let message = format!("cannot listen on {address}: {error}; trying on");
                if shared.condition.lock().is_ok_and(|before| before.as_ref() != Some(&message)) {
                    tracing::warn!("DNS {message}");
                }
                set(Some(message));
                sleep(RETRY).await;
            }
        }
    };
    set(None);
    let tcp = serve_tcp(tcp, Arc::clone(&shared));
    tokio::join!(serve_udp(Arc::new(udp), shared), tcp);
}

async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    Ok((UdpSocket::bind(address).await?, TcpListener::bind(address).await?))
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            // An error of one packet (ICMP answers to our replies); the socket is good.
            continue;
        };
        match shared.decide(&buffer[..length], Transport::Udp) {
            Outcome::Local(reply) => drop(socket.try_send_to(&reply, client)),
            Outcome::Ignore => {}
            Outcome::Forward(query) => {
                let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
                tokio::spawn(async move {
                    let reply = shared.forward(&query, Transport::Udp).await;
                    // A client that is gone does not matter.
                    let _ = socket.send_to(&reply, client).await;
                });
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    serve_connection(stream, shared).await;
                    drop(permit);
                });
            }
            // Out of file descriptors, most likely: give others time to close theirs.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Serves the queries of one connection as they come, many at a time (RFC 7766 section 6.2.1.1),
/// until it is closed, idle or broken.
async fn serve_connection(stream: TcpStream, shared: Arc<Shared>) {
    let (mut reader, mut writer) = stream.into_split();
    let (replies, mut to_write) = mpsc::channel::<Vec<u8>>(32);
    let writing = async move {
        while let Some(reply) = to_write.recv().await {
            let length = u16::try_from(reply.len()).unwrap_or(u16::MAX).to_be_bytes();
            let bytes = [&length[..], &reply].concat();
            if !matches!(timeout(IDLE, writer.write_all(&bytes)).await, Ok(Ok(()))) {
                break;
            }
        }
    };
    let reading = async move {
        while let Ok(Ok(length)) = timeout(IDLE, reader.read_u16()).await {
            let mut packet = vec![0; usize::from(length)];
            if !matches!(timeout(IDLE, reader.read_exact(&mut packet)).await, Ok(Ok(_))) {
                break;
            }
            match shared.decide(&packet, Transport::Tcp) {
                Outcome::Local(reply) => {
                    if replies.send(reply).await.is_err() {
                        break;
                    }
                }
                Outcome::Ignore => break,
                Outcome::Forward(query) => {
                    let (replies, shared) = (replies.clone(), Arc::clone(&shared));
                    tokio::spawn(async move {
                        let reply = shared.forward(&query, Transport::Tcp).await;
                        let _ = replies.send(reply).await;
                    });
                }
            }
        }
    };
    tokio::join!(reading, writing);
}

impl Shared {
    fn decide(&self, packet: &[u8], transport: Transport) -> Outcome {
        self.queries.fetch_add(1, Relaxed);
        let names = Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner));
        let outcome = answer::answer(&names, packet, transport, self.turn.fetch_add(1, Relaxed));
        match outcome {
            Outcome::Local(_) => self.local.fetch_add(1, Relaxed),
            Outcome::Forward(_) => self.forwarded.fetch_add(1, Relaxed),
            Outcome::Ignore => self.ignored.fetch_add(1, Relaxed),
        };
        outcome
    }

    /// The reply to a question that is not ours. There is always one: SERVFAIL at worst.
    async fn forward(&self, query: &Message, transport: Transport) -> Vec<u8> {
        let upstreams = Arc::clone(&self.upstreams.read().unwrap_or_else(PoisonError::into_inner));
        let reply = match self.in_flight.try_acquire() {
            Ok(_permit) if !upstreams.is_empty() => self.forwarder.forward(&upstreams, query).await,
            _ => None,
        };
        let reply = reply.unwrap_or_else(|| {
            let mut sorry = answer::reply_to(query);
            sorry.metadata.response_code = ResponseCode::ServFail;
            sorry
        });
        if reply.metadata.response_code == ResponseCode::ServFail {
            self.failed.fetch_add(1, Relaxed);
        }
        answer::encode(&reply, query, transport)
    }
}
