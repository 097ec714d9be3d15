//! Bodies of requests and responses: limits, time limits, JSON.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{io::AsyncRead, sync::mpsc, time::timeout};
use tokio_util::io::StreamReader;

use crate::engine::error::EngineError;

/// The longest JSON document that is read, in bytes. A container's whole configuration is some
/// kilobytes.
const JSON_LIMIT: usize = 1 << 20;
/// How long a client may take over a JSON document, or to send more of an image.
const PATIENCE: Duration = Duration::from_secs(30);

/// A response's body.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body that is there as a whole.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that comes piece by piece; it ends when the sender is dropped.
pub fn stream() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let bytes = receiver.recv().await?;
        Some((Ok(Frame::data(bytes)), receiver))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

/// Reads a request's JSON document.
pub async fn read_json(body: Incoming) -> Result<Value, EngineError> {
    let bytes = match timeout(PATIENCE, gather(body)).await {
        Ok(bytes) => bytes?,
        Err(_) => {
            return Err(EngineError::invalid(format!("the body did not come in {} s", PATIENCE.as_secs())));
        }
    };
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).map_err(|error| EngineError::invalid(format!("invalid JSON: {error}")))
}

/// Reads a request's JSON document as a value of a type.
pub async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, EngineError> {
    parse(read_json(body).await?)
}

/// A JSON document as a value of a type; what is wrong is told with its place.
pub fn parse<T: DeserializeOwned>(value: Value) -> Result<T, EngineError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        EngineError::invalid(if path == "." { error.to_string() } else { format!("{path}: {error}") })
    })
}

async fn gather(mut body: Incoming) -> Result<Bytes, EngineError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| EngineError::invalid(format!("the body: {error}")))?;
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > JSON_LIMIT {
                return Err(EngineError::too_large(format!(
                    "the body is too large: {JSON_LIMIT} bytes at most"
                )));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

/// A request's body as a stream of bytes. A client that sends nothing for half a minute has
/// ended.
pub fn reader(body: Incoming) -> impl AsyncRead {
    let frames = TryStreamExt::map_err(BodyStream::new(body), io::Error::other);
    let data = frames.try_filter_map(|frame| async { Ok(frame.into_data().ok()) });
    let data = Box::pin(data);
    let patient = futures_util::stream::unfold(data, |mut data| async move {
        let next = match timeout(PATIENCE, data.try_next()).await {
            Ok(next) => next,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client sends nothing more")),
        };
        next.transpose().map(|item| (item, data))
    });
    StreamReader::new(Box::pin(patient))
}
