//! Reaching the host: TCP out of the management NIC and no other.

use std::{
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    num::NonZeroU32,
    time::Duration,
};

use socket2::SockRef;
use tether_wire::{boot::Network, value::is_link_local};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// How long a host on the same link may take to accept a connection. A lost SYN is sent again
/// by the kernel after 1 s, so this is three of them.
const CONNECT: Duration = Duration::from_secs(4);

/// The host's address; for link-local IPv6, `nic` says on which link.
pub(super) fn peer(tether: &Network, nic: u32) -> SocketAddr {
    match tether.host {
        IpAddr::V4(v4) => SocketAddr::from((v4, tether.port)),
        IpAddr::V6(v6) => {
            let scope = if is_link_local(tether.host) { nic } else { 0 };
            SocketAddr::V6(SocketAddrV6::new(v6, tether.port, 0, scope))
        }
    }
}

/// Connects to the host.
pub(super) async fn dial(tether: &Network, nic: u32) -> io::Result<TcpStream> {
    let peer = peer(tether, nic);
    let socket = if peer.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Whatever the routing table says: this connection leaves by the management NIC.
    let nic = NonZeroU32::new(nic);
    if peer.is_ipv4() {
        SockRef::from(&socket).bind_device_by_index_v4(nic)?;
    } else {
        SockRef::from(&socket).bind_device_by_index_v6(nic)?;
    }
    socket.set_nodelay(true)?;
    timeout(CONNECT, socket.connect(peer)).await.map_err(|_| io::ErrorKind::TimedOut)?
}
