//! The container's file system: a read-only image and a writable disk, one over the other, or the
//! boot image where the boot document names no disks.
//!
//! It is mounted in the agent's own mount namespace, below `/run/tether`; the workload gets a
//! namespace of its own in which it is everything there is ([`Container::enter`]). What is on
//! the disks was made by strangers: paths in it go through [`beneath`].
//!
//! No device file that the workload makes can be opened: nothing it can write on allows devices
//! (`nodev`), and those of its `/dev` are mounted one by one. So `CAP_MKNOD`, which it has as under
//! Docker, leads to no disk and no port, and no list of devices has to be kept in a cgroup.

pub(crate) mod beneath;
mod disks;
mod inside;
mod processes;

use std::{ffi::CStr, fs, io, path::Path};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{chdir, chroot},
};
use tether_wire::boot::Root;

use beneath::Beneath;

/// Where the agent keeps the container's `hosts`, `resolv.conf` and `hostname`.
pub const ETC: &str = "/run/tether/etc";
/// How a file system is mounted that no program and no device is to come from.
const HARMLESS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const IMAGE: &str = "/run/tether/image";
const WRITABLE: &str = "/run/tether/writable";
const ROOT: &str = "/run/tether/root";

/// Why there is no container file system.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootError {
    /// A disk is not there.
    #[error("{field}: no disk has the serial number {serial:?}")]
    NoDisk { field: &'static str, serial: String },
    /// A disk or the overlay cannot be mounted.
    #[error("{what} cannot be mounted as {kind}: {errno}")]
    Mount { what: String, kind: &'static str, errno: Errno },
    /// A directory of the agent's own, or on the writable disk.
    #[error("{path}: {source}")]
    Directory { path: String, source: io::Error },
    /// Something in the container's file system cannot be put in its place.
    #[error("/{path} in the container: {source}")]
    Inside { path: String, source: io::Error },
}

impl RootError {
    fn inside(path: &str, source: io::Error) -> Self {
        Self::Inside { path: path.to_owned(), source }
    }
}

/// A container's file system, mounted.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) root: Beneath,
    /// Whether it has everything that root has.
    pub(super) privileged: bool,
    /// Whether it has users: the boot image has none.
    pub(super) has_users: bool,
}

/// Makes the agent's files, still empty, so that they can be written before the container's file
/// system is there.
///
/// They have a file system of their own: a container can fill it, and the agent's own files still have
/// room in theirs.
pub(super) fn prepare_files() -> io::Result<()> {
    fs::create_dir_all(ETC)?;
    mount(Some("tmpfs"), ETC, Some("tmpfs"), HARMLESS, Some("size=8m,nr_inodes=16,mode=0755"))?;
    inside::FILES.iter().try_for_each(|name| fs::write(Path::new(ETC).join(name), ""))
}

/// Mounts everything. Waits for the disks; not for the thread that serves the network.
pub(super) fn mount_all(root: Option<&Root>, privileged: bool) -> Result<Container, RootError> {
    make_directory(ROOT)?;
    match root {
        Some(disks) => mount_disks(disks, privileged)?,
        // Without what is mounted in it: the container gets its own.
        None => bind_one("/", ROOT)?,
    }
    let opened = Beneath::open_root(Path::new(ROOT))
        .map_err(|source| RootError::Directory { path: ROOT.to_owned(), source })?;
    inside::furnish(&opened, Path::new(ETC), privileged)?;
    if root.is_none() && !privileged {
        // What the kernel executes is in there (`/sbin/modprobe`), and the agent's own files.
        inside::shut(&opened)?;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
        mount_one("", ROOT, "", flags, "")?;
    }
    Ok(Container { root: opened, privileged, has_users: root.is_some() })
}

fn mount_disks(root: &Root, privileged: bool) -> Result<(), RootError> {
    let image = disk("root.image", &root.image)?;
    let writable = disk("root.writable", &root.writable)?;
    for path in [IMAGE, WRITABLE] {
        make_directory(path)?;
    }
    mount_one(&image, IMAGE, "squashfs", MsFlags::MS_RDONLY, "")?;
    // The kernel would use idle time to zero inode tables, and a container's machine has none.
    mount_one(&writable, WRITABLE, "ext4", MsFlags::MS_NOATIME, "noinit_itable")?;
    let (upper, work) = (format!("{WRITABLE}/upper"), format!("{WRITABLE}/work"));
    make_directory(&upper)?;
    make_directory(&work)?;
    let options = format!("lowerdir={IMAGE},upperdir={upper},workdir={work}");
    let devices = if privileged { MsFlags::empty() } else { MsFlags::MS_NODEV };
    mount_one("overlay", ROOT, "overlay", MsFlags::MS_NOATIME | devices, &options)
}

/// Writes everything to the writable disk and leaves it as if it had been unmounted, once nobody
/// runs any more. Where there is none, nothing happens.
pub(super) fn seal() {
    let none = None::<&str>;
    for place in [ROOT, WRITABLE] {
        match mount(none, place, none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none) {
            // ENOENT: there never was a container.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => tracing::info!("{place} is left as it is: {errno:?}"),
        }
    }
}

impl Container {
    /// Makes the container's file system all there is for the calling process, which is to be a
    /// forked child, the first of a PID namespace: only system calls, nothing allocated.
    ///
    /// Not by `pivot_root`, which the initramfs does not allow: the mount is moved over the root
    /// and entered, and there is no way around it, `..` included.
    pub(super) fn enter(privileged: bool) -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        chdir(c"/run/tether/root")?;
        mount(Some(c"."), c"/", None::<&CStr>, MsFlags::MS_MOVE, None::<&CStr>)?;
        chroot(c".")?;
        processes::mount_proc(privileged)
    }

    /// Puts the terminal's device in the place of the container's console.
    pub(super) fn console(&self, device: &Path) -> io::Result<()> {
        inside::bind_file(&self.root, "dev/console", device).map_err(io::Error::other)
    }
}

fn disk(field: &'static str, serial: &str) -> Result<String, RootError> {
    let found = disks::wait_for(serial).map(|path| path.display().to_string());
    found.ok_or_else(|| RootError::NoDisk { field, serial: serial.to_owned() })
}

fn make_directory(path: &str) -> Result<(), RootError> {
    match fs::create_dir(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(RootError::Directory { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn bind_one(what: &str, place: &str) -> Result<(), RootError> {
    mount_one(what, place, "", MsFlags::MS_BIND, "")
}

fn mount_one(
    what: &str,
    place: &str,
    kind: &'static str,
    flags: MsFlags,
    options: &str,
) -> Result<(), RootError> {
    mount(Some(what), place, Some(kind), flags, Some(options)).map_err(|errno| RootError::Mount {
        what: what.to_owned(),
        kind,
        errno,
    })
}
