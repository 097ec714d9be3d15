//! Netlink: read the observed state, carry out operations, hear of changes.
//!
//! It decides nothing: what to do is the planner's, and every answer of the kernel goes back to
//! the caller. Each kind of object has a module with both directions: what is sent to the kernel
//! is written with `netlink-packet-route`'s types, what comes from it is read attribute by
//! attribute, so that one which no crate knows costs nothing but itself.

mod address;
mod attributes;
mod carry_out;
mod error;
#[cfg(debug_assertions)]
mod fault;
mod link;
mod monitor;
mod neighbour;
mod observe;
mod place;
mod requests;
mod route;
mod rule;
mod settings;
mod socket;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
    sync::Arc,
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::LinkAttribute;
use nix::{
    libc::{RTM_GETLINK, RTM_NEWNEIGH, RTM_SETLINK},
    sys::utsname::uname,
};
use tether_wire::value::MacAddr;
use tokio::sync::{Mutex, Notify};

pub use address::clock;
pub use carry_out::Refusal;
pub use error::KernelError;
#[cfg(debug_assertions)]
pub use fault::Fault;

use crate::plan::{Named, Operation};
use requests::Requests;

/// The kernel's networking in the network namespace this was opened in.
#[derive(Debug)]
pub struct Kernel {
    requests: Mutex<Requests>,
    changes: Arc<Notify>,
    renames_live: bool,
    #[cfg(debug_assertions)]
    faults: fault::Faults,
}

impl Kernel {
    /// Opens the networking of the current thread's network namespace and starts to listen for
    /// changes. All other calls are to be made in that namespace too: it is where lost sockets
    /// are opened again and settings are found.
    ///
    /// Runs a task on the current tokio runtime for as long as the process lives.
    pub fn open() -> io::Result<Self> {
        let changes = Arc::new(Notify::new());
        monitor::start(Arc::clone(&changes))?;
        Ok(Self {
            requests: Mutex::new(Requests::open()?),
            changes,
            renames_live: uname().is_ok_and(|name| renames_live(&name.release().to_string_lossy())),
            #[cfg(debug_assertions)]
            faults: fault::Faults::default(),
        })
    }

    /// Waits until something may have changed since the last call. One caller at a time.
    pub async fn changed(&self) {
        self.changes.notified().await;
    }

    /// Makes [`changed`](Self::changed) say once more that something may have.
    pub fn look_again(&self) {
        self.changes.notify_one();
    }

    /// Brings up `lo`, which every network namespace has under index 1.
    pub async fn loopback_up(&self) -> Result<(), KernelError> {
        let lo = Named { index: 1, name: "lo".to_owned() };
        self.carry_out(&[Operation::LinkUp(lo)], |_, _| false).await.map_err(|refusal| refusal.error)
    }

    /// Moves the device of this MAC address to another network namespace: whether there was one.
    pub async fn move_device(&self, mac: MacAddr, to: BorrowedFd<'_>) -> Result<bool, KernelError> {
        let mut requests = self.requests.lock().await;
        let links = requests.dump(RTM_GETLINK, &link::all(), link::read).await?;
        let Some(index) = links.iter().find(|link| link.is_device(mac)).map(|link| link.index) else {
            return Ok(false);
        };
        let moved = link::with(index, LinkAttribute::NetNsFd(to.as_raw_fd()));
        requests.ask(RTM_SETLINK, 0, &moved).await.map(|()| true)
    }

    /// Keeps a place for a neighbour on a link. All network namespaces share one table, 1,024 places of
    /// each family: whoever fills it, from another one, does not take this place.
    pub async fn keep_neighbour(&self, link: u32, address: IpAddr) -> Result<(), KernelError> {
        let kept = neighbour::kept(link, address);
        match self.requests.lock().await.ask(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL, &kept).await {
            // It is known already, perhaps for good.
            Err(error) if error.says_exists() => Ok(()),
            asked => asked,
        }
    }

    /// Makes one operation from now on fail, or the process with it; `None` for none.
    #[cfg(debug_assertions)]
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.faults.set(fault);
    }
}

/// Whether a kernel of this release renames links that are up: 6.2 and later (its commit
/// bd039b5ea2a9).
fn renames_live(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0_u32));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 2)
}
