//! From a desired state as it was written to one whose every value is good.
//!
//! This is all that can be known without looking at a kernel; what depends on the machine (is
//! there such a device?) is the planner's. Every problem is found, each with its path.

mod interface;
mod resolver;
mod route;
mod rule;
#[cfg(test)]
mod tests;
mod together;
mod workload;

use std::{fmt, net::IpAddr, time::Duration};

use crate::{
    names::domain_name,
    pci::PciPlace,
    problem::{Problem, Problems},
    state::{
        ConflictCheck, DEFAULT_CONFIRM_S, DesiredState, DriftPolicy, Family, Forward, Ipv4Settings,
        Ipv6Settings, MAX_ADDRESSES, MAX_ENTRIES, MAX_HOPS, MAX_INTERFACES, MAX_LISTEN, MAX_NEIGHBOURS,
        MAX_ROUTES, MAX_RULES, Preference, RouteType, Scope, Workload,
    },
    value::{IfName, MacAddr, Prefix},
};

pub use resolver::{DesiredDns, DesiredForward};
pub(crate) use workload::check_workload;

/// A desired state whose every value is good.
///
/// Interfaces keep the document's order and number, so that an index here is an index there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The host name, `None` to leave it as it is.
    pub hostname: Option<String>,
    /// The domain, `None` to leave it as it is.
    pub domain: Option<String>,
    /// Interfaces: names are unique, alternative ones too.
    pub interfaces: Vec<DesiredInterface>,
    /// Routes, of interfaces and others: table, destination and metric together are unique.
    pub routes: Vec<DesiredRoute>,
    /// Policy rules, each unique.
    pub rules: Vec<DesiredRule>,
    /// Name resolution.
    pub dns: DesiredDns,
    /// Extra hosts.
    pub hosts: Vec<DesiredHost>,
    /// What is done about drift.
    pub drift: DriftPolicy,
    /// How long the host has to confirm.
    pub confirm_within: Duration,
    /// The workload.
    pub workload: Option<Workload>,
}

/// An interface of a [`Desired`] state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredInterface {
    /// Which device.
    pub device: DesiredDevice,
    /// What it is to be called.
    pub name: IfName,
    /// It may be missing.
    pub optional: bool,
    /// What it is to be called besides.
    pub alternative_names: Vec<String>,
    /// The MAC address it gets.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
    /// How many packets may wait to be sent.
    pub tx_queue_length: Option<u32>,
    /// It is kept down, and has neither addresses nor neighbours nor routes.
    pub down: bool,
    /// IPv4 settings, each in its range.
    pub ipv4: Ipv4Settings,
    /// IPv6 settings, each in its range.
    pub ipv6: Ipv6Settings,
    /// Its addresses, none twice in the document.
    pub addresses: Vec<DesiredAddress>,
    /// Its permanent neighbours, none twice.
    pub neighbours: Vec<DesiredNeighbour>,
}

/// Which device an interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesiredDevice {
    /// One that is there: all criteria that are given have to fit, and at least one is.
    Found {
        /// Its MAC address.
        mac: Option<MacAddr>,
        /// Its place on the PCI bus.
        pci: Option<PciPlace>,
        /// Its name before tether came.
        name: Option<IfName>,
    },
    /// A dummy tether makes.
    Dummy,
    /// A VLAN tether makes.
    Vlan {
        /// The index of the interface it is on; following these never comes back here.
        parent: usize,
        /// Its number, 1 to 4094.
        id: u16,
    },
}

/// An address of a [`Desired`] state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredAddress {
    /// The address, one an interface may have.
    pub prefix: Prefix,
    /// The other end's, of the same family.
    pub peer: Option<IpAddr>,
    /// IPv4's scope.
    pub scope: Option<Scope>,
    /// IPv4's label, where it is not the interface's name.
    pub label: Option<String>,
    /// Seconds it is valid and preferred, the second never above the first.
    pub lifetime: Option<(u32, u32)>,
    /// No route to its network.
    pub no_prefix_route: bool,
    /// A mobile node's home address.
    pub home: bool,
    /// How conflicts are looked for.
    pub conflicts: ConflictCheck,
}

impl DesiredAddress {
    /// The network the kernel takes it to be in: its peer's, where it has one.
    pub fn network(&self) -> Prefix {
        let peer = self.peer.and_then(|peer| Prefix::new(peer, self.prefix.length()));
        peer.unwrap_or(self.prefix).network()
    }
}

/// A permanent neighbour of a [`Desired`] state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DesiredNeighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: MacAddr,
}

/// A route of a [`Desired`] state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredRoute {
    /// Where it stands in the document.
    pub place: RoutePlace,
    /// A network: no bits after the prefix.
    pub destination: Prefix,
    /// What becomes of packets.
    pub kind: RouteType,
    /// Its next hops: none, one, or several of one weight each.
    pub hops: Vec<DesiredHop>,
    /// The metric, the kernel's default filled in.
    pub metric: u32,
    /// The table.
    pub table: u32,
    /// IPv4's scope.
    pub scope: Option<Scope>,
    /// The source address of packets that have none, one of the document's.
    pub source: Option<IpAddr>,
    /// The path's MTU in bytes.
    pub mtu: Option<u32>,
    /// IPv6's preference.
    pub preference: Option<Preference>,
}

/// A next hop of a [`DesiredRoute`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DesiredHop {
    /// The index of the interface it leads out of.
    pub interface: usize,
    /// The next router: in one of the interface's networks, or on the link.
    pub gateway: Option<IpAddr>,
    /// It is on the link, whatever the networks are.
    pub onlink: bool,
    /// Its share, 1 to 256.
    pub weight: u16,
}

