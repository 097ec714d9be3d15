//! QEMU, one process each machine.
//!
//! It is started in a session of its own and goes on when this process ends. Its control socket
//! and its streams are listened on by sockets made here, so they are there before QEMU is.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
    unistd::setsid,
};
use serde_json::json;
use tokio::{net::UnixStream, process::Command, time::timeout};

use super::{
    CONSOLE, Hypervisor, Image, Machine, MachineError, Nic, NicModel, STREAMS_PORT, Specification, qmp::Qmp,
};

/// What the kernel is told. Fewer lines on the console are a faster boot; a panic ends the
/// machine instead of leaving it hanging.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 reboot=t tsc=reliable";
/// How long a guest may take to let go of a NIC.
const UNPLUG: Duration = Duration::from_secs(10);

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

/// QEMU as the hypervisor.
#[derive(Debug)]
pub struct Qemu {
    image: Image,
    accelerator: Accelerator,
}

impl Qemu {
    /// Machines that boot `image`.
    pub fn new(image: Image, accelerator: Accelerator) -> Self {
        Self { image, accelerator }
    }

    async fn launch(&self, machine: Specification) -> Result<Arc<dyn Machine>, MachineError> {
        let directory = machine.directory.clone();
        let mut invocation = Invocation::new(&self.image, self.accelerator, machine.memory_mib, machine.cpus);
        invocation.console(&directory.join(CONSOLE));
        invocation.listener("-mon", "chardev=control,mode=control", "control", &directory.join(CONTROL))?;
        invocation.arguments.extend(["-device", "virtio-serial-pci,disable-legacy=on"].map(OsString::from));
        let port = format!("virtserialport,chardev=streams,name={STREAMS_PORT}");
        invocation.listener("-device", &port, "streams", &directory.join(STREAMS))?;
        invocation.boot_document(&machine.boot_document)?;
        for (n, disk) in machine.disks.iter().enumerate() {
            invocation.disk(n, disk);
        }
        for nic in machine.nics {
            invocation.nic(nic);
        }
        invocation.sockets();
        let complaints = directory.join("qemu.log");
        let log = File::create(&complaints)
            .map_err(|source| MachineError::Socket { path: complaints.clone(), source })?;
        let mut command = invocation.command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // SAFETY: one system call between fork and exec, no allocation and no lock.
        unsafe { command.pre_exec(|| Ok(setsid().map(drop)?)) };
        let mut child = invocation.spawn(&mut command).map_err(MachineError::Start)?;
        let pid = child.id().unwrap_or_default();
        if let Ok(qmp) = Qmp::connect(&directory.join(CONTROL)).await {
            note_pid(&directory, pid);
            // Here it is waited for, so that it leaves no zombie while this process lives.
            tokio::spawn(async move { child.wait().await });
            return Ok(Arc::new(Running { qmp, directory, pid }));
        }
        // It closed its socket by ending; why is in its last words.
        if timeout(Duration::from_secs(1), child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
        let words = fs::read_to_string(&complaints).unwrap_or_default();
        let words = words.trim().lines().next_back().unwrap_or("it gave no reason");
        Err(MachineError::Ended(words.to_owned()))
    }
}

/// The control socket in a machine's directory.
const CONTROL: &str = "control";
/// The streams' socket in a machine's directory.
const STREAMS: &str = "streams";

impl Hypervisor for Qemu {
    fn start(&self, machine: Specification) -> BoxFuture<'_, Result<Arc<dyn Machine>, MachineError>> {
        Box::pin(self.launch(machine))
    }

    fn find<'a>(&'a self, directory: &'a Path) -> BoxFuture<'a, Option<Arc<dyn Machine>>> {
        Box::pin(async move {
            let qmp = Qmp::connect(&directory.join(CONTROL)).await.ok()?;
            // A machine whose start was cut short has none.
            let pid = fs::read_to_string(directory.join("pid"));
            let pid = pid.ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default();
            let running: Arc<dyn Machine> = Arc::new(Running { qmp, directory: directory.to_owned(), pid });
            Some(running)
        })
    }
}

fn note_pid(directory: &Path, pid: u32) {
    // For people and for `docker inspect` after a restart; nothing is signalled by it.
    let _ = fs::write(directory.join("pid"), pid.to_string());
}

#[derive(Debug)]
struct Running {
    qmp: Qmp,
    directory: PathBuf,
    pid: u32,
}

