//! Process 1: mounts, modules, the container's file system, the workload, its end, and the
//! machine's.
//!
//! Used only where tether is process 1. Nothing here knows what the workload or the network
//! are for.

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

pub use console::{tell_cannot_run, tell_ended};
pub use power::power_off;
pub use preparation::Preparation;
pub use root::ETC;
pub use stdio::Ends;
pub(crate) use stdio::resize;
pub use supervisor::{Happened, Supervisor};

/// Whether this is process 1.
pub fn is_process_1() -> bool {
    std::process::id() == 1
}

/// Makes the machine fit to run the agent. What fails is returned, one line each, and left: a
/// guest that can still reach its host can still say what is wrong.
///
/// The log cannot be told: how much it is to say is on the kernel's command line, in `/proc`.
pub fn prepare() -> Vec<String> {
    let mut complaints = mounts::mount_all();
    complaints.extend(modules::load_all());
    complaints
}
