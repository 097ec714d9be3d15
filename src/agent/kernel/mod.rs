//! Netlink: read the observed state, carry out operations, hear of changes.
//!
//! It decides nothing: what to do is the planner's, and every answer of the kernel goes back to
//! the caller. Every request has a deadline, because a reply the netlink crates cannot parse is
//! dropped by them and its request would wait for ever.

mod carry_out;
mod error;
mod observe;

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, MulticastGroup, sys::AsyncSocket};
use tokio::{sync::Notify, time::timeout};

pub use error::KernelError;

/// How long the kernel may take over one request. It answers in microseconds; seconds mean that
/// the answer is lost.
const DEADLINE: Duration = Duration::from_secs(5);

/// How often an interrupted dump is begun anew before it is an error.
const DUMP_ATTEMPTS: u32 = 8;

/// The kernel's networking in the network namespace this was opened in.
#[derive(Debug)]
pub struct Kernel {
    handle: Handle,
    changes: Arc<Notify>,
}

impl Kernel {
    /// Opens the kernel's networking and starts to listen for changes.
    ///
    /// Runs two tasks on the current tokio runtime for as long as the process lives.
    pub fn open() -> std::io::Result<Self> {
        let (mut connection, handle, _) = rtnetlink::new_connection()?;
        let socket = connection.socket_mut().socket_mut();
        // Errors come with the kernel's own words, and without a copy of the request.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        // Without these, an interrupted dump and a socket that died look like an end like any other.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        tokio::spawn(connection);

        let (monitor, _, mut messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])?;
        tokio::spawn(monitor);
        let changes = Arc::new(Notify::new());
        let notify = Arc::clone(&changes);
        tokio::spawn(async move {
            // What a message says does not matter, and neither does a lost one (ENOBUFS comes as
            // a message too): whoever is told reads the whole state again.
            while messages.next().await.is_some() {
                notify.notify_one();
            }
        });
        Ok(Self { handle, changes })
    }

    /// Waits until something may have changed since the last call. One caller at a time.
    pub async fn changed(&self) {
        self.changes.notified().await;
    }

    /// Sends one request and waits for its acknowledgement.
    async fn request(&self, message: RouteNetlinkMessage, flags: u16) -> Result<(), KernelError> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut replies = self.handle.clone().request(message).map_err(|_| KernelError::Closed)?;
        let answer = async {
            while let Some(reply) = replies.next().await {
                if let NetlinkPayload::Error(error) = reply.payload {
                    return KernelError::from_answer(&error);
                }
            }
            Err(KernelError::Closed)
        };
        timeout(DEADLINE, answer).await.map_err(|_| KernelError::NoAnswer)?
    }

    /// Reads a whole table. A dump that the kernel marks as interrupted is read again: it may
    /// have entries twice, or not at all.
    async fn dump(&self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
        for _ in 0..DUMP_ATTEMPTS {
            let read = timeout(DEADLINE, self.dump_once(message.clone()));
            if let Some(table) = read.await.map_err(|_| KernelError::NoAnswer)?? {
                return Ok(table);
            }
        }
        Err(KernelError::Interrupted)
    }

    /// One try at [`Self::dump`]: `None` when it was interrupted.
    async fn dump_once(
        &self,
        message: RouteNetlinkMessage,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, KernelError> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut replies = self.handle.clone().request(message).map_err(|_| KernelError::Closed)?;
        let (mut table, mut interrupted) = (Vec::new(), false);
        while let Some(reply) = replies.next().await {
            interrupted |= reply.header.flags & NLM_F_DUMP_INTR != 0;
            match reply.payload {
                NetlinkPayload::InnerMessage(entry) => table.push(entry),
                NetlinkPayload::Error(error) => KernelError::from_answer(&error)?,
                NetlinkPayload::Done(done) if done.code == 0 => return Ok((!interrupted).then_some(table)),
                NetlinkPayload::Done(done) => return Err(KernelError::from_code(done.code)),
                _ => {}
            }
        }
        Err(KernelError::Closed)
    }
}
