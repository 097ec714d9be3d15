//! Putting a desired state in force.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tether_wire::{
    check::Desired,
    message::{Failed, FailedOperation, Failure, Phase, Verified, state_digest},
    problem::{Problem, Problems},
    state::DesiredState,
    status::Stamp,
};
use tokio::time::{self, timeout_at};

use super::{Agent, InForce, confirm::Unconfirmed};
use crate::{
    files::Snapshot,
    journal::Good,
    kernel::{self, KernelError, Refusal},
    plan::{self, Facts, KernelState, Operation, Others, Progress, Target, danger},
    report,
};

/// How long the kernel may take until everything is usable: duplicate-address detection takes
/// up to 2 s (RFC 4862), a link's negotiation some more.
const SETTLE: Duration = Duration::from_secs(10);

/// How long a NIC that a document names may take to appear: it is being plugged in.
const PLUGGING: Duration = Duration::from_secs(5);

/// How often the difference is planned anew when the kernel, read back, is not as it was told
/// to be: side effects of an operation (a secondary address gone with its primary) take one
/// more round.
const ROUNDS: u32 = 5;

/// So many routes and addresses leave enough free memory behind to be given back, once the host
/// has its answer and the kernel was looked at again.
const LARGE: usize = 1_000;

/// A state that has been reached.
pub(super) struct Reached {
    /// How many operations it took.
    pub(super) operations: u32,
    /// Whether one of them could have cut the host off.
    pub(super) dangerous: bool,
    /// What it was the way to.
    pub(super) target: Target,
}

impl Agent {
    /// Puts `state` in force, or says why not and leaves everything as it was.
    pub async fn apply(&mut self, generation: u64, state: &DesiredState) -> Result<Verified, Failed> {
        let started = Instant::now();
        let stamp = Stamp { generation, digest: state_digest(state) };
        let size = |state: &KernelState| state.routes.len() + state.addresses.len();
        let before = size(&self.seen);
        let applied = self.apply_checked(stamp, state).await;
        self.leaves_memory |= before.max(size(&self.seen)) > LARGE;
        // What others did meanwhile was not looked at.
        self.kernel.look_again();
        match applied {
            Ok(reached) => {
                let since = self.in_force.as_ref().map_or_else(kernel::clock, |now| now.since);
                let good = Good { stamp, since, state: state.clone() };
                let confirm_within_s = self.note(good, &reached);
                let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                let Reached { operations, target, .. } = reached;
                tracing::debug!(generation, operations, took_us, "network verified");
                let observed = report::observed(&self.seen, self.management());
                Ok(Verified {
                    stamp,
                    operations,
                    took_us,
                    skipped: target.skipped,
                    confirm_within_s,
                    observed,
                })
            }
            Err(failure) => {
                for problem in &failure.problems {
                    tracing::error!(generation, phase = ?failure.phase, "{problem}");
                }
                Err(Failed { generation, failure })
            }
        }
    }

    /// The procedure of `docs/design.md`, "How a desired state is put in force".
    ///
    /// One that is in force already goes the same way: it is read back, and mended where somebody
    /// has disturbed it.
    async fn apply_checked(&mut self, stamp: Stamp, state: &DesiredState) -> Result<Reached, Failure> {
        judge(self.applied(), stamp).map_err(|problem| untouched(Phase::Generation, vec![problem]))?;
        if self.given_up == Some(stamp) {
            return Err(untouched(Phase::Confirm, vec![super::confirm::not_confirmed()]));
        }
        let desired = state.check().map_err(|problems| untouched(Phase::Check, problems))?;
        // The same document, in force for a while: its addresses are as old.
        let same = self.in_force.as_ref().filter(|now| now.stamp.digest == stamp.digest);
        let since = same.map_or_else(kernel::clock, |now| now.since);
        let (before, target) = self.plan(&desired, since).await?;
        self.put_in_force(stamp, desired, before, target, since).await
    }

