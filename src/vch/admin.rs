//! The administrator's door: external networks, and the end. A Unix socket of its own, for root
//! alone, so that a Docker client can never get at it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::UnixStream, sync::mpsc};

use crate::{
    docker::{
        body::{self, Body, full},
        listen::{ListenError, Service, serve_unix},
    },
    engine::{Engine, error::EngineError, networks::WantedExternal, record::NetworkKind},
};

/// The longest answer that is read, in bytes.
const ANSWER: usize = 1 << 20;

/// The socket in a run directory.
pub fn socket(run: &Path) -> PathBuf {
    run.join("admin.sock")
}

/// Why the administrator's wish was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody answers.
    #[error("{path}: {source}; is vch serve running, with this run directory?")]
    Away {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It does not speak our language, or stops in between.
    #[error("vch serve does not answer: {0}")]
    Broken(#[from] hyper::Error),
    /// It refuses.
    #[error("{0}")]
    Refused(String),
}

/// What answers at the door.
#[derive(Clone, Debug)]
struct Door {
    engine: Engine,
    shutdown: mpsc::Sender<()>,
}

/// Opens the door. What comes through `shutdown` is that everything is to end.
pub fn open(engine: Engine, run: &Path, shutdown: mpsc::Sender<()>) -> Result<(), ListenError> {
    let path = socket(run);
    serve_unix(&path, Door { engine, shutdown })?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
        .map_err(|source| ListenError::Unix { path: path.clone(), source })
}

impl Service for Door {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let door = self.clone();
        // As for Docker clients: begun is done.
        let done = tokio::spawn(async move { door.route(request).await }).await;
        let (status, value) = match done {
            Ok(Ok(value)) => (StatusCode::OK, value),
            Ok(Err(error)) => (StatusCode::BAD_REQUEST, json!({ "message": error.message })),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, json!({ "message": error.to_string() })),
        };
        let mut response = Response::new(full(value.to_string()));
        *response.status_mut() = status;
        response
    }
}

impl Door {
    async fn route(&self, request: Request<Incoming>) -> Result<Value, EngineError> {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::GET, "/networks") => Ok(self.networks()),
            (&Method::POST, "/networks") => {
                let wanted: WantedExternal = body::read(request.into_body()).await?;
                let network = self.engine.add_external(wanted, false).await?;
                Ok(json!({ "id": network.id }))
            }
            (&Method::DELETE, path) if path.starts_with("/networks/") => {
                let name = path.trim_start_matches("/networks/");
                self.engine.remove_network(name, true).await?;
                Ok(json!({}))
            }
            (&Method::POST, "/shutdown") => {
                self.engine.shut_down().await;
                // It may have been told already.
                let _ = self.shutdown.try_send(());
                Ok(json!({}))
            }
            _ => Err(EngineError::not_found("page not found")),
        }
    }

    fn networks(&self) -> Value {
        let networks = self.engine.networks();
        let external = networks.iter().filter_map(|network| {
            let NetworkKind::External { link, address, configured } = &network.kind else { return None };
            let pool = network.subnets.first()?;
            Some(json!({
                "name": network.name, "subnet": pool.subnet().to_string(), "gateway": pool.gateway().to_string(),
                "link": link.as_str(), "address": address.map(|own| own.address().to_string()),
                "configured": configured,
            }))
        });
        Value::Array(external.collect())
    }
}

/// Asks the `vch serve` with this run directory for something.
pub async fn ask(run: &Path, method: Method, path: &str, document: &Value) -> Result<Value, AdminError> {
    let socket = socket(run);
    let stream = UnixStream::connect(&socket).await;
    let stream = stream.map_err(|source| AdminError::Away { path: socket, source })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::new(Full::new(Bytes::from(document.to_string())));
    *request.method_mut() = method;
    *request.uri_mut() =
        path.parse().map_err(|_| AdminError::Refused(format!("{path:?} cannot be asked for")))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let bytes = Limited::new(response.into_body(), ANSWER).collect().await;
    let bytes = bytes.map_err(|error| AdminError::Refused(error.to_string()))?.to_bytes();
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if status.is_success() {
        Ok(value)
    } else {
        Err(AdminError::Refused(value["message"].as_str().unwrap_or("no reason given").to_owned()))
    }
}
