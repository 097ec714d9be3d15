//! `docker network`.

use std::collections::HashMap;

use bollard_stubs::models;
use hyper::{Request, StatusCode, body::Incoming};
use serde_json::{Map, Value, json};

use super::{
    Answer, body,
    create::refuse_unknown,
    empty,
    filters::{Filters, name_matches},
    ok,
    query::Query,
};
use crate::engine::{
    Engine,
    endpoints::WantedEndpoint,
    error::EngineError,
    networks::{DEFAULT_NETWORK, NO_NETWORK, WantedNetwork, WantedSubnet},
    record::{Container, Network, NetworkKind},
};

/// What a list may be narrowed down by.
const FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];

/// `docker network ls`.
pub fn list(engine: &Engine, query: &Query) -> Answer {
    let filters = Filters::read(query, &FILTERS)?;
    filters.check_names("name")?;
    let containers = engine.containers();
    let wanted = |network: &Network| {
        let labels: HashMap<String, String> = network.labels.clone().into_iter().collect();
        let used = containers.iter().any(|container| container.endpoint(&network.id).is_some());
        let built_in = network.name == DEFAULT_NETWORK || network.name == NO_NETWORK;
        filters.any("driver", |driver| driver == driver_of(network))
            && filters.any("id", |id| network.id.starts_with(id))
            && filters.any("name", |name| name_matches(name, &network.name))
            && filters.any("scope", |scope| scope == scope_of(network))
            && filters.any("type", |kind| (kind == "builtin") == built_in)
            && filters.any("dangling", |dangling| matches!(dangling, "true" | "1") != (used || built_in))
            && filters.labels(&labels)
    };
    let networks = engine.networks();
    // A list does not say who is on them.
    let list: Vec<Value> = networks.iter().filter(|network| wanted(network)).map(|n| model(n, &[])).collect();
    ok(&list)
}

/// `docker network inspect`.
pub fn inspect(engine: &Engine, id: &str) -> Answer {
    let network = engine.network(id)?;
    ok(&model(&network, &engine.containers()))
}

/// `docker network create`.
pub async fn create(engine: &Engine, request: Request<Incoming>) -> Answer {
    let value = body::read_json(request.into_body()).await?;
    refuse_unknown("", &value, &SUPPORTED, &NEUTRAL)?;
    if value.get("EnableIPv4") == Some(&Value::Bool(false)) {
        return Err(EngineError::invalid("EnableIPv4=false is not supported: every network has IPv4"));
    }
    if let Some(ipam) = value.get("IPAM") {
        refuse_unknown("IPAM.", ipam, &["Config", "Driver"], &[])?;
        for one in ipam.get("Config").and_then(Value::as_array).into_iter().flatten() {
            refuse_unknown("IPAM.Config.", one, &["Subnet", "IPRange", "Gateway"], &[])?;
        }
    }
    let wanted: models::NetworkCreateRequest = body::parse(value)?;
    match wanted.driver.as_deref() {
        None | Some("" | "bridge" | "default") => {}
        Some(driver) => {
            return Err(EngineError::not_found(format!(
                "plugin {driver:?} not found: the driver there is is bridge. An external network is handed over \
                 by the administrator: vch network add"
            )));
        }
    }
    let ipam = wanted.ipam.unwrap_or_default();
    if let Some(driver) = ipam.driver.filter(|driver| !matches!(driver.as_str(), "" | "default")) {
        return Err(EngineError::not_found(format!(
            "IPAM driver {driver:?} not found: the one there is is default"
        )));
    }
    let subnet = |one: models::IpamConfig| WantedSubnet {
        subnet: one.subnet,
        ip_range: one.ip_range,
        gateway: one.gateway,
    };
    let network = engine
        .create_network(WantedNetwork {
            name: wanted.name,
            internal: wanted.internal.unwrap_or_default(),
            ipv6: wanted.enable_ipv6.unwrap_or_default(),
            subnets: ipam.config.unwrap_or_default().into_iter().map(subnet).collect(),
            options: wanted.options.unwrap_or_default().into_iter().collect(),
            labels: wanted.labels.unwrap_or_default().into_iter().collect(),
        })
        .await?;
    Ok(super::json(StatusCode::CREATED, &json!({ "Id": network.id, "Warning": "" })))
}

/// What is carried out of a network's document.
const SUPPORTED: [&str; 7] = ["Name", "Driver", "Internal", "EnableIPv6", "IPAM", "Options", "Labels"];
/// What asks for nothing that is not so anyway: names are always checked for being there
/// already, containers may always be attached, and there is always IPv4.
const NEUTRAL: [(&str, &str); 5] = [
    ("ConfigFrom", "{\"Network\":\"\"}"),
    ("CheckDuplicate", "true"),
    ("Attachable", "true"),
    ("EnableIPv4", "true"),
    ("Scope", "\"local\""),
];

