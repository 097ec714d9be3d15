//! Hearing that this machine has become a copy: its VM generation ID has changed.
//!
//! A hypervisor changes that ID when it starts a machine from a snapshot ("Virtual Machine Generation
//! ID", uapi-group.org/specifications/specs/vmgenid). The kernel's driver makes fresh random numbers
//! of it and tells of it in a uevent, `NEW_VMGENID=1` (`drivers/virt/vmgenid.c`, since Linux 6.8).
//! Where there is no such device, or an older kernel, nothing is ever heard.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, socket,
};
use tokio::io::{Interest, unix::AsyncFd};

/// The multicast group of what the kernel says; others are for programs.
const KERNEL: u32 = 1;
/// The longest datagram that is read: a uevent has 2 KiB of variables at most (`UEVENT_BUFFER_SIZE`)
/// and a path before them.
const LONGEST: usize = 8 << 10;
/// What the driver says.
const NEW: &[u8] = b"NEW_VMGENID=1";

/// A watch over this machine's generation ID.
#[derive(Debug)]
pub(super) struct GenerationId(Option<AsyncFd<OwnedFd>>);

impl GenerationId {
    /// Begins to watch, on the current tokio runtime. Where the kernel lets nobody, nothing is heard.
    pub(super) fn watch() -> Self {
        let watched = open();
        if let Err(error) = &watched {
            tracing::warn!("changes of the VM generation ID will not be heard: {error}");
        }
        Self(watched.ok())
    }

    /// Waits until the machine is a copy. Cancel-safe.
    pub(super) async fn changed(&self) {
        let Some(socket) = &self.0 else { return std::future::pending().await };
        let mut datagram = vec![0; LONGEST];
        loop {
            let received = socket.async_io(Interest::READABLE, |socket| {
                Ok(recvfrom::<NetlinkAddr>(socket.as_raw_fd(), &mut datagram)?)
            });
            match received.await {
                // The kernel has port 0. Nobody else can send from there.
                Ok((length, Some(from))) if from.pid() == 0 && tells(&datagram[..length]) => return,
                Ok(_) => {}
                // To take it for the one that matters would shut out a guest that is no copy.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                    tracing::warn!(
                        "events of the kernel were lost; one may have said that this machine is a copy"
                    );
                }
                Err(error) => {
                    tracing::warn!("changes of the VM generation ID are not heard any more: {error}");
                    return std::future::pending().await;
                }
            }
        }
    }
}

fn open() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let protocol = SockProtocol::NetlinkKObjectUEvent;
    let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL))?;
    // SAFETY: the descriptor is the socket's own for as long as that lives, and is closed only after
    // AsyncFd has taken it off the poller.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Whether a uevent, texts that each end with a zero byte, is the one.
fn tells(uevent: &[u8]) -> bool {
    uevent.split(|byte| *byte == 0).any(|variable| variable == NEW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_drivers_word_counts() {
        assert!(tells(b"change@/devices/x\0ACTION=change\0NEW_VMGENID=1\0SEQNUM=7\0"));
        for other in
            [&b"change@/x\0NEW_VMGENID=0\0"[..], b"", b"\0\0", b"change@/NEW_VMGENID=1\0A=NEW_VMGENID=1\0"]
        {
            assert!(!tells(other));
        }
    }
}
