//! Two processors: one is the server's, one the load's.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Where the server under test runs, and nothing else.
pub(crate) const SERVER: usize = 0;
/// Where everything else does: the load, the upstream server, whoever changes tables.
pub(crate) const LOAD: usize = 1;

/// Whether both are there to be used.
pub(crate) fn enough() -> bool {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("this thread's own");
    [SERVER, LOAD].iter().all(|core| allowed.is_set(*core).unwrap_or(false))
}

/// Keeps the calling thread, and what it starts, on one of them.
pub(crate) fn pin(core: usize) {
    let mut only = CpuSet::new();
    only.set(core).expect("a small number");
    sched_setaffinity(Pid::from_raw(0), &only).expect("it is there");
}
