//! Bridges that belong to networks, and the ports on them.
//!
//! A bridge of ours says so itself: its alias is `vch:` and the network's id. So what a run that
//! crashed has left is found, and what is an administrator's is never touched.

use futures_util::TryStreamExt;
use netlink_packet_route::{
    address::{AddressMessage, AddressScope},
    link::{InfoBridgePort, InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    neighbour::{NeighbourFlags, NeighbourState},
};
use nix::errno::Errno;
use rtnetlink::{LinkBridge, LinkBridgePort, LinkUnspec};
use tether_wire::value::{IfName, MacAddr, Prefix, is_link_local};

use super::{NetworkError, Networks, is, no_such_device, prefix_of, within};

/// What the alias of a bridge of ours begins with.
const MARK: &str = "vch:";

impl Networks {
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
        let index = self.make_bridge(name, id, mac, mtu).await?;
        for stale in self.global_addresses(index).await? {
            if !prefix_of(&stale).is_some_and(|prefix| addresses.contains(&prefix)) {
                let request = self.handle.address().del(stale).execute();
                within(format!("remove an address from {name}"), request).await?;
            }
        }
        for address in addresses {
            self.address(index, *address).await?;
        }
        Ok(index)
    }

    /// As [`ensure_bridge`](Self::ensure_bridge), and the addresses that are on it stay as they are.
    pub async fn make_bridge(
        &self,
        name: &IfName,
        id: &str,
        mac: MacAddr,
        mtu: Option<u32>,
    ) -> Result<u32, NetworkError> {
        let mark = format!("{MARK}{id}");
        if let Some(link) = self.link(name).await? {
            refuse_foreign(name, &link, &mark, mac)?;
        } else {
            // A MAC address of its own: one that follows the ports, as a bridge's does by default,
            // leaves every neighbour with an old one when a machine starts.
            let message = LinkBridge::new(name.as_str()).address(mac.bytes().to_vec()).build();
            within(format!("make bridge {name}"), self.handle.link().add(message).execute()).await?;
        }
        let what = format!("find bridge {name}");
        let index = self.index(name).await?;
        let index = index.ok_or_else(|| NetworkError::Refused { what, source: no_such_device() })?;
        let mut message = LinkUnspec::new_with_index(index).alias(mark).up().build();
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        within(format!("set {name} up"), self.handle.link().set(message).execute()).await?;
        Ok(index)
    }

    /// Removes a bridge of ours. One that is not there is no error.
    pub async fn remove_bridge(&self, name: &IfName) -> Result<(), NetworkError> {
        let Some(link) = self.link(name).await? else { return Ok(()) };
        if mark(&link).is_none() {
            return Err(NetworkError::NotOurs {
                name: name.clone(),
                why: "nothing marks it as ours".to_owned(),
            });
        }
        let request = self.handle.link().del(link.header.index).execute();
        match within(format!("remove bridge {name}"), request).await {
            Err(NetworkError::Refused { source, .. }) if is(&source, Errno::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// The bridges that [`ensure_bridge`](Self::ensure_bridge) made, whether by this process or
    /// an earlier one, each with its network's id.
    pub async fn ours(&self) -> Result<Vec<(IfName, String)>, NetworkError> {
        let ours = |link: &LinkMessage| Some((name_of(link)?, mark(link)?.to_owned()));
        Ok(self.links().await?.iter().filter_map(ours).collect())
    }

    /// As [`attach`](Self::attach), and the device's packets reach the host but no other device that
    /// is attached so: guests on the management network are nobody to each other. Packets that do not
    /// come from `mac` reach nobody (Linux 5.18 and later): no guest speaks for another.
    pub async fn attach_guest(&self, device: u32, bridge: &IfName, mac: MacAddr) -> Result<(), NetworkError> {
        let what = format!("put link {device} on {bridge}, isolated");
        let Some(controller) = self.index(bridge).await? else {
            return Err(NetworkError::Refused { what, source: no_such_device() });
        };
        // On the bridge, then isolated, then up: never up and not isolated.
        let port = LinkUnspec::new_with_index(device).controller(controller).build();
        within(&*what, self.handle.link().set(port).execute()).await?;
        let port = LinkBridgePort::new(device)
            .append_info_data(InfoBridgePort::Isolated(true))
            .append_info_data(InfoBridgePort::Locked(true))
            .build();
        within(&*what, self.handle.link().set_port(port).execute()).await?;
        // The entry goes with the port. `NUD_NOARP` is what iproute2 calls static.
        let known = self.handle.neighbours().add_bridge(device, &mac.bytes());
        let known = known.state(NeighbourState::Noarp).flags(NeighbourFlags::Controller).replace();
        within(&*what, known.execute()).await?;
        self.attach(device, bridge, None).await
    }

    /// Puts an administrator's link on the bridge of an external network, and brings it up.
    pub async fn enslave_uplink(&self, link: &IfName, bridge: &IfName) -> Result<(), NetworkError> {
        let refused = |why: String| NetworkError::Uplink { link: link.clone(), why };
        let Some(found) = self.link(link).await? else { return Err(NetworkError::NoLink(link.clone())) };
        let Some(controller) = self.link(bridge).await? else {
            return Err(NetworkError::NoLink(bridge.clone()));
        };
        if mark(&found).is_some() {
            return Err(refused("it is a bridge of vch; name a link of the host's own".to_owned()));
        }
        match controller_of(&found) {
            Some(index) if index == controller.header.index => {}
            Some(_) => {
                return Err(refused(format!(
                    "it is part of another bridge or bond; take it out with `ip link set {link} nomaster`"
                )));
            }
            None => {
                let addresses = self.global_addresses(found.header.index).await?;
                if let Some(address) = addresses.iter().find_map(prefix_of) {
                    return Err(refused(format!(
                        "it has the address {address}; remove that, and give vch its address on the network \
                         with --address {address}"
                    )));
                }
            }
        }
        self.attach(found.header.index, bridge, None).await
    }

    /// Takes an administrator's link off a bridge of ours. It stays up. One that is gone, or on
    /// no bridge of ours, is no error.
    pub async fn release_uplink(&self, link: &IfName) -> Result<(), NetworkError> {
        let Some(found) = self.link(link).await? else { return Ok(()) };
        let Some(controller) = controller_of(&found) else { return Ok(()) };
        let mut bridge = self.handle.link().get().match_index(controller).execute();
        let bridge = within(format!("look up link {controller}"), bridge.try_next()).await?;
        if bridge.as_ref().and_then(mark).is_none() {
            return Ok(());
        }
        let message = LinkUnspec::new_with_index(found.header.index).nocontroller().build();
        within(format!("take {link} off its bridge"), self.handle.link().set(message).execute()).await
    }

    /// Every bridge there is, whoever made it.
    pub(super) async fn bridges(&self) -> Result<Vec<IfName>, NetworkError> {
        Ok(self.links().await?.iter().filter(|link| is_bridge(link)).filter_map(name_of).collect())
    }

    async fn global_addresses(&self, link: u32) -> Result<Vec<AddressMessage>, NetworkError> {
        let addresses = self.handle.address().get().set_link_index_filter(link).execute();
        let mut addresses: Vec<_> =
            within(format!("list the addresses of link {link}"), addresses.try_collect()).await?;
        addresses.retain(|message| {
            let local = prefix_of(message).is_none_or(|prefix| is_link_local(prefix.address()));
            message.header.scope == AddressScope::Universe && !local
        });
        Ok(addresses)
    }
}

/// Whether a device of this name may be taken for the network's bridge. One that was made but
/// not marked, because a run ended in between, is known by its MAC address.
fn refuse_foreign(name: &IfName, link: &LinkMessage, mark: &str, mac: MacAddr) -> Result<(), NetworkError> {
    let refused = |why: String| Err(NetworkError::NotOurs { name: name.clone(), why });
    if !is_bridge(link) {
        return refused("it is no bridge".to_owned());
    }
    let has_mac =
        |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::Address(a) if *a == mac.bytes());
    match alias(link) {
        Some(alias) if alias == mark => Ok(()),
        Some(alias) => refused(format!("its alias is {alias:?}")),
        None if link.attributes.iter().any(has_mac) => Ok(()),
        None => refused("somebody else made it".to_owned()),
    }
}

fn is_bridge(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| {
        matches!(attribute, LinkAttribute::LinkInfo(infos)
            if infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bridge))))
    })
}

fn alias(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => Some(alias.as_str()),
        _ => None,
    })
}

/// The network whose bridge a link is.
fn mark(link: &LinkMessage) -> Option<&str> {
    alias(link)?.strip_prefix(MARK)
}

fn name_of(link: &LinkMessage) -> Option<IfName> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => name.parse().ok(),
        _ => None,
    })
}

fn controller_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) if *index != 0 => Some(*index),
        _ => None,
    })
}