impl Running {
    async fn plug_in(&self, nic: Nic) -> Result<(), MachineError> {
        let Nic { id, mac, tap, .. } = nic;
        let socket = self.free_socket().await?;
        let handed = format!("tap-{id}");
        self.qmp.execute_with("getfd", json!({ "fdname": handed }), Some(tap.file.as_fd())).await?;
        self.qmp
            .execute("netdev_add", json!({ "type": "tap", "id": format!("net-{id}"), "fd": handed }))
            .await?;
        let device = json!({
            "driver": "virtio-net-pci", "bus": socket, "id": id, "netdev": format!("net-{id}"),
            "mac": mac.to_string(), "romfile": "", "disable-legacy": "on",
        });
        let plugged = self.qmp.execute("device_add", device).await;
        if plugged.is_err() {
            // The tap goes with its netdev.
            let _ = self.qmp.execute("netdev_del", json!({ "id": format!("net-{id}") })).await;
        }
        plugged.map(drop)
    }

    /// A socket with nothing in it. QEMU is asked: this process may not be the one that plugged.
    async fn free_socket(&self) -> Result<String, MachineError> {
        for n in 0..SOCKETS {
            let path = format!("/machine/peripheral/{}", socket(n));
            let bus =
                self.qmp.execute("qom-list", json!({ "path": format!("{path}/{}", socket(n)) })).await?;
            let taken = bus
                .as_array()
                .into_iter()
                .flatten()
                .any(|child| child["name"].as_str().is_some_and(|name| name.starts_with("child[")));
            if !taken {
                return Ok(socket(n));
            }
        }
        Err(MachineError::NoSocket)
    }

    async fn pull_out(&self, id: &str) -> Result<(), MachineError> {
        let mut events = self.qmp.events();
        self.qmp.execute("device_del", json!({ "id": id })).await?;
        let gone = async {
            while let Ok(event) = events.recv().await {
                if event["event"] == "DEVICE_DELETED" && event["data"]["device"] == id {
                    return;
                }
            }
        };
        timeout(UNPLUG, gone).await.map_err(|_| MachineError::NoAnswer("the guest keeps the NIC"))?;
        self.qmp.execute("netdev_del", json!({ "id": format!("net-{id}") })).await.map(drop)
    }
}

impl Machine for Running {
    fn plug(&self, nic: Nic) -> BoxFuture<'_, Result<(), MachineError>> {
        Box::pin(self.plug_in(nic))
    }

    fn unplug<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), MachineError>> {
        Box::pin(self.pull_out(id))
    }

    fn kill(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // It may end before it answers.
            let _ = self.qmp.execute("quit", json!({})).await;
            if timeout(UNPLUG, self.qmp.closed()).await.is_err() {
                tracing::error!(pid = self.pid, "QEMU does not end; end it by hand");
            }
        })
    }

    fn ended(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.qmp.closed())
    }

    fn streams(&self) -> BoxFuture<'_, io::Result<UnixStream>> {
        Box::pin(UnixStream::connect(self.directory.join(STREAMS)))
    }

    fn pid(&self) -> u32 {
        self.pid
    }
}

/// One QEMU's arguments, and the files it inherits.
#[derive(Debug)]
pub struct Invocation {
    arguments: Vec<OsString>,
    kept: Vec<Kept>,
}

#[derive(Debug)]
enum Kept {
    File(File),
    Listener(UnixListener),
}

impl Kept {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::File(file) => file.as_fd(),
            Self::Listener(listener) => listener.as_fd(),
        }
    }
}

impl Invocation {
    /// A machine of ours with nothing in it but the image.
    pub fn new(image: &Image, accelerator: Accelerator, memory_mib: u32, cpus: u32) -> Self {
        let fixed = |text: &str| OsString::from(text);
        let arguments = vec![
            fixed("-nodefaults"),
            fixed("-no-user-config"),
            fixed("-no-reboot"),
            fixed("-display"),
            fixed("none"),
            fixed("-machine"),
            OsString::from(format!("{MACHINE},accel={}", accelerator.name())),
            fixed("-cpu"),
            fixed(if accelerator == Accelerator::Kvm { "host" } else { "max" }),
            fixed("-smp"),
            OsString::from(cpus.to_string()),
            fixed("-m"),
            OsString::from(memory_mib.to_string()),
            fixed("-kernel"),
            image.directory.join("vmlinuz").into(),
            fixed("-initrd"),
            image.directory.join("initramfs").into(),
            fixed("-append"),
            OsString::from(format!("{COMMAND_LINE} {}", image.append)),
        ];
        Self { arguments, kept: Vec::new() }
    }

    /// The console on standard output.
    pub fn console_on_stdout(&mut self) {
        self.arguments.extend(["-serial", "stdio"].map(OsString::from));
    }

    /// The console into the file at `path`.
    fn console(&mut self, path: &Path) {
        let mut device = OsString::from("file,id=console,append=on,path=");
        device.push(escaped(path));
        self.arguments.extend([OsString::from("-chardev"), device]);
        self.arguments.extend(["-serial", "chardev:console"].map(OsString::from));
    }

