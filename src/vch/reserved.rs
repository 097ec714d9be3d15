//! The host's ports that containers publish: found free at the start, kept until the end.
//!
//! Nothing is ever received here; the firewall hands the packets on. What is held are sockets, so
//! that no other program can open the port, and a port another program has is noticed at once.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
};

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
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
pub struct Ports {
    held: Arc<Mutex<Vec<(Protocol, Option<IpAddr>, u16)>>>,
}

impl Ports {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a port of the host: on one address, or on all of both families.
    pub fn take(&self, protocol: Protocol, address: Option<IpAddr>, port: Port) -> Result<Taken, Conflict> {
        let _ = (protocol, address, port, Ipv4Addr::UNSPECIFIED);
        todo!()
    }
}

/// A port that is held until this is dropped.
#[derive(Debug)]
pub struct Taken {
    ports: Ports,
    protocol: Protocol,
    address: Option<IpAddr>,
    port: u16,
    sockets: Vec<OwnedFd>,
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
        let gone = (self.protocol, self.address, self.port);
        let mut held = self.ports.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        held.retain(|entry| *entry != gone);
    }
}
