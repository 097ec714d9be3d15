//! Machines: one QEMU each.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write as _},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        prctl,
        signal::Signal,
    },
};
use tokio::process::{Child, Command};

use crate::{
    config::Nic,
    network::{NetworkError, Networks},
    plan::{Plan, PlannedContainer},
    tap::Tap,
};

/// What the kernel is told. Fewer lines on the console are a faster boot; a panic ends the
/// machine instead of leaving it hanging.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 reboot=t tsc=reliable";

/// How machines are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// By the processor.
    Kvm,
    /// By QEMU's translator: slow, and everywhere.
    Tcg,
}

impl Accelerator {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A boot image, as `vmimage/build` makes it.
#[derive(Clone, Debug)]
pub struct Image {
    /// The directory with `vmlinuz` and `initramfs`.
    pub directory: PathBuf,
    /// What its kernel is told besides what every machine's is.
    pub append: String,
}

/// Why a machine does not run.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The image is not there.
    #[error("{0} is missing: make the image with vmimage/build")]
    NoImage(PathBuf),
    /// There is no tap device.
    #[error("/dev/net/tun: {0}; vch needs it, and CAP_NET_ADMIN in its network namespace")]
    Tap(io::Error),
    /// A tap could not be put on its bridge.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The boot document could not be handed over.
    #[error("the boot document: {0}")]
    Boot(io::Error),
    /// QEMU does not start.
    #[error("qemu-system-x86_64: {0}; on Debian, install qemu-system-x86")]
    Start(io::Error),
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

/// Starts the machine of `container`, its NICs on the networks' bridges.
///
/// The child is its QEMU, with the guest's console as standard output. It ends when this process
/// does, also when that is killed.
pub async fn start(
    plan: &Plan,
    container: &PlannedContainer,
    image: &Image,
    accelerator: Accelerator,
    networks: &Networks,
    console: Stdio,
) -> Result<Child, MachineError> {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(base_arguments(image, accelerator, container.memory_mib));
    let boot = boot_file(plan, container).map_err(MachineError::Boot)?;
    let boot_path = format!("/proc/self/fd/{}", boot.as_raw_fd());
    command.args(["-fw_cfg", &format!("name=opt/tether/boot.json,file={boot_path}")]);
    let mut kept = vec![boot];

    let management = (&plan.management_bridge, None, container.management_mac, Nic::VirtioNet);
    let others = container.endpoints.iter().map(|endpoint| {
        let network = &plan.networks[endpoint.network];
        (&network.bridge, network.mtu, endpoint.mac, container.nic)
    });
    for (n, (bridge, mtu, mac, nic)) in [management].into_iter().chain(others).enumerate() {
        let tap = Tap::new().map_err(MachineError::Tap)?;
        let index =
            nix::net::if_::if_nametoindex(tap.name.as_str()).map_err(|e| MachineError::Tap(e.into()))?;
        networks.attach(index, bridge, mtu).await?;
        let device = match nic {
            Nic::VirtioNet => "virtio-net-pci,disable-legacy=on",
            Nic::Vmxnet3 => "vmxnet3",
        };
        command.args(["-netdev", &format!("tap,id=net{n},fd={}", tap.file.as_raw_fd())]);
        // No option ROM: nobody boots from the network here.
        command.args(["-device", &format!("{device},netdev=net{n},mac={mac},romfile=")]);
        kept.push(tap.file);
    }

    spawn(command.stdout(console), &kept).map_err(MachineError::Start)
}

/// Starts QEMU with the files in `kept` open under their own numbers.
///
/// It dies with the thread that started it, and so with this process. It has a process group of
/// its own: Ctrl-C at the terminal is for vch, which stops it in order.
pub(crate) fn spawn(command: &mut Command, kept: &[File]) -> io::Result<Child> {
    let descriptors: Vec<i32> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: between fork and exec only system calls are made, no allocation and no lock; the
    // descriptors are open, because `kept` outlives the spawn.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            for fd in &descriptors {
                let fd = std::os::fd::BorrowedFd::borrow_raw(*fd);
                fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            Ok(())
        });
    }
    command.process_group(0).kill_on_drop(true).stdin(Stdio::null()).spawn()
}

/// The boot document in a file that has no name and no place on a disk: it goes with the
/// machine, however that ends.
fn boot_file(plan: &Plan, container: &PlannedContainer) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"tether-boot", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(&plan.boot_document(container))?)?;
    Ok(file)
}

/// A machine of ours without its NICs: the image, a serial console on standard output, nothing
/// else.
pub(crate) fn base_arguments(image: &Image, accelerator: Accelerator, memory_mib: u32) -> Vec<OsString> {
    let fixed = |text: &str| OsString::from(text);
    vec![
        fixed("-nodefaults"),
        fixed("-no-user-config"),
        fixed("-no-reboot"),
        fixed("-display"),
        fixed("none"),
        fixed("-machine"),
        // ISA devices that a container VM has no use for cost the kernel probing time.
        OsString::from(format!("q35,accel={},vmport=off,smbus=off,sata=off,usb=off", accelerator.name())),
        fixed("-cpu"),
        fixed(if accelerator == Accelerator::Kvm { "host" } else { "max" }),
        fixed("-smp"),
        fixed("1"),
        fixed("-m"),
        OsString::from(memory_mib.to_string()),
        fixed("-serial"),
        fixed("stdio"),
        fixed("-kernel"),
        image.directory.join("vmlinuz").into(),
        fixed("-initrd"),
        image.directory.join("initramfs").into(),
        fixed("-append"),
        OsString::from(format!("{COMMAND_LINE} {}", image.append)),
    ]
}
