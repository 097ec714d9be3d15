//! How containers resolve names that are not theirs: by the host's own DNS servers, by those an
//! administrator names, by those of `--dns`.

use std::{fs, net::IpAddr};

use bollard_stubs::models::HostConfig;
use tether_wire::{
    names::NameTables,
    state::{Dns, Forward},
    upstream::Upstream,
};

/// Where systemd-resolved keeps the real servers, when `/etc/resolv.conf` names only itself.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What the host's resolver file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Servers a container can reach.
    pub servers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
}

/// What an administrator says of all containers' name resolution, checked.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// How the guests' servers behave, and whom they ask. It names no upstreams, search domains
    /// or options: these are the host's, or the container's own.
    pub dns: Dns,
    /// The time to live of containers' names, in seconds.
    pub ttl_seconds: u32,
}

impl Default for Resolution {
    fn default() -> Self {
        Self { dns: Dns::default(), ttl_seconds: NameTables::default().ttl_seconds }
    }
}

impl Resolution {
    /// A container's name resolution. `leads_out`: it has a default route.
    pub(super) fn of(&self, container: &HostConfig, leads_out: bool, host: Resolver) -> Dns {
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let own = list(&container.dns);
        let general = |forward: &Forward| forward.domains.is_empty();
        // Nothing of the host's is for a network that leads nowhere: neither its servers nor the
        // administrator's. What the user names may be on that network.
        let mut forward = if leads_out { self.dns.forward.clone() } else { Vec::new() };
        if !own.is_empty() {
            // These are asked for everything, and nobody else is.
            forward.retain(|forward| !general(forward));
        }
        let hosts = own.is_empty() && leads_out && !forward.iter().any(general);
        let given = |mine: Vec<String>, theirs| if mine.is_empty() { theirs } else { mine };
        Dns {
            upstreams: if hosts { host.servers } else { own },
            forward,
            search: given(list(&container.dns_search), host.search),
            options: list(&container.dns_options),
            ..self.dns.clone()
        }
    }
}

/// What the host's resolver uses now.
pub fn of_host() -> Resolver {
    let read = |path: &str| parse(&fs::read_to_string(path).unwrap_or_default());
    let own = read("/etc/resolv.conf");
    if own.servers.is_empty() { Resolver { servers: read(RESOLVED).servers, ..own } } else { own }
}

/// Reads a resolver file, leniently: what is not known is passed over. A server on the host's
/// own loopback is nobody's in a container.
fn parse(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let server = words.next().unwrap_or_default();
                let reachable = server.parse::<IpAddr>().is_ok_and(|address| !address.is_loopback());
                // A link-local server is on a link of the host's.
                if reachable && server.parse::<Upstream>().is_ok() {
                    resolver.servers.push(server.to_owned());
                }
            }
            Some("search") => {
                resolver.search = words.filter(|word| *word != ".").map(str::to_owned).collect();
            }
            _ => {}
        }
    }
    resolver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_administrators_servers_are_for_containers_that_lead_out() {
        let forward = |domains: &[&str], server: &str| Forward {
            domains: domains.iter().map(ToString::to_string).collect(),
            servers: vec![server.to_owned()],
            ..Forward::default()
        };
        let [corp, all] = [forward(&["corp.example"], "10.1.0.53"), forward(&[], "10.2.0.53")];
        let resolution = |forward: &[&Forward]| Resolution {
            dns: Dns {
                forward: forward.iter().map(|forward| (*forward).clone()).collect(),
                cache_kib: Some(7),
                ..Dns::default()
            },
            ..Resolution::default()
        };
        let host = || Resolver { servers: vec!["10.0.0.53".into()], search: vec!["example".into()] };
        let mine = |servers: &[&str]| HostConfig {
            dns: Some(servers.iter().map(ToString::to_string).collect()),
            ..HostConfig::default()
        };
        let asked = |administrators: &[&Forward], servers: &[&str], leads_out: bool| {
            let dns = resolution(administrators).of(&mine(servers), leads_out, host());
            assert_eq!((dns.cache_kib, dns.search), (Some(7), vec!["example".to_owned()]));
            (dns.upstreams.join(" "), dns.forward)
        };
        let nobody = (String::new(), vec![]);
        // Administrator's groups, --dns, whether it leads out; who is asked.
        for (groups, own, leads_out, expected) in [
            (&[][..], &[][..], true, ("10.0.0.53".to_owned(), vec![])),
            (&[&corp], &[], true, ("10.0.0.53".to_owned(), vec![corp.clone()])),
            (&[&corp, &all], &[], true, (String::new(), vec![corp.clone(), all.clone()])),
            (&[&corp, &all], &["172.18.0.9"], true, ("172.18.0.9".to_owned(), vec![corp.clone()])),
            (&[&corp, &all], &[], false, nobody),
            (&[&corp, &all], &["172.18.0.9"], false, ("172.18.0.9".to_owned(), vec![])),
        ] {
            assert_eq!(asked(groups, own, leads_out), expected, "{own:?} {leads_out}");
        }
    }

    #[test]
    fn only_servers_a_container_can_reach_are_used() {
        let resolver = parse(
            "# comment\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\n\
             nameserver\nnameserver nonsense\noptions edns0 odd:thing\nsearch a.example . b.example\n",
        );
        assert_eq!(resolver.servers, ["10.0.0.53"]);
        assert_eq!(resolver.search, ["a.example", "b.example"]);
    }
}
