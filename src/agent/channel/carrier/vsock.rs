//! Reaching the host over `AF_VSOCK`, which needs neither a NIC nor an address plan.

use std::{io, os::fd::OwnedFd, os::unix, time::Duration};

use nix::libc::EINPROGRESS;
use socket2::{Domain, SockAddr, Socket, Type};
use tether_wire::boot::VsockAddress;
use tokio::{net::UnixStream, time::timeout};

/// How long a host may take to accept a connection. The kernel gives up after 2 s by itself
/// (`VSOCK_DEFAULT_CONNECT_TIMEOUT`).
const CONNECT: Duration = Duration::from_secs(4);

/// Connects to the host.
pub(super) async fn dial(address: VsockAddress) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::VSOCK, Type::STREAM.nonblocking().cloexec(), None)?;
    match socket.connect(&SockAddr::vsock(address.cid, address.port)) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(error),
        _ => {}
    }
    // tokio has no type for this family; reading, writing and waiting are every stream socket's,
    // and nobody asks this one for its path.
    let stream = UnixStream::from_std(unix::net::UnixStream::from(OwnedFd::from(socket)))?;
    timeout(CONNECT, stream.writable()).await.map_err(|_| io::ErrorKind::TimedOut)??;
    match stream.take_error()? {
        None => Ok(stream),
        Some(error) => Err(error),
    }
}
