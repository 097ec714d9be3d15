//! From [`Rules`] to the table, in `nft`'s JSON. Pure.
//!
//! Sets and maps hold what there are many of, so that a packet costs the same with one published
//! port and with a thousand.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
};

use nftables::{
    batch::Batch,
    expr::{CT, Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression, Payload, PayloadField},
    schema::{Chain, NfListObject, Nftables, Rule, Set, SetFlag, SetType, SetTypeValue, Table},
    stmt::{CTCount, JumpTarget, Match, Meter, NAT, NATFamily, Operator, Statement},
    types::{NfChainPolicy, NfChainType, NfFamily, NfHook},
};
use tether_wire::value::{IfName, Prefix, is_link_local};

use super::{Bridge, Kind, Protocol, Published, Rules};

/// The table's name.
const TABLE: &str = "vch";
/// Maps of published ports: to the container's address, and to its port.
const ANY4: [&str; 2] = ["any4", "any4_port"];
const ANY6: [&str; 2] = ["any6", "any6_port"];
const EXACT4: [&str; 2] = ["exact4", "exact4_port"];
const EXACT6: [&str; 2] = ["exact6", "exact6_port"];

/// How many connections one guest may have with the host: it needs one, and for a moment another.
const CONNECTIONS: u32 = 16;
/// `ICMPv6` among the protocols.
const ICMPV6: u32 = 58;

type Expr = Expression<'static>;
type Stmt = Statement<'static>;

/// The transaction that puts the table in place, whether or not there is one already.
pub(super) fn ruleset(rules: &Rules) -> Nftables<'static> {
    let mut table = Builder::new();
    table.sets(rules);
    table.published(&rules.published, &rules.bridges);
    table.guard();
    table.prerouting(rules.bridges.iter().any(|bridge| bridge.kind == Kind::External { attached: true }));
    table.output();
    table.postrouting();
    table.forward();
    table.input();
    table.management(rules.management.port);
    table.batch.to_nftables()
}

/// The transaction that removes the table: one that is not there is added first.
pub(super) fn removal() -> Nftables<'static> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(own()));
    batch.delete(NfListObject::Table(own()));
    batch.to_nftables()
}

fn own() -> Table<'static> {
    Table { family: NfFamily::INet, name: TABLE.into(), handle: None }
}

struct Builder {
    batch: Batch<'static>,
}

impl Builder {
    fn new() -> Self {
        let mut batch = Batch::new();
        // Delete fails when there is nothing, and add is nothing when there is.
        batch.add(NfListObject::Table(own()));
        batch.delete(NfListObject::Table(own()));
        batch.add(NfListObject::Table(own()));
        Self { batch }
    }

