//! From a desired state as it was written to one whose every value is good.
//!
//! This is all that can be known without looking at a kernel; what depends on the machine (is
//! there such a device?) is the planner's. Every problem is found, each with its path.

use std::{collections::HashMap, net::IpAddr};

use crate::{
    names::{domain_name, host_address, refuse_mapped},
    problem::{Problem, Problems},
    state::{
        DesiredState, Dns, HostEntry, Interface, MAX_ADDRESSES, MAX_ENTRIES, MAX_INTERFACES, MAX_ROUTES,
        Route, Workload,
    },
    upstream::Upstream,
    value::{IfName, MacAddr, Prefix, is_link_local, quoted},
};

/// A desired state whose every value is good.
///
/// Lists keep the document's order and length, so that an index here is an index there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The host name, `None` to leave it as it is.
    pub hostname: Option<String>,
    /// Interfaces; MAC addresses and names are unique.
    pub interfaces: Vec<DesiredInterface>,
    /// Upstream servers in the order they are tried.
    pub upstreams: Vec<Upstream>,
    /// Search domains, without `.`.
    pub search: Vec<String>,
    /// Resolver options, without white space.
    pub options: Vec<String>,
    /// Extra hosts.
    pub hosts: Vec<DesiredHost>,
    /// The workload.
    pub workload: Option<Workload>,
}

/// An interface of a [`Desired`] state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredInterface {
    /// Which device.
    pub mac: MacAddr,
    /// What it is to be called.
    pub name: IfName,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
    /// Its addresses, none twice in the document.
    pub addresses: Vec<Prefix>,
    /// Its routes; a gateway is in one of the interface's own networks.
    pub routes: Vec<DesiredRoute>,
}

/// A route of a [`Desired`] state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DesiredRoute {
    /// A network: no bits after the prefix.
    pub destination: Prefix,
    /// The next hop, of the destination's family.
    pub gateway: Option<IpAddr>,
    /// The metric, the kernel's default filled in.
    pub metric: u32,
}

/// An extra host of a [`Desired`] state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredHost {
    /// Its address.
    pub address: IpAddr,
    /// At least one name.
    pub names: Vec<String>,
}

impl DesiredState {
    /// Checks the whole document, or says everything that is wrong with it.
    pub fn check(&self) -> Result<Desired, Vec<Problem>> {
        let mut problems = Problems::default();
        if self.exceeds_limits(&mut problems) {
            return problems.into_result(Desired::nothing());
        }
        let hostname = (!self.hostname.is_empty()).then(|| self.hostname.clone());
        if let Some(name) = &hostname {
            problems.keep("hostname", host_name(name));
        }
        let interfaces = (self.interfaces.iter().enumerate())
            .filter_map(|(i, interface)| {
                check_interface(&format!("interfaces[{i}]"), interface, &mut problems)
            })
            .collect();
        refuse_twins(self, &mut problems);
        let (upstreams, search, options) = check_dns(&self.dns, &mut problems);
        let hosts = (self.hosts.iter().enumerate())
            .filter_map(|(h, host)| check_host(&format!("hosts[{h}]"), host, &mut problems))
            .collect();
        if let Some(workload) = &self.workload {
            check_workload("workload", workload, &mut problems);
        }
        problems.into_result(Desired {
            hostname,
            interfaces,
            upstreams,
            search,
            options,
            hosts,
            workload: self.workload.clone(),
        })
    }

    /// Limits come first, so that what follows is bounded work.
    fn exceeds_limits(&self, problems: &mut Problems) -> bool {
        let addresses = self.interfaces.iter().map(|interface| interface.addresses.len()).sum();
        let routes = self.interfaces.iter().map(|interface| interface.routes.len()).sum();
        let names = self.hosts.iter().map(|host| host.names.len()).sum();
        let counts: [(&str, usize, usize); 8] = [
            ("interfaces", self.interfaces.len(), MAX_INTERFACES),
            ("interfaces[].addresses", addresses, MAX_ADDRESSES),
            ("interfaces[].routes", routes, MAX_ROUTES),
            ("dns.upstreams", self.dns.upstreams.len(), MAX_ENTRIES),
            ("dns.search", self.dns.search.len(), MAX_ENTRIES),
            ("dns.options", self.dns.options.len(), MAX_ENTRIES),
            ("hosts", self.hosts.len(), MAX_ENTRIES),
            ("hosts[].names", names, MAX_ENTRIES),
        ];
        let mut exceeds = false;
        for (path, count, most) in counts {
            if count > most {
                problems.add(path, format!("{count} of them, {most} at most"));
                exceeds = true;
            }
        }
        exceeds
    }
}

impl Desired {
    /// The state that wants nothing.
    pub fn nothing() -> Self {
        Self {
            hostname: None,
            interfaces: Vec::new(),
            upstreams: Vec::new(),
            search: Vec::new(),
            options: Vec::new(),
            hosts: Vec::new(),
            workload: None,
        }
    }
}

