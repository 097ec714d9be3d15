//! The ways by which guests come: a TCP port, Unix sockets, vsock, and whatever byte stream a
//! program hands over. All lead to the same sessions.

use std::{
    future::Future, io, net::SocketAddr, os::unix::fs::FileTypeExt, path::Path, sync::Arc, time::Duration,
};

use rand::random;
use tether_wire::serial::{Serial, Side};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::sleep,
};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener, VsockStream};

use crate::{
    Host, accept, lock,
    session::{self, Stranger},
    strangers::Origin,
    unhurried::Unhurried,
};

/// How long a serial port is left alone after a life: one that is opened as fast as can be would cost
/// as much as the guest wants.
const BETWEEN_LIVES: Duration = Duration::from_millis(50);

/// Where guests dial to.
pub(crate) trait Listener: Send + Sync + 'static {
    /// What comes of it.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection, and who it is from: for the count of strangers, and for people.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Origin, String)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Origin, String)> {
        let (stream, peer): (TcpStream, SocketAddr) = self.accept().await?;
        // Small messages are to go at once.
        let _ = stream.set_nodelay(true);
        Ok((stream, Origin::Ip(peer.ip()), peer.to_string()))
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Origin, String)> {
        let (stream, _) = self.accept().await?;
        let path = self.local_addr().ok().and_then(|own| own.as_pathname().map(Path::to_owned));
        Ok((stream, Origin::Unix, path.unwrap_or_default().display().to_string()))
    }
}

impl Listener for VsockListener {
    type Stream = VsockStream;

    async fn accept(&self) -> io::Result<(VsockStream, Origin, String)> {
        let (stream, peer) = self.accept().await?;
        Ok((stream, Origin::Vsock(peer.cid()), format!("vsock:{}:{}", peer.cid(), peer.port())))
    }
}

impl Host {
    /// Lets guests come by a Unix socket at `path` too, as long as this host lives. A socket that a
    /// host before has left there is replaced; one on which somebody listens is an error. Who may
    /// connect is the directory's to say.
    ///
    /// Where a machine's vsock is a process outside the kernel (vhost-device-vsock, Firecracker), what
    /// its guest dials at port 7373 of the host arrives at the socket `<its path>_7373`.
    pub fn listen_unix(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_over(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            bound => bound?,
        };
        self.add(listener);
        Ok(())
    }

    /// Lets guests come by vsock too, at this port of whatever context ids this machine has, as long
    /// as this host lives. Needs a kernel with `AF_VSOCK`.
    pub fn listen_vsock(&self, port: u32) -> io::Result<()> {
        self.add(VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port))?);
        Ok(())
    }

    /// Serves one connection of a guest, over any byte stream, until it ends. `peer` says where it is
    /// from, for people. Dropping the future ends the connection.
    pub async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin>(&self, stream: S, peer: impl Into<String>) {
        session::secured(stream, Arc::clone(&self.shared), Stranger::new(peer.into(), None)).await;
    }

    /// Serves the guest at the other end of a serial port, one connection after the other, until the
    /// port ends: that of a machine that is no more, say, whose port is a Unix socket of QEMU's.
    /// Whatever was in the port before is skipped. Dropping the future ends the connection, and the
    /// next host that comes to the port goes on.
    pub async fn serve_serial<P: AsyncRead + AsyncWrite + Send + Unpin>(
        &self,
        port: P,
        peer: impl Into<String>,
    ) -> io::Result<()> {
        let (mut port, peer) = (Serial::new(Unhurried::new(port), Side::Host), peer.into());
        loop {
            match port.open(random()).await {
                Ok(()) => self.serve(&mut port, peer.clone()).await,
                Err(_) if port.is_closed() => return Ok(()),
                Err(error) => return Err(error),
            }
            sleep(BETWEEN_LIVES).await;
        }
    }

    pub(crate) fn add(&self, listener: impl Listener) {
        let accepting = accept(listener, Arc::clone(&self.shared));
        lock(&self.listening).spawn(accepting);
    }
}

/// Whether there is a socket at `path` on which nobody listens. Connecting to a file that is none is
/// refused too.
fn is_left_over(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    is_socket
        && std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, Options};

    async fn host() -> Host {
        Host::listen(Options::without_port(Identity::generate().unwrap())).await.unwrap()
    }

    #[tokio::test]
    async fn a_socket_is_one_hosts_until_that_is_gone() {
        let directory = std::env::temp_dir().join(format!("tether-host-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        let (one, other) = (host().await, host().await);
        assert_eq!(one.address().port(), 0);
        one.listen_unix(&path).unwrap();
        assert_eq!(other.listen_unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(one);
        // The task that listens ends at its next turn.
        tokio::task::yield_now().await;
        other.listen_unix(&path).unwrap();
        // What is no socket stays.
        let file = directory.join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(other.listen_unix(&file).is_err() && file.exists());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
