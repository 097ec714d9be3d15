//! `docker create` and the first half of `docker run`: from a document to a container, and not
//! one word of it dropped.

use bollard_stubs::models;
use hyper::{Request, StatusCode, body::Incoming};
use serde_json::{Map, Value, json};

use super::{Answer, body, networks::endpoint, query::Query};
use crate::engine::{
    Engine,
    containers::{WantedContainer, main_network},
    endpoints::WantedEndpoint,
    error::EngineError,
    networks::DEFAULT_NETWORK,
};

/// What is carried out of a container's document.
const SUPPORTED: [&str; 23] = [
    "Hostname",
    "Domainname",
    "User",
    "AttachStdin",
    "AttachStdout",
    "AttachStderr",
    "Tty",
    "OpenStdin",
    "StdinOnce",
    "Env",
    "Cmd",
    "Image",
    "WorkingDir",
    "Entrypoint",
    "Labels",
    "ExposedPorts",
    "StopSignal",
    "StopTimeout",
    "MacAddress",
    "HostConfig",
    "NetworkingConfig",
    "ArgsEscaped",
    "OnBuild",
];
/// What is carried out of the host's part.
const HOST: [&str; 15] = [
    "NetworkMode",
    "PortBindings",
    "PublishAllPorts",
    "AutoRemove",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "Links",
    "Memory",
    "NanoCpus",
    "Privileged",
    "ConsoleSize",
    "ContainerIDFile",
    "Annotations",
];
/// What asks for what is so anyway. A container here has a machine of its own, with a kernel,
/// processes and memory of its own; its output is kept in Docker's default way.
const HOST_NEUTRAL: [(&str, &str); 14] = [
    ("CgroupnsMode", "\"private\""),
    ("IpcMode", "\"private\""),
    ("IpcMode", "\"shareable\""),
    ("Isolation", "\"default\""),
    ("LogConfig", "{\"Config\":{},\"Type\":\"\"}"),
    ("LogConfig", "{\"Config\":null,\"Type\":\"\"}"),
    ("LogConfig", "{\"Config\":{},\"Type\":\"json-file\"}"),
    ("MemorySwap", "-1"),
    ("MemorySwappiness", "-1"),
    ("PidsLimit", "-1"),
    ("RestartPolicy", "{\"MaximumRetryCount\":0,\"Name\":\"\"}"),
    ("RestartPolicy", "{\"MaximumRetryCount\":0,\"Name\":\"no\"}"),
    ("RestartPolicy", "{\"Name\":\"no\"}"),
    ("Runtime", "\"runc\""),
];

/// Answers a create request.
pub async fn create(engine: &Engine, query: &Query, request: Request<Incoming>) -> Answer {
    if let Some(platform) =
        query.get("platform").filter(|platform| *platform != "linux/amd64" && *platform != "linux")
    {
        return Err(EngineError::invalid(format!(
            "platform {platform} is not supported: there is linux/amd64"
        )));
    }
    let value = body::read_json(request.into_body()).await?;
    let mut wanted = read(value)?;
    wanted.name = query.get("name").map(str::to_owned);
    let (id, warnings) = engine.create_container(wanted).await?;
    Ok(super::json(StatusCode::CREATED, &json!({ "Id": id, "Warnings": warnings })))
}

/// What a create request's document asks for.
fn read(value: Value) -> Result<WantedContainer, EngineError> {
    let Value::Object(mut document) = value else {
        return Err(EngineError::invalid("invalid JSON: a container's configuration is an object"));
    };
    refuse_unknown("", &Value::Object(document.clone()), &SUPPORTED, &[])?;
    let host = document.remove("HostConfig").unwrap_or_else(|| json!({}));
    let networking = document.remove("NetworkingConfig").unwrap_or_else(|| json!({}));
    refuse_unknown("HostConfig.", &host, &HOST, &HOST_NEUTRAL)?;
    refuse_unknown("NetworkingConfig.", &networking, &["EndpointsConfig"], &[])?;
    let host_config: models::HostConfig =
        if host.is_null() { models::HostConfig::default() } else { body::parse(host)? };
    let config: models::ContainerConfig = body::parse(Value::Object(document))?;
    if config.image.as_deref().unwrap_or_default().is_empty() {
        return Err(EngineError::invalid("Image is missing: which one is the container to run?"));
    }
    let endpoints = endpoints(&config, &host_config, &networking)?;
    Ok(WantedContainer { name: None, config, host_config, endpoints })
}

/// The endpoints a container asks for: that of its main network first, then the others by name.
fn endpoints(
    config: &models::ContainerConfig,
    host_config: &models::HostConfig,
    networking: &Value,
) -> Result<Vec<WantedEndpoint>, EngineError> {
    let main = main_network(host_config.network_mode.as_deref())?;
    let wanted = networking.get("EndpointsConfig").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut endpoints = Vec::new();
    // A client calls the default network by either name.
    let names_main = |name: &str| name == main || (main == DEFAULT_NETWORK && name == "default");
    let of_main = wanted.iter().find(|(name, _)| names_main(name)).map(|(_, value)| value);
    let mut first = match of_main {
        Some(value) if !value.is_null() => endpoint(&main, value)?,
        _ => WantedEndpoint { network: main.clone(), ..WantedEndpoint::default() },
    };
    if let Some(mac) = config.mac_address.as_deref().filter(|mac| !mac.is_empty()) {
        match &first.mac {
            Some(other) if !other.eq_ignore_ascii_case(mac) => {
                return Err(EngineError::invalid(
                    "conflicting MAC addresses: MacAddress and the endpoint's MacAddress differ",
                ));
            }
            _ => first.mac = Some(mac.to_owned()),
        }
    }
    first.links.extend(host_config.links.iter().flatten().cloned());
    endpoints.push(first);
    for (name, value) in wanted.iter().filter(|(name, _)| !names_main(name)) {
        endpoints.push(endpoint(name, if value.is_null() { &EMPTY } else { value })?);
    }
    Ok(endpoints)
}

