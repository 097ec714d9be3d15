//! One address the server listens on: its UDP thread and its TCP listener.
//!
//! Both ports are had, or neither. A port that somebody else has is a condition, and tried again
//! until it is had or no longer wanted. It must not know what an answer is.

use std::{
    io,
    net::{IpAddr, Shutdown, SocketAddr},
    os::fd::AsFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{runtime::Handle, task::AbortHandle};

use super::{Shared, batch::Batch, holder, stream};

/// RFC 1035 section 4.2.
const PORT: u16 = 53;
/// How often a port that is taken is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Datagrams that wait while the thread does not run: some 2,000.
const RECEIVE_BUFFER: usize = 1 << 20;

/// A listener, which ends when it is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    address: IpAddr,
    shared: Arc<Shared>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    ended: AtomicBool,
    sockets: Mutex<Option<(Arc<Socket>, AbortHandle)>>,
    /// Wakes whoever waits for the next try.
    woken: Condvar,
}

impl State {
    fn sockets(&self) -> MutexGuard<'_, Option<(Arc<Socket>, AbortHandle)>> {
        // Nothing panics while it is held.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// Listens on `address`, with TCP served on `runtime`.
    pub(super) fn start(address: IpAddr, shared: Arc<Shared>, runtime: Handle) -> io::Result<Self> {
        let state = Arc::new(State::default());
        let (its, theirs) = (Arc::clone(&state), Arc::clone(&shared));
        std::thread::Builder::new()
            .name(format!("dns {address}"))
            .spawn(move || run(address, &theirs, &its, &runtime))?;
        Ok(Self { address, shared, state })
    }

    /// Where.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.state.ended.store(true, Relaxed);
        if let Some((udp, tcp)) = self.state.sockets().take() {
            tcp.abort();
            // It says that nothing is connected, and wakes the thread all the same
            // (inet_shutdown in net/ipv4/af_inet.c).
            let _ = udp.shutdown(Shutdown::Both);
        }
        self.state.woken.notify_all();
        self.shared.set_condition(self.address, None);
    }
}

/// Gets the ports and serves UDP, to the listener's end.
fn run(address: IpAddr, shared: &Arc<Shared>, state: &State, runtime: &Handle) {
    let Some(udp) = get_ports(address, shared, state, runtime) else { return };
    let mut batch = Batch::new();
    while !state.ended.load(Relaxed) {
        // An error is of one packet (ICMP answers to our replies); the socket is good.
        if batch.receive(udp.as_fd()).is_err() || state.ended.load(Relaxed) {
            continue;
        }
        shared.answer_batch(&mut batch, &udp);
        batch.send(udp.as_fd());
    }
}

fn get_ports(address: IpAddr, shared: &Arc<Shared>, state: &State, runtime: &Handle) -> Option<Arc<Socket>> {
    loop {
        let mut sockets = state.sockets();
        if state.ended.load(Relaxed) {
            return None;
        }
        match bind(address) {
            Ok((udp, tcp)) => {
                let udp = Arc::new(udp);
                let serving = stream::serve(tcp, Arc::clone(shared));
                *sockets = Some((Arc::clone(&udp), runtime.spawn(serving).abort_handle()));
                drop(sockets);
                shared.set_condition(address, None);
                return Some(udp);
            }
            Err(error) => {
                let place = SocketAddr::from((address, PORT));
                let holder = holder::of(place).map(|holder| format!(" ({holder} has it)"));
                let holder = holder.filter(|_| error.kind() == io::ErrorKind::AddrInUse).unwrap_or_default();
                let message = format!("cannot listen on {place}: {error}{holder}; trying on");
                shared.set_condition(address, Some(message));
                drop(state.woken.wait_timeout(sockets, RETRY));
            }
        }
    }
}

fn bind(address: IpAddr) -> io::Result<(Socket, std::net::TcpListener)> {
    let udp = socket(address, Type::DGRAM, Protocol::UDP)?;
    // As much as the machine gives: the thread may have to wait for its turn on the processor.
    let _ = udp.set_recv_buffer_size(RECEIVE_BUFFER);
    let tcp = socket(address, Type::STREAM, Protocol::TCP)?;
    tcp.listen(128)?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp.into()))
}

fn socket(address: IpAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let place = SocketAddr::from((address, PORT));
    let socket = Socket::new(Domain::for_address(place), kind.cloexec(), Some(protocol))?;
    if kind == Type::STREAM {
        // Connections of an agent before this one are still closing.
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if !address.is_loopback() {
        // What this guest sends to an address of its own goes by way of lo, what others send does
        // not: the kernel keeps them out.
        socket.bind_device(Some(b"lo"))?;
    }
    socket.bind(&place.into())?;
    Ok(socket)
}
