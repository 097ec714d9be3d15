//! Noticing what others change, and mending it.

use std::{
    collections::{HashSet, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tether_wire::{
    check::Desired,
    message::{Drift, DriftOutcome, EventKind, Failure, MAX_CHANGES, Phase},
    problem::Problem,
    state::{ConflictCheck, DriftPolicy},
};

use super::{Agent, apply::reads};
use crate::{
    claim::{Claim, Conflict},
    memory,
    plan::{
        self, KernelState, LinkKind, Operation, Target,
        drift::{self, drift},
        settled::Wrong,
    },
};

/// The least time between two readings of the kernel, unless reading it takes long: then it is
/// read for a fifth of the time at most.
pub const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// After this many repairs in [`PERIOD`] somebody else wants something else: they are left alone
/// for a while.
const MAX_REPAIRS: usize = 10;
/// What [`MAX_REPAIRS`] is counted in, and how long somebody is left alone.
const PERIOD: Duration = Duration::from_secs(30);

/// How long until something that failed is tried again, unless something changes before.
const RETRY: Duration = Duration::from_secs(5);

/// What is known of others' changes.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// When the kernel may be read again.
    not_before: Option<tokio::time::Instant>,
    /// When the last repairs were.
    repairs: VecDeque<Instant>,
    /// Until when nothing is repaired, because it was repaired too often.
    gave_up_until: Option<tokio::time::Instant>,
    /// What could not be repaired, or read.
    trouble: Option<String>,
    /// The addresses that were told to be another machine's.
    duplicates: HashSet<(u32, IpAddr)>,
    /// The changes that were told last and stand uncorrected: they are told once.
    told: Vec<Problem>,
}

impl Watch {
    pub(super) fn not_before(&self) -> Option<tokio::time::Instant> {
        self.not_before
    }

    pub(super) fn retry_at(&self) -> Option<tokio::time::Instant> {
        self.gave_up_until
    }

    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// The host has had its word: whatever was given up is tried again.
    pub(super) fn forgive(&mut self) {
        let duplicates = std::mem::take(&mut self.duplicates);
        *self = Self { not_before: self.not_before, duplicates, ..Self::default() };
    }

    /// Whether something may be repaired at `now`, and notes that it is.
    fn may_repair(&mut self, now: Instant) -> bool {
        while self.repairs.front().is_some_and(|first| now.duration_since(*first) > PERIOD) {
            self.repairs.pop_front();
        }
        let may = self.repairs.len() < MAX_REPAIRS;
        if may {
            self.repairs.push_back(now);
        }
        may
    }
}

impl Agent {
    /// Reads the kernel, mends what others have changed of the desired state, and says what there
    /// is to tell of it.
    pub async fn look(&mut self) -> Vec<EventKind> {
        let started = Instant::now();
        let events = self.look_now().await;
        // A link may have come that servers are on, or an address that makes one this machine.
        self.configure_dns();
        self.try_files_again();
        if std::mem::take(&mut self.leaves_memory) {
            memory::give_back();
        }
        let pause = LOOK_PAUSE.max(started.elapsed() * 4);
        self.watch.not_before = Some(tokio::time::Instant::now() + pause);
        events
    }

    /// Writes what a container has kept from being written, should it let it be now.
    fn try_files_again(&mut self) {
        let in_force = self.in_force.as_ref().filter(|_| !self.files.trouble().is_empty());
        let Some(desired) = in_force.map(|in_force| Arc::clone(&in_force.desired)) else { return };
        if let Err(problems) = self.files.put_in_force(&desired) {
            self.watch.trouble = Some(first_of(&problems));
        }
    }

    async fn look_now(&mut self) -> Vec<EventKind> {
        // Whoever was left alone has had that time, or is looked at now anyway.
        let present = tokio::time::Instant::now();
        self.watch.gave_up_until = self.watch.gave_up_until.filter(|until| *until > present);
        let Some(in_force) = self.in_force.clone() else {
            match self.kernel.observe().await {
                Ok(now) => self.seen = now,
                Err(error) => self.watch.trouble = Some(format!("cannot be read: {error}")),
            }
            return Vec::new();
        };
        let now = match self.read(&in_force.desired, Phase::Verify).await {
            Ok(now) => now,
            Err(failure) => {
                self.watch.trouble = failure.problems.first().map(|problem| problem.message.clone());
                self.watch.gave_up_until = Some(present + RETRY);
                return Vec::new();
            }
        };
        let mut target = match plan::target(&in_force.desired, &now, self.facts(in_force.since, true)) {
            Ok(target) => target,
            Err(problems) => {
                self.seen = now;
                let message = first_of(&problems);
                self.watch.trouble = Some(format!("not as desired: {message}"));
                return self.tell(problems, DriftOutcome::Failed { message });
            }
        };
        let mut events = self.new_duplicates(&target, &now);
        let drift::Drift { repair, mut changes } = drift(&target, &self.seen, &now);
        let left = target.skipped.iter().filter(|skipped| !in_force.skipped.contains(skipped));
        changes.extend(left.clone().cloned());
        let back = in_force.skipped.iter().filter(|skipped| !target.skipped.contains(skipped)).count();
        let plugging = back > 0 || left.count() > 0;
        if let Some(in_force) = &mut self.in_force {
            in_force.skipped.clone_from(&target.skipped);
        }
        if repair.is_empty() {
            self.seen = now;
            self.watch.trouble = None;
            self.watch.gave_up_until = None;
            self.watch.told.clear();
            self.hold_addresses(&target);
            events.extend(self.tell(changes, DriftOutcome::Left));
            return events;
        }
        // A device that has come is configured, whatever is done about others' changes.
        if in_force.desired.drift == DriftPolicy::Report && back == 0 {
            self.seen = now;
            events.extend(self.tell(changes, DriftOutcome::Reported));
            return events;
        }
        // Devices that come and go are no fight.
        if !plugging && !self.watch.may_repair(Instant::now()) {
            self.seen = now;
            self.watch.gave_up_until = Some(tokio::time::Instant::now() + PERIOD);
            self.watch.trouble =
                Some(format!("not repaired, after {MAX_REPAIRS} times: {}", first_of(&changes)));
            let retry_s = u32::try_from(PERIOD.as_secs()).unwrap_or(u32::MAX);
            events.extend(self.tell(changes, DriftOutcome::GaveUp { retry_s }));
            return events;
        }
        self.watch.gave_up_until = None;
        self.originals = self.originals.and(&target.originals);
        self.note_change(&now, &target, &repair);
        let repaired = self.repair(&in_force.desired, &mut target, now.clone(), repair).await;
        let outcome = match repaired {
            Ok((operations, now)) => {
                self.seen = now;
                self.originals = target.originals.clone();
                if self.unconfirmed.is_none() {
                    self.journal.abandon(self.originals.clone());
                }
                self.watch.trouble = None;
                self.hold_addresses(&target);
                self.watch.told.clear();
                DriftOutcome::Repaired { operations }
            }
            Err(failure) => {
                self.seen = now;
                let message = first_of(&failure.problems);
                self.watch.trouble = Some(format!("not repaired: {message}"));
                self.watch.gave_up_until = Some(tokio::time::Instant::now() + RETRY);
                DriftOutcome::Failed { message }
            }
        };
        events.extend(self.tell(changes, outcome));
        events
    }

    /// Puts in force again what `repair` does, addresses that are to be checked before they are
    /// used after that.
    async fn repair(
        &mut self,
        desired: &Desired,
        target: &mut Target,
        now: KernelState,
        repair: Vec<Operation>,
    ) -> Result<(u32, KernelState), Failure> {
        let (done, now, repair) = self.probe_first(desired, target, now, repair).await?;
        let (more, now) = self.converge(target, now, repair, &reads(desired)).await?;
        Ok((done + more, now))
    }

    /// The event of these changes, unless there are none or they were told already and nothing
    /// was done about them since.
    fn tell(&mut self, mut changes: Vec<Problem>, outcome: DriftOutcome) -> Vec<EventKind> {
        let count = u32::try_from(changes.len()).unwrap_or(u32::MAX);
        changes.truncate(MAX_CHANGES);
        let again = changes.iter().all(|change| self.watch.told.contains(change));
        let stands = matches!(
            outcome,
            DriftOutcome::Reported | DriftOutcome::Failed { .. } | DriftOutcome::GaveUp { .. }
        );
        if changes.is_empty() || (stands && again) {
            return Vec::new();
        }
        if stands {
            self.watch.told.clone_from(&changes);
        }
        for change in &changes {
            tracing::warn!("changed by somebody else: {change}");
        }
        vec![EventKind::Drift(Drift { changes, count, outcome })]
    }

    /// Addresses that the kernel has just found to be another machine's.
    fn new_duplicates(&mut self, target: &Target, now: &KernelState) -> Vec<EventKind> {
        let duplicates = now.addresses.iter().filter(|a| a.duplicate && target.wants_address(a));
        let duplicates: HashSet<(u32, IpAddr)> =
            duplicates.map(|address| (address.link, address.prefix.address())).collect();
        let new: Vec<_> = duplicates.difference(&self.watch.duplicates).copied().collect();
        self.watch.duplicates = duplicates;
        let told = |(link, address): (u32, IpAddr)| {
            self.conflict(&Conflict { link, address, mac: self.claims.rival(link, address) })
        };
        new.into_iter().map(told).collect()
    }

    /// Tells the neighbours of addresses that are usable now, and looks out for others who have
    /// them.
    pub(super) fn hold_addresses(&mut self, target: &Target) {
        let claims = claims(target, &self.seen, |address| {
            let checked = target.conflict_check(address).is_some_and(|check| check != ConflictCheck::Off);
            checked && !address.tentative && !address.duplicate
        });
        self.claims.own(self.seen.links.iter().filter_map(|link| link.mac));
        self.claims.hold(&claims);
        let tentative = tentative(target, &self.seen);
        self.claims.watch(&tentative);
    }

    /// Listens for others who have the addresses the kernel is checking.
    pub(super) fn watch_tentative(&mut self, target: &Target, now: &KernelState) {
        self.claims.watch(&tentative(target, now));
    }

    /// Listens for others who have the IPv6 addresses that `target` wants and that `now` has not:
    /// what they answer to the kernel's first question is heard once.
    pub(super) fn watch_coming(&mut self, target: &Target, now: &KernelState) {
        let known: HashSet<_> = now.addresses.iter().map(plan::Address::key).collect();
        let coming = target.state.addresses.iter().filter(|address| {
            let checked = target.conflict_check(address).is_some_and(|check| check != ConflictCheck::Off);
            checked && address.prefix.address().is_ipv6() && !known.contains(&address.key())
        });
        let claim = |address: &plan::Address| {
            let (_, new) = (now.link(address.link)?, target.state.link(address.link)?);
            Some(Claim { link: new.index, mac: new.mac?, address: address.prefix.address() })
        };
        let claims: Vec<Claim> = coming.filter_map(claim).collect();
        if !claims.is_empty() {
            self.claims.own(now.links.iter().filter_map(|link| link.mac));
            self.claims.watch(&claims);
        }
    }

    /// Says who the other machine is, if it was heard.
    pub(super) fn name_rival(&self, wrong: Wrong) -> Problem {
        let Wrong { mut problem, taken } = wrong;
        let rival = taken.and_then(|address| self.claims.rival(address.link, address.prefix.address()));
        if let Some(mac) = rival {
            problem.message = format!("{}: {mac}", problem.message);
        }
        problem
    }
}

/// The addresses of the target's links that `counts`, with their links' MAC addresses.
fn claims(target: &Target, now: &KernelState, counts: impl Fn(&plan::Address) -> bool) -> Vec<Claim> {
    let claim = |address: &plan::Address| {
        let link = now.link(address.link).filter(|link| link.kind != LinkKind::Loopback && link.carrier)?;
        Some(Claim { link: link.index, mac: link.mac?, address: address.prefix.address() })
    };
    let named = |address: &&plan::Address| target.links.iter().any(|(link, _)| *link == address.link);
    now.addresses.iter().filter(named).filter(|address| counts(address)).filter_map(claim).collect()
}

/// The addresses the kernel is checking.
fn tentative(target: &Target, now: &KernelState) -> Vec<Claim> {
    claims(target, now, |address| address.tentative && target.wants_address(address))
}

fn first_of(problems: &[Problem]) -> String {
    problems.first().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fight_is_given_up_and_taken_up_again() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let at = |n: u64| start + Duration::from_millis(n);
        for n in 0..10 {
            assert!(watch.may_repair(at(n * 100)));
        }
        assert!(!watch.may_repair(at(1_000)));
        assert!(!watch.may_repair(at(30_000)));
        assert!(watch.may_repair(at(30_001)), "the first is out of the period");
        assert!(!watch.may_repair(at(30_002)));
    }
}
