//! Whether a change could cut the host off.

use std::net::IpAddr;

use super::{model::TABLE_MAIN, operation::Operation};

/// Whether packets to the host at `host`, an address on the management network, could take
/// another way after `operations`: by a rule, a route that leads to its address, or a network it
/// is in. The management NIC itself is no document's.
///
/// A link-local address is looked for on one interface, whatever the routes are: only rules,
/// which come before all tables, could stand in its way.
pub fn could_cut_off(operations: &[Operation], host: IpAddr) -> bool {
    let is_local = matches!(host, IpAddr::V6(v6) if v6.is_unicast_link_local());
    operations.iter().any(|operation| match operation {
        Operation::AddRule(rule) | Operation::RemoveRule(rule) => rule.ipv6 == host.is_ipv6(),
        Operation::AddRoute(route) | Operation::ReplaceRoute(route) | Operation::RemoveRoute(route) => {
            // In the main table the management network's own route comes before the default one;
            // what comes first in another table is for rules to say, and nobody looks at all.
            let counts = route.table != TABLE_MAIN || route.destination.length() > 0;
            !is_local && counts && route.destination.contains(host)
        }
        Operation::AddAddress(address) => !is_local && address.network().contains(host),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::model::Address;

    #[test]
    fn what_leads_elsewhere_is_no_danger() {
        let host: IpAddr = "10.9.0.1".parse().unwrap();
        let address = |text: &str| [Operation::AddAddress(Address::ours(2, text.parse().unwrap()))];
        assert!(could_cut_off(&address("10.9.0.7/16"), host));
        assert!(!could_cut_off(&address("10.8.0.7/16"), host));
        assert!(!could_cut_off(&address("fe80::7/64"), "fe80::1".parse().unwrap()));
    }
}
