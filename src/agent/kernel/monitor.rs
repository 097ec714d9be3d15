//! Hearing of changes.

use std::{io, sync::Arc, time::Duration};

use futures_util::FutureExt as _;

use netlink_packet_route::neighbour::NeighbourHeader;
use nix::libc::{NUD_PERMANENT, RTM_DELNEIGH, RTM_NEWNEIGH};
use rtnetlink::{MulticastGroup, sys::AsyncSocketExt};
use tokio::{sync::Notify, time::sleep};

use super::{
    attributes::{attributes, u8_of},
    neighbour::{HEADER, NDA_PROTOCOL},
    socket::messages,
};

/// The longest datagram that is read. One that is longer is a change too.
const LONGEST: usize = 8 << 10;

/// How long nothing is read after something was told.
const PAUSE: Duration = Duration::from_millis(10);

/// As many datagrams as the socket's queue takes, about.
const QUEUED: usize = 512;

/// Tells `changes` of everything that happens to what `observe` reads, for as long as the process
/// lives.
pub(super) fn start(changes: Arc<Notify>) -> io::Result<()> {
    let (mut connection, _, _) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
        // Settings: forwarding, rp_filter and a few more are told.
        MulticastGroup::Ipv4Netconf,
        MulticastGroup::Ipv6Netconf,
    ])?;
    tokio::spawn(async move {
        // The connection is only read: left to itself it would parse every message and drop those
        // it has no type for, Netconf's among them.
        let socket = connection.socket_mut();
        let mut datagram = Vec::with_capacity(LONGEST);
        loop {
            datagram.clear();
            // Where messages were lost (ENOBUFS) something has happened.
            let mut tells = socket.recv(&mut datagram).await.is_err() || matters(&datagram);
            // What else there is by now tells the same. Bounded: others want their turn.
            for _ in 0..QUEUED {
                datagram.clear();
                let Some(received) = socket.recv(&mut datagram).now_or_never() else { break };
                tells = tells || received.is_err() || matters(&datagram);
            }
            if tells {
                changes.notify_one();
            }
            // Thousands come one by one while tether itself makes changes. The queue takes the
            // first few hundred meanwhile, and the kernel drops the others.
            sleep(PAUSE).await;
        }
    });
    Ok(())
}

/// Whether a datagram tells of anything that is looked at. What else it says does not matter:
/// whoever is told reads the whole state again.
pub(super) fn matters(datagram: &[u8]) -> bool {
    datagram.len() == LONGEST
        || messages(datagram).any(|message| match message.message_type() {
            // Neighbours change all the time, those that were made to stay do not. An entry is
            // marked as failed before it is deleted, so only its maker tells what it was.
            RTM_NEWNEIGH | RTM_DELNEIGH => {
                let state = NeighbourHeader::parse(message.payload()).map(|header| u16::from(header.state));
                let attributes_of = message.payload().get(HEADER..).unwrap_or_default();
                let protocol = attributes(attributes_of).find(|(kind, _)| *kind == NDA_PROTOCOL);
                state.is_ok_and(|state| state & NUD_PERMANENT != 0)
                    || protocol.and_then(|(_, value)| u8_of(value)).is_some_and(|protocol| protocol != 0)
            }
            _ => true,
        })
}