    /// A character device `id` that listens on the socket `path`, and the option that uses it.
    fn listener(&mut self, option: &str, value: &str, id: &str, path: &Path) -> Result<(), MachineError> {
        let socket = |source| MachineError::Socket { path: path.to_owned(), source };
        let listener = UnixListener::bind(path).map_err(socket)?;
        let fd = listener.as_raw_fd();
        self.kept.push(Kept::Listener(listener));
        let device = format!("socket,id={id},fd={fd},server=on,wait=off");
        self.arguments.extend(["-chardev", &device, option, value].map(OsString::from));
        Ok(())
    }

    /// The boot document in a file that has no name and no place on a disk: it goes with the
    /// machine, however that ends.
    pub fn boot_document(&mut self, document: &[u8]) -> Result<(), MachineError> {
        let make = || -> io::Result<File> {
            let mut file = File::from(memfd_create(c"tether-boot", MFdFlags::MFD_CLOEXEC)?);
            file.write_all(document)?;
            Ok(file)
        };
        let file = make().map_err(MachineError::Boot)?;
        let entry = format!("name=opt/tether/boot.json,file=/proc/self/fd/{}", file.as_raw_fd());
        self.kept.push(Kept::File(file));
        self.arguments.extend(["-fw_cfg", &entry].map(OsString::from));
        Ok(())
    }

    fn disk(&mut self, number: usize, disk: &super::Disk) {
        let read_only = if disk.read_only { "on" } else { "off" };
        let mut drive = OsString::from(format!(
            "if=none,id=disk{number},format=raw,cache=writeback,discard=unmap,read-only={read_only},file="
        ));
        drive.push(escaped(&disk.path));
        let device = format!("virtio-blk-pci,disable-legacy=on,drive=disk{number},serial={}", disk.serial);
        self.arguments.extend([OsString::from("-drive"), drive, "-device".into(), device.into()]);
    }

    /// A NIC.
    pub fn nic(&mut self, nic: Nic) {
        let Nic { id, mac, tap, model } = nic;
        let device = match model {
            NicModel::VirtioNet => "virtio-net-pci,disable-legacy=on",
            NicModel::Vmxnet3 => "vmxnet3",
        };
        // No option ROM: nobody boots from the network here.
        let device = format!("{device},id={id},netdev=net-{id},mac={mac},romfile=");
        let netdev = format!("tap,id=net-{id},fd={}", tap.file.as_raw_fd());
        self.arguments.extend(["-netdev", &netdev, "-device", &device].map(OsString::from));
        self.kept.push(Kept::File(tap.file));
    }

    /// Sockets that NICs can be plugged into while the machine runs: root ports, because the root
    /// bus of q35 takes nothing after the start.
    fn sockets(&mut self) {
        for n in 0..SOCKETS {
            let port = format!("pcie-root-port,id={},chassis={},slot={}", socket(n), n + 1, n + 1);
            self.arguments.extend(["-device", &port].map(OsString::from));
        }
    }

    /// The command, without standard streams.
    pub fn command(&mut self) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(self.arguments.drain(..));
        command
    }

    /// Starts `command` with this invocation's files open under their own numbers.
    pub fn spawn(self, command: &mut Command) -> io::Result<tokio::process::Child> {
        let descriptors: Vec<i32> = self.kept.iter().map(|kept| kept.fd().as_raw_fd()).collect();
        // SAFETY: between fork and exec only system calls are made, no allocation and no lock; the
        // descriptors are open, because `self` outlives the spawn.
        unsafe {
            command.pre_exec(move || {
                for fd in &descriptors {
                    let fd = BorrowedFd::borrow_raw(*fd);
                    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
                }
                Ok(())
            });
        }
        command.spawn()
    }
}

/// How many NICs can be plugged in while a machine runs. A socket costs a boot nothing that could
/// be measured (four: 0.60 s to a verified network, none: 0.77 s, both within the noise).
const SOCKETS: usize = 8;

/// A socket's name.
fn socket(number: usize) -> String {
    format!("socket{number}")
}

/// ISA devices that a container VM has no use for cost the kernel probing time.
const MACHINE: &str = "q35,vmport=off,smbus=off,sata=off,usb=off";

/// A path as the value of a QEMU option, where a comma is written twice.
fn escaped(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = path.as_os_str().as_bytes().iter();
    OsString::from_vec(
        bytes.flat_map(|byte| std::iter::repeat_n(*byte, 1 + usize::from(*byte == b','))).collect(),
    )
}

/// Empties the console of the machine in `directory` when it is longer than `limit` bytes.
pub fn bound_console(directory: &Path, limit: u64) -> io::Result<()> {
    let path = directory.join(CONSOLE);
    if fs::metadata(&path)?.len() > limit {
        // QEMU appends, so what follows starts at the beginning of the file.
        fs::OpenOptions::new().write(true).open(&path)?.set_len(0)?;
    }
    Ok(())
}