static EMPTY: Value = Value::Null;

/// Refuses every member of a document that is neither known, nor empty, nor neutral: what is not
/// carried out is not taken. All of them are told at once.
pub fn refuse_unknown(
    place: &str,
    value: &Value,
    known: &[&str],
    neutral: &[(&str, &str)],
) -> Result<(), EngineError> {
    let empty = Map::new();
    let object = match value {
        Value::Null => &empty,
        Value::Object(object) => object,
        _ => {
            return Err(EngineError::invalid(format!(
                "{}: an object is expected",
                place.trim_end_matches('.')
            )));
        }
    };
    let unsupported = object.iter().filter(|(name, value)| {
        let neutral = neutral
            .iter()
            .any(|(key, text)| key == name && serde_json::from_str(text).is_ok_and(|v: Value| v == **value));
        !known.contains(&name.as_str()) && !neutral && !asks_for_nothing(value)
    });
    let unsupported: Vec<String> =
        unsupported.map(|(name, value)| format!("{place}{name}={}", shown(value))).collect();
    if unsupported.is_empty() {
        return Ok(());
    }
    Err(EngineError::invalid(format!("not supported by vch: {}", unsupported.join(", "))))
}

/// Whether a member's value is what it would be if it were not there.
fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.iter().all(asks_for_nothing),
        // A map's keys are what is asked for.
        Value::Object(members) => members.is_empty(),
    }
}

/// A value for a message: not more than fits in a line.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(60).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_always_sends_is_taken() {
        // As docker 28 sends it for `docker run busybox`.
        let document = serde_json::from_str(
            r#"{
            "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": true,
            "AttachStderr": true, "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": null, "Cmd": null,
            "Image": "busybox", "Volumes": {}, "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": {},
            "HostConfig": {
                "Binds": null, "ContainerIDFile": "", "LogConfig": {"Type": "", "Config": {}},
                "NetworkMode": "default", "PortBindings": {}, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
                "AutoRemove": false, "VolumeDriver": "", "VolumesFrom": null, "ConsoleSize": [24, 80],
                "CapAdd": null, "CgroupnsMode": "", "Dns": [], "DnsOptions": [], "DnsSearch": [],
                "ExtraHosts": null, "IpcMode": "", "OomScoreAdj": 0, "PidMode": "", "Privileged": false,
                "SecurityOpt": null, "UTSMode": "", "ShmSize": 0, "Isolation": "", "CpuShares": 0, "Memory": 0,
                "NanoCpus": 0, "MemorySwap": 0, "MemorySwappiness": -1, "OomKillDisable": false, "PidsLimit": 0,
                "Ulimits": [], "BlkioDeviceReadBps": [], "MaskedPaths": null
            },
            "NetworkingConfig": {"EndpointsConfig": {"default": {"IPAMConfig": null, "MacAddress": "", "GwPriority": 0}}}
        }"#,
        );
        let document: Value = document.unwrap();
        let wanted = read(document).unwrap();
        assert_eq!(wanted.endpoints.len(), 1);
        assert_eq!(wanted.endpoints[0].network, "bridge");
    }

    #[test]
    fn every_option_that_is_not_built_is_told() {
        let document = json!({
            "Image": "x", "Healthcheck": {"Test": ["CMD", "true"]},
            "HostConfig": {"ReadonlyRootfs": true, "Binds": ["/:/host"], "RestartPolicy": {"Name": "always"}, "NewThing": 7}
        });
        let message = read(document).unwrap_err().message;
        assert!(message.contains("Healthcheck"), "{message}");
        let document = json!({
            "Image": "x",
            "HostConfig": {"ReadonlyRootfs": true, "Binds": ["/:/host"], "RestartPolicy": {"Name": "always"}, "NewThing": 7}
        });
        let message = read(document).unwrap_err().message;
        for part in [
            "HostConfig.ReadonlyRootfs=true",
            "HostConfig.Binds",
            "HostConfig.RestartPolicy",
            "HostConfig.NewThing=7",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
        for bad in [
            json!(null),
            json!([]),
            json!({}),
            json!({"Image": ""}),
            json!({"Image": 7}),
            json!({"Image": "x", "HostConfig": 7}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_main_network_comes_first() {
        let document = json!({
            "Image": "x", "HostConfig": {"NetworkMode": "m"},
            "NetworkingConfig": {"EndpointsConfig": {"a": null, "m": {"Aliases": ["web"], "IPAMConfig": {"IPv4Address": "1.2.3.4"}}}}
        });
        let wanted = read(document).unwrap();
        let names: Vec<_> = wanted.endpoints.iter().map(|endpoint| endpoint.network.as_str()).collect();
        assert_eq!(names, ["m", "a"]);
        assert_eq!(wanted.endpoints[0].aliases, ["web"]);
        assert_eq!(wanted.endpoints[0].addresses, ["1.2.3.4"]);
    }
}
