//! Desired states that [`check`](DesiredState::check) and the kernel take: chosen from few values,
//! so that two of them have much to do with each other.

use std::{collections::HashSet, fmt};

use proptest::{
    collection::vec,
    option::{self, weighted},
    prelude::*,
};
use serde_json::Value;
use tether_wire::state::{DesiredState, Dns, Family, HostEntry, Interface, Rule};

use crate::{
    interfaces::{AddressWish, NicWish, address, called, interface, nic},
    machine::{NICS, first_name},
    ways::{self, PathWish, RouteWish},
};

/// A document that is told as JSON without what it does not say.
#[derive(Clone)]
pub(crate) struct Document(pub(crate) DesiredState);

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = serde_json::to_value(&self.0).map_err(|_| fmt::Error)?;
        leave_out_nothings(&mut value);
        write!(f, "{value}")
    }
}

fn leave_out_nothings(value: &mut Value) {
    let says_nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty() || text == "optimistic" || text == "repair",
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(all) => {
            all.values_mut().for_each(leave_out_nothings);
            // A setting may be false, and a name or a criterion is never nothing.
            all.retain(|key, value| {
                *value == Value::Bool(false) && key.contains("ip") || !says_nothing(value)
            });
        }
        Value::Array(all) => all.iter_mut().for_each(leave_out_nothings),
        _ => {}
    }
}

#[derive(Clone, Debug)]
struct RuleWish {
    rule: Rule,
    table: u8,
}

/// A document over the machine's NICs and, now and then, its loopback interface.
pub(crate) fn document() -> impl Strategy<Value = Document> {
    let nics = [(); NICS].map(|()| weighted(0.75, nic().boxed()));
    let lo = weighted(0.15, vec(address(), 0..2));
    let names =
        (0..5_u8, [option::of(0..NICS), option::of(0..NICS)], prop::sample::select(vec!["", "one", "two"]));
    let others = (vec(ways::path_wish(), 0..3), vec(rule(), 0..3));
    (nics, lo, names, others).prop_map(|(nics, lo, names, (routes, rules))| {
        Document(write(&nics, lo.as_deref(), names, &routes, &rules))
    })
}

fn rule() -> impl Strategy<Value = RuleWish> {
    let ipv4 = weighted(0.5, prop::sample::select(vec!["10.1.0.0/16", "10.99.0.0/24", "0.0.0.0/0"]));
    let ipv6 = weighted(0.5, prop::sample::select(vec!["fd00:1::/32", "::/0"]));
    let names = || weighted(0.2, prop::sample::select(vec!["eth0", "n2", "lo", "nobody"]));
    let mark = weighted(0.3, (1..4_u32, option::of(Just(0xff_u32))));
    let fields = (any::<bool>(), ipv4, ipv6, any::<bool>(), names(), names());
    (fields, mark, 100..104_u32, 0..6_u8, weighted(0.2, 0..25_u8)).prop_map(
        |((is_ipv6, ipv4, ipv6, to, iif, oif), mark, priority, table, suppress_prefixlength)| {
            let prefix = if is_ipv6 { ipv6 } else { ipv4 }.map(ToOwned::to_owned);
            let (to, from) = if to { (prefix, None) } else { (None, prefix) };
            let rule = Rule {
                priority,
                family: is_ipv6.then_some(Family::Ipv6),
                from,
                to,
                iif: iif.map(ToOwned::to_owned),
                oif: oif.map(ToOwned::to_owned),
                fwmark: mark.map(|(mark, _)| mark),
                fwmask: mark.and_then(|(_, mask)| mask),
                table: 254,
                suppress_prefixlength,
            };
            RuleWish { rule, table }
        },
    )
}

/// The document that grants what goes together of the wishes.
fn write(
    nics: &[Option<NicWish>; NICS],
    lo: Option<&[AddressWish]>,
    (naming, alternative, hostname): (u8, [Option<usize>; 2], &str),
    routes: &[PathWish],
    rules: &[RuleWish],
) -> DesiredState {
    let mut state = DesiredState { hostname: hostname.to_owned(), ..DesiredState::default() };
    if !hostname.is_empty() {
        "example.org".clone_into(&mut state.domain);
        state.dns = Dns { search: vec!["example.org".to_owned()], ..Dns::default() };
        state.hosts = vec![HostEntry { address: "10.1.0.9".to_owned(), names: vec!["other".to_owned()] }];
    }
    let mut taken = HashSet::new();
    let present: Vec<usize> = (0..NICS).filter(|nic| nics[*nic].is_some()).collect();
    for (nic, wish) in nics.iter().enumerate() {
        let Some(wish) = wish else { continue };
        let name = name(nic, naming, &present);
        let mut interface = interface(nic, name, wish, &mut taken);
        for (n, _) in alternative.iter().enumerate().filter(|(_, holder)| **holder == Some(nic)) {
            interface.alternative_names.push(format!("other{n}"));
        }
        state.interfaces.push(interface);
    }
    if let Some(addresses) = lo {
        let mut interface =
            Interface { matching: Some(called("lo")), name: "lo".to_owned(), ..Interface::default() };
        for wish in addresses {
            let text = if wish.ipv6 {
                format!("fd00:70::{}/128", wish.host)
            } else {
                format!("10.70.0.{}/32", wish.host)
            };
            if taken.insert(text.clone()) {
                interface.addresses.push(text.into());
            }
        }
        state.interfaces.push(interface);
    }
    let wishes: Vec<&NicWish> = nics.iter().flatten().collect();
    let per_nic: Vec<&[RouteWish]> = wishes.iter().map(|wish| &wish.routes[..]).collect();
    ways::write(&mut state, &per_nic, routes);
    for wish in rules {
        let tables: Vec<u32> = ways::tables(&state);
        let table = tables[usize::from(wish.table) % tables.len()];
        let rule = Rule { table, ..wish.rule.clone() };
        let priorities: Vec<u32> = state.rules.iter().map(|other| other.priority).collect();
        if !priorities.contains(&rule.priority) {
            state.rules.push(rule);
        }
    }
    state
}

/// Its own, a new one, or that of another of the document's.
fn name(nic: usize, naming: u8, present: &[usize]) -> String {
    let place = present.iter().position(|other| *other == nic).unwrap_or_default();
    match naming {
        0 => first_name(nic),
        1 => format!("eth{nic}"),
        2 => format!("eth{}", NICS - 1 - nic),
        3 => first_name(present[(place + 1) % present.len()]),
        _ if nic == 0 => "front".to_owned(),
        _ => first_name(nic),
    }
}
