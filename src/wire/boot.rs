//! The boot document: what a guest knows before it has a channel.
//!
//! Written by the host, read by the guest; where the guest finds it is the agent's business.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    check::check_workload,
    message::DEFAULT_PORT,
    names::host_address,
    problem::{Problem, Problems},
    state::Workload,
    value::{GuestId, MacAddr, Prefix, is_link_local},
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
    /// What process 1 starts once the network is verified, unless the desired state names
    /// something else.
    #[serde(default)]
    pub workload: Option<Workload>,
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

/// Where the host listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostAddress {
    /// Its address on the management network; link-local IPv6 unless there is a plan.
    pub address: String,
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
    pub workload: Option<Workload>,
}

/// The way to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tether {
    /// The management NIC.
    pub mac: MacAddr,
    /// Its static address; `None` for link-local IPv6.
    pub address: Option<Prefix>,
    /// The host's address, of the family of `address` or link-local.
    pub host: IpAddr,
    /// The host's port.
    pub port: u16,
}

impl BootDocument {
    /// Checks the whole document, or says everything that is wrong with it.
    pub fn check(&self) -> Result<Boot, Vec<Problem>> {
        let mut problems = Problems::default();
        let guest = problems.keep("guest", self.guest.parse::<GuestId>());
        let tether = match (&self.management, &self.host) {
            (None, None) => None,
            (Some(management), Some(host)) => check_tether(management, host, &mut problems),
            (Some(_), None) => {
                problems.add("host", "missing: write where the host is, {\"address\": \"fe80::1\"}, say");
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
            check_workload("workload", workload, &mut problems);
        }
        match (guest, problems.into_result(())) {
            (Some(guest), Ok(())) => Ok(Boot { guest, tether, workload: self.workload.clone() }),
            (_, Err(problems)) => Err(problems),
            // `keep` has noted why there is no guest, so this is not reached.
            (None, Ok(())) => Err(vec![Problem::new("guest", "missing")]),
        }
    }
}

fn check_tether(management: &Management, host: &HostAddress, problems: &mut Problems) -> Option<Tether> {
    let mac = problems.keep("management.mac", management.mac.parse::<MacAddr>());
    let address =
        (management.address.as_ref()).map(|text| problems.keep("management.address", text.parse::<Prefix>()));
    let to = problems.keep("host.address", host_address(&host.address));
    if host.port == 0 {
        problems.add("host.port", "0 is no port: write 1 to 65535");
    }
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
    })
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
        let boot = read(
            r#"{"guest": "server", "management": {"mac": "02:7e:00:00:00:02"},
                "host": {"address": "fe80::1"}}"#,
        )
        .unwrap();
        assert_eq!(boot.tether.unwrap().port, DEFAULT_PORT);
    }

    #[test]
    fn every_problem_is_found() {
        let problems = read(
            r#"{"guest": "no good", "management": {"mac": "x"},
                "host": {"address": "10.0.0.1", "port": 0}, "workload": {"argv": []}}"#,
        )
        .unwrap_err();
        let paths: Vec<_> = problems.iter().filter_map(|p| p.split(": ").next()).collect();
        let expected = ["guest", "management.mac", "host.port", "management.address", "workload.argv"];
        assert_eq!(paths, expected);
    }

    #[test]
    fn half_a_tether_is_no_tether() {
        let problems = read(r#"{"guest": "a", "host": {"address": "fe80::1"}}"#).unwrap_err();
        assert!(problems[0].starts_with("management: missing"), "{problems:?}");
    }
}
