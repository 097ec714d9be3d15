//! Process 1: mounts, modules, the container's file system, the workload, its end, and the
//! machine's.
//!
//! Used only where tether is process 1. Nothing here knows what the workload or the network
//! are for.

use std::io;

use nix::libc;

mod console;
mod modules;
mod mounts;
mod power;
mod preparation;
mod root;
mod start;
mod stdio;
mod supervisor;
mod user;
mod vsock;
mod workload;

pub use console::{tell_cannot_run, tell_ended, tell_started};
pub use power::power_off;
pub use preparation::Preparation;
pub use root::ETC;
pub use stdio::Ends;
pub(crate) use stdio::resize;
pub use supervisor::{Happened, Supervisor};

/// The lowest nice value there is.
const HIGHEST: libc::c_int = -20;

/// Whether this is process 1.
pub fn is_process_1() -> bool {
    std::process::id() == 1
}

/// Sets the nice value of the calling thread and all it starts. Makes system calls only.
///
/// A container may run as many processes as it likes, and tether is to be heard all the same: it has
/// the highest precedence, and does little.
fn set_precedence(nice: libc::c_int) -> io::Result<()> {
    // SAFETY: numbers only.
    let set = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the machine fit to run the agent. What fails is returned, one line each, and left: a
/// guest that can still reach its host can still say what is wrong.
///
/// The log cannot be told: how much it is to say is on the kernel's command line, in `/proc`.
pub fn prepare() -> Vec<String> {
    let mut complaints = mounts::mount_all();
    complaints.extend(modules::load_all());
    if let Err(error) = set_precedence(HIGHEST) {
        complaints.push(format!("no precedence over the container: {error}"));
    }
    complaints
}
