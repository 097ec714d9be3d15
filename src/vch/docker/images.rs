//! `docker load`, `import`, `images`, `tag`, `rmi`.

use std::collections::HashMap;

use bollard_stubs::models;
use bytes::Bytes;
use hyper::{Request, Response, StatusCode, body::Incoming, header};
use serde_json::json;
use tokio_util::io::SyncIoBridge;

use super::{
    Answer,
    body::{full, reader},
    empty,
    filters::Filters,
    ok,
    query::Query,
    value,
};
use crate::{
    engine::{Engine, error::EngineError},
    image::{Image, ImageError, Images, Reference, Removed},
};

/// What a list may be narrowed down by.
const FILTERS: [&str; 3] = ["dangling", "label", "reference"];

/// Does something with the images where it may take its time.
async fn with<T: Send + 'static>(
    engine: &Engine,
    work: impl FnOnce(&Images) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, EngineError> {
    let images = engine.images();
    let done = tokio::task::spawn_blocking(move || work(&images)).await.map_err(EngineError::internal)?;
    done.map_err(EngineError::from)
}

/// `docker images`.
pub async fn list(engine: &Engine, query: &Query) -> Answer {
    let filters = Filters::read(query, &FILTERS)?;
    if let Some(text) = filters.values("reference").iter().find(|text| text.contains(['*', '?', '['])) {
        return Err(EngineError::invalid(format!("filter reference={text}: patterns are not supported")));
    }
    let images = with(engine, Images::list).await?;
    let containers = engine.containers();
    let wanted = |image: &Image| {
        let labels: HashMap<String, String> = image.config.labels.clone().into_iter().collect();
        filters.any("dangling", |dangling| matches!(dangling, "true" | "1") == image.tags.is_empty())
            && filters.any("reference", |text| {
                image.tags.iter().any(|tag| {
                    tag.repository() == text
                        || tag.to_string() == text
                        || text.parse().is_ok_and(|other: Reference| other == *tag)
                })
            })
            && filters.labels(&labels)
    };
    let list: Vec<models::ImageSummary> = images
        .iter()
        .filter(|image| wanted(image))
        .map(|image| {
            let users = containers.iter().filter(|container| container.image == image.id).count();
            models::ImageSummary {
                id: image.id.to_string(),
                repo_tags: image.tags.iter().map(ToString::to_string).collect(),
                created: image.created_seconds(),
                size: size(image),
                shared_size: -1,
                labels: image.config.labels.clone().into_iter().collect(),
                containers: i64::try_from(users).unwrap_or(i64::MAX),
                ..models::ImageSummary::default()
            }
        })
        .collect();
    ok(&list)
}

/// `docker load`.
pub async fn load(engine: &Engine, request: Request<Incoming>) -> Answer {
    let archive = reader(request.into_body());
    let loaded = {
        let bridge = SyncIoBridge::new(archive);
        with(engine, move |images| images.load(bridge)).await?
    };
    let mut text = String::new();
    for image in loaded {
        let names: Vec<String> = if image.tags.is_empty() {
            vec![format!("Loaded image ID: {}", image.id)]
        } else {
            image.tags.iter().map(|tag| format!("Loaded image: {tag}")).collect()
        };
        for name in names {
            text += &(json!({ "stream": format!("{name}\n") }).to_string() + "\r\n");
        }
    }
    Ok(messages(text))
}

