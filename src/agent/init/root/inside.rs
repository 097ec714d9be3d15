//! What a container finds in its file system besides its image, as under Docker.

use std::{io, os::fd::AsFd, path::Path};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::stat::{Mode, mkdirat},
    unistd::symlinkat,
};

use super::{
    HARMLESS, RootError,
    beneath::{Beneath, magic_path},
};

const NO_SUID: MsFlags = MsFlags::MS_NOSUID;

/// The files that say what the network is, by their names in the agent's directory.
pub(super) const FILES: [&str; 3] = ["hosts", "resolv.conf", "hostname"];

/// Devices of `/dev`.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Links of `/dev`.
const LINKS: [(&str, &str); 6] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];

/// Makes the tree under `root` a container's; `etc` is where the agent keeps its [`FILES`]. All but
/// `/proc`, which shows the processes of whoever mounts it ([`super::processes`]).
pub(super) fn furnish(root: &Beneath, etc: &Path, privileged: bool) -> Result<(), RootError> {
    // First: a link of the image's that leads into `/proc` or `/dev` finds nothing there yet.
    for name in FILES {
        bind_file(root, &format!("etc/{name}"), &etc.join(name))?;
    }
    root.directory("proc").map_err(|source| RootError::inside("proc", source))?;
    if privileged {
        file_system(root, "sys", "sysfs", "", HARMLESS)?;
        bind_directory(root, "dev", Path::new("/dev"))?;
    } else {
        file_system(root, "sys", "sysfs", "", HARMLESS | MsFlags::MS_RDONLY)?;
        // The boot document is in there.
        hide(root, "sys/firmware")?;
        let flags = NO_SUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
        file_system(root, "dev", "tmpfs", "mode=755,size=65536k", flags)?;
        for name in DEVICES {
            bind_file(root, &format!("dev/{name}"), &Path::new("/dev").join(name))?;
        }
    }
    links_and_places(root).map_err(|source| RootError::inside("dev", source))?;
    let pts = "newinstance,ptmxmode=0666,mode=0620,gid=5";
    file_system(root, "dev/pts", "devpts", pts, NO_SUID | MsFlags::MS_NOEXEC)?;
    file_system(root, "dev/shm", "tmpfs", "mode=1777,size=65536k", HARMLESS)?;
    // Not every kernel has these.
    let _ = file_system(root, "dev/mqueue", "mqueue", "", HARMLESS);
    Ok(())
}

/// Makes the boot image a container's: what is the agent's in it is hidden, and there is room to
/// write, since the rest will be read only.
pub(super) fn shut(root: &Beneath) -> Result<(), RootError> {
    hide(root, "etc/tether")?;
    for path in ["run", "tmp"] {
        file_system(root, path, "tmpfs", "mode=1777", MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
    }
    Ok(())
}

/// Shows an empty directory where there is another.
fn hide(root: &Beneath, path: &'static str) -> Result<(), RootError> {
    if !root.has(path) {
        return Ok(());
    }
    file_system(root, path, "tmpfs", "size=0", HARMLESS | MsFlags::MS_RDONLY)
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

fn bind_directory(root: &Beneath, path: &str, ours: &Path) -> Result<(), RootError> {
    let bind = || {
        let place = root.directory(path)?;
        let none = None::<&str>;
        Ok(mount(Some(ours), &magic_path(place.as_fd()), none, MsFlags::MS_BIND, none)?)
    };
    bind().map_err(|source| RootError::inside(path, source))
}

/// What `/dev` has besides devices. Where it is the machine's own, some of it is there.
fn links_and_places(root: &Beneath) -> io::Result<()> {
    let tolerate = |done: nix::Result<()>| match done {
        Err(Errno::EEXIST) => Ok(()),
        done => done,
    };
    let dev = root.directory("dev")?;
    for (name, target) in LINKS {
        tolerate(symlinkat(target, &dev, name))?;
    }
    for name in ["pts", "shm", "mqueue"] {
        tolerate(mkdirat(&dev, name, Mode::from_bits_truncate(0o755)))?;
    }
    Ok(())
}
