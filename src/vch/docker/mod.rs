//! The Docker endpoint: the Engine API, as far as container VMs go.
//!
//! [`listen`] has the sockets, this the routes; [`networks`], [`containers`], [`images`] and
//! [`system`] translate between Docker's words and the engine's. What is not built says so: no
//! option is taken and dropped. Nothing here decides anything about networks or machines.

pub mod attach;
pub mod body;
pub mod containers;
pub mod create;
pub mod filters;
pub mod images;
pub mod inspect;
pub mod listen;
pub mod logs;
pub mod networks;
pub mod query;
pub mod summary;
pub mod system;
pub mod wait;

use hyper::{Method, Request, Response, StatusCode, body::Incoming, header};
use serde::Serialize;

use self::{
    body::{Body, full},
    query::Query,
};
use crate::engine::{
    Engine,
    error::{EngineError, Kind},
};

/// The newest version of the API that is spoken.
pub const API: (u32, u32) = (1, 51);
/// The oldest.
pub const API_MIN: (u32, u32) = (1, 41);

/// What a request comes to.
pub type Answer = Result<Response<Body>, EngineError>;

/// Answers one request. It is carried out to its end also when the client goes away meanwhile:
/// half a container would be worse than one nobody waits for.
pub async fn answer(engine: Engine, request: Request<Incoming>) -> Response<Body> {
    let carried_out = tokio::spawn(async move { route(&engine, request).await });
    let mut response = match carried_out.await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => refusal(&error),
        Err(error) => refusal(&EngineError::internal(format!("the request failed: {error}"))),
    };
    let headers = response.headers_mut();
    let version = format!("{}.{}", API.0, API.1);
    headers.insert("Api-Version", value(&version));
    headers.insert("Ostype", value("linux"));
    headers.insert("Docker-Experimental", value("false"));
    headers.insert(header::SERVER, value(concat!("vch/", env!("CARGO_PKG_VERSION"))));
    response
}

async fn route(engine: &Engine, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let (version, path) = split_version(&path)?;
    refuse_platforms(&query)?;
    let decoded: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(query::decode).collect();
    let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
    let method = request.method().clone();
    let (get, post, delete) = (method == Method::GET, method == Method::POST, method == Method::DELETE);
    match parts.as_slice() {
        ["_ping"] if get || method == Method::HEAD => Ok(system::ping(method == Method::HEAD)),
        ["version"] if get => system::version(),
        ["info"] if get => system::info(engine),
        ["metrics"] if get => Ok(system::metrics(engine)),
        ["auth"] if post => Err(EngineError::unsupported("registries are not supported: use docker load")),

        ["networks"] if get => networks::list(engine, &query),
        ["networks", "create"] if post => networks::create(engine, request).await,
        ["networks", "prune"] if post => networks::prune(engine, &query).await,
        ["networks", id] if get => networks::inspect(engine, id),
        ["networks", id] if delete => networks::remove(engine, id).await,
        ["networks", id, "connect"] if post => networks::connect(engine, id, request).await,
        ["networks", id, "disconnect"] if post => networks::disconnect(engine, id, request).await,

        ["containers", "json"] if get => containers::list(engine, &query),
        ["containers", "create"] if post => create::create(engine, &query, request).await,
        ["containers", "prune"] if post => containers::prune(engine, &query).await,
        ["containers", id] if delete => containers::remove(engine, id, &query).await,
        ["containers", id, "json"] if get => inspect::inspect(engine, id, &query),
        ["containers", id, "start"] if post => containers::start(engine, id, &query).await,
        ["containers", id, "stop"] if post => containers::stop(engine, id, &query).await,
        ["containers", id, "restart"] if post => containers::restart(engine, id, &query).await,
        ["containers", id, "kill"] if post => containers::kill(engine, id, &query).await,
        ["containers", id, "rename"] if post => containers::rename(engine, id, &query).await,
        ["containers", id, "resize"] if post => containers::resize(engine, id, &query),
        ["containers", id, "wait"] if post => wait::wait(engine, id, &query),
        ["containers", id, "logs"] if get => logs::logs(engine, id, &query).await,
        ["containers", id, "attach"] if post => attach::attach(engine, id, &query, request, version).await,

        ["images", "json"] if get => images::list(engine, &query).await,
        ["images", "load"] if post => images::load(engine, request).await,
        ["images", "create"] if post => images::import(engine, &query, request).await,
        ["images", name @ .., "json"] if get => images::inspect(engine, &name.join("/")).await,
        ["images", name @ .., "history"] if get => images::history(engine, &name.join("/")).await,
        ["images", name @ .., "tag"] if post => images::tag(engine, &name.join("/"), &query).await,
        ["images", name @ ..] if delete && !name.is_empty() => {
            images::remove(engine, &name.join("/"), &query).await
        }
        parts => Err(nothing_there(&method, parts)),
    }
}

