//! What the kernel should look like when a desired state is in force.
//!
//! The target is the observed state with only tether's own things changed: what others made is
//! in it too, so that nothing of theirs is ever in the difference.

mod devices;
mod links;
mod routing;

pub use devices::{makes_devices, missing, needs_places};

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use tether_wire::{
    check::{Desired, DesiredAddress, RoutePlace},
    problem::{Problem, Problems},
    state::{ConflictCheck, Scope},
    value::{MacAddr, Prefix, is_link_local},
};

use super::{
    model::{
        Address, AddressKey, IPV6_LEAST_MTU, KernelState, Lifetime, Link, LinkKind, Neighbour, Others,
        PROTOCOL, RouteKey, Rule,
    },
    operation::{Named, Operation},
    originals::Originals,
    setting::Setting,
};

/// A kernel state to reach.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// The state. What is not said of a device that is still to be made is 0 or absent in it.
    pub state: KernelState,
    /// The links the desired state names, in its order: index and path in the document.
    pub links: Vec<(u32, String)>,
    /// The links that may be changed: those, and those that get back what they had before.
    pub touched: HashSet<u32>,
    /// Whether what others made is to be put back too: the state was there before, and tether's
    /// own doing has disturbed it.
    pub restores: bool,
    /// Links from which an address was removed or that went down on the way here: the kernel may
    /// have taken things of others along.
    pub disturbed: HashSet<u32>,
    /// What is left out, and why.
    pub skipped: Vec<Problem>,
    /// What is to be remembered of the links once the state is reached.
    pub originals: Originals,
    /// Where an address stands in the document, and how conflicts over it are looked for.
    pub(super) addresses: HashMap<AddressKey, (Place, ConflictCheck)>,
    /// Where a route stands in the document.
    pub(super) routes: HashMap<RouteKey, RoutePlace>,
    /// Where a rule stands in the document.
    pub(super) rules: HashMap<Rule, usize>,
    /// Where a neighbour stands in the document.
    pub(super) neighbours: HashMap<(u32, std::net::IpAddr), Place>,
}

/// The index of an interface, and of something in one of its lists.
pub(super) type Place = (usize, usize);

/// What else the target depends on.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The NIC that carries the tether, which no document may name.
    pub management: Option<MacAddr>,
    /// The host's address, which no document may give this machine.
    pub host: Option<IpAddr>,
    /// What links were like before tether.
    pub originals: &'a Originals,
    /// When the document came in force, and when it is now, in seconds of the kernel's
    /// [`clock`](crate::kernel::clock): addresses do not live longer than it says.
    pub since: u32,
    /// See [`since`](Self::since).
    pub now: u32,
    /// The document in force: what it wants is tether's, even where somebody has put something
    /// else in its place.
    pub held: Option<&'a Desired>,
    /// Devices that are missing are skipped, as if all were optional: they were there once.
    pub may_be_missing: bool,
}

impl Target {
    /// The target that undoes what was done towards `self`, from `before`.
    #[must_use]
    pub fn back_to(&self, before: KernelState) -> Self {
        // VLANs follow what they are on, whose they may be.
        let follows = |link: &&Link| matches!(link.kind, LinkKind::Vlan { parent, .. } if self.touched.contains(&parent));
        let vlans = before.links.iter().filter(follows).map(|link| link.index);
        let touched = self.touched.iter().copied().chain(vlans).collect();
        Self { state: before, links: self.links.clone(), touched, restores: true, ..Self::default() }
    }

    /// The same with what `others` had, where that is gone: tether's own doing took it along, and
    /// whoever was to put it back was killed.
    pub fn put_back(&mut self, others: Others) {
        let Others { addresses, routes, neighbours } = others;
        let known: HashSet<_> = self.state.addresses.iter().map(Address::key).collect();
        for address in addresses.into_iter().filter(|address| !known.contains(&address.key())) {
            self.disturbed.insert(address.link);
            self.state.addresses.push(address);
        }
        // Of an IPv6 route with several next hops one may be left.
        let known: HashMap<_, _> =
            self.state.routes.iter().map(|route| (route.key(), route.is_ours())).collect();
        let routes = routes.into_iter().filter(|route| known.get(&route.key()) != Some(&true));
        let routes: HashMap<_, _> = routes.map(|route| (route.key(), route)).collect();
        self.state.routes.retain(|route| !routes.contains_key(&route.key()));
        for route in routes.into_values() {
            self.disturbed.extend(route.hops.iter().map(|hop| hop.link));
            self.state.routes.push(route);
        }
        let known: HashSet<_> = self.state.neighbours.iter().map(Neighbour::key).collect();
        for neighbour in neighbours.into_iter().filter(|neighbour| !known.contains(&neighbour.key())) {
            self.disturbed.insert(neighbour.link);
            self.state.neighbours.push(neighbour);
        }
    }

