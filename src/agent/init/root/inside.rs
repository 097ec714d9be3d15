//! What a container finds in its file system besides its image, as under Docker.

use std::{io, os::fd::AsFd, path::Path};

use nix::{
    fcntl::OFlag,
    mount::{MsFlags, mount},
    sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, makedev, mkdirat, mknodat},
    unistd::symlinkat,
};

use super::{
    RootError,
    beneath::{Beneath, magic_path},
};

const NO_SUID: MsFlags = MsFlags::MS_NOSUID;
const HARMLESS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// The files that say what the network is, by their names in the agent's directory.
pub(super) const FILES: [&str; 3] = ["hosts", "resolv.conf", "hostname"];

/// Character devices of `/dev`: name, major and minor number (the kernel's `devices.txt`).
const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links of `/dev`.
const LINKS: [(&str, &str); 6] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];

/// What is the machine's and not the container's: to be read only, or not at all. Under
/// `/sys/firmware` is the boot document.
const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];
const HIDDEN_FILES: [&str; 4] = ["proc/kcore", "proc/keys", "proc/timer_list", "proc/kmsg"];
const HIDDEN_DIRECTORIES: [&str; 3] = ["sys/firmware", "proc/acpi", "proc/scsi"];

/// Makes the tree under `root` a container's; `etc` is where the agent keeps its [`FILES`].
pub(super) fn furnish(root: &Beneath, etc: &Path) -> Result<(), RootError> {
    // First: a link of the image's that leads into `/proc` or `/dev` finds nothing there yet.
    for name in FILES {
        bind_file(root, &format!("etc/{name}"), &etc.join(name))?;
    }
    file_system(root, "proc", "proc", "", HARMLESS)?;
    file_system(root, "sys", "sysfs", "", HARMLESS | MsFlags::MS_RDONLY)?;
    file_system(root, "dev", "tmpfs", "mode=755,size=65536k", NO_SUID | MsFlags::MS_NOEXEC)?;
    devices(root).map_err(|source| RootError::inside("dev", source))?;
    let pts = "newinstance,ptmxmode=0666,mode=0620,gid=5";
    file_system(root, "dev/pts", "devpts", pts, NO_SUID | MsFlags::MS_NOEXEC)?;
    file_system(root, "dev/shm", "tmpfs", "mode=1777,size=65536k", HARMLESS)?;
    // Not every kernel has these.
    let _ = file_system(root, "dev/mqueue", "mqueue", "", HARMLESS);
    for path in READ_ONLY.into_iter().filter(|path| root.has(path)) {
        read_only(root, path).map_err(|source| RootError::inside(path, source))?;
    }
    for path in HIDDEN_FILES.into_iter().filter(|path| root.has(path)) {
        bind_file(root, path, Path::new("/dev/null"))?;
    }
    for path in HIDDEN_DIRECTORIES.into_iter().filter(|path| root.has(path)) {
        file_system(root, path, "tmpfs", "size=0", HARMLESS | MsFlags::MS_RDONLY)?;
    }
    Ok(())
}

/// Puts the agent's file `ours` over the container's.
pub(super) fn bind_file(root: &Beneath, path: &str, ours: &Path) -> Result<(), RootError> {
    let bind = || {
        let place = root.file(path)?;
        let none = None::<&str>;
        Ok(mount(Some(ours), &magic_path(place.as_fd()), none, MsFlags::MS_BIND, none)?)
    };
    bind().map_err(|source| RootError::inside(path, source))
}

fn file_system(
    root: &Beneath,
    path: &'static str,
    kind: &str,
    options: &str,
    flags: MsFlags,
) -> Result<(), RootError> {
    let mount = || {
        let place = root.directory(path)?;
        Ok(mount(Some(kind), &magic_path(place.as_fd()), Some(kind), flags, Some(options))?)
    };
    mount().map_err(|source| RootError::inside(path, source))
}

fn read_only(root: &Beneath, path: &str) -> io::Result<()> {
    let none = None::<&str>;
    let place = magic_path_of(root, path)?;
    mount(Some(&place.1), &place.1, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    // Opened again, it is the new mount.
    let place = magic_path_of(root, path)?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | HARMLESS;
    Ok(mount(none, &place.1, none, flags, none)?)
}

/// A path to what is at `path`, good as long as what is beside it is open.
fn magic_path_of(root: &Beneath, path: &str) -> io::Result<(std::os::fd::OwnedFd, std::path::PathBuf)> {
    let place = root.open(path, OFlag::O_PATH)?;
    let magic = magic_path(place.as_fd());
    Ok((place, magic))
}

/// Fills the empty `/dev`.
fn devices(root: &Beneath) -> io::Result<()> {
    let dev = root.directory("dev")?;
    let everybody = Mode::from_bits_truncate(0o666);
    for (name, major, minor) in DEVICES {
        mknodat(&dev, name, SFlag::S_IFCHR, everybody, makedev(major, minor))?;
        // What the process's mask has taken from the mode.
        fchmodat(&dev, name, everybody, FchmodatFlags::FollowSymlink)?;
    }
    for (name, target) in LINKS {
        symlinkat(target, &dev, name)?;
    }
    for name in ["pts", "shm", "mqueue"] {
        mkdirat(&dev, name, Mode::from_bits_truncate(0o755))?;
    }
    Ok(())
}
