//! The netlink socket that requests go out of and answers come in by.

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

use netlink_packet_core::NetlinkBuffer;
use nix::{
    libc::MSG_TRUNC,
    sys::socket::{setsockopt, sockopt::RcvBufForce},
};
use rtnetlink::sys::{self, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::timeout,
};

use super::KernelError;

/// How long the kernel may take over one answer. It answers in microseconds; seconds mean that
/// the answer is lost.
const DEADLINE: Duration = Duration::from_secs(5);

/// The longest datagram that is read. The kernel makes a dump's as long as the reader's buffer,
/// but none above 32 KiB.
const LONGEST: usize = 64 << 10;

/// How much the kernel keeps for us, as it counts: the answers to a batch are all there before
/// the first is read, and take about 1 KiB each.
const RECEIVE_BUFFER: usize = 4 << 20;

/// An open socket and what it received last.
#[derive(Debug)]
pub(super) struct Socket {
    fd: AsyncFd<sys::Socket>,
    received: Vec<u8>,
}

impl Socket {
    /// Opens one in the current thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let socket = sys::Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        // Only the kernel, port 0, can send to a connected socket.
        socket.connect(&SocketAddr::new(0, 0))?;
        // Errors come with the kernel's own words, and without a copy of the request.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        if let Err(error) = setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER) {
            // The default is enough for a batch, with less to spare.
            tracing::debug!("the netlink socket's receive buffer stays small: {error}");
        }
        // SAFETY: the socket is open, and its number stays the same until it is dropped, which the
        // AsyncFd does after it has taken it off the poller.
        let fd = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self { fd, received: Vec::with_capacity(LONGEST) })
    }

    /// Sends one datagram. The kernel has worked off its requests when this returns; the answers
    /// wait to be received.
    pub(super) fn send(&self, datagram: &[u8]) -> Result<(), KernelError> {
        self.fd.get_ref().send(datagram, 0).map_err(|error| KernelError::from_socket(&error))?;
        Ok(())
    }

    /// Receives one datagram, to be looked at through [`Self::messages`].
    pub(super) async fn receive(&mut self) -> Result<(), KernelError> {
        let Self { fd, received } = self;
        received.clear();
        // With MSG_TRUNC it tells how long the datagram was, even where that is more than fits.
        let length = match fd.get_ref().recv(received, MSG_TRUNC) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let later = fd.async_io(Interest::READABLE, |socket| socket.recv(received, MSG_TRUNC));
                timeout(DEADLINE, later).await.map_err(|_| KernelError::NoAnswer)?
            }
            at_once => at_once,
        };
        match length {
            Ok(length) if length > self.received.len() => Err(KernelError::Lost),
            Ok(_) => Ok(()),
            Err(error) => Err(KernelError::from_socket(&error)),
        }
    }

    /// The messages of the last datagram.
    pub(super) fn messages(&self) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
        messages(&self.received)
    }
}

/// The messages of a datagram, up to the first that is cut off.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(rest).ok()?;
        let length = usize::try_from(message.length()).ok()?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}