    /// As far as it goes before addresses are probed: its links, and everything else as it is
    /// `now`.
    #[must_use]
    pub fn links_only(&self, now: &KernelState) -> Self {
        let mut links = self.state.links.clone();
        // What goes away stays until what takes its place is there.
        for link in &now.links {
            match links.binary_search_by_key(&link.index, |link| link.index) {
                Ok(at) => links[at].up |= link.up,
                Err(at) => links.insert(at, link.clone()),
            }
        }
        Self { state: KernelState { links, ..now.clone() }, ..self.clone() }
    }

    /// The IPv4 addresses that are to be checked before they are used and that `now` does not
    /// have. (The kernel checks IPv6 ones.)
    pub fn to_probe(&self, now: &KernelState) -> Vec<&Address> {
        let there: HashSet<AddressKey> = now.addresses.iter().map(Address::key).collect();
        let strict = |key: &AddressKey| matches!(self.addresses.get(key), Some((_, ConflictCheck::Strict)));
        let unchecked = |address: &&Address| {
            let key = address.key();
            address.prefix.address().is_ipv4() && strict(&key) && !there.contains(&key)
        };
        self.state.addresses.iter().filter(unchecked).collect()
    }

    /// Whether the document wants this address, whoever makes it.
    pub fn wants_address(&self, address: &Address) -> bool {
        self.addresses.contains_key(&address.key())
    }

    /// Whether the document wants a route of this key, whoever makes it.
    pub fn wants_route(&self, route: &super::Route) -> bool {
        self.routes.contains_key(&route.key())
    }

    /// How conflicts over an address are looked for, `None` for one the document does not have.
    pub fn conflict_check(&self, address: &Address) -> Option<ConflictCheck> {
        self.addresses.get(&address.key()).map(|(_, check)| *check)
    }

    /// The path in the document of what is wanted of a link.
    pub fn link_path(&self, index: u32) -> String {
        let found = self.links.iter().find(|(link, _)| *link == index);
        found.map_or_else(|| "interfaces".to_owned(), |(_, path)| path.clone())
    }

    /// The path in the document of an address.
    pub fn address_path(&self, address: &Address) -> String {
        match self.addresses.get(&address.key()) {
            Some(((i, a), _)) => format!("interfaces[{i}].addresses[{a}]"),
            None => self.link_path(address.link),
        }
    }

    /// Where in the document the wish stands that an operation serves.
    pub fn path_of(&self, operation: &Operation) -> String {
        let field = |link: &Named, field: &str| format!("{}.{field}", self.link_path(link.index));
        match operation {
            Operation::Rename(link, _) => field(link, "name"),
            Operation::AddAlternativeName(link, _) | Operation::RemoveAlternativeName(link, _) => {
                field(link, "alternative_names")
            }
            Operation::SetMac(link, _) => field(link, "mac"),
            Operation::SetMtu(link, _) => field(link, "mtu"),
            Operation::SetTxQueueLength(link, _) => field(link, "tx_queue_length"),
            Operation::Set(link, setting, _) => field(link, &setting.to_string()),
            Operation::LinkDown(link) | Operation::LinkUp(link) | Operation::DeleteLink(link) => {
                self.link_path(link.index)
            }
            Operation::CreateLink(link) => format!("{}.create", self.link_path(link.index)),
            Operation::AddAddress(address)
            | Operation::ChangeAddress(address)
            | Operation::RemoveAddress(address) => self.address_path(address),
            Operation::AddRoute(route) | Operation::ReplaceRoute(route) | Operation::RemoveRoute(route) => {
                let link =
                    || route.hops.first().map_or_else(|| "routes".to_owned(), |hop| self.link_path(hop.link));
                self.routes.get(&route.key()).map_or_else(link, ToString::to_string)
            }
            Operation::AddRule(rule) | Operation::RemoveRule(rule) => {
                self.rules.get(rule).map_or_else(|| "rules".to_owned(), |r| format!("rules[{r}]"))
            }
            Operation::SetNeighbour(neighbour) | Operation::RemoveNeighbour(neighbour) => {
                match self.neighbours.get(&neighbour.key()) {
                    Some((i, n)) => format!("interfaces[{i}].neighbours[{n}]"),
                    None => self.link_path(neighbour.link),
                }
            }
        }
    }
}

