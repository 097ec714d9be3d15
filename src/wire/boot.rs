//! The boot document: what a guest knows before it has a channel.
//!
//! Written by the host, read by the guest; where the guest finds it is the agent's business.

mod way;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    check::check_workload,
    identity::{JoinToken, MAX_PINS, Pin, Secret},
    problem::{Problem, Problems},
    state::Workload,
    value::{GuestId, quoted},
};

pub use way::{Network, VsockAddress, Way};

/// The boot document as it is written, in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootDocument {
    /// The guest's id: 1 to 64 letters, digits, `_`, `.` or `-`.
    pub guest: String,
    /// The management NIC. Absent where the host is reached by another way, and where the desired state
    /// comes from a file.
    #[serde(default)]
    pub management: Option<Management>,
    /// Where the host is. Absent where the desired state comes from a file.
    #[serde(default)]
    pub host: Option<HostAddress>,
    /// What the guest shows its host at their first meeting: 64 hexadecimal digits, for this guest
    /// alone. Needed with `host`.
    #[serde(default)]
    pub token: Option<Secret>,
    /// What process 1 starts once the network is verified, unless the desired state names
    /// something else.
    #[serde(default)]
    pub workload: Option<BootWorkload>,
    /// The container's file system. Absent: the workload runs in the boot image.
    #[serde(default)]
    pub root: Option<Root>,
}

/// The container's process, with what only a boot document can say of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BootWorkload {
    /// The program and its arguments. The program is looked for in `PATH` unless it has a `/`.
    pub argv: Vec<String>,
    /// Environment variables, `NAME=value`. Added unless given: `PATH`, and with a `root` `HOME`,
    /// `HOSTNAME` and, with a terminal, `TERM`.
    pub env: Vec<String>,
    /// The working directory, absolute. Empty: `/`. With a `root` it is made when it is missing.
    pub cwd: String,
    /// Who runs it: `name`, `uid`, `name:group`, `uid:gid`, looked up in the container's own
    /// `/etc/passwd` and `/etc/group`. Empty: root. Needs a `root`.
    pub user: String,
    /// Whether it runs on a terminal of its own.
    pub terminal: bool,
    /// The terminal's lines when it starts, 0 if nobody knows yet.
    pub rows: u16,
    /// The characters in each line, 0 if nobody knows yet.
    pub columns: u16,
    /// Whether it gets input from the host. `false`: standard input is `/dev/null`, but for a
    /// terminal, which stays silent.
    pub stdin: bool,
    /// Whether whatever runs in this machine may do with it what root may: every capability, every
    /// device, nothing hidden or read only. The tether's NIC stays out of its reach.
    pub privileged: bool,
}

/// The disks that make the container's file system, by their serial numbers (virtio-blk's
/// `serial=`, 1 to 20 bytes).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The image: squashfs, read only.
    pub image: String,
    /// What is written: ext4, formatted already; it is kept from one start to the next.
    pub writable: String,
}

/// The NIC that carries the tether, where a NIC does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Management {
    /// Which device it is: its MAC address.
    pub mac: String,
    /// A static address with its prefix length, where link-local IPv6 is not wanted.
    #[serde(default)]
    pub address: Option<String>,
}

/// The way to the host, exactly one of `address`, `vsock`, `serial` and `unix`, and how it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostAddress {
    /// Its address on the management network; link-local IPv6 unless there is a plan.
    pub address: Option<String>,
    /// Its TCP port, with `address`. Absent: [`DEFAULT_PORT`](crate::message::DEFAULT_PORT).
    pub port: Option<u16>,
    /// Its vsock address.
    pub vsock: Option<VsockAddress>,
    /// The serial port that leads to it: a virtio-serial port's name, [`PORT`](crate::serial::PORT) say, or the path of
    /// another serial device, `/dev/ttyS1`.
    pub serial: Option<String>,
    /// The path of the Unix socket on which it listens.
    pub unix: Option<String>,
    /// The [pins](Pin) of its key, or of its present key and the next.
    pub pins: Vec<String>,
}

impl HostAddress {
    /// A host that listens on a TCP port.
    pub fn tcp(address: IpAddr, port: u16, pins: &[Pin]) -> Self {
        let pins = pins.iter().map(ToString::to_string).collect();
        Self { address: Some(address.to_string()), port: Some(port), pins, ..Self::default() }
    }
}

/// A boot document whose every value is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Who this guest is.
    pub guest: GuestId,
    /// The way to the host, `None` where there is none.
    pub tether: Option<Tether>,
    /// The workload, unless the desired state names one.
    pub workload: Option<BootWorkload>,
    /// The container's file system.
    pub root: Option<Root>,
}

