//! Real machines: the boot image, process 1, both NICs, and the host's end of it.
//!
//! They need QEMU and the image of `vmimage/build`; `scripts/test` provides both.

#![allow(clippy::expect_used, reason = "a test fails by panicking, and says what it expected")]

mod vm_carriers;
mod vm_devices;

use std::{fs, path::PathBuf, process::Command};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tether_tests::{Process, Space, binary, target};

/// A directory with the configuration, and a space with the bridges.
struct Machines {
    space: Space,
    directory: TempDir,
}

/// Two containers that ping each other by name, with packets as long as the network takes, and go
/// on.
fn pair(server_nic: &str, client_nic: &str, mtu: u32) -> String {
    let container = |name: &str, nic: &str, script: &str| {
        format!(
            "[[container]]\nname = \"{name}\"\nnic = \"{nic}\"\nnetworks = [\"my-bridge-network\"]\n\
             command = [\"sh\", \"-c\", \"{script}\"]\n"
        )
    };
    let ping = |peer: &str| format!("until ping -c 3 -s {} {peer}; do sleep 0.2; done", mtu - 28);
    // The first process of its PID namespace gets only signals that it has a handler for.
    let (handler, wait) = ("trap 'exit 5' TERM", "sleep 100000 & wait");
    let server = format!("{handler}; {}; {wait}", ping("client"));
    let client = format!(
        "{handler}; {}; until nslookup added >/dev/null; do sleep 0.1; done; nslookup added; {wait}",
        ping("server")
    );
    format!(
        "[[network]]\nname = \"my-bridge-network\"\nsubnets = [\"172.18.0.0/16\"]\nmtu = {mtu}\n{}{}",
        container("server", server_nic, &server),
        container("client", client_nic, &client)
    )
}

impl Machines {
    fn new(config: &str) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        fs::write(directory.path().join("vch.toml"), config).expect("the configuration");
        Self { space: Space::new(), directory }
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("vch.toml")
    }

    fn vch(&self, arguments: &[&str]) -> Command {
        let mut command = self.space.command(binary("static-host"));
        command.arg(arguments[0]).arg(self.config()).args(&arguments[1..]);
        command
    }

    /// `vch up`: host and machines in one.
    fn up(&self) -> Process {
        Process::start(self.vch(&["up", "--json", "--image", &image()]))
    }

    /// One machine on its own; its lines are the console's.
    fn machine(&self, name: &str) -> Process {
        Process::start(self.vch(&["machine", name, "--image", &image()]))
    }
}

/// The image that `vmimage/build` makes.
fn image() -> String {
    let directory = target().join("vmimage");
    assert!(
        directory.join("initramfs").exists(),
        "{}: run vmimage/build, or scripts/test",
        directory.display()
    );
    directory.display().to_string()
}

/// Whether a line is `guest`'s console saying `text`.
fn console<'a>(guest: &'a str, text: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |line| {
        line["guest"] == guest && line["detail"]["line"].as_str().is_some_and(|said| said.contains(text))
    }
}

fn of<'a>(guest: &'a str, event: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |line| line["guest"] == guest && !line["detail"][event].is_null()
}

#[test]
fn two_guests_on_virtio_ping_each_other_by_name_and_stop_in_order() {
    let machines = Machines::new(&pair("virtio-net", "virtio-net", 1_500));
    let mut up = machines.up();
    both_have_pinged(&up);
    let status = up.next_json("a status", |line| line["detail"]["status"]["applied"].is_object());
    assert!(status["detail"]["status"]["rss_kib"].as_u64() > Some(0), "{status}");
    up.signal(Signal::SIGTERM);
    for guest in ["server", "client"] {
        exited_and_powered_off(&up, guest, &json!({ "code": 5 }));
    }
    assert!(up.end().success());
    // Taps and machines are gone with it; only the bridges stay, for the next start.
    let left = machines.space.run("ip -o link");
    assert!(!left.contains("vch0") && !left.contains("vch1"), "{left}");
}

/// Waits until each of the two has had three answers from the other, called by name.
fn both_have_pinged(up: &Process) {
    for (guest, address) in [("client", "172.18.0.2"), ("server", "172.18.0.3")] {
        for text in [&format!("1480 bytes from {address}: seq=2"), "3 packets received"] {
            said(up, |line| console(guest, text)(line), text);
        }
    }
}

/// Waits until `up` has said a line that is `wanted`, in whatever order.
fn said(up: &Process, wanted: impl Fn(&Value) -> bool, whatfor: &str) {
    tether_tests::wait_for(whatfor, || {
        let lines = up.lines();
        lines.iter().any(|line| serde_json::from_str(line).is_ok_and(|line| wanted(&line))).then_some(())
    });
}

fn exited_and_powered_off(up: &Process, guest: &str, exit: &Value) {
    let exited =
        |line: &Value| of(guest, "workload_exited")(line) && line["detail"]["workload_exited"] == *exit;
    said(up, exited, "the workload's end");
    said(
        up,
        |line| line["guest"] == guest && line["detail"]["status"] == "exit status: 0",
        "the machine's end",
    );
}

