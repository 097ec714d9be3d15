//! The container's `/proc`: its own processes, and of the machine only what is a container's affair,
//! as under Docker.
//!
//! `/proc` shows the PID namespace of whoever mounts it. So the workload's first process does that
//! itself, between fork and exec: system calls only, nothing is allocated.

use std::{ffi::CStr, io};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
};

use super::HARMLESS;

/// What is the machine's and not the container's: to be read only, or not at all.
const READ_ONLY: [&CStr; 5] = [c"/proc/bus", c"/proc/fs", c"/proc/irq", c"/proc/sys", c"/proc/sysrq-trigger"];
const HIDDEN_FILES: [&CStr; 7] = [
    c"/proc/kcore",
    c"/proc/keys",
    c"/proc/kmsg",
    c"/proc/latency_stats",
    c"/proc/sched_debug",
    c"/proc/timer_list",
    c"/proc/timer_stats",
];
const HIDDEN_DIRECTORIES: [&CStr; 4] =
    [c"/proc/acpi", c"/proc/asound", c"/proc/dynamic_debug", c"/proc/scsi"];

/// Mounts it, in the calling process's own root.
pub(super) fn mount_proc(privileged: bool) -> io::Result<()> {
    let none = None::<&CStr>;
    mount(Some(c"proc"), c"/proc", Some(c"proc"), HARMLESS, none)?;
    if privileged {
        return Ok(());
    }
    for path in READ_ONLY {
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | HARMLESS;
        if_there(mount(Some(path), path, none, MsFlags::MS_BIND | MsFlags::MS_REC, none))?;
        if_there(mount(none, path, none, read_only, none))?;
    }
    for path in HIDDEN_FILES {
        if_there(mount(Some(c"/dev/null"), path, none, MsFlags::MS_BIND, none))?;
    }
    for path in HIDDEN_DIRECTORIES {
        let flags = HARMLESS | MsFlags::MS_RDONLY;
        if_there(mount(Some(c"tmpfs"), path, Some(c"tmpfs"), flags, Some(c"size=0")))?;
    }
    Ok(())
}

/// Not every kernel has all of them. A path that is there, and is not treated, is an error.
fn if_there(done: nix::Result<()>) -> io::Result<()> {
    match done {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
