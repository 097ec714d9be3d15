//! What all contenders have in common: an upstream server in a place of its own, a link away. A
//! server on a loopback address would be refused as the guest itself.

use std::{
    cell::Cell,
    fs::File,
    net::{Ipv4Addr, UdpSocket},
    thread,
};

use nix::sched::{CloneFlags, setns};
use tether_tests::Space;

use crate::{echo::Echo, upstream};

/// The network of the links: each has a number, and its two ends are `.1` and `.2` of that.
const LINKS: [u8; 2] = [10, 253];

pub(crate) struct Outside {
    pub(crate) space: Space,
    links: Cell<u8>,
    _upstream: Echo,
}

/// A link between a contender's space and the outside.
pub(crate) struct Link {
    /// The address at the outer end: the upstream server's.
    pub(crate) outer: Ipv4Addr,
    pub(crate) inner: Ipv4Addr,
    /// The MAC address of the inner end.
    pub(crate) mac: String,
}

impl Outside {
    pub(crate) fn new() -> Self {
        let space = Space::new();
        let socket = enter(&space, || UdpSocket::bind("0.0.0.0:53")).expect("a port of its own");
        Self { space, links: Cell::new(0), _upstream: upstream::start(socket) }
    }

    /// Joins `space` to it.
    pub(crate) fn join(&self, space: &Space) -> Link {
        let n = self.links.get() + 1;
        self.links.set(n);
        let [a, b] = LINKS;
        let (outer, inner) = (Ipv4Addr::new(a, b, n, 1), Ipv4Addr::new(a, b, n, 2));
        let (port, mac, id) = (format!("port{n}"), format!("02:42:{a:02x}:{b:02x}:{n:02x}:02"), space.id());
        self.space.run(&format!("ip link add {port} type veth peer name eth0 address {mac} netns {id}"));
        self.space.run(&format!("ip address add {outer}/24 dev {port}"));
        self.space.run(&format!("ip link set {port} up"));
        space.run(&format!("ip address add {inner}/24 dev eth0"));
        space.run("ip link set eth0 up");
        Link { outer, inner, mac }
    }
}

/// Runs `what` in the network namespace of `space`. A socket stays in the one it was made in.
///
/// On a thread of its own: in a user namespace there is no way back.
pub(crate) fn enter<T: Send>(space: &Space, what: impl FnOnce() -> T + Send) -> T {
    let there = File::open(format!("/proc/{}/ns/net", space.id())).expect("its network namespace");
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(there, CloneFlags::CLONE_NEWNET).expect("root");
            what()
        });
        inside.join().expect("what it panicked of has been told")
    })
}
