//! The host's ports that containers publish: found free at the start, kept until the end.
//!
//! Nothing is ever received here; the firewall hands the packets on. What is held are sockets, so
//! that no other program can open the port, and a port another program has is noticed at once.
//!
//! A TCP socket is made so that connections a program that ended has left in `TIME_WAIT` are no
//! obstacle: with `SO_REUSEADDR`. A socket that is only bound and has that option does not keep
//! out others that have it, as nearly all servers do. The option can be given up, and servers
//! then fail to listen; but the kernel remembers it with the port, and another host's socket like
//! this one could be bound beside it, until somebody has listened. So it listens once, with a
//! filter that lets nothing in, and stops: what comes to the port past the firewall is refused at
//! once, as on a port nobody has.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr},
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::errno::Errno;
use socket2::{Domain, SockFilter, Socket, Type};

/// Where ports nobody chose come from: the kernel's own `ip_local_port_range`.
const ANY: RangeInclusive<u16> = 32_768..=60_999;
/// `linux/in.h`: `IPPROTO_SCTP`.
const SCTP: i32 = 132;
/// `linux/bpf_common.h`: `BPF_RET | BPF_K`, to return a constant: how much of a packet to keep.
const DROP_ALL: u16 = 0x06;

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number (IANA's protocol numbers), which needs no `/etc/protocols` to be read.
    pub fn number(self) -> u32 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Its name, as Docker and `nft` write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which port is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// This one.
    Exact(u16),
    /// The first free one from the first to the last of these.
    Range(u16, u16),
    /// Any from 32768 to 60999.
    Any,
}

/// Why a port is not to be had. The words are Docker's.
#[derive(Debug, thiserror::Error)]
pub enum Conflict {
    /// Another container has it.
    #[error("Bind for {0} failed: port is already allocated")]
    Allocated(SocketAddr),
    /// Another program has it, or the host does not have the address.
    #[error("listen {network} {at}: bind: {why}")]
    Bind {
        /// `tcp4`, `udp6` and so on.
        network: String,
        /// Where.
        at: SocketAddr,
        /// In words.
        why: String,
        /// Why.
        source: io::Error,
    },
    /// All of the range is taken.
    #[error("Bind for {address} failed: all ports from {first} to {last} are allocated")]
    Exhausted {
        /// On this address.
        address: IpAddr,
        /// The first port that was tried.
        first: u16,
        /// The last.
        last: u16,
    },
}

/// The ports that are held. Clones are the same ports.
#[derive(Clone, Debug, Default)]
pub struct Ports(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// On which addresses each port is held.
    held: BTreeMap<(Protocol, u16), Vec<Option<IpAddr>>>,
    /// The last port that was given to somebody who wanted any.
    last: Option<u16>,
}

