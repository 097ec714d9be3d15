//! Somebody in the container who asks: sockets of the test's own, opened inside its namespace.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use tether_tests::{Space, uninterrupted};

use crate::{
    answers::Message,
    packet::{Question, hex},
};

/// Where the server is unless it is told otherwise.
pub(crate) const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
/// What a client waits for an answer: the server promises one within 5 s, and the machine the
/// tests run on may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `what` on a thread that is in the network of `space`. Sockets it makes stay there.
pub(crate) fn inside<T: Send>(space: &Space, what: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/proc/{}/ns/net", space.id())).expect("its network namespace");
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root");
            what()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A client with one UDP socket.
#[derive(Debug)]
pub(crate) struct Client {
    socket: UdpSocket,
}

impl Client {
    /// One that asks the server where it always is.
    pub(crate) fn new(space: &Space) -> Self {
        Self::of(space, SERVER)
    }

    /// One that asks at another address.
    pub(crate) fn of(space: &Space, server: SocketAddr) -> Self {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = inside(space, || {
            let socket = UdpSocket::bind(any).expect("a socket");
            socket.connect(server).expect("a way there");
            socket
        });
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self { socket }
    }

    /// Waits only so long for an answer.
    pub(crate) fn patience(&self, patience: Duration) {
        self.socket.set_read_timeout(Some(patience)).expect("a socket");
    }

    /// Sends a packet and waits for nothing.
    pub(crate) fn send(&self, packet: &[u8]) {
        self.socket.send(packet).expect("sent");
    }

    /// The next packet that comes.
    #[track_caller]
    pub(crate) fn receive(&self) -> Vec<u8> {
        self.try_receive().unwrap_or_else(|| panic!("no answer within {PATIENCE:?}"))
    }

    /// The same; `None` when none comes in time.
    #[track_caller]
    pub(crate) fn try_receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        match uninterrupted(|| self.socket.recv(&mut buffer)) {
            Ok(length) => buffer.truncate(length),
            // What a time limit says.
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("no answer: {error}"),
        }
        Some(buffer)
    }

    /// What is answered to these bytes.
    #[track_caller]
    pub(crate) fn raw(&self, packet: &[u8]) -> Message {
        self.send(packet);
        read(&self.receive())
    }

    /// What is answered to a question, which has to be an answer to this question.
    #[track_caller]
    pub(crate) fn ask(&self, question: &Question) -> Message {
        answers(question, self.raw(&question.bytes()))
    }

    /// What a stub resolver is told.
    #[track_caller]
    pub(crate) fn look_up(&self, name: &str, kind: u16) -> Message {
        self.ask(&Question::new(name, kind))
    }

    /// That a packet is not answered: what is asked after it is answered, and nothing else is
    /// there then.
    #[track_caller]
    pub(crate) fn is_ignored(&self, packet: &[u8], after: &Question) {
        self.send(packet);
        self.ask(after);
        self.socket.set_nonblocking(true).expect("a socket");
        let more = self.socket.recv(&mut [0; 64]);
        self.socket.set_nonblocking(false).expect("a socket");
        let nothing = more.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(nothing, "{} is answered: {more:?}", hex(packet));
    }
}

/// A client with a TCP connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
}

impl Connection {
    pub(crate) fn new(space: &Space) -> Self {
        Self::of(space, SERVER)
    }

    pub(crate) fn of(space: &Space, server: SocketAddr) -> Self {
        let stream = inside(space, || TcpStream::connect_timeout(&server, PATIENCE)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        // A test that writes a frame in pieces means it.
        stream.set_nodelay(true).expect("a socket");
        Self { stream }
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the connection lives");
    }

    /// Sends a packet in a frame (RFC 1035 section 4.2.2).
    pub(crate) fn send_frame(&mut self, packet: &[u8]) {
        self.send(&frame(packet));
    }

    /// The next packet; `None` when the server has closed the connection.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 2];
        match self.stream.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return None;
            }
            Err(error) => panic!("no answer over TCP: {error}"),
        }
        let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
        self.stream.read_exact(&mut packet).expect("the whole of the packet");
        Some(packet)
    }

    /// Waits for longer than an answer takes.
    pub(crate) fn patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).expect("a socket");
    }

    /// Says that nothing more comes from here.
    pub(crate) fn finish(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("the connection lives");
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, question: &Question) -> Message {
        self.send_frame(&question.bytes());
        answers(question, read(&self.receive().expect("an answer")))
    }
}

pub(crate) fn frame(packet: &[u8]) -> Vec<u8> {
    let length = u16::try_from(packet.len()).expect("it fits a frame");
    [&length.to_be_bytes(), packet].concat()
}

/// Reads what the server sent, which has to be whole.
#[track_caller]
pub(crate) fn read(bytes: &[u8]) -> Message {
    Message::read(bytes).unwrap_or_else(|wrong| panic!("{wrong}: {}", hex(bytes)))
}

/// The id and the question are the client's, spelled as it spelled them.
#[track_caller]
fn answers(question: &Question, answer: Message) -> Message {
    assert_eq!(answer.id, question.id, "another id: {answer:?}");
    let spelled = match question.name.trim_end_matches('.') {
        "" => ".".to_owned(),
        name => format!("{name}."),
    };
    assert_eq!(answer.question, Some((spelled, question.kind, question.class)), "another question");
    answer
}