#[test]
fn one_guest_on_vmxnet3_and_a_host_that_is_killed_and_comes_back() {
    let config = pair("virtio-net", "vmxnet3", 9_000);
    let machines = Machines::new(&config);
    let serve = || Process::start(machines.vch(&["serve", "--json"]));
    let mut host = serve();
    host.next_json("the host", |line| line["event"] == "listening");
    let (server, client) = (machines.machine("server"), machines.machine("client"));
    client.wait_for_line("8980 bytes from 172.18.0.2: seq=2");
    server.wait_for_line("8980 bytes from 172.18.0.3: seq=2");

    host.kill();
    let mut host = serve();
    for guest in ["server", "client"] {
        said(&host, of(guest, "connected"), "a guest's return");
        let verified =
            |line: &Value| of(guest, "verified")(line) && line["detail"]["verified"]["operations"] == 0;
        said(&host, verified, "its state, found right");
    }
    // A name added now is found at once by a program that has been asking all the time.
    assert!(!client.lines().iter().any(|line| line.contains("added")));
    let added = config.replace("name = \"server\"", "name = \"server\"\naliases = [\"added\"]");
    fs::write(machines.config(), added).expect("the configuration");
    host.signal(Signal::SIGHUP);
    client.wait_for_line("Name:\tadded");
    let asked = host.next_json("its status", |line| {
        line["guest"] == "client" && line["detail"]["status"]["dns"]["local"].as_u64() > Some(0)
    });
    assert!(
        asked["detail"]["status"]["observed"]["interfaces"].to_string().contains("172.18.0.3/16"),
        "{asked}"
    );
}

#[test]
fn exit_codes_reach_the_host_and_missing_programs_are_told() {
    let config = r#"
        [[network]]
        name = "n"
        subnets = ["172.18.0.0/16"]
        [[container]]
        name = "seven"
        networks = ["n"]
        env = ["CODE=7"]
        command = ["sh", "-c", "(sleep 1000 &) ; cat /etc/hosts /etc/resolv.conf; hostname; exit $CODE"]
        [[container]]
        name = "boxed"
        networks = ["n"]
        command = ["sh", "-c", """
            echo pid $$ $([ $(ls -d /proc/[0-9]* | wc -l) -lt 6 ] && echo few) $(grep CapBnd /proc/self/status)
            echo write $(touch /bin/x 2>&1) $(touch /tmp/x && echo good)
            echo see $(ls -A /etc/tether /run /sys/firmware; ls /dev/ram0 /dev/fb0 /dev/mem; ip -o link | wc -l)
            head -c 1 /dev/zero > /dev/null && echo end
        """]
        [[container]]
        name = "missing"
        networks = ["n"]
        command = ["no-such-program"]
    "#;
    let machines = Machines::new(config);
    let mut up = machines.up();
    said(&up, console("seven", "172.18.0.2 seven"), "/etc/hosts");
    said(&up, console("seven", "nameserver 127.0.0.11"), "/etc/resolv.conf");
    exited_and_powered_off(&up, "seven", &json!({ "code": 7 }));
    // The boot image is a container's too: with everything but its own network and processes shut.
    for line in [
        "pid 1 few CapBnd: 00000000a80425fb",
        "write touch: /bin/x: Read-only file system good",
        "see /etc/tether: /run: /sys/firmware: 2",
        "end",
    ] {
        said(&up, console("boxed", line), line);
    }
    let told = json!({ "not_started": "no-such-program: No such file or directory (os error 2)" });
    exited_and_powered_off(&up, "missing", &told);
    // All machines have ended, and so does it.
    assert!(up.end().success());
}

#[test]
fn a_machine_without_a_boot_document_says_so_and_powers_off() {
    let image = image();
    let space = Space::new();
    let mut qemu = space.command("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-machine", "q35,accel=tcg", "-m", "128"])
        .args(["-serial", "stdio", "-append", "console=ttyS0 quiet"])
        .args(["-kernel", &format!("{image}/vmlinuz"), "-initrd", &format!("{image}/initramfs")]);
    let mut machine = Process::start(qemu);
    machine
        .wait_for_line("no boot document: give one with --boot FILE, as /etc/tether/boot.json in the image");
    assert!(machine.end().success());
}

#[test]
fn two_builds_of_the_image_are_the_same_bytes() {
    let directory = TempDir::new().expect("a temporary directory");
    let builder = concat!(env!("CARGO_MANIFEST_DIR"), "/../vmimage/build");
    let build = |name: &str| {
        let out = directory.path().join(name);
        let output = Command::new(builder).arg(&out).output().expect("it can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ["vmlinuz", "initramfs"].map(|file| fs::read(out.join(file)).expect("it was made"))
    };
    let (one, two) = (build("one"), build("two"));
    assert!(one == two, "the images differ");
    let whole = PathBuf::from(image());
    assert!(
        one[1] == fs::read(whole.join("initramfs")).expect("it was made"),
        "the image in target is an older one"
    );
}
