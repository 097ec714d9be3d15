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
        let nothing = Desired::nothing();
        let desired = self.in_force.as_ref().map_or(&nothing, |in_force| &in_force.desired);
        let (settings, left_out) = settings(desired, &self.seen);
        if self.dns_settings.as_ref() == Some(&settings) {
            return;
        }
        for (upstream, why) in left_out {
            tracing::warn!(%upstream, "not asked for names: {why}");
        }
        if let Err(error) = self.dns.configure(&settings) {
            // Threads are to be had again perhaps: the next look tries.
            return tracing::error!("DNS: {error}");
        }
        self.dns_settings = Some(settings);
    }
}

/// How the server is to behave, and who is left out of it, and why: this machine itself, which would
/// ask itself for ever, and servers on links that are not there.
fn settings<'d>(desired: &'d Desired, now: &KernelState) -> (Settings, Vec<(&'d Upstream, &'static str)>) {
    let dns = &desired.dns;
    let mut left_out = Vec::new();
    let is_own = |ip: IpAddr| {
        ip.is_loopback() || dns.listen.contains(&ip) || now.addresses.iter().any(|a| a.prefix.address() == ip)
    };
    let index = |name: &str| now.links.iter().find(|link| link.name == name).map(|link| link.index);
    let mut usable = |upstream: &'d Upstream| -> Option<SocketAddr> {
        let scope = match &upstream.scope {
            _ if is_own(upstream.address) => Err("it is this machine itself"),
            None => Ok(0),
            Some(scope) => index(scope.as_str()).ok_or("there is no such interface"),
        };
        match scope {
            Ok(scope) => Some(upstream.socket_address(scope)),
            Err(why) => {
                left_out.push((upstream, why));
                None
            }
        }
    };
    let mut route = |forward: &'d DesiredForward, name: &str| {
        let tls = forward.tls.as_ref().map(|tls| Arc::new((tls.name.clone(), tls.ca.clone())));
        let interface = forward.interface.as_ref().map(ToString::to_string);
        let server = |address| ServerAddress { address, interface: interface.clone(), tls: tls.clone() };
        Route {
            domain: if name.is_empty() { Box::default() } else { wire(name, true) },
            servers: forward.servers.iter().filter_map(&mut usable).map(server).collect(),
        }
    };
    let mut routes = Vec::new();
    for forward in &dns.forward {
        match &forward.domains[..] {
            [] => routes.push(route(forward, "")),
            domains => routes.extend(domains.iter().map(|name| route(forward, name))),
        }
    }
    let settings = Settings {
        listen: dns.listen.clone(),
        routes,
        cache_bytes: dns.cache_bytes,
        stale: dns.stale,
        in_flight: dns.in_flight,
        refuse_private_answers: dns.refuse_private_answers,
        keep_own_names: dns.keep_own_names,
    };
    (settings, left_out)
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
        settings(&desired, &now).0
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