    /// Puts a checked document in force, from `before` to `target`; `since` is when it
    /// came in force.
    pub(super) async fn put_in_force(
        &mut self,
        stamp: Stamp,
        desired: Desired,
        before: KernelState,
        mut target: Target,
        since: u32,
    ) -> Result<Reached, Failure> {
        let operations = plan::diff(&before, &target);
        let host = self.lifeline.and_then(|lifeline| lifeline.host);
        let dangerous = host.is_some_and(|host| danger::could_cut_off(&operations, host));
        if !operations.is_empty() {
            self.note_change(&before, &target, &operations);
        }
        let files = self.files.snapshot();
        match self.reach(&desired, &mut target, before.clone(), operations).await {
            Ok((operations, now)) => {
                self.seen = now;
                self.originals = target.originals.clone();
                self.in_force = Some(InForce {
                    stamp,
                    desired: Arc::new(desired),
                    since,
                    skipped: target.skipped.clone(),
                });
                self.configure_dns();
                self.watch.forgive();
                self.hold_addresses(&target);
                Ok(Reached { operations, dangerous, target })
            }
            Err(failure) => {
                let restored = self.roll_back(target.back_to(before), &files).await;
                if restored {
                    // What was not confirmed still is not.
                    if self.unconfirmed.is_none() {
                        self.journal.abandon(self.originals.clone());
                    }
                } else {
                    // Nothing is known to be in force any more; the host may well send it again.
                    self.in_force = None;
                    self.originals = self.journal.note().originals.clone();
                }
                Err(Failure { restored, ..failure })
            }
        }
    }

    /// Writes down, before a change, that there is something to go back to.
    pub(super) fn note_change(&mut self, before: &KernelState, target: &Target, operations: &[Operation]) {
        let known = self.journal.note().originals.and(&target.originals);
        // Links that go down on the way only are to be up again, whoever had them up.
        let down = operations.iter().filter_map(|operation| match operation {
            Operation::LinkDown(link) => before.link(link.index),
            _ => None,
        });
        let disturbed = operations.iter().filter_map(Operation::disturbs).collect();
        let others = Others::on(&disturbed, before);
        self.journal.begin(known.with_up(down), others);
    }

    /// Writes down what there is to go back to from now on. How many seconds the host has to
    /// confirm before that happens by itself, 0 for no need.
    fn note(&mut self, good: Good, reached: &Reached) -> u32 {
        let originals = reached.target.originals.clone();
        // Sent again, it says that the host can be heard, and not yet that it hears.
        let again = self.unconfirmed.as_ref().is_some_and(|unconfirmed| unconfirmed.good.stamp == good.stamp);
        let Some(in_force) = self.in_force.as_ref().filter(|_| reached.dangerous || again) else {
            // Nothing that could have cut the host off; and it has just been heard.
            self.unconfirmed = None;
            self.journal.settle(&good, originals);
            return 0;
        };
        let within = in_force.desired.confirm_within;
        self.unconfirmed = Some(Unconfirmed { until: time::Instant::now() + within, good });
        u32::try_from(within.as_secs()).unwrap_or(u32::MAX)
    }

