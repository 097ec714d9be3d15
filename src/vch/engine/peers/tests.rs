//! What containers are told of each other, from records alone.

use std::collections::BTreeMap;

use bollard_stubs::models;
use tether_wire::state::HostEntry;

use super::*;
use crate::{
    engine::{
        Entry,
        record::{Active, Network, NetworkKind, Run, State as ContainerState},
    },
    image::ImageId,
    mac,
};

/// A container that runs, attached to these networks under their names.
fn container(name: &str, networks: &[&str]) -> Container {
    let endpoint = |network: &&str| Endpoint {
        id: format!("{name} on {network}"),
        network: (*network).to_owned(),
        aliases: vec![],
        links: vec![],
        wanted: vec![],
        wanted_mac: None,
        gateway_priority: 0,
        active: Some(Active {
            nic: 0,
            mac: mac::of_name(name),
            addresses: vec!["172.18.0.2/16".parse().unwrap()],
        }),
    };
    Container {
        id: name.repeat(8),
        name: name.to_owned(),
        created: String::new(),
        image: ImageId::parse(&"0".repeat(64)).unwrap(),
        config: models::ContainerConfig::default(),
        host_config: models::HostConfig::default(),
        argv: vec![],
        endpoints: networks.iter().map(endpoint).collect(),
        management_mac: mac::of_name(name),
        state: ContainerState { phase: Phase::Running, ..ContainerState::default() },
        run: Some(Run::default()),
    }
}

fn state(containers: &[&Container]) -> State {
    let network = |name: &str| {
        let mut network = Network::none(name);
        network.kind = NetworkKind::Bridge { internal: false };
        (name.to_owned(), network)
    };
    let entry = |record: &&Container| (record.id.clone(), Entry::new((*record).clone()));
    State {
        networks: BTreeMap::from(["front", "back"].map(network)),
        containers: containers.iter().map(entry).collect(),
    }
}

/// First names on each network.
fn found(tables: &NameTables) -> Vec<(&str, Vec<&str>)> {
    let networks = tables.networks.iter().map(|network| {
        (network.network.as_str(), network.endpoints.iter().map(|entry| entry.names[0].as_str()).collect())
    });
    networks.collect()
}

#[test]
fn ports_are_those_that_are_exposed_and_published() {
    let mut web = container("web", &["front"]);
    web.config.exposed_ports = Some(vec!["8080".into(), "53/udp".into(), "443/tcp".into()]);
    let bindings = [("443/tcp", None), ("80/tcp", Some(vec![])), ("9/SCTP", None)];
    web.host_config.port_bindings =
        Some(bindings.map(|(port, binding)| (port.to_owned(), binding)).into_iter().collect());
    let mut client = container("client", &["front"]);
    client.endpoints[0].links = vec![(web.id.clone(), "server".into())];
    let tables = state(&[&web, &client]).names(&client, 5);
    tables.check().unwrap();
    let expected = [
        (9, names::Protocol::Sctp),
        (53, names::Protocol::Udp),
        (80, names::Protocol::Tcp),
        (443, names::Protocol::Tcp),
        (8080, names::Protocol::Tcp),
    ];
    let expected = expected.map(|(number, protocol)| names::Port { number, protocol, name: None });
    let [client, web] = tables.networks[0].endpoints.as_slice() else { panic!("{tables:?}") };
    assert_eq!((client.names[0].as_str(), client.ports.len()), ("client", 0));
    assert_eq!(web.ports, expected);
    assert_eq!(tables.networks[0].links[0].ports, expected, "by its link too");
}

#[test]
fn of_a_range_of_ports_as_many_are_told_as_tables_take() {
    let mut web = container("web", &["front"]);
    web.config.exposed_ports = Some((30_000..31_000).map(|port| format!("{port}/udp")).collect());
    let tables = state(&[&web]).names(&web, 5);
    tables.check().unwrap();
    let ports: Vec<_> = tables.networks[0].endpoints[0].ports.iter().map(|port| port.number).collect();
    assert_eq!(ports, (30_000..30_064).collect::<Vec<_>>());
}

#[test]
fn extra_hosts_are_names_too_of_their_own_container_alone() {
    let mut web = container("web", &["front"]);
    let host = HostEntry { address: "10.9.9.9".into(), names: vec!["registry".into()] };
    web.run = Some(Run { hosts: vec![host.clone()], ..Run::default() });
    let client = container("client", &["front"]);
    let state = state(&[&web, &client]);
    assert_eq!((state.names(&web, 7).hosts, state.names(&web, 7).ttl_seconds), (vec![host], 7));
    assert!(state.names(&client, 7).hosts.is_empty());
}

#[test]
fn whose_workload_is_over_is_not_found_though_its_machine_runs() {
    let (web, mut over) = (container("web", &["front"]), container("over", &["front"]));
    over.run = Some(Run { exit: Some(0), ..Run::default() });
    let mut starting = container("starting", &["front"]);
    starting.state.phase = Phase::Starting;
    let state = state(&[&web, &over, &starting]);
    assert_eq!(found(&state.names(&web, 5)), [("front", vec!["web"])]);
    assert_eq!(found(&state.names(&starting, 5)), [("front", vec!["starting", "web"])]);
}

#[test]
fn those_who_share_tables_find_the_same() {
    let mut containers: Vec<Container> = [
        ("aa", &["front"][..]),
        ("bb", &["front"]),
        ("cc", &["front", "back"]),
        ("dd", &["front", "back"]),
        ("ee", &["back", "front"]),
        ("ff", &["front"]),
        ("gg", &["front"]),
        ("hh", &["front"]),
        ("ii", &["front"]),
    ]
    .iter()
    .map(|(name, networks)| container(name, networks))
    .collect();
    containers[5].state.phase = Phase::Starting;
    containers[6].run = Some(Run { exit: Some(0), ..Run::default() });
    let host = HostEntry { address: "10.9.9.9".into(), names: vec!["registry".into()] };
    containers[7].run = Some(Run { hosts: vec![host], ..Run::default() });
    containers[8].endpoints[0].links = vec![(containers[0].id.clone(), "a".into())];
    let state = state(&containers.iter().collect::<Vec<_>>());
    let mut groups = BTreeMap::new();
    for container in &containers {
        let tables = state.names(container, 5);
        if let Some(networks) = with_its_peers(container) {
            assert_eq!(groups.entry(networks).or_insert_with(|| tables.clone()), &tables);
        } else {
            assert!(["ff", "gg", "hh", "ii"].contains(&container.name.as_str()), "{}", container.name);
        }
    }
    assert_eq!(
        groups.into_keys().map(|key| key.join(" ")).collect::<Vec<_>>(),
        ["back front", "front", "front back"]
    );
}

#[test]
fn an_extra_host_that_no_guest_takes_is_refused_when_the_container_is_made() {
    let mut web = container("web", &["front"]);
    let resolution = crate::engine::resolver::Resolution::default();
    let mut check = |host: &str| {
        web.host_config.extra_hosts = Some(vec![host.to_owned()]);
        crate::engine::containers::check_documents(&web, &state(&[]).networks, &resolution)
    };
    check("registry:10.9.9.9").unwrap();
    let told = check("registry:0.0.0.0").unwrap_err().message;
    assert!(told.starts_with("hosts[0].address: 0.0.0.0"), "{told}");
}
