//! Process 1: mounts, modules, `lo`, the workload, its end, and the machine's.
//!
//! Used only where tether is process 1. Nothing here knows what the workload or the network
//! are for.

mod modules;
mod mounts;
mod power;
mod workload;

pub use power::power_off;
pub use workload::{Running, reap};

/// Whether this is process 1.
pub fn is_process_1() -> bool {
    std::process::id() == 1
}

/// Makes the machine fit to run the agent. What fails is told on the console and left: a guest
/// that can still reach its host can still say what is wrong.
pub fn prepare() {
    mounts::mount_all();
    modules::load_all();
}
