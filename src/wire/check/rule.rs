//! The policy rules of a desired state.

use std::collections::{HashMap, HashSet};

use super::{DesiredRoute, DesiredRule};
use crate::{
    problem::Problems,
    state::{Family, Rule},
    value::{IfName, Prefix},
};

/// The tables that are always there to be looked up: default and main.
const TABLES: [u32; 2] = [253, 254];

/// Checks all rules. Those with problems are left out.
pub(super) fn check_rules(
    rules: &[Rule],
    routes: &[DesiredRoute],
    problems: &mut Problems,
) -> Vec<DesiredRule> {
    let tables: HashSet<u32> = routes.iter().map(|route| route.table).chain(TABLES).collect();
    let mut seen: HashMap<(Family, u32), usize> = HashMap::new();
    let mut checked = Vec::new();
    for (r, rule) in rules.iter().enumerate() {
        let path = format!("rules[{r}]");
        let Some(rule) = check_rule(&path, rule, &tables, problems) else { continue };
        // The kernel takes a rule that says less for one that says more, and asks two of one
        // priority in the order in which they came.
        if let Some(first) = seen.insert((rule.family, rule.priority), r) {
            problems.add(
                format!("{path}.priority"),
                format!("{} is that of rules[{first}] again: give each its own", rule.priority),
            );
        }
        checked.push(rule);
    }
    checked
}

fn check_rule(
    path: &str,
    wanted: &Rule,
    tables: &HashSet<u32>,
    problems: &mut Problems,
) -> Option<DesiredRule> {
    let Rule { priority, family, from, to, iif, oif, fwmark, fwmask, table, suppress_prefixlength } = wanted;
    // The kernel's own are 0 (the local table), 32766 (main) and 32767 (default).
    super::in_range(format_args!("{path}.priority"), *priority, 1..=32_765, problems);
    let mut prefix = |field: &str, text: &Option<String>| {
        text.as_ref().map(|text| problems.keep(format_args!("{path}.{field}"), network(text)))
    };
    let (from, to) = (prefix("from", from), prefix("to", to));
    let mut name = |field: &str, text: &Option<String>| {
        text.as_ref().map(|text| problems.keep(format_args!("{path}.{field}"), text.parse::<IfName>()))
    };
    let (iif, oif) = (name("iif", iif), name("oif", oif));
    if !tables.contains(table) {
        problems.add(
            format!("{path}.table"),
            format!("{table} is unknown: no route of this document is in it; 254 is the main one"),
        );
    }
    if fwmask.is_some() && fwmark.is_none() {
        problems.add(format!("{path}.fwmask"), "means something with a fwmark only");
    }
    let fwmark = fwmark.map(|mark| (mark, fwmask.unwrap_or(u32::MAX)));
    if let Some((mark, mask)) = fwmark
        && mark & !mask != 0
    {
        problems
            .add(format!("{path}.fwmark"), format!("{mark:#x} has bits that are not in the mask {mask:#x}"));
    }
    if let Some((_, 0)) = fwmark {
        problems.add(format!("{path}.fwmask"), "0 compares nothing: leave the mark out");
    }
    let prefixes = [("from", from.flatten()), ("to", to.flatten())];
    let of_prefix = |prefix: Prefix| if prefix.address().is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    let said = family.or_else(|| prefixes.iter().find_map(|(_, prefix)| prefix.map(of_prefix)));
    let family = said.unwrap_or(Family::Ipv4);
    for (field, prefix) in prefixes {
        if prefix.is_some_and(|prefix| of_prefix(prefix) != family) {
            problems.add(format!("{path}.{field}"), "is not of the rule's family");
        }
    }
    let longest = if family == Family::Ipv4 { 32 } else { 128 };
    if let Some(length) = suppress_prefixlength {
        super::in_range(format_args!("{path}.suppress_prefixlength"), *length, 0..=longest, problems);
    }
    let given = |value: Option<Option<Prefix>>| value.map_or(Some(None), |value| value.map(Some));
    let called = |value: Option<Option<IfName>>| value.map_or(Some(None), |value| value.map(Some));
    // "From everywhere" is what the kernel makes of a prefix of length 0.
    let narrow = |prefix: Option<Prefix>| prefix.filter(|prefix| prefix.length() > 0);
    Some(DesiredRule {
        priority: *priority,
        family,
        from: narrow(given(from)?),
        to: narrow(given(to)?),
        iif: called(iif)?,
        oif: called(oif)?,
        fwmark,
        table: *table,
        suppress_prefix_length: *suppress_prefixlength,
    })
}

fn network(text: &str) -> Result<Prefix, String> {
    let network: Prefix = text.parse().map_err(|e| format!("{e}"))?;
    if network.network() != network {
        return Err(format!("{text} has bits after the prefix: write {}", network.network()));
    }
    Ok(network)
}