/// A host name: a domain name of 64 bytes at most, the kernel's `__NEW_UTS_LEN`.
fn host_name(text: &str) -> Result<(), String> {
    domain_name(text)?;
    if text.len() > 64 {
        return Err(format!("{} bytes, 64 at most", text.len()));
    }
    Ok(())
}

fn check_interface(path: &str, wanted: &Interface, problems: &mut Problems) -> Option<DesiredInterface> {
    let mac = problems.keep(&format!("{path}.mac"), wanted.mac.parse::<MacAddr>());
    let name = problems.keep(&format!("{path}.name"), wanted.name.parse::<IfName>());
    let addresses: Vec<Prefix> = (wanted.addresses.iter().enumerate())
        .filter_map(|(a, text)| problems.keep(&format!("{path}.addresses[{a}]"), interface_address(text)))
        .collect();
    if let Some(mtu) = wanted.mtu {
        problems.keep(&format!("{path}.mtu"), check_mtu(mtu, &addresses));
    }
    let routes = (wanted.routes.iter().enumerate())
        .filter_map(|(r, route)| check_route(&format!("{path}.routes[{r}]"), route, &addresses, problems))
        .collect();
    Some(DesiredInterface { mac: mac?, name: name?, mtu: wanted.mtu, addresses, routes })
}

/// The least MTUs are those of RFC 791 (68) and RFC 8200 section 5 (1280).
fn check_mtu(mtu: u32, addresses: &[Prefix]) -> Result<(), String> {
    if !(68..=65_535).contains(&mtu) {
        return Err(format!("{mtu} is no MTU: write a number from 68 to 65535"));
    }
    if mtu < 1_280 && addresses.iter().any(|prefix| prefix.address().is_ipv6()) {
        return Err(format!("{mtu} is too small for IPv6: 1280 at least, or no IPv6 address"));
    }
    Ok(())
}

/// An address an interface may carry.
fn interface_address(text: &str) -> Result<Prefix, String> {
    let prefix: Prefix = text.parse().map_err(|e| format!("{e}"))?;
    let address = prefix.address();
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(format!("{address} cannot be an interface's own address"));
    }
    if prefix.length() == 0 {
        return Err(format!("{text} makes the whole address space one link: write a longer prefix"));
    }
    refuse_mapped(address)?;
    // RFC 3021: on a /31 both addresses are hosts; a /32 has no network or broadcast address.
    if address.is_ipv4() && prefix.length() < 31 {
        if address == prefix.network().address() {
            return Err(format!("{address} is the network's own address: write a host's, one higher say"));
        }
        if address == prefix.last() {
            return Err(format!("{address} is the network's broadcast address: write a host's"));
        }
    }
    Ok(prefix)
}

fn check_route(
    path: &str,
    wanted: &Route,
    addresses: &[Prefix],
    problems: &mut Problems,
) -> Option<DesiredRoute> {
    let destination = problems.keep(&format!("{path}.destination"), route_destination(&wanted.destination));
    let gateway = (wanted.gateway.as_ref())
        .map(|text| problems.keep(&format!("{path}.gateway"), route_gateway(text, destination, addresses)));
    let destination = destination?;
    let gateway = match gateway {
        Some(gateway) => Some(gateway?),
        None => None,
    };
    // The kernel gives its own routes to an interface's networks these metrics.
    let connected = addresses.iter().any(|prefix| prefix.network() == destination && !prefix.is_host());
    let kernels_metric = if destination.address().is_ipv6() { Some(256) } else { None };
    if connected && wanted.metric.filter(|metric| *metric != 0) == kernels_metric {
        problems.add(
            format!("{path}.destination"),
            format!("the kernel makes the route to {destination} itself: leave it out, or give it a metric"),
        );
    }
    // IP6_RT_PRIO_USER is what the kernel takes for an IPv6 route's metric when none is given.
    let default_metric = if destination.address().is_ipv6() { 1_024 } else { 0 };
    let metric = wanted.metric.unwrap_or(default_metric);
    Some(DesiredRoute {
        destination,
        gateway,
        // The kernel reads an IPv6 metric of 0 as "the default".
        metric: if metric == 0 { default_metric } else { metric },
    })
}

fn route_destination(text: &str) -> Result<Prefix, String> {
    let destination: Prefix = text.parse().map_err(|e| format!("{e}"))?;
    if destination.network() != destination {
        return Err(format!("{text} has bits after the prefix: write {}", destination.network()));
    }
    if destination.length() > 0 && destination.address().is_multicast() {
        return Err(format!("{text} is a multicast network, which has no unicast route"));
    }
    Ok(destination)
}