    /// Everybody's interfaces and addresses, by what they may do.
    fn sets(&mut self, rules: &Rules) {
        let of = |wanted: fn(Kind) -> bool| {
            let those = rules.bridges.iter().filter(move |bridge| wanted(bridge.kind));
            those.map(|bridge| &bridge.name)
        };
        let management = [&rules.management.bridge];
        let nat = |kind| kind == Kind::Nat;
        let internal = |kind| kind == Kind::Internal;
        let attached = |kind| kind == Kind::External { attached: true };
        let detached = |kind| kind == Kind::External { attached: false };
        self.interfaces("ours", of(|_| true).chain(management));
        self.interfaces("management_bridge", management);
        self.interfaces("nat", of(nat));
        self.interfaces("internal", of(internal));
        self.interfaces("attached", of(attached));
        self.interfaces("entries", of(attached).chain(of(nat)));
        self.interfaces("closed", of(internal).chain(of(detached)).chain(management));
        self.interfaces("detached", of(detached));
        let pairs = of(|_| true).collect::<BTreeSet<_>>().into_iter();
        let pairs = pairs.map(|name| concat([text(name.as_str()), text(name.as_str())])).collect();
        self.set("same", &[SetType::Ifname, SetType::Ifname], false, pairs);

        let subnets = rules.bridges.iter().filter(|bridge| !matches!(bridge.kind, Kind::External { .. }));
        let subnets = subnets.flat_map(|bridge| &bridge.subnets).copied();
        // A link-local address means another host on every link.
        let management = Some(rules.management.address).filter(|own| !is_link_local(own.address()));
        let subnets = outermost(subnets.chain(management).map(Prefix::network).collect());
        let (v4, v6): (Vec<_>, Vec<_>) = subnets.into_iter().partition(|prefix| prefix.address().is_ipv4());
        self.set("subnets4", &[SetType::Ipv4Addr], true, v4.into_iter().map(prefix).collect());
        self.set("subnets6", &[SetType::Ipv6Addr], true, v6.into_iter().map(prefix).collect());

        let endpoint: BTreeSet<_> = rules.endpoint.iter().copied().collect();
        let (everywhere, exact): (Vec<SocketAddr>, Vec<SocketAddr>) =
            endpoint.into_iter().partition(|listener| listener.ip().is_unspecified());
        let ports: BTreeSet<_> = everywhere.iter().map(SocketAddr::port).collect();
        self.set("endpoint", &[SetType::InetService], false, ports.into_iter().map(port).collect());
        for (name, family, ipv4) in
            [("endpoint4", SetType::Ipv4Addr, true), ("endpoint6", SetType::Ipv6Addr, false)]
        {
            let exact = exact.iter().filter(|listener| listener.is_ipv4() == ipv4);
            let exact = exact.map(|listener| concat([address(listener.ip()), port(listener.port())]));
            self.set(name, &[family, SetType::InetService], false, exact.collect());
        }
    }

    /// Where published ports lead: by address, protocol and port, or by the last two.
    fn published(&mut self, published: &[Published], bridges: &[Bridge]) {
        let nat: HashSet<_> =
            bridges.iter().filter(|bridge| bridge.kind == Kind::Nat).map(|bridge| &bridge.name).collect();
        for (ipv4, family, any, exact) in
            [(true, SetType::Ipv4Addr, ANY4, EXACT4), (false, SetType::Ipv6Addr, ANY6, EXACT6)]
        {
            // What is published twice leads where it led first; Docker's ports are held once.
            let (mut any_elements, mut exact_elements) = (BTreeMap::new(), BTreeMap::new());
            let here =
                published.iter().filter(|port| port.to.is_ipv4() == ipv4 && nat.contains(&port.bridge));
            for publication in here {
                let key = (publication.protocol, publication.host_port);
                match publication.host_address {
                    Some(at) if at.is_ipv4() != ipv4 => {}
                    Some(at) if !at.is_unspecified() => {
                        exact_elements.entry((at, key)).or_insert(publication.to);
                    }
                    _ => {
                        any_elements.entry(key).or_insert(publication.to);
                    }
                }
            }
            let any_key = |(protocol, number): (Protocol, u16)| {
                concat([Expression::Number(protocol.number()), port(number)])
            };
            let exact_key = |(at, (protocol, number)): (IpAddr, (Protocol, u16))| {
                concat([address(at), Expression::Number(protocol.number()), port(number)])
            };
            let any_elements: Vec<_> = any_elements.into_iter().map(|(key, to)| (any_key(key), to)).collect();
            let exact_elements: Vec<_> =
                exact_elements.into_iter().map(|(key, to)| (exact_key(key), to)).collect();
            let service = [SetType::InetProto, SetType::InetService];
            self.targets(any, &service, family, &any_elements);
            self.targets(exact, &[&[family], &service[..]].concat(), family, &exact_elements);
        }
    }