/// The kernel state that puts `desired` in force, starting from `observed`.
pub fn target(desired: &Desired, observed: &KernelState, facts: Facts<'_>) -> Result<Target, Vec<Problem>> {
    let mut problems = Problems::default();
    let mut target = Target { state: observed.clone(), ..Target::default() };
    let state = &mut target.state;
    state.addresses.retain(|address| !address.is_ours());
    state.routes.retain(|route| !route.is_ours());
    state.rules.retain(|rule| !rule.is_ours());
    state.neighbours.retain(|neighbour| !neighbour.is_ours());

    let found = devices::find(desired, observed, facts, &mut target, &mut problems);
    links::configure(desired, &found, observed, facts, &mut target, &mut problems);
    add_addresses(desired, &found, observed, facts, &mut target, &mut problems);
    routing::add_routes(desired, &found, observed, facts.held, &mut target, &mut problems);
    routing::add_rules(desired, &mut target);
    add_neighbours(desired, &found, observed, &mut target, &mut problems);
    target.originals = facts.originals.after(observed, &target.state);
    problems.into_result(target)
}

/// Whether a link of the target `state` has no IPv6: it is disabled there, or the kernel has
/// none at all.
pub(super) fn lacks_ipv6(state: &KernelState, observed: &KernelState, link: u32) -> bool {
    let setting = state.link(link).and_then(|link| link.settings.get(Setting::DisableIpv6));
    match setting {
        Some(value) => value != 0,
        None => observed.link(link).is_some_and(|link| !gets_ipv6(link)),
    }
}

/// Whether a link without IPv6 settings may have some in a moment: below IPv6's least MTU (RFC
/// 8200 section 5) the kernel takes IPv6 off an interface altogether.
pub(super) fn gets_ipv6(link: &super::Link) -> bool {
    link.mtu < IPV6_LEAST_MTU
}

/// So many seconds before its end an address is left to the kernel, whose clock may be ahead.
const END: u32 = 3;

fn add_addresses(
    desired: &Desired,
    found: &[Option<u32>],
    observed: &KernelState,
    facts: Facts<'_>,
    target: &mut Target,
    problems: &mut Problems,
) {
    let theirs: HashMap<AddressKey, Prefix> =
        target.state.addresses.iter().map(|address| (address.key(), address.prefix)).collect();
    for (i, (wanted, link)) in desired.interfaces.iter().zip(found).enumerate() {
        let Some(link) = *link else { continue };
        let without_ipv6 = lacks_ipv6(&target.state, observed, link);
        let mut told = false;
        for (a, wanted) in wanted.addresses.iter().enumerate() {
            if wanted.prefix.address().is_ipv6() && without_ipv6 {
                if !std::mem::replace(&mut told, true) {
                    let name = target.state.link_name(link);
                    let message =
                        format!("IPv6 is disabled on {name}: its IPv6 addresses and routes are left out");
                    target.skipped.push(Problem::new(format!("interfaces[{i}].addresses[{a}]"), message));
                }
                continue;
            }
            // A link-local address is another on each link. One of IPv4 cuts the host off at once,
            // and is not confirmed; the kernel would let an IPv6 connection go on, but none after it.
            let ip = wanted.prefix.address();
            if facts.host == Some(ip) && ip.is_ipv6() && !is_link_local(ip) {
                let message = format!("{ip} is the host's own address");
                problems.add(format!("interfaces[{i}].addresses[{a}].address"), message);
                continue;
            }
            let mut address = address(link, wanted, facts);
            let ends =
                address.lifetime.is_some_and(|lifetime| lifetime.valid <= facts.now.saturating_add(END));
            if ends {
                // The kernel removes it, some second soon: what it does is right.
                let Some(left) = observed.addresses.iter().find(|other| other.key() == address.key()) else {
                    continue;
                };
                address.lifetime = left.lifetime;
            }
            target.addresses.insert(address.key(), ((i, a), wanted.conflicts));
            match theirs.get(&address.key()) {
                None => target.state.addresses.push(address),
                // Somebody else's address of the same value serves as well, and stays theirs.
                Some(prefix) if *prefix == address.prefix => {}
                Some(prefix) => problems.add(
                    format!("interfaces[{i}].addresses[{a}]"),
                    format!("an address that tether did not make is in the way: {prefix}; remove it"),
                ),
            }
        }
    }
}