/// The host: the way to it, and how either end knows the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tether {
    /// The way.
    pub way: Way,
    /// Whoever has one of these keys is the host; one or two.
    pub pins: Vec<Pin>,
    /// What the host knows this guest by when it comes for the first time.
    pub token: JoinToken,
}

impl Tether {
    /// The way by the management NIC, if that is the way.
    pub fn network(&self) -> Option<&Network> {
        match &self.way {
            Way::Network(network) => Some(network),
            Way::Vsock(_) | Way::Serial(_) | Way::Unix(_) => None,
        }
    }
}

impl BootDocument {
    /// Checks the whole document, or says everything that is wrong with it.
    pub fn check(&self) -> Result<Boot, Vec<Problem>> {
        let mut problems = Problems::default();
        let guest = problems.keep("guest", self.guest.parse::<GuestId>());
        let tether = self.host.as_ref().and_then(|host| {
            check_tether(self.management.as_ref(), host, self.token.as_ref(), &mut problems)
        });
        match (&self.host, &self.management, &self.token) {
            (None, Some(_), _) => problems.add(
                "host",
                "missing: write where the host is, {\"address\": \"fe80::1\", \"pins\": […]}, say",
            ),
            (None, None, Some(_)) => {
                problems.add("token", "there is no host that would take it: give a host too, or no token");
            }
            _ => {}
        }
        if let Some(workload) = &self.workload {
            workload.check("workload", self.root.is_some(), &mut problems);
        }
        if let Some(root) = &self.root {
            root.check(&mut problems);
        }
        match (guest, problems.into_result(())) {
            (Some(guest), Ok(())) => {
                Ok(Boot { guest, tether, workload: self.workload.clone(), root: self.root.clone() })
            }
            (_, Err(problems)) => Err(problems),
            // `keep` has noted why there is no guest, so this is not reached.
            (None, Ok(())) => Err(vec![Problem::new("guest", "missing")]),
        }
    }
}

impl BootWorkload {
    fn check(&self, path: &str, has_root: bool, problems: &mut Problems) {
        let plain = Workload { argv: self.argv.clone(), env: self.env.clone(), cwd: self.cwd.clone() };
        check_workload(path, &plain, problems);
        if !self.user.is_empty() && !has_root {
            problems.add(format!("{path}.user"), "the boot image has no users: give a root too, or no user");
        }
        // What a line of /etc/passwd cannot have, and Docker's own separator once.
        let wrong = self.user.len() > 256
            || self.user.contains(['\0', '\n'])
            || self.user.matches(':').count() > 1
            || self.user.ends_with(':');
        if wrong {
            problems.add(
                format!("{path}.user"),
                format!("{} is no user: write name, uid, name:group or uid:gid", quoted(&self.user)),
            );
        }
    }
}

impl From<Workload> for BootWorkload {
    /// The workload of a desired state: on the console, or on the streams' port without input.
    fn from(Workload { argv, env, cwd }: Workload) -> Self {
        Self { argv, env, cwd, ..Self::default() }
    }
}

impl Root {
    fn check(&self, problems: &mut Problems) {
        for (path, serial) in [("root.image", &self.image), ("root.writable", &self.writable)] {
            // VIRTIO_BLK_ID_BYTES; the kernel shows a serial number as a line of text.
            if !(1..=20).contains(&serial.len()) || !serial.bytes().all(|b| b.is_ascii_graphic()) {
                problems.add(
                    path,
                    format!(
                        "{} is no disk's serial number: write 1 to 20 printable characters",
                        quoted(serial)
                    ),
                );
            }
        }
        if self.image == self.writable {
            problems.add("root.writable", "is root.image again: the two are different disks");
        }
    }
}

fn check_tether(
    management: Option<&Management>,
    host: &HostAddress,
    token: Option<&Secret>,
    problems: &mut Problems,
) -> Option<Tether> {
    let way = way::check_way(management, host, problems);
    let pins = check_pins(&host.pins, problems);
    let token = token.map(|token| problems.keep("token", token.reveal().parse::<JoinToken>()));
    let token = token.unwrap_or_else(|| {
        problems
            .add("token", "missing: write the one the host has made for this guest, 64 hexadecimal digits");
        None
    });
    Some(Tether { way: way?, pins: pins?, token: token? })
}