    /// Two maps, to the address and to the port: `nft` 1.0.6 reads no JSON of a map to both.
    fn targets(
        &mut self,
        maps: [&'static str; 2],
        key: &[SetType],
        family: SetType,
        to: &[(Expr, SocketAddr)],
    ) {
        let pair = |key: &Expr, value| Expression::List(vec![key.clone(), value]);
        let addresses = to.iter().map(|(key, to)| pair(key, address(to.ip()))).collect();
        let ports = to.iter().map(|(key, to)| pair(key, port(to.port()))).collect();
        self.map(maps[0], key, family, addresses);
        self.map(maps[1], key, SetType::InetService, ports);
    }

    /// 127.0.0.0/8 means something on bridges, so that the host reaches published ports by it;
    /// nobody else gets in with it.
    fn guard(&mut self) {
        self.base("guard", NfChainType::Filter, NfHook::Prerouting, -300);
        for field in ["daddr", "saddr"] {
            self.rule("guard", vec![within(iif(), "ours"), is(ip4(field), loopback()), drop()]);
        }
    }

    fn prerouting(&mut self, attached: bool) {
        self.base("prerouting", NfChainType::NAT, NfHook::Prerouting, -100);
        if attached {
            self.rule("prerouting", vec![outside(iif(), "entries"), back()]);
        } else {
            self.rule("prerouting", vec![within(iif(), "closed"), back()]);
        }
        self.rule("prerouting", vec![is_not(fib(false), text("local")), back()]);
        // A gateway's address is for its own network.
        for (daddr, subnets) in [(ip4("daddr"), "subnets4"), (ip6("daddr"), "subnets6")] {
            let elsewhere = is_not(fib(true), text("local"));
            self.rule("prerouting", vec![within(daddr, subnets), elsewhere, back()]);
        }
        self.translate("prerouting");
    }

    /// The host's own way to published ports.
    fn output(&mut self) {
        self.base("output", NfChainType::NAT, NfHook::Output, -100);
        self.rule("output", vec![is_not(fib(false), text("local")), back()]);
        // The kernel takes no answer to ::1 from a link, and has no route_localnet for it.
        self.rule("output", vec![is(ip6("daddr"), text("::1")), back()]);
        self.translate("output");
    }

    fn translate(&mut self, chain: &'static str) {
        let service = || [meta(MetaKey::L4proto), payload("th", "dport")];
        let families =
            [(NATFamily::IP, ip4("daddr"), EXACT4, ANY4), (NATFamily::IP6, ip6("daddr"), EXACT6, ANY6)];
        for (family, daddr, exact, any) in families {
            let [protocol, port] = service();
            for (key, maps) in [(concat([daddr, protocol, port]), exact), (concat(service()), any)] {
                let [addr, port] = maps.map(|map| {
                    let map = nftables::expr::Map { key: key.clone(), data: reference(map) };
                    Some(Expression::Named(NamedExpression::Map(Box::new(map))))
                });
                let dnat = NAT { addr, family: Some(family), port, flags: None };
                self.rule(chain, vec![Statement::DNAT(Some(dnat))]);
            }
        }
    }

    fn postrouting(&mut self) {
        self.base("postrouting", NfChainType::NAT, NfHook::Postrouting, 100);
        let mut masquerade = |mut matches: Vec<Stmt>| {
            matches.push(Statement::Masquerade(None));
            self.rule("postrouting", matches);
        };
        masquerade(vec![within(iif(), "nat"), within(oif(), "attached")]);
        masquerade(vec![within(iif(), "nat"), outside(oif(), "ours")]);
        // From container to container by a published port: the answer has to come back here.
        masquerade(vec![within(iif(), "nat"), within(oif(), "nat"), translated()]);
        // From the host by 127.0.0.1, which no container could answer to.
        masquerade(vec![is(ip4("saddr"), loopback()), within(oif(), "nat")]);
    }

    fn forward(&mut self) {
        self.base("forward", NfChainType::Filter, NfHook::Forward, 0);
        let mut rule = |statements| self.rule("forward", statements);
        rule(vec![outside(iif(), "ours"), outside(oif(), "ours"), back()]);
        // Inside of a bridge: the kernel may have been told to show us bridged packets too.
        rule(vec![within(concat([iif(), oif()]), "same"), accept()]);
        rule(vec![within(iif(), "closed"), drop()]);
        rule(vec![within(oif(), "closed"), drop()]);
        rule(vec![established(), accept()]);
        rule(vec![in_state("invalid"), drop()]);
        rule(vec![within(oif(), "nat"), translated(), accept()]);
        rule(vec![within(iif(), "nat"), within(oif(), "attached"), accept()]);
        rule(vec![within(iif(), "nat"), outside(oif(), "ours"), accept()]);
        rule(vec![drop()]);
    }

    fn input(&mut self) {
        self.chain("management");
        self.base("input", NfChainType::Filter, NfHook::Input, 0);
        let mut rule = |statements| self.rule("input", statements);
        rule(vec![is(iif(), text("lo")), back()]);
        rule(vec![established(), accept()]);
        let management = JumpTarget { target: "management".into() };
        rule(vec![within(iif(), "management_bridge"), Statement::Goto(management)]);
        // The host has no address there, but would take packets to its others.
        rule(vec![within(iif(), "detached"), drop()]);
        let tcp = || payload("tcp", "dport");
        rule(vec![within(iif(), "ours"), within(tcp(), "endpoint"), drop()]);
        rule(vec![within(iif(), "ours"), within(concat([ip4("daddr"), tcp()]), "endpoint4"), drop()]);
        rule(vec![within(iif(), "ours"), within(concat([ip6("daddr"), tcp()]), "endpoint6"), drop()]);
        // The host's address on a bridge is for that bridge.
        let elsewhere = || is_not(fib(true), text("local"));
        rule(vec![within(ip4("daddr"), "subnets4"), elsewhere(), drop()]);
        rule(vec![within(ip6("daddr"), "subnets6"), elsewhere(), drop()]);
        let own = one_of(["local", "multicast", "broadcast"]);
        rule(vec![within(iif(), "internal"), is_not(fib(true), own), drop()]);
    }

    fn management(&mut self, tether: u16) {
        let mut rule = |statements| self.rule("management", statements);
        let here = || is(fib(true), text("local"));
        let dials = || vec![here(), is(payload("tcp", "dport"), port(tether))];
        // A guest may have as many addresses as it likes, but one MAC address: its port sees to that.
        rule([dials(), vec![in_state("new"), more_than(CONNECTIONS), drop()]].concat());
        rule([dials(), vec![accept()]].concat());
        let near = is(fib(true), one_of(["local", "multicast"]));
        rule(vec![near, is(meta(MetaKey::L4proto), Expression::Number(ICMPV6)), accept()]);
        rule(vec![drop()]);
    }

    fn interfaces<'a>(&mut self, name: &'static str, interfaces: impl IntoIterator<Item = &'a IfName>) {
        let names: BTreeSet<_> = interfaces.into_iter().collect();
        let elements = names.into_iter().map(|name| text(name.as_str())).collect();
        self.set(name, &[SetType::Ifname], false, elements);
    }