/// Where a route stands in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutePlace {
    /// Under an interface: that one's index, and its own.
    Interface(usize, usize),
    /// In the document's own list.
    Document(usize),
}

impl fmt::Display for RoutePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(i, r) => write!(f, "interfaces[{i}].routes[{r}]"),
            Self::Document(r) => write!(f, "routes[{r}]"),
        }
    }
}

/// A policy rule of a [`Desired`] state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DesiredRule {
    /// Its place.
    pub priority: u32,
    /// Which packets' family.
    pub family: Family,
    /// Where they come from.
    pub from: Option<Prefix>,
    /// Where they go.
    pub to: Option<Prefix>,
    /// Where they arrive.
    pub iif: Option<IfName>,
    /// What their socket is bound to.
    pub oif: Option<IfName>,
    /// Their mark and the bits of it that count.
    pub fwmark: Option<(u32, u32)>,
    /// The table that is looked up.
    pub table: u32,
    /// Routes of prefixes up to this length do not count.
    pub suppress_prefix_length: Option<u8>,
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
        let names = [("hostname", &self.hostname), ("domain", &self.domain)];
        let [hostname, domain] = names.map(|(path, name)| {
            let name = (!name.is_empty()).then_some(name)?;
            problems.keep(path, host_name(name)).map(|()| name.clone())
        });
        let interfaces = interface::check_interfaces(&self.interfaces, &mut problems);
        let routes = route::check_routes(self, &interfaces, &mut problems);
        let rules = rule::check_rules(&self.rules, &routes, &mut problems);
        together::check(&interfaces, &routes, &mut problems);
        let dns = resolver::check_dns(&self.dns, &mut problems);
        let hosts = (self.hosts.iter().enumerate())
            .filter_map(|(h, host)| resolver::check_host(&format!("hosts[{h}]"), host, &mut problems))
            .collect();
        let confirm_s = self.confirm_s.unwrap_or(DEFAULT_CONFIRM_S);
        if !(1..=3_600).contains(&confirm_s) {
            problems.add("confirm_s", format!("{confirm_s} seconds: write a number from 1 to 3600"));
        }
        if let Some(workload) = &self.workload {
            check_workload("workload", workload, &mut problems);
        }
        // With a problem among them some interfaces may be missing here, but then nobody sees it.
        let interfaces = interfaces.into_iter().filter_map(|interface| interface.wanted).collect();
        problems.into_result(Desired {
            hostname,
            domain,
            interfaces,
            routes,
            rules,
            dns,
            hosts,
            drift: self.drift,
            confirm_within: Duration::from_secs(confirm_s.into()),
            workload: self.workload.clone(),
        })
    }

    /// Limits come first, so that what follows is bounded work.
    fn exceeds_limits(&self, problems: &mut Problems) -> bool {
        let of_interfaces =
            |count: fn(&crate::state::Interface) -> usize| self.interfaces.iter().map(count).sum();
        let routes: usize = of_interfaces(|interface| interface.routes.len());
        let hops: usize = self.routes.iter().map(|route| route.hops.len()).sum();
        let of_forward = |count: fn(&Forward) -> usize| self.dns.forward.iter().map(count).sum();
        let counts: [(&str, usize, usize); 16] = [
            ("interfaces", self.interfaces.len(), MAX_INTERFACES),
            ("interfaces[].addresses", of_interfaces(|i| i.addresses.len()), MAX_ADDRESSES),
            ("interfaces[].neighbours", of_interfaces(|i| i.neighbours.len()), MAX_NEIGHBOURS),
            ("interfaces[].alternative_names", of_interfaces(|i| i.alternative_names.len()), MAX_ENTRIES),
            ("interfaces[].routes and routes", routes + self.routes.len(), MAX_ROUTES),
            ("routes[].hops", hops, MAX_HOPS),
            ("rules", self.rules.len(), MAX_RULES),
            ("dns.upstreams", self.dns.upstreams.len(), MAX_ENTRIES),
            ("dns.forward", self.dns.forward.len(), MAX_ENTRIES),
            ("dns.forward[].domains", of_forward(|forward| forward.domains.len()), MAX_ENTRIES),
            ("dns.forward[].servers", of_forward(|forward| forward.servers.len()), MAX_ENTRIES),
            ("dns.listen", self.dns.listen.len(), MAX_LISTEN),
            ("dns.search", self.dns.search.len(), MAX_ENTRIES),
            ("dns.options", self.dns.options.len(), MAX_ENTRIES),
            ("hosts", self.hosts.len(), MAX_ENTRIES),
            ("hosts[].names", self.hosts.iter().map(|host| host.names.len()).sum(), MAX_ENTRIES),
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
            domain: None,
            interfaces: Vec::new(),
            routes: Vec::new(),
            rules: Vec::new(),
            dns: DesiredDns::default(),
            hosts: Vec::new(),
            drift: DriftPolicy::Repair,
            confirm_within: Duration::from_secs(DEFAULT_CONFIRM_S.into()),
            workload: None,
        }
    }
}

/// A host's or a domain's name: 64 bytes at most, the kernel's `__NEW_UTS_LEN`.
fn host_name(text: &str) -> Result<(), String> {
    domain_name(text)?;
    if text.len() > 64 {
        return Err(format!("{} bytes, 64 at most", text.len()));
    }
    Ok(())
}

/// Notes `value` outside of `range`.
fn in_range<T: PartialOrd + fmt::Display + Copy>(
    path: impl fmt::Display,
    value: T,
    range: std::ops::RangeInclusive<T>,
    problems: &mut Problems,
) {
    if !range.contains(&value) {
        let (least, most) = (range.start(), range.end());
        problems.add(path.to_string(), format!("{value} is out of range: write {least} to {most}"));
    }
}