fn check_pins(pins: &[String], problems: &mut Problems) -> Option<Vec<Pin>> {
    if !(1..=MAX_PINS).contains(&pins.len()) {
        problems.add(
            "host.pins",
            format!(
                "{} pins: write that of the host's key, the SHA-256 of its public key, and where it is known \
                 that of the next",
                pins.len()
            ),
        );
    }
    let each = pins.iter().enumerate();
    let kept = each.map(|(n, pin)| problems.keep(format_args!("host.pins[{n}]"), pin.parse()));
    // All of them: every wrong one is told.
    kept.collect::<Vec<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Boot, Vec<String>> {
        let document: BootDocument = serde_json::from_str(json).unwrap();
        document.check().map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn link_local_needs_no_address_plan() {
        let (pin, token) = ("ab".repeat(32), "17".repeat(32));
        let boot = read(&format!(
            r#"{{"guest": "server", "management": {{"mac": "02:7e:00:00:00:02"}},
                 "host": {{"address": "fe80::1", "pins": ["{pin}"]}}, "token": "{token}"}}"#
        ))
        .unwrap();
        let tether = boot.tether.unwrap();
        assert_eq!(tether.network().unwrap().port, crate::message::DEFAULT_PORT);
        assert_eq!(tether.pins, [pin.parse().unwrap()]);
        assert_eq!(tether.token, token.parse().unwrap());
    }

    #[test]
    fn every_problem_is_found() {
        let problems = read(
            r#"{"guest": "no good", "management": {"mac": "x"},
                "host": {"address": "10.0.0.1", "port": 0}, "workload": {"argv": []}}"#,
        )
        .unwrap_err();
        let paths: Vec<_> = problems.iter().filter_map(|p| p.split(": ").next()).collect();
        let expected = [
            "guest",
            "management.mac",
            "host.port",
            "management.address",
            "host.pins",
            "token",
            "workload.argv",
        ];
        assert_eq!(paths, expected);
    }

    #[test]
    fn nobody_is_trusted_by_mistake() {
        let with = |pins: &str, token: &str| {
            read(&format!(
                r#"{{"guest": "a", "management": {{"mac": "02:7e:00:00:00:02"}},
                     "host": {{"address": "fe80::1", "pins": {pins}}}, "token": "{token}"}}"#
            ))
        };
        let (pin, token) = (format!("\"{}\"", "ab".repeat(32)), "17".repeat(32));
        assert!(with(&format!("[{pin}, {pin}]"), &token).is_ok());
        for (pins, token, expected) in [
            ("[]".to_owned(), token.as_str(), &["host.pins"][..]),
            (format!("[{pin}, {pin}, {pin}]"), &token, &["host.pins"]),
            (format!("[{pin}, \"ab\"]"), &token, &["host.pins[1]"]),
            ("[\"x\", \"y\"]".to_owned(), &token[1..], &["host.pins[0]", "host.pins[1]", "token"]),
        ] {
            let problems = with(&pins, token).unwrap_err();
            let paths: Vec<_> = problems.iter().filter_map(|p| p.split(": ").next()).collect();
            assert_eq!(paths, expected);
            assert!(!problems.concat().contains("1717"), "{problems:?}");
        }
        let problems = read(&format!(r#"{{"guest": "a", "token": "{token}"}}"#)).unwrap_err();
        assert!(problems[0].starts_with("token: there is no host"), "{problems:?}");
    }

    #[test]
    fn half_a_tether_is_no_tether() {
        let problems = read(r#"{"guest": "a", "host": {"address": "fe80::1"}}"#).unwrap_err();
        assert!(problems[0].starts_with("management: missing"), "{problems:?}");
    }

    #[test]
    fn a_container_has_a_root_and_a_user() {
        let boot = read(
            r#"{"guest": "a", "root": {"image": "i", "writable": "w"},
                "workload": {"argv": ["sh"], "user": "1000:staff", "terminal": true, "rows": 24,
                             "columns": 80, "stdin": true}}"#,
        )
        .unwrap();
        let workload = boot.workload.unwrap();
        assert!(workload.terminal && workload.stdin && boot.root.is_some());
        assert_eq!((workload.user.as_str(), workload.rows), ("1000:staff", 24));
    }

    #[test]
    fn wrong_roots_and_users_are_told_with_their_paths() {
        let problems = read(
            r#"{"guest": "a", "root": {"image": "", "writable": "a-serial-number-of-22b"},
                "workload": {"argv": ["sh"], "user": "a:b:c"}}"#,
        )
        .unwrap_err();
        let paths: Vec<_> = problems.iter().filter_map(|p| p.split(": ").next()).collect();
        assert_eq!(paths, ["workload.user", "root.image", "root.writable"]);
        let problems = read(r#"{"guest": "a", "workload": {"argv": ["sh"], "user": "b"}}"#).unwrap_err();
        assert!(problems[0].starts_with("workload.user: the boot image has no users"), "{problems:?}");
    }
}