fn route_gateway(text: &str, destination: Option<Prefix>, addresses: &[Prefix]) -> Result<IpAddr, String> {
    let gateway = host_address(text)?;
    if let Some(destination) = destination
        && destination.address().is_ipv4() != gateway.is_ipv4()
    {
        return Err(format!("{gateway} is not of the family of {destination}"));
    }
    if addresses.iter().any(|prefix| prefix.address() == gateway) {
        return Err(format!("{gateway} is this interface's own address"));
    }
    if is_link_local(gateway) || addresses.iter().any(|prefix| prefix.contains(gateway)) {
        return Ok(gateway);
    }
    let family: Vec<String> = (addresses.iter())
        .filter(|prefix| prefix.address().is_ipv4() == gateway.is_ipv4())
        .map(ToString::to_string)
        .take(4)
        .collect();
    Err(if family.is_empty() {
        format!("{gateway} is not reachable: the interface has no address of its family")
    } else {
        format!("{gateway} is not reachable through {}", family.join(", "))
    })
}

/// What may stand only once in a document: MAC addresses, names, addresses, routes of one
/// destination and metric.
fn refuse_twins(state: &DesiredState, problems: &mut Problems) {
    let mut seen: HashMap<String, String> = HashMap::new();
    let mut once = |path: String, what: &str, value: String, problems: &mut Problems| {
        if let Some(first) = seen.get(&format!("{what} {value}")) {
            problems.add(path, format!("{} is {first} again", quoted(&value)));
        } else {
            seen.insert(format!("{what} {value}"), path);
        }
    };
    for (i, interface) in state.interfaces.iter().enumerate() {
        let path = format!("interfaces[{i}]");
        if let Ok(mac) = interface.mac.parse::<MacAddr>() {
            once(format!("{path}.mac"), "mac", mac.to_string(), problems);
        }
        once(format!("{path}.name"), "name", interface.name.clone(), problems);
        for (a, text) in interface.addresses.iter().enumerate() {
            if let Ok(prefix) = text.parse::<Prefix>() {
                let address = prefix.address().to_string();
                once(format!("{path}.addresses[{a}]"), "address", address, problems);
            }
        }
        for (r, route) in interface.routes.iter().enumerate() {
            let mut unheard = Problems::default();
            let path = format!("{path}.routes[{r}]");
            let bare = Route { gateway: None, ..route.clone() };
            if let Some(route) = check_route(&path, &bare, &[], &mut unheard) {
                let key = format!("{} metric {}", route.destination, route.metric);
                once(path, "route", key, problems);
            }
        }
    }
}

fn check_dns(dns: &Dns, problems: &mut Problems) -> (Vec<Upstream>, Vec<String>, Vec<String>) {
    let upstreams = (dns.upstreams.iter().enumerate())
        .filter_map(|(u, text)| problems.keep(&format!("dns.upstreams[{u}]"), text.parse()))
        .collect();
    let search: Vec<String> = dns.search.iter().filter(|domain| *domain != ".").cloned().collect();
    for (s, domain) in dns.search.iter().enumerate().filter(|(_, domain)| *domain != ".") {
        let bare = domain.strip_suffix('.').unwrap_or(domain);
        problems.keep(&format!("dns.search[{s}]"), domain_name(bare));
    }
    for (o, option) in dns.options.iter().enumerate() {
        // A space or a newline would start another option, or another line of the file.
        if option.is_empty() || option.len() > 64 || !option.bytes().all(|b| b.is_ascii_graphic()) {
            problems.add(
                format!("dns.options[{o}]"),
                format!("{} is not one option: write one word, such as ndots:1", quoted(option)),
            );
        }
    }
    (upstreams, search, dns.options.clone())
}

fn check_host(path: &str, host: &HostEntry, problems: &mut Problems) -> Option<DesiredHost> {
    let address = problems.keep(&format!("{path}.address"), host_address(&host.address));
    if host.names.is_empty() {
        problems.add(format!("{path}.names"), "no name: write at least one");
    }
    for (n, name) in host.names.iter().enumerate() {
        problems.keep(&format!("{path}.names[{n}]"), domain_name(name));
    }
    Some(DesiredHost { address: address?, names: host.names.clone() })
}

