//! What others have made on a machine before tether comes.

use proptest::{prelude::*, sample::subsequence};

/// Commands of `ip`, and settings: some of all that is thought of here.
pub(crate) fn foreign() -> impl Strategy<Value = Vec<String>> {
    subsequence(ALL.to_vec(), 0..=6).prop_map(|some| some.into_iter().map(ToOwned::to_owned).collect())
}

/// Nothing here is in the way of a generated document: addresses of their own, but of its
/// networks, and metrics of their own. They go together in any selection.
pub(crate) const ALL: &[&str] = &[
    "link set n3 down",
    "link set n2 mtu 1400 txqueuelen 77",
    "link property add dev n1 altname theirs",
    "ipv4/conf/n1/rp_filter=2",
    "ipv4/conf/n2/arp_ignore=2",
    "ipv6/conf/n2/accept_ra=0",
    "address add 10.1.0.200/24 dev n1",
    "address add 10.1.0.201/24 dev n1",
    "address add 10.2.1.200/24 dev n2 valid_lft 5000 preferred_lft 4000",
    "address add 10.2.9.200/24 dev n2 scope link noprefixroute",
    "address add 10.3.0.200/24 dev n3",
    "address add 10.201.0.1/32 peer 10.201.0.2 dev n2",
    "address add 10.202.0.1/32 dev lo",
    "address add fd00:1::200/64 dev n1 nodad",
    "address add fd00:201::1/64 dev n2 nodad noprefixroute",
    "address add fd00:3::200/64 dev n3 nodad",
    "route add 198.51.100.0/24 dev n1 metric 700 proto static",
    "route add default via 10.1.0.254 dev n1 metric 702 onlink proto static",
    "route add 198.51.102.0/24 dev n1 metric 703 mtu 1300 advmss 1200 proto static",
    "route add blackhole 203.0.113.0/24 metric 705 table 7 proto static",
    "route add default via fe80::99 dev n2 metric 706 proto static",
    "route add fd10:7::/48 dev n1 metric 707 pref high proto static",
    "rule add pref 20001 from 10.1.0.0/16 lookup main protocol static",
    "rule add pref 20002 iif n1 lookup default protocol static",
    "-6 rule add pref 20003 fwmark 0x1/0xff lookup main protocol static",
    "rule add pref 20004 ipproto udp dport 53 lookup main protocol static",
    "neigh add 10.1.0.210 lladdr 02:aa:00:00:00:01 dev n1 nud permanent protocol static",
    "neigh add fd00:2::210 lladdr 02:aa:00:00:00:02 dev n2 nud permanent protocol static",
];
// What the kernel does not take back from anybody is in cases.rs: next hops that are dead, and IPv4
// by way of IPv6 where IPv6 was taken off the link under it.

#[test]
fn all_of_it_can_be_made() {
    let all: Vec<String> = ALL.iter().map(ToString::to_string).collect();
    crate::machine::on_machine(&all, async |_| ());
}
