//! `docker wait`, and what `docker run` waits for.

use bytes::Bytes;
use hyper::{Response, header};
use serde_json::json;

use super::{Answer, body::stream, query::Query, value};
use crate::engine::{Engine, Life, error::EngineError};

/// Answers at once that the answer will come, and then with it: the client starts the container
/// in between.
pub fn wait(engine: &Engine, id: &str, query: &Query) -> Answer {
    let mut life = engine.life(id)?;
    let exits = life.borrow().exits;
    let condition: fn(&Life, u64) -> bool = match query.get("condition") {
        None | Some("not-running") => |life, _| !life.phase.is_up(),
        Some("next-exit") => |life, before| life.exits > before,
        Some("removed") => |life, _| life.removed,
        Some(other) => return Err(EngineError::invalid(format!("invalid condition: {other:?}"))),
    };
    let (sender, body) = stream();
    tokio::spawn(async move {
        let ended = tokio::select! {
            // A container that is gone without a word was removed.
            ended = life.wait_for(|life| life.removed || condition(life, exits)) => ended.map(|life| life.clone()),
            // Nobody waits any more.
            () = sender.closed() => return,
        };
        let ended = ended.unwrap_or_default();
        // Docker's error is one of the waiting itself; the container's own is its exit code.
        let text = json!({ "StatusCode": ended.exit_code, "Error": null }).to_string() + "\n";
        let _ = sender.send(Bytes::from(text)).await;
    });
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, value("application/json"));
    Ok(response)
}
