//! Machines that a test drives itself: a host in the test's own process, QEMU with the NICs the
//! test says where it says, and a shell in each machine.

use std::{fs, future::Future, thread, time::Duration};

use nix::sched::{CloneFlags, setns};
use tempfile::TempDir;
use tether_host::{
    ApplyError, Host, Options,
    boot::{BootDocument, BootWorkload, HostAddress, Management},
    message::{Failure, Verified},
    state::DesiredState,
    value::GuestId,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::Mutex,
    time::{sleep, timeout},
};
use vch::machine::{Image, accelerator};

use crate::{DEADLINE, Process, Space, admission, host_identity};

/// The bridge of the management network, and the network as far as the machine's number.
const MANAGEMENT: &str = "management";
const NETWORK: &str = "10.99.0";
/// The bridge all other NICs are on.
const BRIDGE: &str = "bridge";
/// What a machine runs: a shell on the virtio-serial port of that name. Whoever drives it may do
/// everything, and needs no network for it: the management network is the tether's alone.
const SHELL: &str = "for port in /sys/class/virtio-ports/*; do \
     [ \"$(cat $port/name)\" != shell ] || device=/dev/${port##*/}; done; \
     while :; do sh <> $device >&0 2>&1; sleep 0.05; done";
/// The last line of each answer.
const END: &str = "\n-- end of the answer --\n";

/// Where the host and the taps are.
#[derive(Debug)]
pub struct Site {
    /// The space with the two bridges.
    pub space: Space,
    host: Host,
    image: Image,
    directory: TempDir,
}

/// A machine, which ends with this value.
#[derive(Debug)]
pub struct Driven {
    /// QEMU; its lines are the console's.
    pub process: Process,
    guest: GuestId,
    host: Host,
    shell: Mutex<UnixStream>,
}

/// A NIC of a machine.
#[derive(Clone, Copy, Debug)]
pub struct Socket<'a> {
    /// Its MAC address.
    pub mac: &'a str,
    /// Where it is, in QEMU's words: `addr=5`, `bus=x,addr=3`.
    pub place: &'a str,
}

/// Runs a test on a site of its own, with machines that boot the image in `image`.
pub fn on_site<F: Future<Output = ()>>(image: &str, test: impl FnOnce(Site) -> F + Send) {
    let space = Space::new();
    for bridge in [MANAGEMENT, BRIDGE] {
        space.run(&format!("ip link add {bridge} type bridge"));
        space.run(&format!("ip link set {bridge} up"));
    }
    space.run(&format!("ip address add {NETWORK}.254/24 dev {MANAGEMENT}"));
    let network = fs::File::open(format!("/proc/{}/ns/net", space.id())).expect("its network namespace");
    // A thread of its own: only this one is to be in there.
    let ended = thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(network, CloneFlags::CLONE_NEWNET).expect("root");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let address = format!("{NETWORK}.254:0").parse().expect("an address");
                let host = Host::listen(Options::on(address, host_identity())).await.expect("a free port");
                let image = Image::open(image.as_ref()).expect("the image");
                let directory = TempDir::new().expect("a temporary directory");
                test(Site { space, host, image, directory }).await;
            });
        });
        inside.join()
    });
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

