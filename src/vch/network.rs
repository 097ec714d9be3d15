//! The host's side of the networks: bridges, and its own addresses on them.
//!
//! Works in the network namespace it is run in. What it makes is found again and left as it is
//! after a restart.

use std::{net::IpAddr, time::Duration};

use futures_util::TryStreamExt;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::LinkAttribute,
};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, packet_core::ErrorMessage};
use tether_wire::value::{IfName, MacAddr, Prefix};
use tokio::time::timeout;

use crate::firewall::Rules;

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

    /// Makes a bridge with these addresses of the host on it. Returns its index.
    pub async fn make_bridge(
        &self,
        name: &IfName,
        mac: MacAddr,
        mtu: Option<u32>,
        addresses: &[Prefix],
    ) -> Result<u32, NetworkError> {
        let bridge = self.bridge(name, mac, mtu).await?;
        for address in addresses {
            self.address(bridge, *address).await?;
        }
        Ok(bridge)
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

    /// Makes the bridge of the network `id`, or finds it, with these addresses and no others of
    /// global scope, and up. Returns its index.
    pub async fn ensure_bridge(
        &self,
        name: &IfName,
        id: &str,
        mac: MacAddr,
        mtu: Option<u32>,
        addresses: &[Prefix],
    ) -> Result<u32, NetworkError> {
        let _ = (name, id, mac, mtu, addresses);
        todo!()
    }

    /// Removes a bridge. One that is not there is no error.
    pub async fn remove_bridge(&self, name: &IfName) -> Result<(), NetworkError> {
        let _ = name;
        todo!()
    }

    /// As [`attach`](Self::attach), and the device's packets reach the host but no other device
    /// that is isolated too: guests on the management network are nobody to each other.
    pub async fn attach_isolated(
        &self,
        device: u32,
        bridge: &IfName,
        mtu: Option<u32>,
    ) -> Result<(), NetworkError> {
        let _ = (device, bridge, mtu);
        todo!()
    }

    /// Puts an administrator's link on the bridge of an external network, and brings it up.
    pub async fn enslave_uplink(&self, link: &IfName, bridge: &IfName) -> Result<(), NetworkError> {
        let _ = (link, bridge);
        todo!()
    }

    /// Takes an administrator's link off its bridge. It stays up. One that is gone is no error.
    pub async fn release_uplink(&self, link: &IfName) -> Result<(), NetworkError> {
        let _ = link;
        todo!()
    }

    /// Every subnet the host has an address in or a route to, default routes excepted: new
    /// networks keep clear of them.
    pub async fn addresses_and_routes(&self) -> Result<Vec<Prefix>, NetworkError> {
        todo!()
    }

    /// The bridges that [`ensure_bridge`](Self::ensure_bridge) made, whether by this process or
    /// an earlier one, each with its network's id.
    pub async fn ours(&self) -> Result<Vec<(IfName, String)>, NetworkError> {
        todo!()
    }

    /// Has the kernel forget who has an address, so that its next holder is not sent its last
    /// holder's packets.
    pub async fn forget_neighbour(&self, bridge: &IfName, address: IpAddr) -> Result<(), NetworkError> {
        let _ = (bridge, address);
        todo!()
    }

    /// Sets the kernel up to forward what `rules` let through. To be called before the rules are
    /// applied, each time bridges have come.
    pub async fn prepare(&self, rules: &Rules) -> Result<(), NetworkError> {
        let _ = rules;
        todo!()
    }

    /// Makes a bridge, or finds it. Its MAC address is its own: one that follows the ports, as a
    /// bridge's does by default, leaves every neighbour with an old one when a machine starts.
    async fn bridge(&self, name: &IfName, mac: MacAddr, mtu: Option<u32>) -> Result<u32, NetworkError> {
        if self.index(name).await?.is_none() {
            let message = LinkBridge::new(name.as_str()).address(mac.bytes().to_vec()).build();
            within(format!("make bridge {name}"), self.handle.link().add(message).execute()).await?;
        }
        let what = format!("find bridge {name}");
        let index = self.index(name).await?;
        let index = index.ok_or_else(|| NetworkError::Refused { what, source: no_such_device() })?;
        let mut message = LinkUnspec::new_with_index(index).up().build();
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        within(format!("set {name} up"), self.handle.link().set(message).execute()).await?;
        Ok(index)
    }

    async fn index(&self, name: &IfName) -> Result<Option<u32>, NetworkError> {
        let mut found = self.handle.link().get().match_name(name.to_string()).execute();
        match within(format!("look up {name}"), found.try_next()).await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
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

async fn within<T>(
    what: String,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, NetworkError> {
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