impl Ports {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a port of the host: on one address, or on all of both families.
    pub fn take(&self, protocol: Protocol, address: Option<IpAddr>, port: Port) -> Result<Taken, Conflict> {
        // `0.0.0.0` and `::` are all addresses of their family: the table knows them as they are.
        let mut table = self.table();
        let (first, last) = match port {
            Port::Exact(port) => {
                let sockets = table.open(protocol, address, port)?;
                return Ok(self.taken(&mut table, protocol, address, port, sockets));
            }
            Port::Range(first, last) => (first, last),
            Port::Any => (*ANY.start(), *ANY.end()),
        };
        // Not the port that was left a moment ago, for as long as there are others.
        let start =
            table.last.filter(|last| port == Port::Any && *last < *ANY.end()).map_or(first, |last| last + 1);
        for candidate in (start..=last).chain(first..start) {
            match table.open(protocol, address, candidate) {
                Ok(sockets) => {
                    if port == Port::Any {
                        table.last = Some(candidate);
                    }
                    return Ok(self.taken(&mut table, protocol, address, candidate, sockets));
                }
                Err(Conflict::Bind { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {}
                Err(Conflict::Allocated(_)) => {}
                Err(other) => return Err(other),
            }
        }
        let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Err(Conflict::Exhausted { address, first, last })
    }

    fn taken(
        &self,
        table: &mut Table,
        protocol: Protocol,
        address: Option<IpAddr>,
        port: u16,
        sockets: Vec<Socket>,
    ) -> Taken {
        table.held.entry((protocol, port)).or_default().push(address);
        Taken { ports: self.clone(), protocol, address, port, sockets }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Whoever panicked has left a whole table: it is changed in single steps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Opens the sockets that hold a port nobody of ours has.
    fn open(&self, protocol: Protocol, address: Option<IpAddr>, port: u16) -> Result<Vec<Socket>, Conflict> {
        let shown = SocketAddr::new(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port);
        let held = self.held.get(&(protocol, port)).into_iter().flatten();
        if held.into_iter().any(|held| meet(*held, address)) {
            return Err(Conflict::Allocated(shown));
        }
        let both = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let addresses = address.as_ref().map_or(&both[..], std::slice::from_ref);
        let mut sockets = Vec::new();
        for ip in addresses {
            let at = SocketAddr::new(*ip, port);
            match hold(protocol, at) {
                Ok(socket) => sockets.push(socket),
                // A kernel without IPv6, or without SCTP: no other program has the port either.
                Err(error) if address.is_none() && is(&error, Errno::EADDRNOTAVAIL) => {}
                Err(error) if cannot_be_had(&error) && (address.is_none() || protocol == Protocol::Sctp) => {}
                Err(source) => {
                    let network = format!("{protocol}{}", if ip.is_ipv4() { 4 } else { 6 });
                    return Err(Conflict::Bind { network, at, why: words(&source), source });
                }
            }
        }
        Ok(sockets)
    }
}

/// Whether two holders of one port would be in each other's way.
fn meet(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return true };
    a == b || a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())
}

/// Binds a socket that receives nothing.
fn hold(protocol: Protocol, at: SocketAddr) -> io::Result<Socket> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (Type::STREAM, socket2::Protocol::TCP),
        Protocol::Udp => (Type::DGRAM, socket2::Protocol::UDP),
        Protocol::Sctp => (Type::STREAM, SCTP.into()),
    };
    let socket = Socket::new(Domain::for_address(at), kind, Some(number))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if protocol != Protocol::Sctp {
        socket.attach_filter(&[SockFilter::new(DROP_ALL, 0, 0, 0)])?;
    }
    socket.set_reuse_address(protocol == Protocol::Tcp)?;
    socket.bind(&at.into())?;
    if protocol == Protocol::Tcp {
        // See the module's head.
        socket.listen(1)?;
        socket.set_reuse_address(false)?;
        socket.shutdown(Shutdown::Read)?;
    }
    Ok(socket)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error().map(Errno::from_raw) == Some(errno)
}

/// Whether the kernel has no such family or protocol.
fn cannot_be_had(error: &io::Error) -> bool {
    [Errno::EAFNOSUPPORT, Errno::EPROTONOSUPPORT, Errno::ESOCKTNOSUPPORT]
        .iter()
        .any(|errno| is(error, *errno))
}

/// The error's description as Docker's is written: in small letters.
fn words(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRNOTAVAIL) => "cannot assign requested address".to_owned(),
        Some(errno) => errno.desc().to_ascii_lowercase(),
        None => error.to_string(),
    }
}

/// A port that is held until this is dropped.
#[derive(Debug)]
pub struct Taken {
    ports: Ports,
    protocol: Protocol,
    address: Option<IpAddr>,
    port: u16,
    sockets: Vec<Socket>,
}

