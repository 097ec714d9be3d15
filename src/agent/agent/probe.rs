//! IPv4 addresses that are used only once nobody else is known to have them.

use std::time::Duration;

use tether_wire::{
    check::Desired,
    message::{Failure, Phase},
    problem::Problem,
};
use tokio::time;

use super::{
    Agent,
    apply::{reads, untouched},
};
use crate::{
    claim::Claim,
    plan::{self, KernelState, Operation, Target},
};

/// How long a link may take to carry packets before addresses on it can be probed.
const CARRIER: Duration = Duration::from_secs(10);

impl Agent {
    /// Probes the addresses that are to be free before they are used (RFC 5227 section 2.1.1):
    /// first the links come up, then the probes go out, and the rest of the way is planned from
    /// there. Without such addresses nothing is done. How many operations it took, the kernel now
    /// and what is left to do.
    pub(super) async fn probe_first(
        &mut self,
        desired: &Desired,
        target: &mut Target,
        now: KernelState,
        operations: Vec<Operation>,
    ) -> Result<(u32, KernelState, Vec<Operation>), Failure> {
        if target.to_probe(&now).is_empty() {
            return Ok((0, now, operations));
        }
        let mut links = target.links_only(&now);
        let first = plan::diff(&now, &links);
        let (done, mut now) = self.converge(&mut links, now, first, &reads(desired)).await?;
        target.disturbed.extend(links.disturbed);
        let end = time::Instant::now() + CARRIER;
        let claims = loop {
            match claims(target, &now) {
                Ok(claims) => break claims,
                Err(problem) => {
                    if !self.changed_before(end).await {
                        return Err(untouched(Phase::Verify, vec![problem]));
                    }
                    now = self.read(desired, Phase::Verify).await?;
                }
            }
        };
        self.claims.own(now.links.iter().filter_map(|link| link.mac));
        let conflicts = self.claims.probe(&claims).await.map_err(|error| {
            let message = format!("addresses cannot be probed: {error}");
            untouched(Phase::Verify, vec![Problem::new("interfaces", message)])
        })?;
        let problem = |conflict: &crate::claim::Conflict| {
            let mac = conflict.mac.map(|mac| format!(": {mac}")).unwrap_or_default();
            let taken = |address: &&&plan::Address| {
                address.link == conflict.link && address.prefix.address() == conflict.address
            };
            let path = target.to_probe(&now).iter().find(taken).map(|address| target.address_path(address));
            Problem::new(
                path.unwrap_or_else(|| target.link_path(conflict.link)),
                format!("{} is in use by another machine{mac}", conflict.address),
            )
        };
        if !conflicts.is_empty() {
            return Err(untouched(Phase::Verify, conflicts.iter().map(problem).collect()));
        }
        let operations = plan::diff(&now, target);
        Ok((done, now, operations))
    }
}

/// What is to be probed, or why it cannot be yet.
fn claims(target: &Target, now: &KernelState) -> Result<Vec<Claim>, Problem> {
    let claim = |address: &plan::Address| {
        let link = now.link(address.link);
        let link = link.filter(|link| link.carrier).ok_or_else(|| {
            let name = target.state.link_name(address.link);
            Problem::new(target.address_path(address), format!("{name} has no carrier to probe it on"))
        })?;
        let no_mac =
            || Problem::new(target.address_path(address), format!("{} has no MAC address", link.name));
        Ok(Claim { link: link.index, mac: link.mac.ok_or_else(no_mac)?, address: address.prefix.address() })
    };
    target.to_probe(now).into_iter().map(claim).collect()
}
