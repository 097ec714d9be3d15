//! The kernel's settings that published ports and ways out need.
//!
//! Set interface by interface where the kernel lets one. What is as it should be is not written,
//! so that a `/proc/sys` that is read-only will do when it was prepared.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tether_wire::value::IfName;

use super::{NetworkError, Networks};
use crate::firewall::{Kind, Rules};

const IPV4: &str = "/proc/sys/net/ipv4/conf";
const IPV6: &str = "/proc/sys/net/ipv6/conf";
/// There when `br_netfilter` is, which other programs load.
const BRIDGED: &str = "/proc/sys/net/bridge";

impl Networks {
    /// Sets the kernel up to forward what `rules` let through. To be called after the rules were
    /// applied, each time bridges have come: nothing else may pass in between.
    ///
    /// Packets are forwarded that come in by a bridge network or by an external network the host
    /// has an address on. If there is no such external network, they come in by the host's other
    /// interfaces, and it forwards between those too, as with Docker. IPv6 knows only all
    /// interfaces or none, and is left alone until a network has an IPv6 subnet.
    ///
    /// With `br_netfilter` a packet's destination would be translated while it is still on its
    /// bridge, and a container could not reach itself by a port it publishes. It is switched off
    /// where there are no bridges but ours; where there are others, somebody wants it.
    pub async fn prepare(&self, rules: &Rules) -> Result<(), NetworkError> {
        let attached = rules.bridges.iter().any(|bridge| bridge.kind == Kind::External { attached: true });
        let bridges = rules.bridges.iter().map(|bridge| (&bridge.name, Some(bridge.kind)));
        for (name, kind) in bridges.chain([(&rules.management.bridge, None)]) {
            bridge(name, kind)?;
        }
        let ours = |name: &str| {
            let mut bridges = rules.bridges.iter().map(|bridge| &bridge.name);
            bridges.any(|bridge| bridge.as_str() == name) || rules.management.bridge.as_str() == name
        };
        if Path::new(BRIDGED).exists() && self.bridges().await?.iter().all(|name| ours(name.as_str())) {
            for key in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
                write(Path::new(BRIDGED).join(key), "0")?;
            }
        }
        if !attached && rules.bridges.iter().any(|bridge| bridge.kind == Kind::Nat) {
            for name in interfaces(IPV4).filter(|name| !ours(name) && name != "lo") {
                optional(IPV4, &name, "forwarding", "1")?;
            }
        }
        let nat = rules.bridges.iter().filter(|bridge| bridge.kind == Kind::Nat);
        if nat.flat_map(|bridge| &bridge.subnets).any(|subnet| subnet.address().is_ipv6()) {
            // A host that forwards does not listen to routers any more, unless it is told to (2).
            for name in interfaces(IPV6).chain(["default".to_owned()]).filter(|name| !ours(name)) {
                if matches!(read(&setting(IPV6, &name, "accept_ra")).as_deref(), Ok("1")) {
                    optional(IPV6, &name, "accept_ra", "2")?;
                }
            }
            write(setting(IPV6, "all", "forwarding"), "1")?;
        }
        Ok(())
    }
}

/// `None` is the management network.
fn bridge(name: &IfName, kind: Option<Kind>) -> Result<(), NetworkError> {
    let nat = kind == Some(Kind::Nat);
    let forwards = nat || kind == Some(Kind::External { attached: true });
    let flag = |on: bool| if on { "1" } else { "0" };
    let name = name.as_str();
    write(setting(IPV4, name, "forwarding"), flag(forwards))?;
    // The host reaches published ports by 127.0.0.1, and the answer comes in here.
    write(setting(IPV4, name, "route_localnet"), flag(nat))?;
    // A container that reaches its own network by a published port must go on doing so.
    write(setting(IPV4, name, "send_redirects"), "0")?;
    // Answers only for the addresses of this very bridge.
    write(setting(IPV4, name, "arp_ignore"), "1")?;
    write(setting(IPV4, name, "arp_announce"), "2")?;
    if Path::new(IPV6).exists() {
        // No container tells the host where to send its packets.
        for key in ["accept_ra", "autoconf", "accept_redirects"] {
            write(setting(IPV6, name, key), "0")?;
        }
        // Where the host has no address, it has no link-local one either.
        write(setting(IPV6, name, "disable_ipv6"), flag(kind == Some(Kind::External { attached: false })))?;
    }
    Ok(())
}

fn setting(family: &str, interface: &str, key: &str) -> PathBuf {
    Path::new(family).join(interface).join(key)
}

/// Every interface there is now.
fn interfaces(family: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(family).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != "all" && name != "default")
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map(|text| text.trim().to_owned())
}

fn write(path: PathBuf, value: &'static str) -> Result<(), NetworkError> {
    if read(&path).is_ok_and(|now| now == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| NetworkError::Sysctl { path, value, source })
}

/// As [`write`], for an interface that is not ours and may go at any time.
fn optional(family: &str, interface: &str, key: &str, value: &'static str) -> Result<(), NetworkError> {
    match write(setting(family, interface, key), value) {
        Err(NetworkError::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
