//! Putting the host together, and its end.

use std::{fs, io, os::unix::fs::DirBuilderExt, path::Path, sync::Arc};

use hyper::{Request, Response, body::Incoming};
use tether_wire::value::Prefix;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    admin,
    certificates::{self, ServerError},
    config::{Config, ConfigError},
    docker::{
        self,
        body::Body,
        listen::{ListenError, Service, serve_tls, serve_unix},
    },
    engine::{Engine, Settings, error::EngineError},
    machine::{Image, MachineError, accelerator, qemu::Qemu},
};

/// The interface identifier of the host's link-local address on the management network.
const HOST_IDENTIFIER: u64 = 1;

/// Why the host does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is no good.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The boot image is not there.
    #[error(transparent)]
    Image(#[from] MachineError),
    /// A directory cannot be made.
    #[error("{path}: {source}")]
    Directory {
        /// Which.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The engine does not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// There are no certificates.
    #[error(transparent)]
    Certificates(#[from] ServerError),
    /// Clients cannot connect.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Signals are not to be had.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

/// The Docker endpoint's service.
#[derive(Clone)]
struct Endpoint(Engine);

impl Service for Endpoint {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        docker::answer(self.0.clone(), request).await
    }
}

/// Runs the host until SIGINT or SIGTERM. What runs goes on then, and is found again by the next.
pub async fn serve(config: Config) -> Result<(), ServeError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    for directory in [&config.state, &config.run] {
        make_private(directory)?;
    }
    let resolution = config.dns.resolution().map_err(ConfigError::Wrong)?;
    let image = Image::open(&config.image)?;
    let tls = match config.tls()? {
        Some((address, directory)) => {
            let file = |name: &str| directory.join(name);
            let (ca, cert, key) = (file("ca.pem"), file("server-cert.pem"), file("server-key.pem"));
            Some((address, Arc::new(certificates::server_config(&ca, &cert, &key)?)))
        }
        None => None,
    };
    let found = accelerator::find(&image).await;
    let settings = Settings {
        state: config.state.clone(),
        run: config.run.clone(),
        management_bridge: config.management_bridge()?,
        management_address: Prefix::link_local(HOST_IDENTIFIER),
        port: config.management.port,
        endpoint: tls.iter().map(|(address, _)| *address).collect(),
        resolution,
    };
    let hypervisor = Box::new(Qemu::new(image, found));
    let engine = Engine::open(settings, hypervisor, config.external.clone()).await?;
    let (shutdown, mut over) = mpsc::channel(1);
    admin::open(engine.clone(), &config.run, shutdown)?;
    let socket = config.socket();
    serve_unix(&socket, Endpoint(engine.clone()))?;
    tracing::info!("machines run on {}; Docker clients connect to unix://{}", found.name(), socket.display());
    if let Some((address, tls)) = tls {
        let address = serve_tls(address, tls, Endpoint(engine.clone())).await?;
        tracing::info!("and, with certificates, to tcp://{address}");
    }
    tokio::select! {
        _ = interrupt.recv() => tracing::info!("what runs goes on; vch shutdown ends it"),
        _ = terminate.recv() => tracing::info!("what runs goes on; vch shutdown ends it"),
        _ = over.recv() => {
            tracing::info!("everything has ended");
            // The answer is on its way to whoever asked.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let _ = fs::remove_file(admin::socket(&config.run));
        }
    }
    // So that nobody connects to nobody.
    let _ = fs::remove_file(socket);
    Ok(())
}

/// Makes a directory that is its owner's alone.
fn make_private(path: &Path) -> Result<(), ServeError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| ServeError::Directory { path: path.display().to_string(), source })
}
