//! The machine of a planned container: it ends with this process, however that ends.

use std::process::Stdio;

use nix::sys::{prctl, signal::Signal};
use tokio::process::Child;
use vch::{
    machine::{
        Image, MachineError, Nic, NicModel,
        qemu::{Accelerator, Invocation},
        tap::Tap,
    },
    network::{NetworkError, Networks},
};

use crate::plan::{Plan, PlannedContainer};

/// Why a machine does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// There is no tap device.
    #[error("/dev/net/tun: {0}; CAP_NET_ADMIN is needed in the network namespace")]
    Tap(std::io::Error),
    /// A tap could not be put on its bridge.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// QEMU does not start.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// Starts the machine of `container`, its NICs on the networks' bridges.
///
/// The child is its QEMU, with the guest's console as standard output.
pub(crate) async fn start(
    plan: &Plan,
    container: &PlannedContainer,
    image: &Image,
    accelerator: Accelerator,
    networks: &Networks,
    console: Stdio,
) -> Result<Child, StartError> {
    let mut invocation = Invocation::new(image, accelerator, container.memory_mib, 1);
    invocation.console_on_stdout();
    let document =
        serde_json::to_vec(&plan.boot_document(container)).map_err(|e| MachineError::Boot(e.into()))?;
    invocation.boot_document(&document)?;
    let management = (&plan.management_bridge, None, container.management_mac, NicModel::VirtioNet);
    let others = container.endpoints.iter().map(|endpoint| {
        let network = &plan.networks[endpoint.network];
        (&network.bridge, network.mtu, endpoint.mac, container.nic)
    });
    for (n, (bridge, mtu, mac, model)) in [management].into_iter().chain(others).enumerate() {
        let tap = Tap::new().map_err(StartError::Tap)?;
        let index =
            nix::net::if_::if_nametoindex(tap.name.as_str()).map_err(|e| StartError::Tap(e.into()))?;
        networks.attach(index, bridge, mtu).await?;
        invocation.nic(Nic { id: format!("nic{n}"), mac, tap, model });
    }
    let mut command = invocation.command();
    // A process group of its own: Ctrl-C at the terminal is for this program, which stops it in
    // order.
    command.process_group(0).kill_on_drop(true).stdin(Stdio::null()).stdout(console);
    // SAFETY: one system call between fork and exec, no allocation and no lock.
    unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
    Ok(invocation.spawn(&mut command).map_err(MachineError::Start)?)
}
