//! The floor: a bare netlink loop that knows nothing but how to send prepared messages and to
//! count the answers.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
            setsockopt, socket,
            sockopt::{RcvBufForce, ReceiveTimeout},
        },
        time::{TimeVal, TimeValLike as _},
    },
};

/// How many messages go out at once: as many as the agent's.
const BATCH: usize = 128;
/// As much as the agent's.
const RECEIVE_BUFFER: usize = 4 << 20;
/// What the agent marks everything with that it makes.
const PROTOCOL: u8 = 116;

const NLMSG_ERROR: u16 = 2;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
/// `NLM_F_REQUEST | NLM_F_ACK`, and `NLM_F_CREATE | NLM_F_EXCL`.
const REQUEST: u16 = 0x5;
const NEW: u16 = 0x600;

/// The groups the agent listens to: links, neighbours, addresses, routes and rules of both
/// families, and their settings (`RTMGRP_…`, `1 << (RTNLGRP_… - 1)`).
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18 | 1 << 23 | 1 << 24;

/// Messages in batches, ready to be sent.
pub(crate) struct Batches(Vec<(Vec<u8>, usize)>);

impl Batches {
    fn new(messages: &[Vec<u8>]) -> Self {
        Self(messages.chunks(BATCH).map(|batch| (batch.concat(), batch.len())).collect())
    }

    /// What makes these addresses and routes on a link, and what takes them away again.
    pub(crate) fn pair(
        link: u32,
        addresses: &[Ipv4Addr],
        routes: &[Ipv4Addr],
        gateway: Ipv4Addr,
    ) -> (Self, Self) {
        let routes = || routes.iter().map(|to| (*to, gateway));
        let come = addresses.iter().map(|own| address(RTM_NEWADDR, link, *own));
        let come: Vec<_> = come.chain(routes().map(|(to, via)| route(RTM_NEWROUTE, link, to, via))).collect();
        let gone = routes().map(|(to, via)| route(RTM_DELROUTE, link, to, via));
        // The first one last: the others are secondary to it.
        let own = addresses.iter().rev();
        let gone: Vec<_> = gone.chain(own.map(|own| address(RTM_DELADDR, link, *own))).collect();
        (Self::new(&come), Self::new(&gone))
    }
}

/// A netlink socket in the network namespace in which it was opened.
pub(crate) struct Floor {
    socket: OwnedFd,
    received: Vec<u8>,
}

impl Floor {
    pub(crate) fn open() -> Self {
        Self { socket: open(0), received: vec![0; 64 << 10] }
    }

    /// Sends everything and waits for every answer, each of which has to be a success.
    pub(crate) fn run(&mut self, batches: &Batches) {
        for (bytes, count) in &batches.0 {
            send(self.socket.as_raw_fd(), bytes, MsgFlags::empty()).expect("the kernel takes it");
            let mut open = *count;
            while open > 0 {
                let length = recv(self.socket.as_raw_fd(), &mut self.received, MsgFlags::empty());
                let mut rest = &self.received[..length.expect("the kernel answers")];
                while let Some((header, body)) = rest.split_first_chunk::<16>() {
                    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
                    let code = body.first_chunk().map(|code| i32::from_ne_bytes(*code));
                    assert_eq!(
                        (u16::from_ne_bytes([header[4], header[5]]), code),
                        (NLMSG_ERROR, Some(0)),
                        "the kernel refuses what is to be the floor"
                    );
                    open -= 1;
                    rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                }
            }
        }
    }
}

/// Somebody who hears of every change, as the agent does.
pub(crate) struct Listener(OwnedFd);

impl Listener {
    pub(crate) fn open() -> Self {
        Self(open(GROUPS))
    }

    /// Hears what there is, and forgets it.
    pub(crate) fn drain(&self) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => return,
                // Some were lost: there was nobody to hear them.
                Ok(_) | Err(Errno::ENOBUFS) => {}
                Err(error) => panic!("listening: {error}"),
            }
        }
    }
}

fn open(groups: u32) -> OwnedFd {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
            .expect("a netlink socket");
    // Without the right to it the default has to do, as for the agent.
    let _ = setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER);
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(5)).expect("a deadline");
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups)).expect("an address");
    socket
}

/// An address in a /16, in the words of the agent.
fn address(kind: u16, link: u32, own: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![2, 16, 0, 0];
    body.extend(link.to_ne_bytes());
    attribute(&mut body, 2, &own.octets());
    attribute(&mut body, 1, &own.octets());
    if kind == RTM_DELADDR {
        return message(kind, REQUEST, &body);
    }
    let [a, b, ..] = own.octets();
    attribute(&mut body, 4, &[a, b, 255, 255]);
    attribute(&mut body, 8, &0_u32.to_ne_bytes());
    attribute(&mut body, 11, &[PROTOCOL]);
    message(kind, REQUEST | NEW, &body)
}

/// A route to a /24 in the main table, in the words of the agent.
fn route(kind: u16, link: u32, to: Ipv4Addr, gateway: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![2, 24, 0, 0, 254, PROTOCOL, 0, 1, 0, 0, 0, 0];
    attribute(&mut body, 15, &254_u32.to_ne_bytes());
    attribute(&mut body, 1, &to.octets());
    attribute(&mut body, 5, &gateway.octets());
    attribute(&mut body, 4, &link.to_ne_bytes());
    message(kind, if kind == RTM_NEWROUTE { REQUEST | NEW } else { REQUEST }, &body)
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("it is short");
    body.extend([length, kind].map(u16::to_ne_bytes).into_iter().flatten());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).expect("it is short");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend([kind, flags].map(u16::to_ne_bytes).into_iter().flatten());
    // Number and sender: answers come in order, and nobody else asks.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}