    /// Reads the kernel, and plans: as soon as every NIC is there that `desired` names, or when
    /// the time for that is over. What is missing then is the planner's to tell.
    async fn plan(&self, desired: &Desired, since: u32) -> Result<(KernelState, Target), Failure> {
        let end = time::Instant::now() + PLUGGING;
        let facts = self.facts(since, false);
        let mut told = false;
        loop {
            let now = self.read(desired, Phase::Plan).await?;
            if let Some(missing) = plan::missing(desired, &now, facts) {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!("no interface is {missing} yet; waiting for it to be plugged in");
                }
                if self.changed_before(end).await {
                    continue;
                }
            }
            let target = plan::target(desired, &now, facts);
            return target.map(|target| (now, target)).map_err(|problems| untouched(Phase::Plan, problems));
        }
    }

    /// Makes kernel and files as desired, `operations` being the first round, and waits until they
    /// are usable.
    async fn reach(
        &mut self,
        desired: &Desired,
        target: &mut Target,
        now: KernelState,
        operations: Vec<Operation>,
    ) -> Result<(u32, KernelState), Failure> {
        self.watch_coming(target, &now);
        let (probed, now, operations) = self.probe_first(desired, target, now, operations).await?;
        let (mut done, mut now) = self.converge(target, now, operations, &reads(desired)).await?;
        done += probed;
        self.files.put_in_force(desired).map_err(|problems| untouched(Phase::Files, problems))?;
        let end = time::Instant::now() + SETTLE;
        loop {
            self.watch_tentative(target, &now);
            match plan::settled(target, &now) {
                Progress::Settled => return Ok((done, now)),
                Progress::Wrong(wrong) => {
                    let problems = wrong.into_iter().map(|wrong| self.name_rival(wrong)).collect();
                    return Err(untouched(Phase::Verify, problems));
                }
                Progress::Waiting(problems) => {
                    if !self.changed_before(end).await {
                        return Err(untouched(Phase::Verify, problems));
                    }
                }
            }
            now = self.read(desired, Phase::Verify).await?;
            let operations = plan::diff(&now, target);
            let more;
            (more, now) = self.converge(target, now, operations, &reads(desired)).await?;
            done += more;
            if time::Instant::now() >= end && more > 0 {
                return Err(does_not_stay(target, plan::diff(&now, target)));
            }
        }
    }

    /// Waits until the kernel has changed, but not beyond `end`: `false` then.
    pub(super) async fn changed_before(&self, end: time::Instant) -> bool {
        // Where it changes all the time, every wait would succeed at once.
        time::Instant::now() < end && timeout_at(end, self.kernel.changed()).await.is_ok()
    }

    /// Carries out `operations`, the difference between `now` and `target`, and what more it takes
    /// until there is none.
    pub(super) async fn converge(
        &self,
        target: &mut Target,
        mut now: KernelState,
        mut operations: Vec<Operation>,
        reads: &Reads,
    ) -> Result<(u32, KernelState), Failure> {
        let mut done = 0;
        for _ in 0..ROUNDS {
            if operations.is_empty() {
                return Ok((done, now));
            }
            target.disturbed.extend(operations.iter().filter_map(Operation::disturbs));
            self.carry_out(target, &operations).await?;
            done += u32::try_from(operations.len()).unwrap_or(u32::MAX);
            now = self.read_for(reads, Phase::Verify).await?;
            operations = plan::diff(&now, target);
        }
        if operations.is_empty() { Ok((done, now)) } else { Err(does_not_stay(target, operations)) }
    }

    async fn carry_out(&self, target: &Target, operations: &[Operation]) -> Result<(), Failure> {
        for operation in operations {
            tracing::debug!(%operation);
        }
        let tolerated = |operation: &Operation, error: &KernelError| {
            // The kernel was faster; the read-back judges.
            let done = operation.is_removal() && error.says_gone()
                || operation.is_new_address() && error.says_exists();
            if !done && target.restores {
                // What stands in the way of one step back is no reason to leave the others.
                tracing::error!("rolling back: {operation}: {error}");
            }
            done || target.restores
        };
        let refused = |Refusal { at, error }| match operations.get(at) {
            Some(operation) => refused(target, operation, &error),
            None => unreadable(Phase::Apply, &error),
        };
        self.kernel.carry_out(operations, tolerated).await.map_err(refused)
    }

    /// What a target depends on besides the document, which came in force at `since`.
    pub(super) fn facts(&self, since: u32, may_be_missing: bool) -> Facts<'_> {
        let (management, originals) = (self.management(), &self.originals);
        let held = self.in_force.as_ref().map(|in_force| &*in_force.desired);
        let host = self.lifeline.and_then(|lifeline| lifeline.host);
        Facts { management, host, originals, held, since, now: kernel::clock(), may_be_missing }
    }

    pub(super) async fn read(&self, desired: &Desired, phase: Phase) -> Result<KernelState, Failure> {
        self.read_for(&reads(desired), phase).await
    }

    /// Reads the kernel, `phase` being what it is read for.
    async fn read_for(&self, reads: &Reads, phase: Phase) -> Result<KernelState, Failure> {
        let mut state = self.kernel.observe().await.map_err(|error| unreadable(phase, &error))?;
        if reads.places {
            self.kernel.locate(&mut state);
        }
        if reads.defaults || state.links.iter().any(plan::Link::is_ours) {
            self.kernel.read_default_settings(&mut state);
        }
        Ok(state)
    }

    /// Goes back to `before`. Says whether kernel and files, read back, are as they were.
    async fn roll_back(&mut self, mut before: Target, files: &Snapshot) -> bool {
        let files = self.files.restore(files);
        let reads = Reads {
            places: before.state.links.iter().any(|link| !link.pci.is_empty()),
            defaults: before.state.default_settings != plan::Settings::default(),
        };
        let kernel = match self.read_for(&reads, Phase::Verify).await {
            Ok(now) => {
                let operations = plan::diff(&now, &before);
                let back = self.converge(&mut before, now, operations, &reads).await;
                let lost = back.as_ref().map(|(_, now)| plan::lost(&before.state, now)).unwrap_or_default();
                for what in &lost {
                    tracing::error!("the kernel does not take it back: {what}, which somebody else had made");
                }
                back.map(|(_, now)| self.seen = now).is_ok() && lost.is_empty()
            }
            Err(_) => false,
        };
        if !(files && kernel) {
            tracing::error!(files, kernel, "rolling back did not restore everything");
        }
        files && kernel
    }
}