    fn set(&mut self, name: &'static str, key: &[SetType], intervals: bool, elements: Vec<Expr>) {
        let set = Set {
            family: NfFamily::INet,
            table: TABLE.into(),
            name: name.into(),
            set_type: set_type(key),
            flags: intervals.then(|| HashSet::from([SetFlag::Interval])),
            elem: (!elements.is_empty()).then(|| elements.into()),
            ..Set::default()
        };
        self.batch.add(NfListObject::Set(Box::new(set)));
    }

    fn map(&mut self, name: &'static str, key: &[SetType], value: SetType, elements: Vec<Expr>) {
        let map = nftables::schema::Map {
            family: NfFamily::INet,
            table: TABLE.into(),
            name: name.into(),
            set_type: set_type(key),
            map: set_type(&[value]),
            elem: (!elements.is_empty()).then(|| elements.into()),
            ..nftables::schema::Map::default()
        };
        self.batch.add(NfListObject::Map(Box::new(map)));
    }

    fn base(&mut self, name: &'static str, kind: NfChainType, hook: NfHook, priority: i32) {
        self.batch.add(NfListObject::Chain(Chain {
            family: NfFamily::INet,
            table: TABLE.into(),
            name: name.into(),
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(NfChainPolicy::Accept),
            ..Chain::default()
        }));
    }