/// `docker network rm`.
pub async fn remove(engine: &Engine, id: &str) -> Answer {
    engine.remove_network(id, false).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `docker network prune`.
pub async fn prune(engine: &Engine, query: &Query) -> Answer {
    Filters::read(query, &[])?;
    ok(&json!({ "NetworksDeleted": engine.prune_networks().await }))
}

/// `docker network connect`.
pub async fn connect(engine: &Engine, id: &str, request: Request<Incoming>) -> Answer {
    let value = body::read_json(request.into_body()).await?;
    refuse_unknown("", &value, &["Container", "EndpointConfig"], &[])?;
    let container = text(&value, "Container")?;
    let wanted = match value.get("EndpointConfig") {
        Some(config) if !config.is_null() => endpoint(id, config)?,
        _ => WantedEndpoint { network: id.to_owned(), ..WantedEndpoint::default() },
    };
    engine.connect(&container, wanted).await?;
    Ok(empty(StatusCode::OK))
}

/// `docker network disconnect`.
pub async fn disconnect(engine: &Engine, id: &str, request: Request<Incoming>) -> Answer {
    let value = body::read_json(request.into_body()).await?;
    refuse_unknown("", &value, &["Container", "Force"], &[])?;
    let force = value.get("Force").and_then(Value::as_bool).unwrap_or_default();
    engine.disconnect(&text(&value, "Container")?, id, force).await?;
    Ok(empty(StatusCode::OK))
}

fn text(value: &Value, name: &str) -> Result<String, EngineError> {
    let text = value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.map(str::to_owned).ok_or_else(|| EngineError::invalid(format!("{name} is missing")))
}

/// What is carried out of an endpoint's document.
const ENDPOINT: [&str; 5] = ["IPAMConfig", "Links", "Aliases", "MacAddress", "GwPriority"];
/// What a client copies from an earlier answer: it is the host's to say.
const TOLD: [&str; 9] = [
    "NetworkID",
    "EndpointID",
    "Gateway",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "DNSNames",
];

/// An endpoint on `network` as a document asks for it.
pub fn endpoint(network: &str, value: &Value) -> Result<WantedEndpoint, EngineError> {
    let place = format!("EndpointsConfig.{network}.");
    let object = value.as_object().cloned().unwrap_or_default();
    let told = |name: &String| TOLD.contains(&name.as_str());
    let asked: Map<String, Value> = object.into_iter().filter(|(name, _)| !told(name)).collect();
    refuse_unknown(&place, &Value::Object(asked.clone()), &ENDPOINT, &[])?;
    if let Some(ipam) = asked.get("IPAMConfig") {
        refuse_unknown(&format!("{place}IPAMConfig."), ipam, &["IPv4Address", "IPv6Address"], &[])?;
    }
    let wanted: models::EndpointSettings = body::parse(Value::Object(asked))?;
    let ipam = wanted.ipam_config.unwrap_or_default();
    Ok(WantedEndpoint {
        network: network.to_owned(),
        aliases: wanted.aliases.unwrap_or_default(),
        links: wanted.links.unwrap_or_default(),
        addresses: [ipam.ipv4_address, ipam.ipv6_address].into_iter().flatten().collect(),
        mac: wanted.mac_address,
        gateway_priority: wanted.gw_priority.unwrap_or_default(),
    })
}

fn driver_of(network: &Network) -> &'static str {
    if network.kind == NetworkKind::None { "null" } else { "bridge" }
}

fn scope_of(network: &Network) -> &'static str {
    if network.is_external() { "external" } else { "local" }
}

/// A network as Docker shows it, with those of `containers` that are on it.
fn model(network: &Network, containers: &[Container]) -> Value {
    let config = network.subnets.iter().map(|pool| models::IpamConfig {
        subnet: Some(pool.subnet().to_string()),
        ip_range: pool.ip_range().map(|range| range.to_string()),
        gateway: Some(pool.gateway().to_string()),
        auxiliary_addresses: None,
    });
    let on_it = containers.iter().filter_map(|container| {
        let endpoint = container.endpoint(&network.id)?;
        let active = endpoint.active.as_ref()?;
        let address = |v4: bool| {
            let found = active.addresses.iter().find(|prefix| prefix.address().is_ipv4() == v4);
            Some(found.map(ToString::to_string).unwrap_or_default())
        };
        let model = models::NetworkContainer {
            name: Some(container.name.clone()),
            endpoint_id: Some(endpoint.id.clone()),
            mac_address: Some(active.mac.to_string()),
            ipv4_address: address(true),
            ipv6_address: address(false),
        };
        Some((container.id.clone(), model))
    });
    let model = models::Network {
        name: Some(network.name.clone()),
        id: Some(network.id.clone()),
        created: Some(network.created.clone()),
        scope: Some(scope_of(network).to_owned()),
        driver: Some(driver_of(network).to_owned()),
        enable_ipv4: Some(network.bridge.is_some()),
        enable_ipv6: Some(network.ipv6),
        ipam: Some(models::Ipam {
            driver: Some("default".to_owned()),
            config: Some(config.collect()),
            options: Some(HashMap::new()),
        }),
        internal: Some(network.is_internal()),
        attachable: Some(false),
        ingress: Some(false),
        config_from: Some(models::ConfigReference { network: Some(String::new()) }),
        config_only: Some(false),
        containers: Some(on_it.collect()),
        options: Some(options(network)),
        labels: Some(network.labels.clone().into_iter().collect()),
        peers: None,
    };
    serde_json::to_value(model).unwrap_or_default()
}

/// The options a network was made with; of an external one what the administrator gave.
fn options(network: &Network) -> HashMap<String, String> {
    let mut options: HashMap<String, String> = network.options.clone().into_iter().collect();
    if let NetworkKind::External { link, address, .. } = &network.kind {
        options.insert("vch.link".to_owned(), link.to_string());
        options.extend(address.map(|own| ("vch.address".to_owned(), own.address().to_string())));
    }
    options
}
