//! Making the management NIC ready to carry the tether.
//!
//! This is the one piece of configuration that comes from the boot document and not from the
//! host: without it there is no host. No desired state may name this NIC, and where it has a
//! [namespace](Namespace) of its own the container does not see it.

mod namespace;

use std::{fs, io, time::Duration};

use tether_wire::{
    boot::Network,
    value::{MacAddr, Prefix, is_link_local},
};
use tokio::time::{sleep, timeout};

use crate::{
    kernel::{Kernel, KernelError},
    plan::{Address, KernelState, Link, Named, Operation},
};

pub use namespace::{Namespace, NamespaceError, PATH as NAMESPACE};

/// The protocol number on the management NIC's static address: not the desired state's, which
/// would remove it.
const PROTOCOL: u8 = 0x75;
/// After this long without a usable NIC, the log says what is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long until a refused operation is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// What the NIC is called once tether brings it up: the kernel's `eth0` is for the container.
const NAME: &str = "tether0";

/// The way to the host: the NIC, and the kernel it is configured in.
#[derive(Debug)]
pub struct Management {
    kernel: Kernel,
    tether: Network,
}

impl Management {
    /// A NIC that has not been looked at yet.
    pub fn new(tether: Network) -> io::Result<Self> {
        Ok(Self { kernel: Kernel::open()?, tether })
    }

    /// Where it leads.
    pub fn tether(&self) -> &Network {
        &self.tether
    }

    /// Waits for the NIC, brings it up with its address, and returns its index once packets can
    /// pass. Does nothing to a NIC that is ready. What stands in the way is logged and waited for.
    pub async fn make_ready(&self) -> u32 {
        let mut told = None;
        loop {
            let obstacle = match self.step().await {
                Ok(Step::Ready(index)) => return index,
                Ok(Step::Done) => continue,
                Ok(Step::Wait(what)) => what,
                Err(error) => {
                    // The device may be gone, or come back another: look again.
                    let error = error.to_string();
                    if told.as_ref() != Some(&error) {
                        tracing::warn!("the management NIC cannot be made ready: {error}; trying on");
                        told = Some(error);
                    }
                    sleep(PAUSE).await;
                    continue;
                }
            };
            tracing::debug!("{obstacle}");
            while timeout(PATIENCE, self.kernel.changed()).await.is_err() {
                tracing::warn!("{obstacle}; waiting");
            }
        }
    }

    /// Looks, and does the next thing that is missing.
    async fn step(&self) -> Result<Step, KernelError> {
        let state = self.kernel.observe().await?;
        let mac = self.tether.mac;
        let Some(link) = state.links.iter().find(|link| link.is_device(mac)) else {
            return Ok(Step::Wait(format!("no interface has {mac}, the management NIC's address")));
        };
        match next_operation(&state, link, &self.tether) {
            Ok(operation) => {
                if matches!(operation, Operation::LinkUp(_)) {
                    quieten(&link.name);
                }
                tracing::debug!(%operation);
                // The kernel makes the same link-local address in its own time.
                let tolerated = |operation: &Operation, error: &KernelError| {
                    operation.is_new_address() && error.says_exists()
                };
                let carried_out = self.kernel.carry_out(&[operation], tolerated).await;
                carried_out.map(|()| Step::Done).map_err(|refusal| refusal.error)
            }
            Err(Some(what)) => Ok(Step::Wait(format!("{}, the management NIC, has no {what}", link.name))),
            Err(None) => {
                let kept = self.kernel.keep_neighbour(link.index, self.tether.host).await;
                if let Err(error) = kept {
                    tracing::debug!("no place is kept for the host among the neighbours: {error}");
                }
                Ok(Step::Ready(link.index))
            }
        }
    }
}

/// How it goes with the NIC.
enum Step {
    /// Something was done; there may be more.
    Done,
    /// Something only others can do is missing.
    Wait(String),
    /// The NIC of this index can be used.
    Ready(u32),
}

/// What is to be done next; else what is waited for, or `None` when the NIC can be used.
fn next_operation(
    state: &KernelState,
    link: &Link,
    tether: &Network,
) -> Result<Operation, Option<&'static str>> {
    let named = link.name == NAME || state.links.iter().any(|other| other.name == NAME);
    if !link.up && !named {
        return Ok(Operation::Rename(Named::of(link), NAME.to_owned()));
    }
    if !link.up {
        return Ok(Operation::LinkUp(Named::of(link)));
    }
    let wanted = |prefix: Prefix| match tether.address {
        Some(address) => prefix == address,
        None => is_link_local(prefix.address()),
    };
    let address = state.addresses.iter().find(|a| a.link == link.index && wanted(a.prefix));
    match address {
        None => Ok(Operation::AddAddress(Address {
            protocol: PROTOCOL,
            nodad: true,
            ..Address::ours(link.index, tether.address.unwrap_or_else(|| link_local(tether.mac)))
        })),
        _ if !link.carrier => Err(Some("carrier")),
        Some(address) if address.tentative => Err(Some("usable address yet")),
        Some(_) => Err(None),
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
