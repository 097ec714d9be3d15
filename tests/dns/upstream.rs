//! A DNS server that does what the test says, and remembers what it was asked.

use std::{
    io::{Read, Write},
    net::{SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use tether_tests::{Space, wait_for};

use crate::{
    answers::{Message, Reply},
    client::{frame, inside},
};

/// How soon its threads see that the test is over.
const BREATH: Duration = Duration::from_millis(20);

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Udp,
    Tcp,
}

/// A question somebody asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) message: Message,
    pub(crate) way: Way,
    pub(crate) from: SocketAddr,
}

/// What it does about a question.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    /// Sends these bytes.
    Say(Vec<u8>),
    /// Sends these bytes from another port.
    SayFromElsewhere(Vec<u8>),
    /// Sends these bytes when the test says so.
    Hold(Vec<u8>),
}

impl Does {
    pub(crate) fn say(reply: &Reply) -> Vec<Self> {
        vec![Self::Say(reply.bytes())]
    }

    fn into_bytes(self) -> Vec<u8> {
        let (Self::Say(bytes) | Self::SayFromElsewhere(bytes) | Self::Hold(bytes)) = self;
        bytes
    }
}

type Behaviour = Box<dyn Fn(&Asked) -> Vec<Does> + Send>;

/// The server; it ends with this value.
pub(crate) struct Upstream {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    asked: Mutex<Vec<Asked>>,
    /// Over UDP, and to whom.
    held: Mutex<Vec<(Vec<u8>, SocketAddr)>>,
    udp: UdpSocket,
    elsewhere: UdpSocket,
    over: AtomicBool,
}

impl Upstream {
    /// One on port 53 of an address of `space`, over UDP and TCP, that says nothing yet.
    pub(crate) fn new(space: &Space, address: &str) -> Self {
        Self::at(space, SocketAddr::new(address.parse().expect("an address"), 53))
    }

    /// One on a link-local address of the link with this index.
    pub(crate) fn on_link(space: &Space, address: &str, link: u32) -> Self {
        let address = address.parse().expect("an IPv6 address");
        Self::at(space, SocketAddrV6::new(address, 53, 0, link).into())
    }

    fn at(space: &Space, at: SocketAddr) -> Self {
        let mut elsewhere = at;
        elsewhere.set_port(5353);
        let (udp, elsewhere, tcp) = inside(space, || {
            let bind = |at| UdpSocket::bind(at).expect("a free port");
            (bind(at), bind(elsewhere), TcpListener::bind(at).expect("a free port"))
        });
        udp.set_read_timeout(Some(BREATH)).expect("a socket");
        tcp.set_nonblocking(true).expect("a socket");
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(Box::new(|_| vec![])),
            asked: Mutex::default(),
            held: Mutex::default(),
            udp,
            elsewhere,
            over: AtomicBool::new(false),
        });
        let (one, other) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            std::thread::spawn(move || one.over_udp()),
            std::thread::spawn(move || other.over_tcp(&tcp)),
        ];
        Self { shared, threads }
    }

    /// From now on it does this about a question.
    pub(crate) fn does(&self, behaviour: impl Fn(&Asked) -> Vec<Does> + Send + 'static) {
        *lock(&self.shared.behaviour) = Box::new(behaviour);
    }

    /// From now on it answers like this.
    pub(crate) fn says(&self, answer: impl Fn(Reply) -> Reply + Send + 'static) {
        self.does(move |asked| Does::say(&answer(Reply::to(&asked.message))));
    }

    /// From now on it is silent.
    pub(crate) fn is_silent(&self) {
        self.does(|_| vec![]);
    }

    /// Everything it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }

    /// How often it was asked.
    pub(crate) fn count(&self) -> usize {
        lock(&self.shared.asked).len()
    }

    /// Waits until it was asked so often, at least.
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Asked> {
        wait_for(&format!("{count} questions at an upstream"), || {
            let asked = lock(&self.shared.asked);
            (asked.len() >= count).then(|| asked.clone())
        })
    }

    /// Sends what it held back, as it came.
    pub(crate) fn release(&self) {
        for (bytes, to) in lock(&self.shared.held).drain(..) {
            // Somebody who has stopped waiting is gone.
            let _ = self.shared.udp.send_to(&bytes, to);
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // What it panicked of it has said.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn over_udp(&self) {
        let mut buffer = vec![0; 65_536];
        while !self.over.load(Relaxed) {
            let Ok((length, from)) = self.udp.recv_from(&mut buffer) else { continue };
            for does in self.hear(&buffer[..length], Way::Udp, from) {
                // Somebody who has stopped waiting is gone.
                let _ = match does {
                    Does::Say(bytes) | Does::Hold(bytes) => self.udp.send_to(&bytes, from),
                    Does::SayFromElsewhere(bytes) => self.elsewhere.send_to(&bytes, from),
                };
            }
        }
    }

    fn over_tcp(self: &Arc<Self>, listener: &TcpListener) {
        while !self.over.load(Relaxed) {
            match listener.accept() {
                Ok((stream, from)) => {
                    let shared = Arc::clone(self);
                    // It ends with the connection, or soon after the test.
                    std::thread::spawn(move || shared.converse(stream, from));
                }
                Err(_) => std::thread::sleep(BREATH),
            }
        }
    }

    fn converse(&self, mut stream: TcpStream, from: SocketAddr) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut packet)?;
            for does in self.hear(&packet, Way::Tcp, from) {
                stream.write_all(&frame(&does.into_bytes()))?;
            }
        }
    }

    fn hear(&self, packet: &[u8], way: Way, from: SocketAddr) -> Vec<Does> {
        // The agent sends whole packets; others pass on whatever they are sent.
        let Ok(message) = Message::read(packet) else {
            let mut refusal = packet.to_vec();
            refusal.resize(12, 0);
            refusal[2..].copy_from_slice(&[0x80, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]);
            return vec![Does::Say(refusal)];
        };
        let asked = Asked { message, way, from };
        let mut does = lock(&self.behaviour)(&asked);
        if way == Way::Udp {
            let held = does.extract_if(.., |does| matches!(does, Does::Hold(_)));
            lock(&self.held).extend(held.map(|does| (does.into_bytes(), from)));
        }
        // After it is held, so that who has seen it come can have it released; before an answer
        // is sent, so that who has seen the answer finds the question here.
        lock(&self.asked).push(asked);
        does
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while it is held")
}
