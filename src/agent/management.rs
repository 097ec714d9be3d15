//! Making the management NIC ready to carry the tether.
//!
//! This is the one piece of configuration that comes from the boot document and not from the
//! host: without it there is no host. No desired state may name this NIC.

use std::{fs, io, time::Duration};

use tether_wire::{
    boot::Tether,
    value::{MacAddr, Prefix, is_link_local},
};
use tokio::time::timeout;

use crate::{
    kernel::{Kernel, KernelError},
    plan::{Address, KernelState, Link, Operation},
};

/// The protocol number on the management NIC's static address: not the desired state's, which
/// would remove it.
const PROTOCOL: u8 = 0x75;
/// After this long without a usable NIC, the log says what is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the NIC is called once tether brings it up: the kernel's `eth0` is for the container.
const NAME: &str = "tether0";

/// Waits for the NIC, brings it up with its address, and returns its index once packets can
/// pass. Does nothing to a NIC that is ready.
pub async fn make_ready(kernel: &Kernel, tether: &Tether) -> Result<u32, KernelError> {
    loop {
        let state = kernel.observe().await?;
        let missing = match state.links.iter().find(|link| link.mac == Some(tether.mac)) {
            None => format!("no interface has {}, the management NIC's address", tether.mac),
            Some(link) => match next_step(&state, link, tether) {
                Step::Do(operation) => {
                    if matches!(operation, Operation::LinkUp { .. }) {
                        quieten(&link.name);
                    }
                    tracing::debug!(%operation);
                    kernel.carry_out(&operation).await?;
                    continue;
                }
                Step::Wait(what) => format!("{}, the management NIC, has no {what}", link.name),
                Step::Ready => return Ok(link.index),
            },
        };
        tracing::debug!("{missing}");
        while timeout(PATIENCE, kernel.changed()).await.is_err() {
            tracing::warn!("{missing}; waiting");
        }
    }
}

/// What is missing until the NIC can be used.
enum Step {
    Do(Operation),
    Wait(&'static str),
    Ready,
}

fn next_step(state: &KernelState, link: &Link, tether: &Tether) -> Step {
    let named = link.name == NAME || state.links.iter().any(|other| other.name == NAME);
    if !link.up && !named {
        let (from, to) = (link.name.clone(), NAME.to_owned());
        return Step::Do(Operation::Rename { link: link.index, from, to });
    }
    if !link.up {
        return Step::Do(Operation::LinkUp { link: link.index, name: link.name.clone() });
    }
    let wanted = |prefix: Prefix| match tether.address {
        Some(address) => prefix == address,
        None => is_link_local(prefix.address()),
    };
    let address = state.addresses.iter().find(|a| a.link == link.index && wanted(a.prefix));
    match address {
        None => Step::Do(Operation::AddAddress(Address {
            protocol: PROTOCOL,
            nodad: true,
            ..Address::ours(link.index, tether.address.unwrap_or_else(|| link_local(tether.mac)))
        })),
        _ if !link.carrier => Step::Wait("carrier"),
        Some(address) if address.tentative => Step::Wait("usable address yet"),
        Some(_) => Step::Ready,
    }
}

/// The link-local address made of a MAC address (RFC 4291 appendix A). The kernel would make the
/// same one, but only after its link watcher has had its turn, which takes up to a second.
fn link_local(mac: MacAddr) -> Prefix {
    let [vendor @ .., _, _, _] = mac.bytes();
    let [_, _, _, device @ ..] = mac.bytes();
    let mut interface_id = [0, 0, 0, 0xff, 0xfe, 0, 0, 0];
    interface_id[..3].copy_from_slice(&vendor);
    interface_id[5..].copy_from_slice(&device);
    // The "universal/local" bit is the other way round here.
    interface_id[0] ^= 2;
    Prefix::link_local(u64::from_be_bytes(interface_id))
}

/// Spares the NIC what the host has settled already, before it comes up: duplicate-address
/// detection, which takes a second or two (the host gives out MAC addresses, so the link-local
/// address made of one is unique), and router advertisements, which only a stranger would send.
fn quieten(name: &str) {
    for setting in ["accept_dad", "accept_ra"] {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/{setting}");
        match fs::write(&path, "0") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!("{path} cannot be set: {error}");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_local_address_is_the_kernels() {
        let mac = "02:7e:94:8f:e6:03".parse().unwrap();
        assert_eq!(link_local(mac).to_string(), "fe80::7e:94ff:fe8f:e603/64");
    }
}
