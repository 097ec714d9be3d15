//! Carrying out the planner's operations.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::link::LinkAttribute;
use nix::libc::{
    RTM_DELADDR, RTM_DELLINK, RTM_DELNEIGH, RTM_DELROUTE, RTM_DELRULE, RTM_NEWADDR, RTM_NEWLINK,
    RTM_NEWNEIGH, RTM_NEWROUTE, RTM_NEWRULE, RTM_SETLINK,
};

use super::{
    Kernel, KernelError, address, link, neighbour,
    requests::{Batch, Requests},
    route, rule, settings,
};
use crate::plan::{Operation, Setting};

/// Names besides, which libc does not know yet.
const RTM_NEWLINKPROP: u16 = 108;
const RTM_DELLINKPROP: u16 = 109;

/// The operation that was refused.
#[derive(Debug)]
pub struct Refusal {
    /// Its place among the operations.
    pub at: usize,
    /// Why.
    pub error: KernelError,
}

impl Kernel {
    /// Carries out operations in their order. Many go to the kernel at once, which works them off
    /// one after the other; a setting, which is a file, waits for what is before it.
    ///
    /// `tolerated` says which refusals do not matter. The first that does ends it: nothing more
    /// is sent. Operations behind it may have been carried out already, so the caller reads back.
    /// Where answers are missing, the first operation that went out with theirs is named.
    pub async fn carry_out(
        &self,
        operations: &[Operation],
        tolerated: impl Fn(&Operation, &KernelError) -> bool,
    ) -> Result<(), Refusal> {
        let mut run = Run {
            requests: &mut *self.requests.lock().await,
            batch: Batch::default(),
            operations,
            tolerated,
        };
        for (at, operation) in operations.iter().enumerate() {
            #[cfg(debug_assertions)]
            let refuse = self.fault_at(&mut run, at).await?;
            #[cfg(not(debug_assertions))]
            let refuse = false;
            match operation {
                Operation::Set(link, setting, value) => {
                    run.flush(at).await?;
                    run.judge(at, set(&link.name, *setting, *value, refuse))?;
                }
                _ => push(&mut run.batch, operation, refuse),
            }
            if run.batch.is_full() {
                run.flush(at + 1).await?;
            }
        }
        run.flush(operations.len()).await
    }

    /// What the fault that is set does to the operation at `at`: whether it is to be refused.
    #[cfg(debug_assertions)]
    async fn fault_at<T>(&self, run: &mut Run<'_, T>, at: usize) -> Result<bool, Refusal>
    where
        T: Fn(&Operation, &KernelError) -> bool,
    {
        use super::fault::{self, Fault};
        let fault = self.faults.next();
        if matches!(fault, Some(Fault::Kill(_))) {
            run.flush(at).await?;
            fault::kill();
        }
        Ok(matches!(fault, Some(Fault::Refuse(_))))
    }
}

/// One call of [`Kernel::carry_out`].
struct Run<'a, T> {
    requests: &'a mut Requests,
    batch: Batch,
    operations: &'a [Operation],
    tolerated: T,
}

impl<T: Fn(&Operation, &KernelError) -> bool> Run<'_, T> {
    /// Sends what is in the batch, the operations before `end`, and waits for the answers.
    async fn flush(&mut self, end: usize) -> Result<(), Refusal> {
        let start = end - self.batch.count();
        let mut first = None;
        let (operations, tolerated) = (self.operations, &self.tolerated);
        let sent = self.requests.send(&mut self.batch, |place, error| {
            let at = start + place;
            // Answers come in the order of the requests.
            if first.is_none() && !operations.get(at).is_some_and(|operation| tolerated(operation, &error)) {
                first = Some(Refusal { at, error });
            }
        });
        let sent = sent.await;
        first.map_or(Ok(()), Err)?;
        sent.map_err(|error| Refusal { at: start, error })
    }

    /// Whether the answer to the operation at `at` lets the others go on.
    fn judge(&self, at: usize, answer: Result<(), KernelError>) -> Result<(), Refusal> {
        match answer {
            Err(error) if !(self.tolerated)(&self.operations[at], &error) => Err(Refusal { at, error }),
            _ => Ok(()),
        }
    }
}

fn set(name: &str, setting: Setting, value: i32, refuse: bool) -> Result<(), KernelError> {
    #[cfg(debug_assertions)]
    if refuse {
        return settings::write_nowhere(name, value);
    }
    let _ = refuse;
    settings::write(name, setting, value)
}

/// Adds the request for an operation that is not a setting. One that is to be refused gets a type
/// that the kernel does not know.
fn push(batch: &mut Batch, operation: &Operation, refuse: bool) {
    const NO_TYPE: u16 = 0x7fff;
    const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;
    const CHANGE: u16 = NLM_F_CREATE | NLM_F_REPLACE;
    let kind = |kind| if refuse { NO_TYPE } else { kind };
    let set = kind(RTM_SETLINK);
    match operation {
        Operation::Set(..) => {}
        Operation::CreateLink(device) => batch.push(kind(RTM_NEWLINK), NEW, &link::new(device)),
        Operation::DeleteLink(to) => batch.push(kind(RTM_DELLINK), 0, &link::by_index(to.index)),
        Operation::LinkDown(to) => batch.push(set, 0, &link::up_or_down(to.index, false)),
        Operation::LinkUp(to) => batch.push(set, 0, &link::up_or_down(to.index, true)),
        Operation::Rename(to, name) => {
            batch.push(set, 0, &link::with(to.index, LinkAttribute::IfName(name.clone())));
        }
        Operation::AddAlternativeName(to, name) => {
            batch.push(kind(RTM_NEWLINKPROP), NEW, &link::alternative_name(to.index, name));
        }
        Operation::RemoveAlternativeName(to, name) => {
            batch.push(kind(RTM_DELLINKPROP), 0, &link::alternative_name(to.index, name));
        }
        Operation::SetMac(to, mac) => {
            batch.push(set, 0, &link::with(to.index, LinkAttribute::Address(mac.bytes().to_vec())));
        }
        Operation::SetMtu(to, mtu) => batch.push(set, 0, &link::with(to.index, LinkAttribute::Mtu(*mtu))),
        Operation::SetTxQueueLength(to, length) => {
            batch.push(set, 0, &link::with(to.index, LinkAttribute::TxQueueLen(*length)));
        }
        Operation::AddAddress(a) => batch.push(kind(RTM_NEWADDR), NEW, &address::whole(a)),
        Operation::ChangeAddress(a) => batch.push(kind(RTM_NEWADDR), CHANGE, &address::whole(a)),
        Operation::RemoveAddress(a) => batch.push(kind(RTM_DELADDR), 0, &address::key(a)),
        Operation::AddRoute(r) => batch.push(kind(RTM_NEWROUTE), NEW, &route::whole(r)),
        Operation::ReplaceRoute(r) => batch.push(kind(RTM_NEWROUTE), CHANGE, &route::whole(r)),
        Operation::RemoveRoute(r) => batch.push(kind(RTM_DELROUTE), 0, &route::to_remove(r)),
        Operation::AddRule(r) => batch.push(kind(RTM_NEWRULE), NEW, &rule::whole(r)),
        Operation::RemoveRule(r) => batch.push(kind(RTM_DELRULE), 0, &rule::whole(r)),
        Operation::SetNeighbour(n) => batch.push(kind(RTM_NEWNEIGH), CHANGE, &neighbour::whole(n)),
        Operation::RemoveNeighbour(n) => batch.push(kind(RTM_DELNEIGH), 0, &neighbour::key(n)),
    }
}
