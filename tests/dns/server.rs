//! A container with the agent in it, and a cable to a place outside where its upstreams are.

use std::{fs, path::PathBuf};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tether_tests::{Process, Space, binary, wait_for};

use crate::{
    answers::Message,
    client::{Client, Connection, inside},
    packet::Question,
    upstream::Upstream,
};

/// The container's own addresses on the cable.
pub(crate) const OWN: &str = "10.53.0.2";
pub(crate) const OWN_SIX: &str = "fd53::2";
/// Where upstreams may be.
pub(crate) const OUTSIDE: [&str; 4] = ["10.53.0.11", "10.53.0.12", "10.53.0.13", "fd53::11"];

/// The agent, told by a file what to do.
pub(crate) struct Server {
    pub(crate) space: Space,
    pub(crate) outside: Space,
    pub(crate) tether: Process,
    directory: TempDir,
    client: Client,
}

impl Server {
    /// Starts it with these name tables and this `dns` part of the state.
    pub(crate) fn new(names: &Value, dns: &Value) -> Self {
        let (space, outside) = cable();
        Self::on(space, outside, names, dns)
    }

    /// The same at one end of a cable that is there.
    pub(crate) fn on(space: Space, outside: Space, names: &Value, dns: &Value) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        fs::write(directory.path().join("boot.json"), r#"{"guest": "alone"}"#).expect("the boot document");
        fs::write(directory.path().join("state.json"), document(names, dns)).expect("the state");
        let tether = start(&space, &directory);
        let client = Client::new(&space);
        let mut server = Self { space, outside, tether, directory, client };
        server.verified(dns);
        server
    }

    /// Gives it other names, and other ways to resolve the rest, and waits until they are in force.
    pub(crate) fn again(&mut self, names: &Value, dns: &Value) {
        fs::write(self.state(), document(names, dns)).expect("the state");
        self.tether.signal(Signal::SIGHUP);
        self.verified(dns);
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state.json")
    }

    fn verified(&mut self, dns: &Value) {
        let told = self.tether.next_json("a result", |told| told["event"].is_null());
        assert!(told["verified"].is_object(), "{told}");
        // Who asks before the sockets are there is told that nobody listens.
        let wanted = dns["listen"].as_array().cloned().unwrap_or_else(|| vec![json!("127.0.0.11")]);
        let ends = wanted.iter().map(|address| match address.as_str().expect("an address") {
            six if six.contains(':') => format!("[{six}]:53"),
            four => format!("{four}:53"),
        });
        for end in ends {
            wait_for(&format!("the server to listen on {end}"), || {
                let bound = self.space.run("ss -Hlnut");
                // Bound to `lo` as well, where the address is not of the loopback network.
                let bound = bound.replace("%lo", "");
                let found = bound.lines().filter(|line| line.split_whitespace().any(|word| word == end));
                (found.count() == 2).then_some(())
            });
        }
    }

    /// An upstream at an address outside, port 53.
    pub(crate) fn upstream(&self, address: &str) -> Upstream {
        Upstream::new(&self.outside, address)
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.space)
    }

    pub(crate) fn connection(&self) -> Connection {
        Connection::new(&self.space)
    }

    /// What a stub resolver is told over UDP.
    #[track_caller]
    pub(crate) fn look_up(&self, name: &str, kind: u16) -> Message {
        self.client.look_up(name, kind)
    }

    #[track_caller]
    pub(crate) fn ask(&self, question: &Question) -> Message {
        self.client.ask(question)
    }

    /// Resident memory of the agent in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.tether.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("its memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// The server's sockets, by their numbers in the kernel.
    pub(crate) fn sockets(&self) -> Vec<String> {
        let table = self.space.run("cat /proc/net/udp /proc/net/udp6 /proc/net/tcp /proc/net/tcp6");
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        // Bound to port 53, and for TCP listening; established connections come and go.
        let ours = rows.filter(|row| row.len() > 9 && row[1].ends_with(":0035") && row[2].ends_with(":0000"));
        ours.map(|row| row[9].to_owned()).collect()
    }

    /// Runs something on a thread in the container's network.
    pub(crate) fn inside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        inside(&self.space, what)
    }
}

/// Two places with a cable between them, on it the addresses above.
pub(crate) fn cable() -> (Space, Space) {
    let (space, outside) = (Space::new(), Space::new());
    space.run(&format!("ip link add eth0 type veth peer name eth0 netns {}", outside.id()));
    for (place, addresses) in [(&space, &[OWN, OWN_SIX][..]), (&outside, &OUTSIDE[..])] {
        place.run("ip link set eth0 up");
        for address in addresses {
            let (length, nodad) = if address.contains(':') { (64, " nodad") } else { (24, "") };
            place.run(&format!("ip address add {address}/{length} dev eth0{nodad}"));
        }
    }
    wait_for("a carrier", || space.run("ip link show eth0").contains("LOWER_UP").then_some(()));
    (space, outside)
}

fn document(names: &Value, dns: &Value) -> String {
    json!({ "state": { "dns": dns }, "names": names }).to_string()
}

fn start(space: &Space, directory: &TempDir) -> Process {
    let mut command = space.command(binary("tether"));
    command.arg("run").arg("--boot").arg(directory.path().join("boot.json"));
    command.arg("--state").arg(directory.path().join("state.json"));
    command.arg("--etc").arg(space.etc()).arg("--run").arg(directory.path().join("run"));
    Process::start(command)
}
