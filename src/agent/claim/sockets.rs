//! The sockets that are open: one for each link and protocol, for as long as they are needed.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    io::{self, ErrorKind::WouldBlock},
    mem::MaybeUninit,
    net::IpAddr,
    task::{Context, Poll},
};

use super::{
    Claim, Heard, Message, Packet, Protocol, arp,
    neighbour::{self, ALL_NODES_MAC},
    socket::{LinkSocket, link_name},
};

/// How much of a packet is read: neighbour advertisements may have options, but none that are
/// long.
const BUFFER: usize = 1500;
/// How many packets of one socket are read in a row.
const MOST: usize = 256;
const BROADCAST: [u8; 6] = [0xff; 6];

/// The sockets by link and protocol.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// `None`: it could not be opened, which has been told, and is not tried again as long as it
    /// is needed.
    open: HashMap<(u32, Protocol), Option<LinkSocket>>,
}

impl Sockets {
    /// Opens those that are missing and closes those that are not needed.
    pub(super) fn keep(&mut self, needed: &HashSet<(u32, Protocol)>) {
        self.open.retain(|kind, _| needed.contains(kind));
        for kind in needed {
            if let Entry::Vacant(entry) = self.open.entry(*kind) {
                let opened = open(*kind);
                if let Err(error) = &opened {
                    tracing::warn!("addresses are neither announced nor checked on {error}");
                }
                entry.insert(opened.ok());
            }
        }
    }

    /// Whether packets can pass on `link` by ARP. An error names the link.
    pub(super) fn is_running(&mut self, link: u32) -> io::Result<bool> {
        let kind = (link, Protocol::Arp);
        let socket = self.open.entry(kind).or_default();
        let socket = match socket {
            Some(socket) => socket,
            None => socket.insert(open(kind)?),
        };
        socket.is_running().map_err(|error| about(link, &error))
    }

    /// Sends a packet. One that cannot be sent is lost as one on the wire is: each is sent more
    /// than once.
    pub(super) fn send(&self, Packet { claim, message }: &Packet) {
        let Claim { link, mac, address } = *claim;
        let Some(Some(socket)) = self.open.get(&(link, Protocol::of(address))) else {
            return;
        };
        let sent = match (message, address) {
            (Message::Probe, IpAddr::V4(address)) => socket.send(&arp::probe(mac, address), BROADCAST),
            (Message::Announcement, IpAddr::V4(address)) => {
                socket.send(&arp::announcement(mac, address), BROADCAST)
            }
            (Message::Announcement, IpAddr::V6(address)) => {
                socket.send(&neighbour::advertisement(mac, address), ALL_NODES_MAC)
            }
            // The kernel probes for these.
            (Message::Probe, IpAddr::V6(_)) => Ok(()),
        };
        if let Err(error) = sent {
            tracing::debug!(?message, %address, "cannot be sent: {}", about(link, &error));
        }
    }

    /// Hands on what has come, some of each socket.
    pub(super) fn receive(&mut self, mut heard: impl FnMut(u32, &Heard)) {
        for ((link, protocol), slot) in &mut self.open {
            for _ in 0..MOST {
                let Some(socket) = slot else { break };
                let mut buffer = [MaybeUninit::uninit(); BUFFER];
                let packet = socket.receive(&mut buffer).map(|(packet, source)| match protocol {
                    Protocol::Arp => arp::read(packet),
                    Protocol::Ipv6 => neighbour::read(packet, source),
                });
                match packet {
                    Ok(Some(packet)) => heard(*link, &packet),
                    Ok(None) => {}
                    Err(error) if error.kind() == WouldBlock => break,
                    // Told once, and it goes on when the link is up again.
                    Err(error) if error.kind() == io::ErrorKind::NetworkDown => {}
                    Err(error) => {
                        tracing::warn!("addresses are no longer checked on {}", about(*link, &error));
                        *slot = None;
                    }
                }
            }
        }
    }

    /// Waits until there is something to receive.
    pub(super) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        // Each is asked, so that each wakes.
        let ready = self.open.values().flatten().filter(|socket| socket.poll_readable(context).is_ready());
        if ready.count() > 0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

fn open((link, protocol): (u32, Protocol)) -> io::Result<LinkSocket> {
    LinkSocket::open(link, protocol).map_err(|error| about(link, &error))
}

/// An error with the name of the link it is about.
pub(super) fn about(link: u32, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", link_name(link)))
}