    fn chain(&mut self, name: &'static str) {
        let (table, name) = (TABLE.into(), name.into());
        let chain = Chain { family: NfFamily::INet, table, name, ..Chain::default() };
        self.batch.add(NfListObject::Chain(chain));
    }

    fn rule(&mut self, chain: &'static str, statements: Vec<Stmt>) {
        self.batch.add(NfListObject::Rule(Rule {
            family: NfFamily::INet,
            table: TABLE.into(),
            chain: chain.into(),
            expr: statements.into(),
            ..Rule::default()
        }));
    }
}

/// Those that are in no other one: `nft` takes no interval twice.
fn outermost(mut prefixes: Vec<Prefix>) -> Vec<Prefix> {
    prefixes.sort_by_key(|prefix| prefix.length());
    let mut kept: Vec<Prefix> = Vec::new();
    for prefix in prefixes {
        if !kept.iter().any(|outer| outer.contains(prefix.address())) {
            kept.push(prefix);
        }
    }
    kept
}

fn set_type(key: &[SetType]) -> SetTypeValue<'static> {
    match key {
        [one] => SetTypeValue::Single(*one),
        more => SetTypeValue::Concatenated(Cow::Owned(more.to_vec())),
    }
}

fn text(text: &str) -> Expr {
    Expression::String(text.to_owned().into())
}

fn port(port: u16) -> Expr {
    Expression::Number(port.into())
}

fn address(address: IpAddr) -> Expr {
    text(&address.to_string())
}

fn prefix(prefix: Prefix) -> Expr {
    let addr = Box::new(address(prefix.address()));
    Expression::Named(NamedExpression::Prefix(nftables::expr::Prefix { addr, len: prefix.length().into() }))
}

fn loopback() -> Expr {
    let addr = Box::new(text("127.0.0.0"));
    Expression::Named(NamedExpression::Prefix(nftables::expr::Prefix { addr, len: 8 }))
}

fn concat<const N: usize>(parts: [Expr; N]) -> Expr {
    Expression::Named(NamedExpression::Concat(parts.into()))
}

fn one_of<const N: usize>(parts: [&str; N]) -> Expr {
    let parts = parts.map(|part| nftables::expr::SetItem::Element(text(part)));
    Expression::Named(NamedExpression::Set(parts.into()))
}

fn reference(set: &str) -> Expr {
    text(&format!("@{set}"))
}

fn meta(key: MetaKey) -> Expr {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn iif() -> Expr {
    meta(MetaKey::Iifname)
}

fn oif() -> Expr {
    meta(MetaKey::Oifname)
}

fn payload(protocol: &'static str, field: &'static str) -> Expr {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn ip4(field: &'static str) -> Expr {
    payload("ip", field)
}

fn ip6(field: &'static str) -> Expr {
    payload("ip6", field)
}

/// What kind of address a packet is going to, as far as the host or only the link it came in by
/// is concerned.
fn fib(link: bool) -> Expr {
    let mut flags = HashSet::from([FibFlag::Daddr]);
    flags.extend(link.then_some(FibFlag::Iif));
    Expression::Named(NamedExpression::Fib(Fib { result: FibResult::Type, flags }))
}

fn ct(key: &'static str) -> Expr {
    Expression::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir: None }))
}

fn matching(left: Expr, op: Operator, right: Expr) -> Stmt {
    Statement::Match(Match { left, right, op })
}

fn is(left: Expr, right: Expr) -> Stmt {
    matching(left, Operator::EQ, right)
}

fn is_not(left: Expr, right: Expr) -> Stmt {
    matching(left, Operator::NEQ, right)
}

fn within(left: Expr, set: &str) -> Stmt {
    is(left, reference(set))
}

fn outside(left: Expr, set: &str) -> Stmt {
    is_not(left, reference(set))
}

