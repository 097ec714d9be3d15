//! `docker inspect`, of containers.

use std::{collections::HashMap, net::IpAddr};

use bollard_stubs::models;

use super::{Answer, ok, query::Query, summary::status_word};
use crate::{
    engine::{
        Engine,
        peers::names_of,
        record::{Container, Endpoint, Network, Phase},
    },
    machine::CONSOLE,
};

/// What Docker shows where there is no time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Answers an inspect request.
pub fn inspect(engine: &Engine, id: &str, query: &Query) -> Answer {
    query.refuse("size", "docker inspect --size")?;
    let container = engine.container(id)?;
    ok(&model(engine, &container))
}

fn model(engine: &Engine, container: &Container) -> models::ContainerInspectResponse {
    let state = &container.state;
    let running = state.phase == Phase::Running;
    let status = match state.phase {
        Phase::Created | Phase::Starting => models::ContainerStateStatusEnum::CREATED,
        Phase::Running => models::ContainerStateStatusEnum::RUNNING,
        Phase::Exited => models::ContainerStateStatusEnum::EXITED,
    };
    debug_assert_eq!(status.to_string(), status_word(state.phase));
    let time = |time: &Option<String>| Some(time.clone().unwrap_or_else(|| NEVER.to_owned()));
    let mut config = container.config.clone();
    config.hostname = Some(container.hostname());
    models::ContainerInspectResponse {
        id: Some(container.id.clone()),
        created: Some(container.created.clone()),
        path: container.argv.first().cloned(),
        args: Some(container.argv.iter().skip(1).cloned().collect()),
        state: Some(models::ContainerState {
            status: Some(status),
            running: Some(running),
            paused: Some(false),
            restarting: Some(false),
            oom_killed: Some(false),
            dead: Some(false),
            pid: Some(container.run.as_ref().map_or(0, |run| i64::from(run.pid))),
            exit_code: Some(state.exit_code),
            error: Some(state.error.clone()),
            started_at: time(&state.started),
            finished_at: time(&state.finished),
            health: None,
        }),
        image: Some(container.image.to_string()),
        log_path: Some(engine.log_path(&container.id).display().to_string()),
        name: Some(format!("/{}", container.name)),
        restart_count: Some(0),
        driver: Some("squashfs+ext4".to_owned()),
        platform: Some("linux".to_owned()),
        mounts: Some(Vec::new()),
        host_config: Some(container.host_config.clone()),
        config: Some(config),
        network_settings: Some(network_settings(engine, container)),
        hostname_path: Some(String::new()),
        hosts_path: Some(String::new()),
        resolv_conf_path: Some(String::new()),
        mount_label: Some(String::new()),
        process_label: Some(String::new()),
        app_armor_profile: Some(String::new()),
        exec_ids: None,
        graph_driver: None,
        image_manifest_descriptor: None,
        size_rw: None,
        size_root_fs: None,
    }
}

fn network_settings(engine: &Engine, container: &Container) -> models::NetworkSettings {
    let networks = engine.networks();
    let attached = container.endpoints.iter().filter_map(|endpoint| {
        let network = networks.iter().find(|network| network.id == endpoint.network)?;
        Some((network.name.clone(), endpoint_settings(container, endpoint, network)))
    });
    let attached: HashMap<String, models::EndpointSettings> = attached.collect();
    // Docker repeats the default network's at the top.
    let default = attached.get(crate::engine::networks::DEFAULT_NETWORK).cloned().unwrap_or_default();
    models::NetworkSettings {
        sandbox_id: Some(container.id.clone()),
        sandbox_key: Some(
            engine
                .settings()
                .run
                .join("machines")
                .join(container.short_id())
                .join(CONSOLE)
                .display()
                .to_string(),
        ),
        ports: Some(ports(container)),
        endpoint_id: Some(default.endpoint_id.unwrap_or_default()),
        gateway: Some(default.gateway.unwrap_or_default()),
        ip_address: Some(default.ip_address.unwrap_or_default()),
        ip_prefix_len: Some(default.ip_prefix_len.unwrap_or_default()),
        mac_address: Some(default.mac_address.unwrap_or_default()),
        networks: Some(attached),
        ..models::NetworkSettings::default()
    }
}

/// Published and exposed ports.
fn ports(container: &Container) -> models::PortMap {
    let mut ports = models::PortMap::new();
    if !container.state.phase.is_up() {
        return ports;
    }
    for port in container.config.exposed_ports.iter().flatten() {
        ports.insert(port.clone(), None);
    }
    for port in container.run.iter().flat_map(|run| &run.published) {
        let binding = models::PortBinding {
            host_ip: Some(port.at.ip().to_string()),
            host_port: Some(port.at.port().to_string()),
        };
        let key = format!("{}/{}", port.port, port.protocol);
        ports.entry(key).or_insert(None).get_or_insert_default().push(binding);
    }
    ports
}

/// A container's attachment to one network.
pub fn endpoint_settings(
    container: &Container,
    endpoint: &Endpoint,
    network: &Network,
) -> models::EndpointSettings {
    let active = endpoint.active.as_ref();
    let address = |v4: bool| {
        let mut addresses = active.iter().flat_map(|active| &active.addresses);
        addresses.find(|prefix| prefix.address().is_ipv4() == v4)
    };
    let text = |v4: bool| Some(address(v4).map(|prefix| prefix.address().to_string()).unwrap_or_default());
    let length = |v4: bool| Some(address(v4).map_or(0, |prefix| i64::from(prefix.length())));
    let gateway = |v4: bool| {
        let gateway = network.gateways().find(|gateway: &IpAddr| gateway.is_ipv4() == v4);
        let shown = gateway.filter(|_| active.is_some() && !network.is_internal());
        Some(shown.map(|gateway| gateway.to_string()).unwrap_or_default())
    };
    let wanted =
        |v4: bool| endpoint.wanted.iter().find(|address| address.is_ipv4() == v4).map(ToString::to_string);
    let asked = (!endpoint.wanted.is_empty()).then(|| models::EndpointIpamConfig {
        ipv4_address: wanted(true),
        ipv6_address: wanted(false),
        link_local_ips: None,
    });
    models::EndpointSettings {
        ipam_config: asked,
        links: None,
        aliases: Some(endpoint.aliases.clone()),
        mac_address: Some(active.map(|active| active.mac.to_string()).unwrap_or_default()),
        gw_priority: Some(endpoint.gateway_priority),
        driver_opts: None,
        network_id: Some(endpoint.network.clone()),
        endpoint_id: Some(active.map(|_| endpoint.id.clone()).unwrap_or_default()),
        gateway: gateway(true),
        ip_address: text(true),
        ip_prefix_len: length(true),
        ipv6_gateway: gateway(false),
        global_ipv6_address: text(false),
        global_ipv6_prefix_len: length(false),
        dns_names: Some(names_of(container, endpoint)),
    }
}
