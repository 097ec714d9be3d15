//! Which servers are asked for names that are not ours.

use std::net::{IpAddr, SocketAddr};

use tether_wire::{check::Desired, upstream::Upstream};

use crate::plan::KernelState;

/// Where to ask for names that are not ours: the document's servers without any that is this
/// machine itself, which would ask itself for ever.
pub(super) fn upstreams(desired: &Desired, now: &KernelState) -> Vec<SocketAddr> {
    let own = |ip: IpAddr| ip.is_loopback() || now.addresses.iter().any(|a| a.prefix.address() == ip);
    let index = |name: &str| now.links.iter().find(|link| link.name == name).map(|link| link.index);
    let usable = |upstream: &Upstream| {
        if own(upstream.address) {
            tracing::warn!(%upstream, "not asked for names: it is this machine itself");
            return None;
        }
        match &upstream.scope {
            None => Some(upstream.socket_address(0)),
            Some(scope) => {
                let index = index(scope.as_str());
                if index.is_none() {
                    tracing::warn!(%upstream, "not asked for names: there is no such interface");
                }
                index.map(|index| upstream.socket_address(index))
            }
        }
    };
    desired.dns.forward.iter().flat_map(|forward| &forward.servers).filter_map(usable).collect()
}

#[cfg(test)]
mod tests {
    use tether_wire::state::{DesiredState, Dns};

    use super::*;
    use crate::plan::{Address, Link};

    #[test]
    fn nobody_asks_itself_for_names() {
        let upstreams_of = |servers: &[&str]| {
            let dns = Dns { upstreams: servers.iter().map(ToString::to_string).collect(), ..Dns::default() };
            let desired = DesiredState { dns, ..DesiredState::default() }.check().unwrap();
            let now = KernelState {
                links: vec![Link { index: 7, name: "eth0".into(), ..Link::default() }],
                addresses: vec![Address::ours(7, "172.18.0.2/16".parse().unwrap())],
                ..KernelState::default()
            };
            upstreams(&desired, &now).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(upstreams_of(&["172.18.0.2", "127.0.0.1", "::1", "172.18.0.1"]), ["172.18.0.1:53"]);
        assert_eq!(upstreams_of(&["fe80::53%eth0", "fe80::53%eth9"]), ["[fe80::53%7]:53"]);
    }
}