fn in_state(state: &str) -> Stmt {
    matching(ct("state"), Operator::IN, text(state))
}

fn established() -> Stmt {
    let states = ["established", "related"].map(text);
    matching(ct("state"), Operator::IN, Expression::List(states.into()))
}

/// Whether a MAC address has more connections than so many.
fn more_than(connections: u32) -> Stmt {
    let count = CTCount { val: Expression::Number(connections), inv: Some(true) };
    let stmt = Box::new(Statement::CTCount(count));
    Statement::Meter(Meter { name: "connections".into(), key: payload("ether", "saddr"), stmt })
}

/// Whether the connection's destination was translated.
fn translated() -> Stmt {
    matching(ct("status"), Operator::IN, text("dnat"))
}

fn accept() -> Stmt {
    Statement::Accept(None)
}

fn drop() -> Stmt {
    Statement::Drop(None)
}

fn back() -> Stmt {
    Statement::Return(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::Management;

    fn rules(kind: Kind, published: &[(Option<&str>, u16, &str)]) -> Rules {
        let bridge: IfName = "br-a".parse().unwrap();
        let publication = |(at, host_port, to): &(Option<&str>, u16, &str)| Published {
            protocol: Protocol::Tcp,
            host_address: at.map(|at| at.parse().unwrap()),
            host_port: *host_port,
            to: to.parse().unwrap(),
            bridge: bridge.clone(),
        };
        let management = "vch-management".parse().unwrap();
        Rules {
            management: Management { bridge: management, address: Prefix::link_local(1), port: 7 },
            endpoint: Vec::new(),
            bridges: vec![Bridge { name: bridge.clone(), subnets: Vec::new(), kind }],
            published: published.iter().map(publication).collect(),
        }
    }

    /// The elements of the map of this name.
    fn elements(rules: &Rules, name: &str) -> Vec<String> {
        let transaction = serde_json::to_value(ruleset(rules)).unwrap();
        let objects = transaction["nftables"].as_array().unwrap();
        let map = objects.iter().find(|object| object["add"]["map"]["name"] == name).unwrap();
        assert_eq!(map["add"]["map"]["table"], TABLE);
        let elements = map["add"]["map"]["elem"].as_array();
        elements.into_iter().flatten().map(|element| element[1].to_string()).collect()
    }

    #[test]
    fn a_port_leads_to_one_place_of_its_own_family() {
        let to = "172.18.0.2:80";
        let rules = rules(
            Kind::Nat,
            &[
                (None, 80, to),
                (None, 80, "172.18.0.3:80"),
                (Some("0.0.0.0"), 81, "172.18.0.4:80"),
                (Some("::"), 82, to),
                (Some("192.0.2.1"), 80, "172.18.0.5:8080"),
                (None, 80, "[fd00::2]:80"),
            ],
        );
        assert_eq!(elements(&rules, "any4"), [r#""172.18.0.2""#, r#""172.18.0.4""#]);
        assert_eq!(elements(&rules, "exact4"), [r#""172.18.0.5""#]);
        assert_eq!(elements(&rules, "exact4_port"), ["8080"]);
        assert_eq!(elements(&rules, "any6"), [r#""fd00::2""#]);
    }

    #[test]
    fn only_bridge_networks_publish() {
        for kind in [Kind::Internal, Kind::External { attached: true }] {
            assert!(elements(&rules(kind, &[(None, 80, "172.18.0.2:80")]), "any4").is_empty(), "{kind:?}");
        }
    }

    #[test]
    fn intervals_are_in_no_other_one() {
        let prefixes =
            ["10.1.0.0/16", "10.0.0.0/8", "10.0.0.0/8", "fd00::/64"].map(|text| text.parse().unwrap());
        let kept: Vec<_> = outermost(prefixes.to_vec()).iter().map(ToString::to_string).collect();
        assert_eq!(kept, ["10.0.0.0/8", "fd00::/64"]);
    }
}
