//! Machines without a management NIC: the tether over vsock, and over a virtio-serial port.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tether_host::{Admission, EventKind, Host, Options, Pin, serial, state::DesiredState, value::GuestId};
use tether_tests::{DEADLINE, Process, Space, admission, boot_document, host_identity, target};
use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    time::{sleep, timeout},
};
use vch::machine::{Image, accelerator};

fn guest() -> GuestId {
    "guest".parse().expect("a good one")
}

/// A machine with the boot image, `way` to its host and these words for QEMU.
async fn machine(space: &Space, directory: &Path, way: Value, words: &[&str]) -> Process {
    let mut document = boot_document("guest", &Value::Null, way);
    document.as_object_mut().expect("an object").remove("management");
    document["workload"] = json!({ "argv": ["sh", "-c", "grep Seccomp: /proc/self/status; exec sleep 600"] });
    let boot = directory.join("boot.json");
    fs::write(&boot, document.to_string()).expect("the boot document");
    let image = Image::open(super::image().as_ref()).expect("the image");
    let accelerator = accelerator::find(&image).await.name();
    let mut qemu = space.command("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "128"])
        // Memory that another process can share, for vhost-user.
        .args(["-object", "memory-backend-memfd,id=memory,size=128M,share=on"])
        .args(["-machine", &format!("q35,accel={accelerator},memory-backend=memory"), "-serial", "stdio"])
        .args(["-cpu", if accelerator == "kvm" { "host" } else { "max" }])
        .args(["-append", "console=ttyS0 quiet panic=-1 reboot=t tsc=reliable"])
        .arg("-kernel")
        .arg(image.directory.join("vmlinuz"))
        .arg("-initrd")
        .arg(image.directory.join("initramfs"))
        .args(["-fw_cfg", &format!("name=opt/tether/boot.json,file={}", boot.display())])
        .args(words);
    Process::start(qemu)
}

/// A host without a port, with one guest.
async fn host(admission: Admission) -> Host {
    let host = Host::listen(Options::without_port(host_identity())).await.expect("nothing to fail");
    host.admit(&guest(), admission);
    host
}

/// Wants a host name of the guest, and waits until its kernel has it; what it says of itself then.
async fn drives(host: &Host, hostname: &str) {
    let state = DesiredState { hostname: hostname.to_owned(), ..DesiredState::default() };
    let mut events = host.events();
    let verified =
        timeout(DEADLINE, host.apply(&guest(), state)).await.expect("in time").expect("it is good");
    assert_eq!(verified.confirm_within_s, 0);
    let says_so = async {
        loop {
            if let EventKind::Status(status) = events.recv().await.expect("news").kind
                && status.applied == Some(verified.stamp)
            {
                return status;
            }
        }
    };
    let status = timeout(DEADLINE, says_so).await.expect("a status in time");
    assert!(status.observed.interfaces.iter().any(|interface| interface.name == "lo"), "{status:?}");
}

fn key(host: &Host) -> Pin {
    host.key(&guest()).expect("it has redeemed its token")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Waits for a socket that another program makes.
async fn there(path: &Path) {
    let there = async {
        while !path.exists() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, there).await.expect("a socket in time");
}

#[test]
fn a_machine_by_vsock_is_enrolled_driven_and_comes_back_to_its_next_host() {
    let (space, directory) = (Space::new(), TempDir::new().expect("a temporary directory"));
    let path = |name: &str| directory.path().join(name);
    let program = target().join("vhost-device-vsock/bin/vhost-device-vsock");
    assert!(program.exists(), "{}: run scripts/requirements test", program.display());
    // The machine's vsock device, as a program: it needs nothing of this machine's kernel.
    let mut device = space.command(program);
    device.arg("--socket").arg(path("device")).arg("--uds-path").arg(path("vsock"));
    let _device = Process::start(device);
    runtime().block_on(async {
        there(&path("device")).await;
        let first = host(admission()).await;
        first.listen_unix(path("vsock_7373")).expect("a socket");
        let chardev = format!("socket,id=vsock,path={}", path("device").display());
        let words = ["-chardev", &chardev, "-device", "vhost-user-vsock-pci,chardev=vsock"];
        let machine = machine(&space, directory.path(), json!({ "vsock": {} }), &words).await;
        drives(&first, "one").await;
        // What that keeps the workload from is the filter's own test's affair.
        machine.wait_for_line("Seccomp:\t2");
        let admission = Admission::known(key(&first));
        drop(first);
        let lost = async {
            while !machine.lines().iter().any(|line| line.contains("the tether is lost")) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(DEADLINE, lost).await.expect("the guest notices");
        let next = host(admission).await;
        next.listen_unix(path("vsock_7373")).expect("the socket that was left there");
        drives(&next, "two").await;
    });
}

#[test]
fn a_machine_by_virtio_serial_is_enrolled_driven_and_comes_back_whatever_is_in_its_port() {
    let (space, directory) = (Space::new(), TempDir::new().expect("a temporary directory"));
    let path = directory.path().join("port");
    runtime().block_on(async {
        let chardev = format!("socket,id=channel,path={},server=on,wait=off", path.display());
        let port = format!("virtserialport,chardev=channel,name={}", serial::PORT);
        let words = ["-device", "virtio-serial-pci", "-chardev", &chardev, "-device", &port];
        let machine =
            machine(&space, directory.path(), json!({ "serial": serial::PORT }), &words).await;
        there(&path).await;
        // A host that was there before the guest was, has begun to say something, and is gone.
        leaves(&path, b"\x00\x26\x03half an answer").await;
        let mut admission = admission();
        for hostname in ["one", "two", "three"] {
            let host = host(admission).await;
            let port = UnixStream::connect(&path).await.expect("QEMU's end");
            tokio::select! {
                served = host.serve_serial(port, "port") => panic!("the machine is gone: {served:?}\n{:#?}", machine.lines()),
                () = drives(&host, hostname) => {}
            }
            admission = Admission::known(key(&host));
            // Killed, and somebody else has been at the port before the next.
            drop(host);
            leaves(&path, b"\x00\x16\x04what is no frame, and\x00\x05").await;
        }
        machine.wait_for_line("Seccomp:\t0");
        let lost = machine.lines().iter().filter(|line| line.contains("the tether is lost")).count();
        assert!(lost > 0, "{:#?}", machine.lines());
    });
}

/// Somebody comes to the port, says something and is killed.
async fn leaves(path: &Path, bytes: &[u8]) {
    let mut port = UnixStream::connect(path).await.expect("QEMU's end");
    port.write_all(bytes).await.expect("it takes it");
}
