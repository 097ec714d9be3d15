//! What of a kernel's state is compared, a line for each thing, so that a difference can be read.

use std::{collections::BTreeMap, fmt::Write as _};

use tether::{
    kernel::clock,
    plan::{Address, KernelState, Link},
};
use tether_wire::value::is_link_local;

/// All there is, in an order that does not depend on how it came about.
///
/// Left out is what the kernel does by itself and in its own time: IPv6 link-local addresses, how
/// far duplicate-address detection is, in which order it lists what has no order. That of IPv4
/// addresses of one network is theirs. And the labels of others' addresses: where a link is renamed
/// the kernel numbers them anew (`inetdev_changename`), and takes nothing else for an answer than a
/// new address.
pub(crate) fn everything(state: &KernelState) -> Vec<String> {
    let mut lines: Vec<String> = state.links.iter().map(|link| format!("{link:?}")).collect();
    lines.extend(addresses(state, |_| true));
    lines.extend(sorted(state.routes.iter().map(|route| format!("{route:?}"))));
    lines.extend(sorted(state.rules.iter().map(|rule| format!("{rule:?}"))));
    lines.extend(sorted(state.neighbours.iter().map(|neighbour| format!("{neighbour:?}"))));
    lines
}

/// The same of what tether has not made, and of links those that `counts`, whoever is at the other
/// end of their cable.
pub(crate) fn of_others(state: &KernelState, counts: impl Fn(&Link) -> bool) -> Vec<String> {
    let mut others = state.clone();
    others.links.retain(counts);
    others.links.iter_mut().for_each(|link| link.carrier = false);
    others.routes.retain(|route| !route.is_ours());
    others.rules.retain(|rule| !rule.is_ours());
    others.neighbours.retain(|neighbour| !neighbour.is_ours());
    let addresses = addresses(&others, |address| !address.is_ours());
    others.addresses.clear();
    let mut lines = everything(&others);
    lines.extend(addresses);
    lines
}

fn addresses(state: &KernelState, counts: impl Fn(&Address) -> bool) -> Vec<String> {
    let mut places = BTreeMap::new();
    let lines = state.addresses.iter().filter(|address| counts(address)).filter_map(|address| {
        let ip = address.prefix.address();
        if ip.is_ipv6() && is_link_local(ip) && !address.is_ours() {
            return None;
        }
        let place: &mut u32 = places.entry((address.link, address.network())).or_default();
        *place += u32::from(ip.is_ipv4());
        let mut address = Address { tentative: false, optimistic: false, ..address.clone() };
        if !address.is_ours() {
            address.label = None;
        }
        if let Some(lifetime) = &mut address.lifetime {
            // Since when it is there depends on when the test ran; all here live for minutes.
            let left = |end: u32| match end {
                0 | u32::MAX => end,
                _ => (end.saturating_sub(clock()) + 50) / 100 * 100,
            };
            (lifetime.valid, lifetime.preferred) = (left(lifetime.valid), left(lifetime.preferred));
        }
        Some(format!("{place}. {address:?}"))
    });
    sorted(lines)
}

fn sorted(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.collect();
    lines.sort_unstable();
    lines
}

/// `Ok` where both are alike, or what differs: what is only in the first, and only in the second.
pub(crate) fn same(what: &str, first: &[String], second: &[String]) -> Result<(), String> {
    let mut told = String::new();
    for (sign, lines, others) in [('-', first, second), ('+', second, first)] {
        for line in lines.iter().filter(|line| !others.contains(line)) {
            writeln!(told, "{sign} {line}").unwrap();
        }
    }
    if told.is_empty() { Ok(()) } else { Err(format!("{what}:\n{told}")) }
}