/// What is said of an address of Docker's API that has nothing behind it here, and of one that
/// is no such address.
fn nothing_there(method: &Method, parts: &[&str]) -> EngineError {
    let what = match parts {
        ["containers", _, "exec"] | ["exec", ..] => "docker exec",
        ["containers", _, "archive"] => "docker cp",
        ["containers", _, "pause" | "unpause"] => "docker pause",
        ["containers", _, "update"] => "docker update",
        ["containers", _, "top"] => "docker top",
        ["containers", _, "stats"] => "docker stats",
        ["containers", _, "changes"] => "docker diff",
        ["containers", _, "export"] => "docker export",
        ["containers", _, "checkpoints", ..] => "docker checkpoint",
        ["commit"] => "docker commit",
        ["build", ..] | ["session"] => "docker build",
        ["images", "get"] | ["images", _, "get"] => "docker save",
        ["images", "search"] => "docker search",
        ["images", "prune"] => "docker image prune",
        ["images", .., "push"] => "docker push",
        ["events"] => "docker events",
        ["system", "df"] => "docker system df",
        ["volumes", ..] => "volumes",
        ["plugins", ..] => "plugins",
        ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..] => "swarm mode",
        _ => return EngineError::not_found(format!("page not found: {method} /{}", parts.join("/"))),
    };
    EngineError::unsupported(format!("{what}: not supported by vch {}", env!("CARGO_PKG_VERSION")))
}

/// Refuses what is about another platform: images here are for one only.
fn refuse_platforms(query: &Query) -> Result<(), EngineError> {
    for name in ["platform", "platforms"] {
        for text in query.all(name).filter(|text| !text.is_empty()) {
            let json: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
            let named =
                json["os"] == "linux" && matches!(json["architecture"].as_str(), None | Some("amd64"));
            if !named && !matches!(text, "linux" | "linux/amd64") {
                return Err(EngineError::invalid(format!(
                    "{name} {text} is not supported: there is linux/amd64"
                )));
            }
        }
    }
    Ok(())
}

/// Takes `/v1.45` off a path, if it is a version that is spoken.
fn split_version(path: &str) -> Result<((u32, u32), &str), EngineError> {
    let Some((version, rest)) =
        path.strip_prefix("/v").map(|rest| rest.split_once('/').unwrap_or((rest, "")))
    else {
        return Ok((API, path));
    };
    let numbers =
        version.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let Some(numbers) = numbers else { return Ok((API, path)) };
    if numbers < API_MIN {
        return Err(EngineError::invalid(format!(
            "client version {version} is too old. Minimum supported API version is {}.{}, please upgrade your client \
             to a newer version",
            API_MIN.0, API_MIN.1
        )));
    }
    if numbers > API {
        return Err(EngineError::invalid(format!(
            "client version {version} is too new. Maximum supported API version is {}.{}",
            API.0, API.1
        )));
    }
    Ok((numbers, rest))
}

/// A refusal in Docker's form.
fn refusal(error: &EngineError) -> Response<Body> {
    let status = match error.kind {
        Kind::NotModified => {
            return empty(StatusCode::NOT_MODIFIED);
        }
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!("{error}");
    }
    json(status, &serde_json::json!({ "message": error.message }))
}

/// A response that is JSON.
fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, self::value("application/json"));
    response
}

/// A response that is JSON, of a request that did what it should: the end of most handlers.
#[expect(clippy::unnecessary_wraps, reason = "every handler ends in an Answer")]
fn ok(value: &impl Serialize) -> Answer {
    Ok(json(StatusCode::OK, value))
}

/// A response without content.
fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Vec::new()));
    *response.status_mut() = status;
    response
}

/// A header's value. What no header can hold is left out.
fn value(text: &str) -> header::HeaderValue {
    header::HeaderValue::from_str(text).unwrap_or(header::HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_negotiated() {
        assert_eq!(split_version("/v1.45/info").unwrap(), ((1, 45), "info"));
        assert_eq!(split_version("/info").unwrap(), (API, "/info"));
        assert_eq!(split_version("/volumes").unwrap(), (API, "/volumes"));
        assert!(split_version("/v1.24/info").unwrap_err().message.contains("too old"));
        assert!(split_version("/v1.99/info").unwrap_err().message.contains("too new"));
    }
}
