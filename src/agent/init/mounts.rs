//! The file systems every Linux program expects.

use std::fs;

use nix::mount::{MsFlags, mount};

/// What is mounted where: type, place, options, flags besides nosuid.
const MOUNTS: [(&str, &str, &str, MsFlags); 6] = [
    ("proc", "/proc", "", MsFlags::MS_NODEV.union(MsFlags::MS_NOEXEC)),
    ("sysfs", "/sys", "", MsFlags::MS_NODEV.union(MsFlags::MS_NOEXEC)),
    ("devtmpfs", "/dev", "mode=0755", MsFlags::MS_NOEXEC),
    ("devpts", "/dev/pts", "mode=0620,ptmxmode=0666", MsFlags::MS_NOEXEC),
    ("tmpfs", "/dev/shm", "mode=1777", MsFlags::MS_NODEV),
    ("tmpfs", "/run", "mode=0755", MsFlags::MS_NODEV),
];

/// Mounts what is not mounted yet. What could not be, one line each.
pub(super) fn mount_all() -> Vec<String> {
    let mut complaints = Vec::new();
    for (kind, place, options, flags) in MOUNTS {
        if let Err(error) = fs::create_dir_all(place) {
            complaints.push(format!("{place} cannot be made: {error}"));
        }
        match mount(Some(kind), place, Some(kind), MsFlags::MS_NOSUID | flags, Some(options)) {
            // EBUSY: it is there already.
            Ok(()) | Err(nix::errno::Errno::EBUSY) => {}
            Err(errno) => complaints.push(format!("{kind} cannot be mounted on {place}: {errno:?}")),
        }
    }
    complaints
}
