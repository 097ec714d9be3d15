//! A host and guests as ordinary processes: the real `vch` and the real `tether`, each in a
//! space of its own, their NICs joined by the host's bridges.

use std::{fs, path::PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Process, Space, binary, wait_for};

/// A host with its guests.
#[derive(Debug)]
pub struct Lab {
    /// Where the host runs.
    pub host: Space,
    /// The `vch serve` process.
    pub vch: Process,
    directory: TempDir,
}

/// A guest.
#[derive(Debug)]
pub struct Guest {
    /// Where it runs.
    pub space: Space,
    /// The `tether run` process.
    pub tether: Process,
    /// Its id.
    pub name: String,
    boot: PathBuf,
}

impl Lab {
    /// Starts a host with this configuration.
    pub fn new(config: &str) -> Self {
        let (host, directory) = (Space::new(), TempDir::new().expect("a temporary directory"));
        fs::write(directory.path().join("vch.toml"), config).expect("a file in it");
        let vch = serve(&host, &directory);
        let mut lab = Self { host, vch, directory };
        lab.vch.next_json("the host", |line| line["event"] == "listening");
        lab
    }

    /// Starts the guest `name`, its NICs on the bridges with the given addresses; a NIC's MAC
    /// address is `02:42` and the IPv4 address it is to have.
    pub fn guest(&self, name: &str, addresses: &[[u8; 4]]) -> Guest {
        let space = Space::new();
        let config = self.directory.path().join("vch.toml");
        let document =
            self.host.command(binary("static-host")).arg("boot-document").arg(config).arg(name).output();
        let document = document.expect("vch can be started").stdout;
        let boot = self.directory.path().join(format!("{name}.json"));
        fs::write(&boot, &document).expect("the boot document");
        let document: Value = serde_json::from_slice(&document).expect("the boot document is JSON");
        let management = document["management"]["mac"].as_str().expect("it names the NIC");
        self.join(&space, &format!("m-{name}"), management, "vch-management");
        for (n, address) in addresses.iter().enumerate() {
            let [a, b, c, d] = address;
            let mac = format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
            let gateway = format!("{a}.{b}.0.1");
            let found = self.host.run("ip -o -4 address show");
            let line = found.lines().find(|line| line.contains(&gateway)).expect("the network's bridge");
            let bridge = line.split_whitespace().nth(1).expect("its name");
            self.join(&space, &format!("n{n}-{name}"), &mac, bridge);
        }
        let tether = run(&space, &boot);
        Guest { space, tether, name: name.to_owned(), boot }
    }

    /// Gives `space` a NIC that is on the host's `bridge`.
    fn join(&self, space: &Space, port: &str, mac: &str, bridge: &str) {
        let id = space.id();
        self.host.run(&format!("ip link add {port} type veth peer name inside address {mac} netns {id}"));
        self.host.run(&format!("ip link set {port} master {bridge} up"));
        // Two NICs of one guest are made under one name; the first gets out of the way, and the
        // agent has something to rename.
        space.run(&format!("ip link set inside name x{port}"));
    }

    /// Waits until every one of `guests` has verified its desired state, in any order.
    pub fn all_verified(&mut self, guests: &[&str]) {
        for guest in guests {
            wait_for(guest, || {
                let lines = self.vch.lines();
                let mut told = lines.iter().filter_map(|line| serde_json::from_str(line).ok());
                told.any(|line| verified(guest)(&line)).then_some(())
            });
        }
    }

    /// Replaces the configuration and has the host read it again.
    pub fn reconfigure(&self, config: &str) {
        fs::write(self.directory.path().join("vch.toml"), config).expect("the configuration");
        self.vch.signal(nix::sys::signal::Signal::SIGHUP);
    }

    /// Kills the host at once and starts it again.
    pub fn host_crashes(&mut self) {
        self.vch.kill();
        self.vch = serve(&self.host, &self.directory);
    }
}

impl Guest {
    /// Kills the agent at once and starts it again.
    pub fn agent_crashes(&mut self) {
        self.tether.kill();
        self.tether = run(&self.space, &self.boot);
    }

    /// What the guest's own DNS server answers, in `dig`'s short form.
    pub fn dig(&self, question: &str) -> String {
        let output = self.space.output(&format!("dig +short +tries=1 +time=6 @127.0.0.11 {question}"));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Everything `dig` says about a question.
    pub fn dig_all(&self, question: &str) -> String {
        self.space.run(&format!("dig +tries=1 +time=6 @127.0.0.11 {question}"))
    }

    /// Waits until the guest's DNS server answers `question` with `answer`.
    pub fn wait_for_dig(&self, question: &str, answer: &str) {
        wait_for(&format!("{question} to be {answer:?} in {}", self.name), || {
            (self.dig(question) == answer).then_some(())
        });
    }
}

fn serve(host: &Space, directory: &TempDir) -> Process {
    let mut command = host.command(binary("static-host"));
    command.args(["serve", "--json"]).arg(directory.path().join("vch.toml"));
    Process::start(command)
}

fn run(space: &Space, boot: &PathBuf) -> Process {
    let mut command = space.command(binary("tether"));
    command.arg("run").arg("--boot").arg(boot);
    Process::start(command)
}

/// Whether a line of `vch` says that `guest` has verified its desired state.
pub fn verified(guest: &str) -> impl Fn(&Value) -> bool {
    move |line| line["guest"] == guest && line["detail"]["verified"].is_object()
}
