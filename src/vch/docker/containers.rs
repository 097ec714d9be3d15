//! `docker ps`, `start`, `stop`, `kill`, `rename`, `rm` and the like.

use std::collections::HashMap;

use hyper::StatusCode;
use serde_json::json;

use super::{
    Answer, empty,
    filters::{Filters, name_matches},
    ok,
    query::Query,
    summary,
};
use crate::engine::{
    Engine,
    error::EngineError,
    record::{Container, Phase},
};

/// What a list may be narrowed down by.
const FILTERS: [&str; 7] = ["ancestor", "exited", "id", "label", "name", "network", "status"];

/// Docker's words for where in its life a container is.
const STATUS: [&str; 7] = ["created", "dead", "exited", "paused", "removing", "restarting", "running"];

/// `docker ps`.
pub fn list(engine: &Engine, query: &Query) -> Answer {
    let filters = Filters::read(query, &FILTERS)?;
    query.refuse("size", "docker ps --size")?;
    filters.check_names("name")?;
    if let Some(word) = filters.values("status").iter().find(|word| !STATUS.contains(&word.as_str())) {
        return Err(EngineError::invalid(format!(
            "invalid filter 'status={word}': there are {}",
            STATUS.join(", ")
        )));
    }
    let networks = engine.networks();
    let images = engine.images().list().map_err(EngineError::from)?;
    let limit: Option<i64> = query.number("limit")?;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let all = query.is("all")
        || limit.is_some()
        || !filters.values("status").is_empty()
        || !filters.values("exited").is_empty();
    let wanted = |container: &Container| {
        let labels: HashMap<String, String> = container.config.labels.clone().unwrap_or_default();
        let image = images.iter().find(|image| image.id == container.image);
        (all || container.state.phase.is_up())
            && filters.any("id", |id| container.id.starts_with(id))
            && filters.any("name", |name| name_matches(name, &container.name))
            && filters.any("status", |status| status == summary::status_word(container.state.phase))
            && filters.any("exited", |code| {
                container.state.phase == Phase::Exited && code == container.state.exit_code.to_string()
            })
            && filters.any("network", |text| {
                networks.iter().any(|network| {
                    (network.name == text || network.id == text) && container.endpoint(&network.id).is_some()
                })
            })
            && filters.any("ancestor", |text| {
                let tagged =
                    text.parse().is_ok_and(|tag| image.is_some_and(|image| image.tags.contains(&tag)));
                tagged
                    || container.image.to_string().starts_with(text)
                    || container.image.digits().starts_with(text)
            })
            && filters.labels(&labels)
    };
    let containers = engine.containers();
    let list: Vec<_> = containers
        .iter()
        .filter(|container| wanted(container))
        .take(limit.unwrap_or(usize::MAX))
        .map(|container| summary::model(container, &networks))
        .collect();
    ok(&list)
}

/// `docker start`, and the second half of `docker run`.
pub async fn start(engine: &Engine, id: &str, query: &Query) -> Answer {
    if query.get("checkpoint").is_some() {
        return Err(EngineError::unsupported("checkpoints are not supported"));
    }
    engine.start(id).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `docker stop`.
pub async fn stop(engine: &Engine, id: &str, query: &Query) -> Answer {
    engine.stop(id, query.get("signal"), query.seconds("t")?).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `docker restart`.
pub async fn restart(engine: &Engine, id: &str, query: &Query) -> Answer {
    engine.restart(id, query.get("signal"), query.seconds("t")?).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `docker kill`.
pub async fn kill(engine: &Engine, id: &str, query: &Query) -> Answer {
    engine.kill(id, query.get("signal").unwrap_or("SIGKILL")).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `docker rename`.
pub async fn rename(engine: &Engine, id: &str, query: &Query) -> Answer {
    let name =
        query.get("name").ok_or_else(|| EngineError::invalid("Neither old nor new names may be empty"))?;
    engine.rename(id, name).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `docker rm`.
pub async fn remove(engine: &Engine, id: &str, query: &Query) -> Answer {
    // `v` asks for volumes to go with it: a container's are its own writable layer's.
    query.refuse("link", "removing a link")?;
    engine.remove_container(id, query.is("force")).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `docker container prune`.
pub async fn prune(engine: &Engine, query: &Query) -> Answer {
    Filters::read(query, &[])?;
    ok(&json!({ "ContainersDeleted": engine.prune_containers().await, "SpaceReclaimed": 0 }))
}

/// The client's terminal has another size.
pub fn resize(engine: &Engine, id: &str, query: &Query) -> Answer {
    let (_, hub) = engine.streams(id)?;
    let missing = |name: &str| EngineError::invalid(format!("{name} is missing"));
    let rows = query.number("h")?.ok_or_else(|| missing("h"))?;
    let columns = query.number("w")?.ok_or_else(|| missing("w"))?;
    hub.resize(rows, columns);
    Ok(empty(StatusCode::OK))
}