impl Site {
    /// Starts the machine of this number with its NICs; `more` is what they are plugged into, each
    /// a `-device` of QEMU's.
    pub async fn machine(&self, number: u8, more: &[&str], nics: &[Socket<'_>]) -> Driven {
        let guest: GuestId = format!("guest{number}").parse().expect("a good one");
        let (management, address) = (format!("02:7e:00:00:00:{number:02x}"), format!("{NETWORK}.{number}"));
        let document = BootDocument {
            guest: guest.to_string(),
            management: Some(Management { mac: management.clone(), address: Some(format!("{address}/24")) }),
            host: Some(HostAddress::tcp(
                self.host.address().ip(),
                self.host.address().port(),
                &self.host.pins(),
            )),
            token: Some(admission().token.to_secret()),
            workload: Some(BootWorkload {
                argv: ["sh", "-c", SHELL].map(str::to_owned).into(),
                privileged: true,
                ..BootWorkload::default()
            }),
            root: None,
        };
        let boot = self.directory.path().join(format!("{guest}.json"));
        fs::write(&boot, serde_json::to_vec(&document).expect("JSON")).expect("the boot document");

        let accelerator = accelerator::find(&self.image).await.name();
        let mut qemu = self.space.command("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "128"])
            .args(["-machine", &format!("q35,accel={accelerator}"), "-serial", "stdio"])
            .args(["-cpu", if accelerator == "kvm" { "host" } else { "max" }])
            .args(["-append", "console=ttyS0 quiet panic=-1 reboot=t tsc=reliable"])
            .arg("-kernel")
            .arg(self.image.directory.join("vmlinuz"))
            .arg("-initrd")
            .arg(self.image.directory.join("initramfs"))
            .args(["-fw_cfg", &format!("name=opt/tether/boot.json,file={}", boot.display())]);
        let port = self.directory.path().join(format!("{guest}.shell"));
        qemu.args(["-chardev", &format!("socket,id=shell,path={},server=on,wait=off", port.display())])
            .args(["-device", "virtio-serial-pci,addr=0x10"])
            .args(["-device", "virtserialport,chardev=shell,name=shell"]);
        qemu.args(more.iter().flat_map(|device| ["-device", device]));
        let first = Socket { mac: &management, place: "addr=3" };
        for (n, nic) in [first].iter().chain(nics).enumerate() {
            let (tap, bridge) = (format!("tap{number}-{n}"), if n == 0 { MANAGEMENT } else { BRIDGE });
            self.space.run(&format!("ip tuntap add dev {tap} mode tap"));
            self.space.run(&format!("ip link set {tap} master {bridge} up"));
            qemu.args(["-netdev", &format!("tap,id=net{n},ifname={tap},script=no,downscript=no")]);
            let device = "virtio-net-pci,disable-legacy=on,romfile=";
            qemu.args(["-device", &format!("{device},netdev=net{n},mac={},{}", nic.mac, nic.place)]);
        }
        self.host.admit(&guest, admission());
        let process = Process::start(qemu);
        let connected = timeout(DEADLINE, async {
            loop {
                match UnixStream::connect(&port).await {
                    Ok(stream) => return stream,
                    Err(_) => sleep(Duration::from_millis(20)).await,
                }
            }
        });
        let shell = Mutex::new(connected.await.expect("QEMU opens the port"));
        Driven { process, guest, host: self.host.clone(), shell }
    }
}

impl Driven {
    /// Wants `state` of it.
    pub async fn apply(&self, state: DesiredState) -> Result<Verified, ApplyError> {
        timeout(DEADLINE, self.host.apply(&self.guest, state)).await.expect("an answer in time")
    }

    /// Wants `state` of it, and what it says against that.
    pub async fn refuse(&self, state: DesiredState) -> Failure {
        match self.apply(state).await {
            Err(ApplyError::Failed(failed)) => failed.failure.clone(),
            other => panic!("not refused by the machine: {other:?}"),
        }
    }

    /// What a line for the shell in there prints, errors too. The shell starts after the first
    /// network that is verified.
    pub async fn shell(&self, line: &str) -> String {
        let answer = async {
            let mut stream = self.shell.lock().await;
            let asked = format!("( {line}\n) < /dev/null\nprintf '{}'\n", END.replace('\n', "\\n"));
            stream.write_all(asked.as_bytes()).await.expect("it reads");
            let (mut said, end) = (Vec::new(), END.as_bytes());
            while !said.ends_with(end) {
                assert!(stream.read_buf(&mut said).await.expect("it answers") > 0, "the machine has ended");
            }
            said.truncate(said.len() - end.len());
            String::from_utf8(said).expect("text")
        };
        timeout(DEADLINE, answer).await.unwrap_or_else(|_| panic!("no answer to {line:?}"))
    }
}