/// `docker import`, and `docker pull`, which there is none of.
pub async fn import(engine: &Engine, query: &Query, request: Request<Incoming>) -> Answer {
    match query.get("fromSrc") {
        Some("-") => {}
        Some(_) => {
            return Err(EngineError::unsupported(
                "docker import from a URL is not supported: use a file or -",
            ));
        }
        None => {
            let name = query.get("fromImage").unwrap_or_default();
            return Err(EngineError::unsupported(format!(
                "{name} is not here, and registries are not supported: use docker load or docker import"
            )));
        }
    }
    let reference = query.get("repo").map(|repository| match query.get("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    });
    let reference = reference.map(|text| text.parse().map_err(EngineError::invalid)).transpose()?;
    let changes: Vec<String> =
        query.all("changes").filter(|line| !line.is_empty()).map(str::to_owned).collect();
    let message = query.get("message").unwrap_or("Imported from -").to_owned();
    let bridge = SyncIoBridge::new(reader(request.into_body()));
    let id = with(engine, move |images| images.import(bridge, reference, &changes, &message)).await?;
    Ok(messages(json!({ "status": id.to_string() }).to_string() + "\r\n"))
}

/// A response of one JSON object a line, as Docker's longer work has.
fn messages(text: String) -> Response<super::body::Body> {
    let mut response = Response::new(full(Bytes::from(text)));
    response.headers_mut().insert(header::CONTENT_TYPE, value("application/json"));
    response
}

/// `docker image inspect`.
pub async fn inspect(engine: &Engine, name: &str) -> Answer {
    let name = name.to_owned();
    let image = with(engine, move |images| images.find(&name)).await?;
    let config = &image.config;
    let ports: Vec<String> = config.exposed_ports.keys().cloned().collect();
    let volumes: Vec<String> = config.volumes.keys().cloned().collect();
    ok(&models::ImageInspect {
        id: Some(image.id.to_string()),
        repo_tags: Some(image.tags.iter().map(ToString::to_string).collect()),
        repo_digests: Some(Vec::new()),
        parent: Some(String::new()),
        comment: Some(image.comment.clone()),
        created: Some(image.created.clone()),
        author: Some(image.author.clone()),
        config: Some(models::ImageConfig {
            user: Some(config.user.clone()),
            exposed_ports: (!ports.is_empty()).then_some(ports),
            env: Some(config.env.clone()),
            cmd: config.cmd.clone(),
            entrypoint: config.entrypoint.clone(),
            working_dir: Some(config.working_dir.clone()),
            volumes: (!volumes.is_empty()).then_some(volumes),
            labels: Some(config.labels.clone().into_iter().collect()),
            stop_signal: config.stop_signal.clone(),
            stop_timeout: config.stop_timeout,
            shell: config.shell.clone(),
            ..models::ImageConfig::default()
        }),
        architecture: Some(image.architecture.clone()),
        os: Some(image.os.clone()),
        size: Some(size(&image)),
        root_fs: Some(models::ImageInspectRootFs {
            typ: "layers".to_owned(),
            layers: Some(image.layers.clone()),
        }),
        ..models::ImageInspect::default()
    })
}

/// `docker history`.
pub async fn history(engine: &Engine, name: &str) -> Answer {
    let name = name.to_owned();
    let image = with(engine, move |images| images.find(&name)).await?;
    let steps = image.history.iter().rev().map(|step| {
        json!({
            "Id": "<missing>", "Created": 0, "CreatedBy": step.created_by, "Comment": step.comment, "Size": 0,
            "Tags": [],
        })
    });
    ok(&steps.collect::<Vec<_>>())
}

/// `docker tag`.
pub async fn tag(engine: &Engine, name: &str, query: &Query) -> Answer {
    let repository = query.get("repo").ok_or_else(|| EngineError::invalid("repo is missing"))?;
    let reference = match query.get("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    };
    let reference: Reference = reference.parse().map_err(EngineError::invalid)?;
    let name = name.to_owned();
    with(engine, move |images| images.tag(&name, reference)).await?;
    Ok(empty(StatusCode::CREATED))
}

/// `docker rmi`.
pub async fn remove(engine: &Engine, name: &str, query: &Query) -> Answer {
    let (name, force, users) = (name.to_owned(), query.is("force"), engine.clone());
    let removed =
        with(engine, move |images| images.remove(&name, force, &|image| users.user_of(image))).await?;
    let told = removed.into_iter().map(|removed| match removed {
        Removed::Untagged(tag) => json!({ "Untagged": tag }),
        Removed::Deleted(id) => json!({ "Deleted": id.to_string() }),
    });
    ok(&told.collect::<Vec<_>>())
}

fn size(image: &Image) -> i64 {
    i64::try_from(image.size).unwrap_or(i64::MAX)
}
