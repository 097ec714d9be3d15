//! Who is asked for what, and how the server behaves: the desired state's `dns` with everything
//! looked up that needs the machine.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tether_wire::check::DesiredDns;

/// How the server behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens, port 53.
    pub listen: Vec<IpAddr>,
    /// Who is asked for what.
    pub routes: Vec<Route>,
    /// Bytes for answers of upstreams, 0 for none.
    pub cache_bytes: usize,
    /// How long stale answers are good for.
    pub stale: Duration,
    /// The most questions at upstreams; as many again wait.
    pub in_flight: usize,
    /// Answers of those who are asked for everything must not lead to the guest's inside.
    pub refuse_private_answers: bool,
    /// Unknown names below a network's own are not asked for.
    pub keep_own_names: bool,
}

impl Default for Settings {
    /// As a document without any of it says.
    fn default() -> Self {
        let dns = DesiredDns::default();
        Self {
            listen: dns.listen,
            routes: Vec::new(),
            cache_bytes: dns.cache_bytes,
            stale: dns.stale,
            in_flight: dns.in_flight,
            refuse_private_answers: dns.refuse_private_answers,
            keep_own_names: dns.keep_own_names,
        }
    }
}

/// Servers for the names below a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// As in packets, in lower case, without the root; empty for everything.
    pub domain: Box<[u8]>,
    /// They are taken for equal.
    pub servers: Vec<ServerAddress>,
}

/// Where a server is and how it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// Its address and port, the scope included.
    pub address: SocketAddr,
    /// The interface it is asked through, if that is not for the routes to say.
    pub interface: Option<String>,
    /// What it is known by, if it is asked over TLS: its name and who vouches for it, in PEM.
    pub tls: Option<Arc<(String, String)>>,
}
