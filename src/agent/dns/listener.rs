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
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::{runtime::Handle, task::AbortHandle};

use super::{Shared, batch::Batch, holder, stream};

/// RFC 1035 section 4.2.
const PORT: u16 = 53;
/// How often a port that is taken is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How often it is looked for who has it.
const LOOKED_FOR: Duration = Duration::from_secs(10);
/// Datagrams that wait while the thread does not run: some 2,000.
const RECEIVE_BUFFER: usize = 1 << 20;

/// What lets packets through that came by way of `lo`: what this guest sends to an address of its
/// own does, what others send does not, whatever sender it claims and wherever the routes lead
/// (`route_localnet`). Binding to `lo` would be wrong: a packet to an address of eth0 counts as one
/// that came by eth0 there. Connections take it over from the listener.
const FROM_HERE: [SockFilter; 4] = [
    // The index of the device it came by (SKF_AD_OFF + SKF_AD_IFINDEX of linux/filter.h) ...
    SockFilter::new(0x20, 0, 0, 0xffff_f000 + 8),
    // ... is lo's, which is 1 in every network namespace (LOOPBACK_IFINDEX of net/flow.h):
    SockFilter::new(0x15, 0, 1, 1),
    // all of it; else nothing.
    SockFilter::new(0x06, 0, 0, u32::MAX),
    SockFilter::new(0x06, 0, 0, 0),
];

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
    let place = SocketAddr::from((address, PORT));
    let mut holder = Holder::default();
    loop {
        let error = match bind(place) {
            Ok((udp, tcp)) => {
                let mut sockets = state.sockets();
                if state.ended.load(Relaxed) {
                    return None;
                }
                let udp = Arc::new(udp);
                let serving = stream::serve(tcp, Arc::clone(shared));
                *sockets = Some((Arc::clone(&udp), runtime.spawn(serving).abort_handle()));
                shared.set_condition(address, None);
                return Some(udp);
            }
            Err(error) => error,
        };
        let holder = if error.kind() == io::ErrorKind::AddrInUse { holder.of(place) } else { String::new() };
        let message = format!("cannot listen on {place}: {error}{holder}; trying on");
        let sockets = state.sockets();
        if state.ended.load(Relaxed) {
            return None;
        }
        shared.set_condition(address, Some(message));
        drop(state.woken.wait_timeout(sockets, RETRY));
    }
}

/// Who has the port, looked for now and then: that means looking at every process.
#[derive(Debug, Default)]
struct Holder {
    known: String,
    since: Option<Instant>,
}

impl Holder {
    fn of(&mut self, place: SocketAddr) -> String {
        if self.since.is_none_or(|since| since.elapsed() > LOOKED_FOR) {
            self.since = Some(Instant::now());
            self.known = holder::of(place).map(|holder| format!(" ({holder} has it)")).unwrap_or_default();
        }
        self.known.clone()
    }
}

fn bind(place: SocketAddr) -> io::Result<(Socket, std::net::TcpListener)> {
    let udp = socket(place, Type::DGRAM, Protocol::UDP)?;
    // As much as the machine gives: the thread may have to wait for its turn on the processor.
    let _ = udp.set_recv_buffer_size(RECEIVE_BUFFER);
    let tcp = socket(place, Type::STREAM, Protocol::TCP)?;
    tcp.listen(128)?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp.into()))
}

fn socket(place: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(place), kind.cloexec(), Some(protocol))?;
    if kind == Type::STREAM {
        // Connections of an agent before this one are still closing.
        socket.set_reuse_address(true)?;
    }
    if place.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Before it is bound: nothing is to come through until then.
    socket.attach_filter(&FROM_HERE)?;
    socket.bind(&place.into())?;
    Ok(socket)
}
