//! Machines that a test drives itself: a host in the test's own process, QEMU with the NICs the
//! test says where it says, and a shell in each machine.

use std::{fs, future::Future, thread, time::Duration};

use nix::sched::{CloneFlags, setns};
use tempfile::TempDir;
use tether_host::{
    ApplyError, Host, Options,
    boot::{BootDocument, HostAddress, Management},
    message::{Failure, Verified},
    state::{DesiredState, Workload},
    value::GuestId,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use vch::machine::{Image, accelerator};

use crate::{DEADLINE, Process, Space, admission, host_identity};

/// The bridge of the management network, and the network as far as the machine's number.
const MANAGEMENT: &str = "management";
const NETWORK: &str = "10.99.0";
/// The bridge all other NICs are on.
const BRIDGE: &str = "bridge";
/// The port of the shells.
const SHELL: u16 = 2_323;

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
    shell: (String, u16),
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
            host: Some(HostAddress {
                address: format!("{NETWORK}.254"),
                port: self.host.address().port(),
                pins: self.host.pins().iter().map(ToString::to_string).collect(),
            }),
            token: Some(admission().token.to_secret()),
            workload: None,
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
        Driven { process: Process::start(qemu), guest, host: self.host.clone(), shell: (address, SHELL) }
    }
}

impl Driven {
    /// Wants `state` of it, and a shell as its workload.
    pub async fn apply(&self, mut state: DesiredState) -> Result<Verified, ApplyError> {
        let shell = format!("nc -ll -p {SHELL} -e sh");
        state.workload =
            Some(Workload { argv: shell.split(' ').map(str::to_owned).collect(), ..Workload::default() });
        timeout(DEADLINE, self.host.apply(&self.guest, state)).await.expect("an answer in time")
    }

    /// Wants `state` of it, and what it says against that.
    pub async fn refuse(&self, state: DesiredState) -> Failure {
        match self.apply(state).await {
            Err(ApplyError::Failed(failed)) => failed.failure,
            other => panic!("not refused by the machine: {other:?}"),
        }
    }

    /// What a line for the shell in there prints, errors too.
    pub async fn shell(&self, line: &str) -> String {
        timeout(DEADLINE, async {
            loop {
                // The workload is started after the network is verified.
                let Ok(mut stream) = TcpStream::connect((self.shell.0.as_str(), self.shell.1)).await else {
                    sleep(Duration::from_millis(20)).await;
                    continue;
                };
                stream.write_all(format!("exec 2>&1\n{line}\nexit\n").as_bytes()).await.expect("it reads");
                let mut said = String::new();
                stream.read_to_string(&mut said).await.expect("it answers");
                return said;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("no answer to {line:?}"))
    }
}
