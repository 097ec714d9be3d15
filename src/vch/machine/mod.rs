//! Machines: one for each container.
//!
//! [`Hypervisor`] and [`Machine`] are all the rest of the host knows of them; [`qemu`] is behind
//! both. A machine outlives this process: it is found again by its directory. Nothing here knows
//! what a container or a network is.

pub mod accelerator;
pub mod qemu;
pub mod qmp;
pub mod tap;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use tether_wire::value::MacAddr;
use tokio::net::UnixStream;

use self::tap::Tap;

/// The virtio-serial port of the workload's streams, as the guest knows it.
pub const STREAMS_PORT: &str = "tether.streams";
/// The file in a machine's directory that its console is written to.
pub const CONSOLE: &str = "console";
/// How much of a console is kept, in bytes.
pub const CONSOLE_LIMIT: u64 = 1 << 20;

/// What starts machines, and finds them again.
pub trait Hypervisor: Send + Sync + fmt::Debug {
    /// Starts a machine. When this fails, nothing of it is left but its directory.
    fn start(&self, machine: Specification) -> BoxFuture<'_, Result<Arc<dyn Machine>, MachineError>>;

    /// The machine that runs in `directory`, if one does.
    fn find<'a>(&'a self, directory: &'a Path) -> BoxFuture<'a, Option<Arc<dyn Machine>>>;
}

/// A running machine. It goes on when this value is dropped.
pub trait Machine: Send + Sync + fmt::Debug {
    /// Gives it another NIC while it runs.
    fn plug(&self, nic: Nic) -> BoxFuture<'_, Result<(), MachineError>>;

    /// Takes the NIC `id` away; resolves once the guest has let go of it.
    fn unplug<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), MachineError>>;

    /// Ends it at once, like a power failure.
    fn kill(&self) -> BoxFuture<'_, ()>;

    /// Waits until it has ended.
    fn ended(&self) -> BoxFuture<'_, ()>;

    /// Connects to the port [`STREAMS_PORT`].
    fn streams(&self) -> BoxFuture<'_, io::Result<UnixStream>>;

    /// Its process id, for people.
    fn pid(&self) -> u32;
}

/// A machine to be.
#[derive(Debug)]
pub struct Specification {
    /// The directory of its sockets and its console; it exists, and is this machine's alone.
    pub directory: PathBuf,
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// Its processors, at least 1.
    pub cpus: u32,
    /// The boot document, JSON.
    pub boot_document: Vec<u8>,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its NICs.
    pub nics: Vec<Nic>,
}

/// A disk that is a raw file on the host.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// What the guest knows it by, 20 bytes at most.
    pub serial: &'static str,
    /// Whether the guest may not write to it.
    pub read_only: bool,
}

/// A NIC: a tap that is on its bridge already.
#[derive(Debug)]
pub struct Nic {
    /// What it is called towards the hypervisor: letters and digits.
    pub id: String,
    /// Its address.
    pub mac: MacAddr,
    /// Its other end.
    pub tap: Tap,
    /// Its model.
    pub model: NicModel,
}

/// A model of NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicModel {
    /// virtio-net, the NIC of KVM.
    #[default]
    VirtioNet,
    /// VMXNET3, the NIC of vSphere.
    Vmxnet3,
}

/// A boot image, as `vmimage/build` makes it.
#[derive(Clone, Debug)]
pub struct Image {
    /// The directory with `vmlinuz` and `initramfs`.
    pub directory: PathBuf,
    /// What its kernel is told besides what every machine's is.
    pub append: String,
}

/// Why a machine does not do what it is to.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The image is not there.
    #[error("{0} is missing: make the boot image with vmimage/build")]
    NoImage(PathBuf),
    /// The boot document could not be handed over.
    #[error("the boot document: {0}")]
    Boot(io::Error),
    /// There are no sockets for it.
    #[error("{path}: {source}")]
    Socket {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// QEMU cannot be started.
    #[error("qemu-system-x86_64: {0}; on Debian, install qemu-system-x86")]
    Start(io::Error),
    /// QEMU started and ended at once.
    #[error("qemu-system-x86_64 ended at once: {0}")]
    Ended(String),
    /// QEMU refused a command.
    #[error("QEMU refused {command}: {reason}")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's words.
        reason: String,
    },
    /// Every socket has a NIC in it.
    #[error("no more NICs can be plugged into the machine while it runs: stop it, connect, and start it")]
    NoSocket,
    /// The machine is gone, or does not answer.
    #[error("the machine does not answer: {0}")]
    NoAnswer(&'static str),
}

impl Image {
    /// The image in `directory`.
    pub fn open(directory: &Path) -> Result<Self, MachineError> {
        for name in ["vmlinuz", "initramfs"] {
            let path = directory.join(name);
            if !path.exists() {
                return Err(MachineError::NoImage(path));
            }
        }
        Ok(Self { directory: directory.to_owned(), append: String::new() })
    }
}
