//! The boot document: what a guest knows before it has a channel.
//!
//! Written by the host, read by the guest; where the guest finds it is the agent's business.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    check::check_workload,
    identity::{JoinToken, MAX_PINS, Pin, Secret},
    message::DEFAULT_PORT,
    names::host_address,
    problem::{Problem, Problems},
    state::Workload,
    value::{GuestId, MacAddr, Prefix, is_link_local, quoted},
};

/// The boot document as it is written, in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootDocument {
    /// The guest's id: 1 to 64 letters, digits, `_`, `.` or `-`.
    pub guest: String,
    /// The management NIC. Absent where the desired state comes from a file.
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

/// The NIC that carries the tether.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Management {
    /// Which device it is: its MAC address.
    pub mac: String,
    /// A static address with its prefix length, where link-local IPv6 is not wanted.
    #[serde(default)]
    pub address: Option<String>,
}

/// Where the host listens, and how it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostAddress {
    /// Its address on the management network; link-local IPv6 unless there is a plan.
    pub address: String,
    /// The [pins](Pin) of its key, or of its present key and the next.
    #[serde(default)]
    pub pins: Vec<String>,
    /// Its TCP port.
    #[serde(default = "default_port")]
    pub port: u16,
}

fn default_port() -> u16 {
    DEFAULT_PORT
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

/// The way to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tether {
    /// The management NIC.
    pub mac: MacAddr,
    /// Its static address; `None` for link-local IPv6.
    pub address: Option<Prefix>,
    /// The host's address, of the family of `address` or link-local.
    pub host: IpAddr,
    /// The host's port.
    pub port: u16,
    /// Whoever has one of these keys is the host; one or two.
    pub pins: Vec<Pin>,
    /// What the host knows this guest by when it comes for the first time.
    pub token: JoinToken,
}

impl BootDocument {
    /// Checks the whole document, or says everything that is wrong with it.
    pub fn check(&self) -> Result<Boot, Vec<Problem>> {
        let mut problems = Problems::default();
        let guest = problems.keep("guest", self.guest.parse::<GuestId>());
        let tether = match (&self.management, &self.host) {
            (None, None) => {
                if self.token.is_some() {
                    problems
                        .add("token", "there is no host that would take it: give a host too, or no token");
                }
                None
            }
            (Some(management), Some(host)) => {
                check_tether(management, host, self.token.as_ref(), &mut problems)
            }
            (Some(_), None) => {
                problems.add(
                    "host",
                    "missing: write where the host is, {\"address\": \"fe80::1\", \"pins\": […]}, say",
                );
                None
            }
            (None, Some(_)) => {
                problems.add(
                    "management",
                    "missing: write which NIC leads to the host, {\"mac\": \"02:7e:00:00:00:02\"}, say",
                );
                None
            }
        };
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
    management: &Management,
    host: &HostAddress,
    token: Option<&Secret>,
    problems: &mut Problems,
) -> Option<Tether> {
    let mac = problems.keep("management.mac", management.mac.parse::<MacAddr>());
    let address =
        (management.address.as_ref()).map(|text| problems.keep("management.address", text.parse::<Prefix>()));
    let to = problems.keep("host.address", host_address(&host.address));
    if host.port == 0 {
        problems.add("host.port", "0 is no port: write 1 to 65535");
    }
    let pins = check_pins(&host.pins, problems);
    let token = token.map(|token| problems.keep("token", token.reveal().parse::<JoinToken>()));
    let token = token.unwrap_or_else(|| {
        problems
            .add("token", "missing: write the one the host has made for this guest, 64 hexadecimal digits");
        None
    });
    let link_local = to.is_some_and(is_link_local);
    match (to, address) {
        (Some(to), None) if !link_local => {
            problems.add(
                "management.address",
                format!("missing: {to} is not link-local, so the NIC needs an address beside it"),
            );
        }
        (Some(to), Some(Some(address))) if !link_local && !address.contains(to) => {
            problems.add("host.address", format!("{to} is not reachable through {address}"));
        }
        _ => {}
    }
    Some(Tether {
        mac: mac?,
        address: match address {
            Some(address) => Some(address?),
            None => None,
        },
        host: to?,
        port: host.port,
        pins: pins?,
        token: token?,
    })
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
        assert_eq!((tether.port, tether.pins), (DEFAULT_PORT, vec![pin.parse().unwrap()]));
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
            "host.pins",
            "token",
            "management.address",
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