impl Taken {
    /// Of which protocol.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// On which address, `None` for all.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Its number.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // The sockets first: the port must not be ours again while they are still open.
        self.sockets.clear();
        let mut table = self.ports.table();
        if let Some(held) = table.held.get_mut(&(self.protocol, self.port)) {
            held.retain(|address| *address != self.address);
            if held.is_empty() {
                table.held.remove(&(self.protocol, self.port));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    const LOCAL: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

    /// A listener as servers make them: with `SO_REUSEADDR`, which the standard library sets.
    fn listener(address: Ipv4Addr, port: u16) -> io::Result<TcpListener> {
        TcpListener::bind((address, port))
    }

    #[test]
    fn a_port_has_one_holder() {
        let ports = Ports::new();
        assert!(ANY.contains(&ports.take(Protocol::Tcp, None, Port::Any).unwrap().port()));
        // A range of this test's own: what it lets go of, another one might have at once.
        let taken = ports.take(Protocol::Tcp, None, Port::Range(21_000, 21_099)).unwrap();
        let port = taken.port();
        let error = ports.take(Protocol::Tcp, None, Port::Exact(port)).unwrap_err();
        assert_eq!(error.to_string(), format!("Bind for 0.0.0.0:{port} failed: port is already allocated"));
        let error = ports.clone().take(Protocol::Tcp, LOCAL, Port::Exact(port)).unwrap_err();
        assert_eq!(error.to_string(), format!("Bind for 127.0.0.1:{port} failed: port is already allocated"));
        let other = ports.take(Protocol::Udp, None, Port::Exact(port)).unwrap();
        drop(taken);
        drop(other);
        let one = ports.take(Protocol::Tcp, LOCAL, Port::Exact(port)).unwrap();
        let two = ports.take(Protocol::Tcp, Some([127, 0, 0, 2].into()), Port::Exact(port)).unwrap();
        assert_eq!((one.port(), two.address()), (port, Some([127, 0, 0, 2].into())));
    }

    #[test]
    fn other_programs_are_kept_out() {
        let ports = Ports::new();
        for address in [None, LOCAL] {
            let taken = ports.take(Protocol::Tcp, address, Port::Any).unwrap();
            for at in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST] {
                let error = listener(at, taken.port()).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{address:?} {at}");
            }
            let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, taken.port())).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            let taken = ports.take(Protocol::Udp, address, Port::Any).unwrap();
            let error = UdpSocket::bind((Ipv4Addr::LOCALHOST, taken.port())).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        }
        let taken = ports.take(Protocol::Tcp, None, Port::Any).unwrap();
        // Another host's, which never listens.
        let error = Ports::new().take(Protocol::Tcp, None, Port::Exact(taken.port())).unwrap_err();
        assert!(error.to_string().ends_with("bind: address already in use"), "{error}");
        let error = TcpListener::bind((Ipv6Addr::UNSPECIFIED, taken.port())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn other_programs_are_found() {
        let ports = Ports::new();
        let tcp = listener(Ipv4Addr::UNSPECIFIED, 0).unwrap();
        let port = tcp.local_addr().unwrap().port();
        let error = ports.take(Protocol::Tcp, None, Port::Exact(port)).unwrap_err();
        assert_eq!(error.to_string(), format!("listen tcp4 0.0.0.0:{port}: bind: address already in use"));
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        let error = ports.take(Protocol::Udp, None, Port::Exact(port)).unwrap_err();
        assert_eq!(error.to_string(), format!("listen udp6 [::]:{port}: bind: address already in use"));
        let error = ports.take(Protocol::Tcp, Some([192, 0, 2, 1].into()), Port::Exact(80)).unwrap_err();
        assert_eq!(error.to_string(), "listen tcp4 192.0.2.1:80: bind: cannot assign requested address");
        // What was taken in vain is not held.
        let _held = ports.take(Protocol::Udp, LOCAL, Port::Exact(port)).unwrap();
    }

    #[test]
    fn what_a_server_left_behind_is_no_obstacle() {
        let server = (22_000..22_100).find_map(|port| listener(Ipv4Addr::LOCALHOST, port).ok()).unwrap();
        let at = server.local_addr().unwrap();
        let client = TcpStream::connect(at).unwrap();
        // Who closes first has the connection in TIME_WAIT.
        let connection = server.accept().unwrap().0;
        connection.shutdown(std::net::Shutdown::Both).unwrap();
        drop((server, connection, client));
        let ports = Ports::new();
        let _taken = ports.take(Protocol::Tcp, None, Port::Exact(at.port())).unwrap();
        let error = listener(Ipv4Addr::LOCALHOST, at.port()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "and others are kept out all the same");
    }

    #[test]
    fn ranges_end() {
        let ports = Ports::new();
        let first = ports.take(Protocol::Udp, LOCAL, Port::Range(23_000, 23_099)).unwrap();
        let range = Port::Range(first.port(), first.port() + 1);
        let taken: Vec<_> = std::iter::from_fn(|| ports.take(Protocol::Udp, LOCAL, range).ok()).collect();
        assert!(taken.len() <= 1);
        let error = ports.take(Protocol::Udp, LOCAL, range).unwrap_err();
        assert!(error.to_string().starts_with("Bind for 127.0.0.1 failed: all ports from"), "{error}");
        drop(first);
        ports.take(Protocol::Udp, LOCAL, range).unwrap();
        let backwards = ports.take(Protocol::Udp, LOCAL, Port::Range(9, 8)).unwrap_err();
        assert!(matches!(backwards, Conflict::Exhausted { .. }));
    }

    #[test]
    fn a_port_just_left_is_not_given_again() {
        let ports = Ports::new();
        let first = ports.take(Protocol::Udp, LOCAL, Port::Any).unwrap().port();
        assert_ne!(ports.take(Protocol::Udp, LOCAL, Port::Any).unwrap().port(), first);
        // Without a kernel that speaks SCTP only our own table knows.
        let sctp = ports.take(Protocol::Sctp, None, Port::Exact(7)).unwrap();
        assert!(ports.take(Protocol::Sctp, None, Port::Exact(7)).is_err());
        drop(sctp);
        assert!(ports.0.lock().unwrap().held.is_empty());
    }
}