/// The address that is wanted.
fn address(link: u32, wanted: &DesiredAddress, facts: Facts<'_>) -> Address {
    let is_ipv6 = wanted.prefix.address().is_ipv6();
    // u32::MAX is the kernel's "for ever".
    let until = |seconds: u32| facts.since.saturating_add(seconds);
    let lifetime = wanted.lifetime.map(|(valid, preferred)| Lifetime {
        valid: until(valid),
        preferred: if until(preferred) > facts.now { until(preferred) } else { 0 },
    });
    let for_ever = Lifetime { valid: u32::MAX, preferred: u32::MAX };
    let lifetime = lifetime.filter(|lifetime| *lifetime != for_ever);
    Address {
        peer: wanted.peer,
        scope: match wanted.scope {
            Some(scope) => scope_number(scope),
            // The kernel gives IPv6 addresses the scope they have by themselves.
            None => kernel_scope(wanted.prefix.address()),
        },
        label: wanted.label.clone(),
        lifetime,
        no_prefix_route: wanted.no_prefix_route,
        home: wanted.home,
        nodad: is_ipv6 && wanted.conflicts == ConflictCheck::Off,
        optimistic: is_ipv6 && wanted.conflicts == ConflictCheck::Optimistic,
        protocol: PROTOCOL,
        ..Address::ours(link, wanted.prefix)
    }
}

/// The scope the kernel shows of an address nobody has given one: `ipv6_addr_scope` for IPv6,
/// for IPv4 what was said, and iproute2 says host for loopback addresses.
fn kernel_scope(address: std::net::IpAddr) -> u8 {
    match address {
        std::net::IpAddr::V4(v4) if v4.is_loopback() => scope_number(Scope::Host),
        std::net::IpAddr::V6(v6) if v6.is_unicast_link_local() => scope_number(Scope::Link),
        std::net::IpAddr::V6(v6) if v6.is_loopback() => scope_number(Scope::Host),
        // fec0::/10, deprecated by RFC 3879, is still told apart.
        std::net::IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfec0 => scope_number(Scope::Site),
        _ => scope_number(Scope::Global),
    }
}

/// `RT_SCOPE_…`.
pub(super) fn scope_number(scope: Scope) -> u8 {
    match scope {
        Scope::Global => 0,
        Scope::Site => 200,
        Scope::Link => 253,
        Scope::Host => 254,
    }
}

fn add_neighbours(
    desired: &Desired,
    found: &[Option<u32>],
    observed: &KernelState,
    target: &mut Target,
    problems: &mut Problems,
) {
    let theirs: HashMap<_, MacAddr> =
        target.state.neighbours.iter().map(|neighbour| (neighbour.key(), neighbour.mac)).collect();
    for (i, (wanted, link)) in desired.interfaces.iter().zip(found).enumerate() {
        let Some(link) = *link else { continue };
        for (n, wanted) in wanted.neighbours.iter().enumerate() {
            if wanted.address.is_ipv6() && lacks_ipv6(&target.state, observed, link) {
                continue;
            }
            let neighbour = Neighbour { link, address: wanted.address, mac: wanted.mac, protocol: PROTOCOL };
            target.neighbours.insert(neighbour.key(), (i, n));
            match theirs.get(&neighbour.key()) {
                None => target.state.neighbours.push(neighbour),
                Some(mac) if *mac == wanted.mac => {}
                Some(mac) => problems.add(
                    format!("interfaces[{i}].neighbours[{n}]"),
                    format!(
                        "a neighbour that tether did not make is in the way: {} on {} is {mac}; remove it",
                        wanted.address,
                        observed.link_name(link)
                    ),
                ),
            }
        }
    }
}