/// Checks a workload, wherever it stands.
pub(crate) fn check_workload(path: &str, workload: &Workload, problems: &mut Problems) {
    let has_nul = |text: &str| text.contains('\0');
    if workload.argv.first().is_none_or(String::is_empty) {
        problems.add(format!("{path}.argv"), "no program: write at least its name");
    }
    for (a, argument) in workload.argv.iter().enumerate() {
        if has_nul(argument) {
            problems.add(format!("{path}.argv[{a}]"), "a NUL byte cannot be passed to a program");
        }
    }
    for (e, variable) in workload.env.iter().enumerate() {
        let named = variable.find('=').is_some_and(|at| at > 0);
        if !named || has_nul(variable) {
            problems.add(
                format!("{path}.env[{e}]"),
                format!("{} is not a variable: write NAME=value", quoted(variable)),
            );
        }
    }
    if !workload.cwd.is_empty() && (!workload.cwd.starts_with('/') || has_nul(&workload.cwd)) {
        problems.add(
            format!("{path}.cwd"),
            format!("{} is not an absolute path: write one that starts with /", quoted(&workload.cwd)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface() -> Interface {
        Interface {
            mac: "02:42:ac:12:00:02".into(),
            name: "eth0".into(),
            mtu: Some(1_500),
            addresses: vec!["172.18.0.2/16".into(), "fd00:18::2/64".into()],
            routes: vec![Route {
                destination: "0.0.0.0/0".into(),
                gateway: Some("172.18.0.1".into()),
                metric: None,
            }],
        }
    }

    fn good() -> DesiredState {
        DesiredState { hostname: "server".into(), interfaces: vec![interface()], ..DesiredState::default() }
    }

    fn problems(change: impl FnOnce(&mut DesiredState)) -> Vec<String> {
        let mut state = good();
        change(&mut state);
        state.check().unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_state_is_good() {
        let desired = good().check().unwrap();
        assert_eq!(desired.interfaces[0].routes[0].metric, 0);
        assert!(DesiredState::default().check().is_ok());
    }

    #[test]
    fn an_unreachable_gateway_is_named_with_its_path() {
        let found = problems(|state| {
            let mut second = interface();
            second.mac = "02:42:ac:13:00:02".into();
            second.name = "eth1".into();
            second.addresses = vec!["172.19.0.2/16".into()];
            second.routes[0].metric = Some(5);
            state.interfaces.push(second);
        });
        assert_eq!(
            found,
            ["interfaces[1].routes[0].gateway: 172.18.0.1 is not reachable through 172.19.0.2/16"]
        );
    }

    #[test]
    fn every_problem_is_found_at_once() {
        let found = problems(|state| {
            state.hostname = "not a host".into();
            state.interfaces[0].mac = "ff:ff:ff:ff:ff:ff".into();
            state.interfaces[0].name = "far-too-long-a-name".into();
            state.interfaces[0].mtu = Some(576);
            state.interfaces[0].addresses.push("224.0.0.1/24".into());
            state.interfaces[0].routes[0].destination = "10.0.0.1/8".into();
            state.dns.upstreams = vec!["127.0.0.11".into(), "fe80::53".into()];
            state.dns.options = vec!["ndots:1\nnameserver 6.6.6.6".into()];
            state.workload = Some(Workload::default());
        });
        let paths: Vec<_> = found.iter().filter_map(|p| p.split(": ").next()).collect();
        assert_eq!(
            paths,
            [
                "hostname",
                "interfaces[0].mac",
                "interfaces[0].name",
                "interfaces[0].addresses[2]",
                "interfaces[0].mtu",
                "interfaces[0].routes[0].destination",
                "dns.upstreams[0]",
                "dns.upstreams[1]",
                "dns.options[0]",
                "workload.argv",
            ]
        );
    }

    #[test]
    fn the_kernels_own_routes_are_left_to_it() {
        let found = problems(|state| {
            let route =
                |destination: &str, metric| Route { destination: destination.into(), gateway: None, metric };
            let routes = &mut state.interfaces[0].routes;
            routes.push(route("172.18.0.0/16", None));
            routes.push(route("172.18.0.0/16", Some(7)));
            routes.push(route("fd00:18::/64", Some(256)));
            routes.push(route("fd00:18::/64", None));
        });
        let paths: Vec<_> = found.iter().filter_map(|p| p.split(": ").next()).collect();
        assert_eq!(paths, ["interfaces[0].routes[1].destination", "interfaces[0].routes[3].destination"]);
    }

    #[test]
    fn twins_are_refused() {
        let found = problems(|state| {
            let twin = state.interfaces[0].clone();
            state.interfaces.push(twin);
        });
        let paths: Vec<_> = found.iter().filter_map(|p| p.split(": ").next()).collect();
        assert_eq!(
            paths,
            [
                "interfaces[1].mac",
                "interfaces[1].name",
                "interfaces[1].addresses[0]",
                "interfaces[1].addresses[1]",
                "interfaces[1].routes[0]"
            ]
        );
    }

    #[test]
    fn network_and_broadcast_addresses_are_no_hosts() {
        for (text, good) in [
            ("172.18.0.0/16", false),
            ("172.18.255.255/16", false),
            ("10.0.0.0/31", true),
            ("10.0.0.0/32", true),
            ("127.0.0.1/8", false),
            ("::ffff:10.0.0.1/120", false),
            ("fe80::5/64", true),
        ] {
            assert_eq!(interface_address(text).is_ok(), good, "{text}");
        }
    }
}