/// What is read besides what netlink tells.
pub(super) struct Reads {
    places: bool,
    defaults: bool,
}

pub(super) fn reads(desired: &Desired) -> Reads {
    Reads { places: plan::needs_places(desired), defaults: plan::makes_devices(desired) }
}

/// Numbers only grow. The one in force may come again, unchanged; another document under its
/// number or a lower one is a host that has lost its or somebody else.
pub(super) fn judge(in_force: Option<Stamp>, new: Stamp) -> Result<(), Problem> {
    match in_force {
        Some(now) if new != now && new.generation <= now.generation => Err(Problem::new(
            "generation",
            format!(
                "{} is not newer than {}, which is in force with other content",
                new.generation, now.generation
            ),
        )),
        _ => Ok(()),
    }
}

/// A failure whose rollback, if there is anything to roll back, the caller does.
pub(super) fn untouched(phase: Phase, problems: Vec<Problem>) -> Failure {
    Failure { phase, problems, operation: None, restored: true }
}

fn unreadable(phase: Phase, error: &KernelError) -> Failure {
    untouched(phase, vec![Problem::new("interfaces", format!("the kernel cannot be read: {error}"))])
}

fn refused(target: &Target, operation: &Operation, error: &KernelError) -> Failure {
    Failure {
        phase: Phase::Apply,
        problems: vec![Problem::new(target.path_of(operation), format!("{operation}: {error}"))],
        operation: Some(FailedOperation {
            operation: operation.to_string(),
            errno: error.name(),
            kernel: error.words().to_owned(),
        }),
        restored: false,
    }
}

/// The kernel takes back what it is told: `operations` are needed again.
fn does_not_stay(target: &Target, operations: Vec<Operation>) -> Failure {
    let mut problems = Problems::default();
    for operation in operations {
        problems.add(target.path_of(&operation), format!("does not stay: \"{operation}\" is needed again"));
    }
    untouched(Phase::Verify, problems.into_result(()).err().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_only_grow() {
        let stamp = |generation, content: &str| Stamp {
            generation,
            digest: state_digest(&DesiredState { hostname: content.into(), ..DesiredState::default() }),
        };
        assert!(judge(None, stamp(1, "a")).is_ok());
        assert!(judge(Some(stamp(5, "a")), stamp(5, "a")).is_ok());
        assert!(judge(Some(stamp(5, "a")), stamp(6, "a")).is_ok());
        assert!(judge(Some(stamp(5, "a")), stamp(5, "b")).is_err());
        assert!(judge(Some(stamp(5, "a")), stamp(4, "a")).is_err());
    }
}
