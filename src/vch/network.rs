//! The host's side of the networks: bridges, and its own addresses on them.
//!
//! Works in the network namespace it is run in. What it makes is found again and left as it is
//! after a restart.

mod bridges;
mod sysctl;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use futures_util::TryStreamExt;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{LinkAttribute, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, packet_core::ErrorMessage};
use tether_wire::value::{IfName, Prefix, is_link_local};
use tokio::time::timeout;

/// How long the kernel may take over one request.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why a network is not there.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused.
    #[error("{what}: {source}; vch needs CAP_NET_ADMIN in its network namespace")]
    Refused {
        /// What was tried.
        what: String,
        /// Why not.
        source: rtnetlink::Error,
    },
    /// No answer came in time.
    #[error("{0}: the kernel did not answer in 5 s")]
    NoAnswer(String),
    /// A link is not there.
    #[error("there is no link {0}: name one that `ip link` shows")]
    NoLink(IfName),
    /// A bridge's name is somebody else's.
    #[error("{name} is not this network's bridge ({why}): remove it, or choose another name")]
    NotOurs {
        /// The interface.
        name: IfName,
        /// What it is.
        why: String,
    },
    /// A link cannot be an external network's.
    #[error("{link} cannot be the link of an external network: {why}")]
    Uplink {
        /// The link.
        link: IfName,
        /// Why not, and what to do.
        why: String,
    },
    /// The kernel's settings cannot be changed.
    #[error("cannot write {value} to {}: {source}; vch needs root, and /proc/sys writable", .path.display())]
    Sysctl {
        /// The setting.
        path: PathBuf,
        /// What it should be.
        value: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// There is no netlink socket.
    #[error("netlink: {0}")]
    Socket(#[from] std::io::Error),
}

/// The host's networks.
#[derive(Clone, Debug)]
pub struct Networks {
    handle: Handle,
}

impl Networks {
    /// Opens the kernel's networking, on the current tokio runtime.
    pub fn open() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Puts a device on a bridge and brings it up. The MTU has to be the bridge's: longer packets
    /// towards the device would be dropped without a word.
    pub async fn attach(&self, device: u32, bridge: &IfName, mtu: Option<u32>) -> Result<(), NetworkError> {
        let what = format!("put link {device} on {bridge}");
        let Some(bridge) = self.index(bridge).await? else {
            return Err(NetworkError::Refused { what, source: no_such_device() });
        };
        let mut message = LinkUnspec::new_with_index(device).controller(bridge).up().build();
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        within(what, self.handle.link().set(message).execute()).await
    }

    /// Every subnet the host has an address in or a route to: new networks keep clear of them.
    /// Default routes are left out, and their halves, which VPNs set.
    pub async fn addresses_and_routes(&self) -> Result<Vec<Prefix>, NetworkError> {
        let mut used = std::collections::BTreeSet::new();
        let addresses = self.handle.address().get().execute();
        let addresses: Vec<_> = within("list the host's addresses", addresses.try_collect()).await?;
        used.extend(addresses.iter().filter_map(prefix_of).map(Prefix::network));
        for version in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let routes = self.handle.route().get(version).execute();
            let routes: Vec<_> = within("list the host's routes", routes.try_collect()).await?;
            used.extend(routes.iter().filter_map(destination).map(Prefix::network));
        }
        let real = |prefix: &Prefix| {
            prefix.length() > 1 && !prefix.address().is_loopback() && !is_link_local(prefix.address())
        };
        Ok(used.into_iter().filter(real).collect())
    }

    /// Has the kernel forget who has an address, so that its next holder is not sent its last
    /// holder's packets.
    pub async fn forget_neighbour(&self, bridge: &IfName, address: IpAddr) -> Result<(), NetworkError> {
        let Some(index) = self.index(bridge).await? else { return Ok(()) };
        let neighbour = self.handle.neighbours().add(index, address).message_mut().clone();
        let request = self.handle.neighbours().del(neighbour).execute();
        match within(format!("forget {address} on {bridge}"), request).await {
            Err(NetworkError::Refused { source, .. }) if is(&source, nix::errno::Errno::ENOENT) => Ok(()),
            other => other,
        }
    }

    async fn index(&self, name: &IfName) -> Result<Option<u32>, NetworkError> {
        Ok(self.link(name).await?.map(|link| link.header.index))
    }

    async fn links(&self) -> Result<Vec<LinkMessage>, NetworkError> {
        within("list the host's links", self.handle.link().get().execute().try_collect()).await
    }

    async fn link(&self, name: &IfName) -> Result<Option<LinkMessage>, NetworkError> {
        let mut found = self.handle.link().get().match_name(name.to_string()).execute();
        match within(format!("look up {name}"), found.try_next()).await {
            Ok(link) => Ok(link),
            Err(NetworkError::Refused { source, .. }) if is(&source, nix::errno::Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds an address without duplicate-address detection: a bridge without ports has no
    /// carrier, and detection would never finish.
    async fn address(&self, link: u32, prefix: Prefix) -> Result<(), NetworkError> {
        let ip = prefix.address();
        let mut message = AddressMessage::default();
        message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.prefix_len = prefix.length();
        message.header.index = link;
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
        let mut request = self.handle.address().add(link, ip, prefix.length());
        *request.message_mut() = message;
        match within(format!("add {prefix} to link {link}"), request.execute()).await {
            Err(NetworkError::Refused { source, .. }) if is(&source, nix::errno::Errno::EEXIST) => Ok(()),
            other => other,
        }
    }
}

/// The subnet of an address of the host.
fn prefix_of(message: &AddressMessage) -> Option<Prefix> {
    let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    // On a point-to-point link `Address` is the other end, and `Local` ours.
    let ip = of(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    })?;
    Prefix::new(ip, message.header.prefix_len)
}

/// Where a route leads, if packets are sent by it.
fn destination(route: &RouteMessage) -> Option<Prefix> {
    use RouteType::{BlackHole, Prohibit, Unicast, Unreachable};
    if !matches!(route.header.kind, Unicast | BlackHole | Prohibit | Unreachable) {
        return None;
    }
    let ip = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })?;
    Prefix::new(ip, route.header.destination_prefix_length).filter(|_| !ip.is_multicast())
}

async fn within<T>(
    what: impl Into<String>,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, NetworkError> {
    let what = what.into();
    match timeout(DEADLINE, request).await {
        Ok(answer) => answer.map_err(|source| NetworkError::Refused { what, source }),
        Err(_) => Err(NetworkError::NoAnswer(what)),
    }
}

fn is(error: &rtnetlink::Error, errno: nix::errno::Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(answer) if answer.raw_code() == -(errno as i32))
}

fn no_such_device() -> rtnetlink::Error {
    let mut answer = ErrorMessage::default();
    answer.code = std::num::NonZeroI32::new(-(nix::errno::Errno::ENODEV as i32));
    rtnetlink::Error::NetlinkError(answer)
}
