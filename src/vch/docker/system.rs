//! `_ping`, `docker version`, `docker info`, and numbers for Prometheus.

use bollard_stubs::models;
use hyper::{Response, header};

use super::{
    API, API_MIN, Answer,
    body::{Body, full},
    ok, value,
};
use crate::engine::{Engine, now, record::Phase};

/// `_ping`: whether anybody is there, and what they speak.
pub fn ping(head: bool) -> Response<Body> {
    let mut response = Response::new(full(if head { "" } else { "OK" }));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, value("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, value("no-cache, no-store, must-revalidate"));
    headers.insert("Builder-Version", value("1"));
    headers.insert("Swarm", value("inactive"));
    response
}

/// Numbers for Prometheus, in the text format of `OpenMetrics`. Docker's engine has its own at a port of their own.
pub fn metrics(engine: &Engine) -> Response<Body> {
    let mut response = Response::new(full(engine.metrics()));
    let kind = value("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// `docker version`.
pub fn version() -> Answer {
    let (api, min) = (format!("{}.{}", API.0, API.1), format!("{}.{}", API_MIN.0, API_MIN.1));
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let details = [
        ("ApiVersion", api.clone()),
        ("MinAPIVersion", min.clone()),
        ("Os", "linux".to_owned()),
        ("Arch", "amd64".to_owned()),
        ("KernelVersion", kernel()),
        ("Experimental", "false".to_owned()),
    ];
    ok(&models::SystemVersion {
        platform: Some(models::SystemVersionPlatform { name: "vch: container VMs".to_owned() }),
        components: Some(vec![models::SystemVersionComponents {
            name: "Engine".to_owned(),
            version: version.clone(),
            details: Some(details.map(|(name, value)| (name.to_owned(), value)).into()),
        }]),
        version: Some(version),
        api_version: Some(api),
        min_api_version: Some(min),
        os: Some("linux".to_owned()),
        arch: Some("amd64".to_owned()),
        kernel_version: Some(kernel()),
        git_commit: Some(String::new()),
        go_version: Some(String::new()),
        build_time: Some(String::new()),
        ..models::SystemVersion::default()
    })
}

/// `docker info`.
pub fn info(engine: &Engine) -> Answer {
    let containers = engine.containers();
    let count = |phase: &dyn Fn(Phase) -> bool| {
        let number = containers.iter().filter(|container| phase(container.state.phase)).count();
        Some(i64::try_from(number).unwrap_or(i64::MAX))
    };
    let images = engine.images().list().map_or(0, |images| images.len());
    ok(&models::SystemInfo {
        id: Some("vch".to_owned()),
        containers: count(&|_| true),
        containers_running: count(&Phase::is_up),
        containers_paused: Some(0),
        containers_stopped: count(&|phase| !phase.is_up()),
        images: i64::try_from(images).ok(),
        driver: Some("squashfs+ext4".to_owned()),
        docker_root_dir: Some(engine.settings().state.display().to_string()),
        memory_limit: Some(true),
        swap_limit: Some(false),
        plugins: Some(models::PluginsInfo {
            network: Some(vec!["bridge".to_owned(), "null".to_owned()]),
            ..models::PluginsInfo::default()
        }),
        system_time: Some(now()),
        logging_driver: Some("json-file".to_owned()),
        kernel_version: Some(kernel()),
        operating_system: Some("vch".to_owned()),
        os_type: Some("linux".to_owned()),
        architecture: Some("x86_64".to_owned()),
        ncpu: std::thread::available_parallelism().ok().and_then(|n| i64::try_from(n.get()).ok()),
        mem_total: Some(memory()),
        name: Some(hostname()),
        server_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        live_restore_enabled: Some(true),
        warnings: Some(Vec::new()),
        ..models::SystemInfo::default()
    })
}

fn kernel() -> String {
    read("/proc/sys/kernel/osrelease")
}

fn hostname() -> String {
    read("/proc/sys/kernel/hostname")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The host's memory in bytes.
fn memory() -> i64 {
    let text = read("/proc/meminfo");
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<i64>().ok());
    kib.unwrap_or_default() * 1024
}
