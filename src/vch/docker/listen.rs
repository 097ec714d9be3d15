//! Where Docker clients connect: a Unix socket, and TCP with certificates on both sides.

use std::{
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use super::body::Body;

/// How many clients are served at once.
const CLIENTS: usize = 1_024;
/// How long a client may take to shake hands, or over a request's head.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The Unix socket cannot be made.
    #[error("{path}: {source}")]
    Unix {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The TCP socket cannot be made.
    #[error("cannot listen for Docker clients on {address}: {source}")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// A service: from requests to responses.
pub trait Service: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

/// Serves a Unix socket, for as long as this process runs. Its owner and its group may use it.
pub fn serve_unix(path: &Path, service: impl Service) -> Result<(), ListenError> {
    let at = |source| ListenError::Unix { path: path.to_owned(), source };
    // One that an earlier run has left; a file that is none stays, and the bind says so.
    if fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        fs::remove_file(path).map_err(at)?;
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(at)?;
    }
    let listener = UnixListener::bind(path).map_err(at)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(at)?;
    tokio::spawn(async move {
        let clients = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(stream, service.clone(), permit))),
                Err(error) => refused(&error).await,
            }
        }
    });
    Ok(())
}

/// Serves TCP with TLS, for as long as this process runs. `tls` has to ask for the client's
/// certificate: nothing else says who it is.
pub async fn serve_tls(
    address: SocketAddr,
    tls: Arc<ServerConfig>,
    service: impl Service,
) -> Result<SocketAddr, ListenError> {
    let at = |source| ListenError::Tcp { address, source };
    let listener = TcpListener::bind(address).await.map_err(at)?;
    let bound = listener.local_addr().map_err(at)?;
    let acceptor = TlsAcceptor::from(tls);
    tokio::spawn(async move {
        let clients = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (acceptor, service) = (acceptor.clone(), service.clone());
                    tokio::spawn(async move {
                        match timeout(PATIENCE, acceptor.accept(stream)).await {
                            Ok(Ok(stream)) => serve(stream, service, permit).await,
                            Ok(Err(error)) => tracing::warn!(%peer, "no TLS: {error}"),
                            Err(_) => tracing::debug!(%peer, "no TLS: too slow"),
                        }
                    });
                }
                Err(error) => refused(&error).await,
            }
        }
    });
    Ok(bound)
}

async fn refused(error: &io::Error) {
    // Out of file descriptors, most likely: others have to close theirs first.
    tracing::warn!("cannot accept a client: {error}");
    sleep(Duration::from_millis(100)).await;
}

async fn serve<S>(stream: S, service: impl Service, permit: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let permit = Arc::new(permit);
    let held = Arc::clone(&permit);
    let respond = service_fn(move |mut request: Request<Incoming>| {
        let service = service.clone();
        request.extensions_mut().insert(Arc::clone(&held));
        async move { Ok::<_, Infallible>(service.answer(request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).half_close(true).max_buf_size(64 << 10);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), respond).with_upgrades().await {
        tracing::debug!("a client: {error}");
    }
    drop(permit);
}
