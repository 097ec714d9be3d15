//! What the DNS server is told: the document's `dns`, with what has to be looked up on the machine.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tether_wire::{
    check::{Desired, DesiredForward},
    upstream::Upstream,
};

use super::Agent;
use crate::{
    dns::{Route, ServerAddress, Settings},
    names::wire,
    plan::KernelState,
};

impl Agent {
    /// Has the DNS server behave as the document in force and the kernel as it was last read say.
    pub(super) fn configure_dns(&mut self) {
        let settings = match &self.in_force {
            Some(in_force) => settings(&in_force.desired, &self.seen),
            None => settings(&Desired::nothing(), &self.seen),
        };
        if self.dns_settings.as_ref() == Some(&settings) {
            return;
        }
        if let Err(error) = self.dns.configure(&settings) {
            // Threads are to be had again perhaps: the next look tries.
            return tracing::error!("DNS: {error}");
        }
        self.dns_settings = Some(settings);
    }
}

/// How the server is to behave. Of the servers to be asked, those that are this machine itself are
/// left out, which would ask itself for ever, and so are those on links that are not there.
fn settings(desired: &Desired, now: &KernelState) -> Settings {
    let dns = &desired.dns;
    let is_own = |ip: IpAddr| {
        ip.is_loopback() || dns.listen.contains(&ip) || now.addresses.iter().any(|a| a.prefix.address() == ip)
    };
    let index = |name: &str| now.links.iter().find(|link| link.name == name).map(|link| link.index);
    let usable = |upstream: &Upstream| -> Option<SocketAddr> {
        match &upstream.scope {
            _ if is_own(upstream.address) => {
                tracing::warn!(%upstream, "not asked for names: it is this machine itself");
                None
            }
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
    let route = |forward: &DesiredForward, name: &str| {
        let tls = forward.tls.as_ref().map(|tls| Arc::new((tls.name.clone(), tls.ca.clone())));
        let interface = forward.interface.as_ref().map(ToString::to_string);
        let server = |address| ServerAddress { address, interface: interface.clone(), tls: tls.clone() };
        Route {
            domain: if name.is_empty() { Box::default() } else { wire(name, true) },
            servers: forward.servers.iter().filter_map(usable).map(server).collect(),
        }
    };
    let routes = dns.forward.iter().flat_map(|forward| match &forward.domains[..] {
        [] => vec![route(forward, "")],
        domains => domains.iter().map(|name| route(forward, name)).collect(),
    });
    Settings {
        listen: dns.listen.clone(),
        routes: routes.collect(),
        cache_bytes: dns.cache_bytes,
        stale: dns.stale,
        in_flight: dns.in_flight,
        refuse_private_answers: dns.refuse_private_answers,
        keep_own_names: dns.keep_own_names,
    }
}

#[cfg(test)]
mod tests {
    use tether_wire::state::{DesiredState, Dns, Forward};

    use super::*;
    use crate::plan::{Address, Link};

    fn settings_of(dns: Dns) -> Settings {
        let desired = DesiredState { dns, ..DesiredState::default() }.check().unwrap();
        let now = KernelState {
            links: vec![Link { index: 7, name: "eth0".into(), ..Link::default() }],
            addresses: vec![Address::ours(7, "172.18.0.2/16".parse().unwrap())],
            ..KernelState::default()
        };
        settings(&desired, &now)
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nobody_asks_itself_for_names() {
        let upstreams_of = |servers: &[&str]| -> Vec<String> {
            let settings = settings_of(Dns { upstreams: strings(servers), ..Dns::default() });
            settings.routes[0].servers.iter().map(|server| server.address.to_string()).collect()
        };
        assert_eq!(upstreams_of(&["172.18.0.2", "127.0.0.1", "::1", "172.18.0.1"]), ["172.18.0.1:53"]);
        assert_eq!(upstreams_of(&["fe80::53%eth0", "fe80::53%eth9"]), ["[fe80::53%7]:53"]);
    }

    #[test]
    fn a_domain_has_servers_of_its_own() {
        let forward = Forward {
            domains: strings(&["Corp.Example.", "internal"]),
            servers: strings(&["10.0.0.53"]),
            interface: Some("eth0".into()),
            ..Forward::default()
        };
        let dns = Dns { upstreams: strings(&["10.0.0.1"]), forward: vec![forward], ..Dns::default() };
        let routes = settings_of(dns).routes;
        let domains: Vec<&[u8]> = routes.iter().map(|route| &*route.domain).collect();
        assert_eq!(domains, [&b""[..], b"\x04corp\x07example", b"\x08internal"]);
        assert_eq!(routes[1].servers[0].interface.as_deref(), Some("eth0"));
    }
}
