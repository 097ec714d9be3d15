//! Putting a desired state in force: check → plan → kernel → verify, or back to what was.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use tether_wire::{
    boot::BootWorkload,
    check::Desired,
    message::{
        Failed, FailedOperation, Failure, NamesApplied, NamesFailed, Phase, Verified, names_digest,
        state_digest,
    },
    names::NameTables,
    problem::{Problem, Problems},
    state::DesiredState,
    status::{Condition, Observed, Stamp, Status},
    upstream::Upstream,
    value::MacAddr,
};
use tokio::time::timeout_at;

use crate::{
    dns,
    files::{Files, Snapshot},
    kernel::{Kernel, KernelError},
    names::Names,
    plan::{self, KernelState, Operation, Progress, Target},
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
const ROUNDS: u32 = 4;

/// The agent's knowledge of what is in force, and its hands.
#[derive(Debug)]
pub struct Agent {
    kernel: Kernel,
    dns: dns::Server,
    files: Files,
    management: Option<MacAddr>,
    applied: Option<Stamp>,
    names: Option<Stamp>,
    workload: Option<BootWorkload>,
}

impl Agent {
    /// An agent that has applied nothing yet.
    pub fn new(kernel: Kernel, dns: dns::Server, files: Files, management: Option<MacAddr>) -> Self {
        Self { kernel, dns, files, management, applied: None, names: None, workload: None }
    }

    /// The desired state in force.
    pub fn applied(&self) -> Option<Stamp> {
        self.applied
    }

    /// The name tables in force.
    pub fn names(&self) -> Option<Stamp> {
        self.names
    }

    /// The workload of the desired state in force.
    pub fn workload(&self) -> Option<&BootWorkload> {
        self.workload.as_ref()
    }

    /// Waits until there may be something new to report.
    pub async fn changed(&self) {
        tokio::select! {
            () = self.kernel.changed() => {}
            () = self.dns.changed() => {}
        }
    }

    /// Puts `state` in force, or says why not and leaves everything as it was.
    pub async fn apply(&mut self, generation: u64, state: &DesiredState) -> Result<Verified, Failed> {
        let started = Instant::now();
        let stamp = Stamp { generation, digest: state_digest(state) };
        match self.put_in_force(stamp, state).await {
            Ok((operations, observed)) => {
                self.applied = Some(stamp);
                let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                tracing::debug!(generation, operations, took_us, "network verified");
                Ok(Verified { stamp, operations, took_us, observed })
            }
            Err(failure) => {
                for problem in &failure.problems {
                    tracing::error!(generation, phase = ?failure.phase, "{problem}");
                }
                Err(Failed { generation, failure })
            }
        }
    }

    /// Answers by `tables` from now on, or says everything that is wrong with them.
    pub fn set_names(&mut self, version: u64, tables: &NameTables) -> Result<NamesApplied, NamesFailed> {
        let stamp = Stamp { generation: version, digest: names_digest(tables) };
        let failed = |problems| NamesFailed { version, problems };
        judge(self.names, stamp).map_err(|problem| failed(vec![problem]))?;
        let checked = tables.check().map_err(failed)?;
        self.dns.set_names(Names::new(&checked));
        self.names = Some(stamp);
        tracing::debug!(version, "names in force");
        Ok(NamesApplied { stamp })
    }

    /// What there is to report.
    pub async fn status(&self, skipped_frames: u64) -> Status {
        let mut conditions = Vec::new();
        let mut condition = |part: &str, message: String| {
            conditions.push(Condition { part: part.to_owned(), message });
        };
        if let Some(message) = self.dns.condition() {
            condition("dns", message);
        }
        let observed = match self.kernel.observe().await {
            Ok(state) => report::observed(&state, self.management),
            Err(error) => {
                condition("kernel", format!("cannot be read: {error}"));
                Observed::default()
            }
        };
        Status {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: report::uptime_ms(),
            rss_kib: report::rss_kib(),
            applied: self.applied,
            names: self.names,
            observed,
            dns: self.dns.counters(),
            skipped_frames,
            conditions,
        }
    }

    /// The procedure of `docs/design.md`, "How a desired state is put in force".
    ///
    /// One that is in force already goes the same way: it is read back, and mended where somebody
    /// has disturbed it.
    async fn put_in_force(&mut self, stamp: Stamp, state: &DesiredState) -> Result<(u32, Observed), Failure> {
        judge(self.applied, stamp).map_err(|problem| untouched(Phase::Generation, vec![problem]))?;
        let desired = state.check().map_err(|problems| untouched(Phase::Check, problems))?;
        let before = self.read_with_nics(&desired).await?;
        let mut target = plan::target(&desired, &before, self.management)
            .map_err(|problems| untouched(Phase::Plan, problems))?;
        let files = self.files.snapshot();
        match self.reach(&desired, &mut target, before.clone()).await {
            Ok((operations, now)) => {
                self.dns.set_upstreams(upstreams(&desired, &now));
                self.workload = desired.workload.clone().map(BootWorkload::from);
                Ok((operations, report::observed(&now, self.management)))
            }
            Err(failure) => {
                let restored = self.roll_back(target.back_to(before), &files).await;
                if !restored {
                    // Nothing is known to be in force any more; the host may well send it again.
                    self.applied = None;
                }
                Err(Failure { restored, ..failure })
            }
        }
    }

    /// Makes kernel and files as desired and waits until they are usable.
    async fn reach(
        &mut self,
        desired: &Desired,
        target: &mut Target,
        now: KernelState,
    ) -> Result<(u32, KernelState), Failure> {
        let end = tokio::time::Instant::now() + SETTLE;
        let (mut operations, mut now) = self.converge(target, now).await?;
        self.files.put_in_force(desired).map_err(|problem| untouched(Phase::Files, vec![problem]))?;
        loop {
            let late = tokio::time::Instant::now() >= end;
            match plan::settled(target, &now) {
                Progress::Settled => return Ok((operations, now)),
                Progress::Wrong(problems) => return Err(untouched(Phase::Verify, problems)),
                Progress::Different if late => return Err(does_not_stay(target, &now)),
                Progress::Different => {
                    let more;
                    (more, now) = self.converge(target, now).await?;
                    operations += more;
                }
                Progress::Waiting(problems) => {
                    if late || timeout_at(end, self.kernel.changed()).await.is_err() {
                        return Err(untouched(Phase::Verify, problems));
                    }
                    now = self.read(Phase::Verify).await?;
                }
            }
        }
    }

    /// Carries out the difference between `now` and `target` until there is none.
    async fn converge(
        &self,
        target: &mut Target,
        mut now: KernelState,
    ) -> Result<(u32, KernelState), Failure> {
        let mut done = 0;
        for _ in 0..ROUNDS {
            let operations = plan::diff(&now, target);
            if operations.is_empty() {
                return Ok((done, now));
            }
            for operation in &operations {
                tracing::debug!(%operation);
                target.disturbed.extend(operation.disturbs());
                match self.kernel.carry_out(operation).await {
                    // The kernel was faster; the read-back judges.
                    Err(error) if operation.is_removal() && error.says_gone() => {}
                    Err(error) if operation.is_new_address() && error.says_exists() => {}
                    // What stands in the way of one step back is no reason to leave the others.
                    Err(error) if target.restores => tracing::error!("rolling back: {operation}: {error}"),
                    answer => answer.map_err(|error| refused(target, operation, &error))?,
                }
                done += 1;
            }
            now = self.read(Phase::Verify).await?;
        }
        if plan::diff(&now, target).is_empty() { Ok((done, now)) } else { Err(does_not_stay(target, &now)) }
    }

    /// Reads the kernel as soon as every NIC is there that `desired` names, or when the time for
    /// that is over: what is missing then is the planner's to tell.
    async fn read_with_nics(&self, desired: &Desired) -> Result<KernelState, Failure> {
        let end = tokio::time::Instant::now() + PLUGGING;
        let mut told = false;
        loop {
            let now = self.read(Phase::Plan).await?;
            let is_there = |mac| self.management == Some(mac) || now.links.iter().any(|l| l.mac == Some(mac));
            let missing = desired.interfaces.iter().find(|interface| !is_there(interface.mac));
            let Some(missing) = missing else { return Ok(now) };
            if !told {
                tracing::info!("no interface has {} yet; waiting for it to be plugged in", missing.mac);
                told = true;
            }
            if timeout_at(end, self.kernel.changed()).await.is_err() {
                return Ok(now);
            }
        }
    }

    /// Reads the kernel, `phase` being what it is read for.
    async fn read(&self, phase: Phase) -> Result<KernelState, Failure> {
        self.kernel.observe().await.map_err(|error| {
            let message = format!("the kernel cannot be read: {error}");
            untouched(phase, vec![Problem::new("interfaces", message)])
        })
    }

    /// Goes back to `before`. Says whether kernel and files, read back, are as they were.
    async fn roll_back(&mut self, mut before: Target, files: &Snapshot) -> bool {
        let files = self.files.restore(files);
        let kernel = match self.kernel.observe().await {
            Ok(now) => self.converge(&mut before, now).await.is_ok(),
            Err(_) => false,
        };
        if !(files && kernel) {
            tracing::error!(files, kernel, "rolling back did not restore everything");
        }
        files && kernel
    }
}

/// Numbers only grow. The one in force may come again, unchanged; another document under its
/// number or a lower one is a host that has lost its memory, or somebody else.
fn judge(in_force: Option<Stamp>, new: Stamp) -> Result<(), Problem> {
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
fn untouched(phase: Phase, problems: Vec<Problem>) -> Failure {
    Failure { phase, problems, operation: None, restored: true }
}

fn refused(target: &Target, operation: &Operation, error: &KernelError) -> Failure {
    Failure {
        phase: Phase::Apply,
        problems: vec![Problem::new(path_of(target, operation), format!("{operation}: {error}"))],
        operation: Some(FailedOperation {
            operation: operation.to_string(),
            errno: error.name(),
            kernel: error.words().to_owned(),
        }),
        restored: false,
    }
}

/// The kernel takes back what it is told.
fn does_not_stay(target: &Target, now: &KernelState) -> Failure {
    let mut problems = Problems::default();
    for operation in plan::diff(now, target) {
        problems.add(path_of(target, &operation), format!("does not stay: \"{operation}\" is needed again"));
    }
    untouched(Phase::Verify, problems.into_result(()).err().unwrap_or_default())
}

/// Where in the document the wish stands that an operation serves.
fn path_of(target: &Target, operation: &Operation) -> String {
    match operation {
        Operation::Rename { link, .. } => format!("{}.name", target.link_path(*link)),
        Operation::SetMtu { link, .. } => format!("{}.mtu", target.link_path(*link)),
        Operation::LinkDown { link, .. } | Operation::LinkUp { link, .. } => target.link_path(*link),
        Operation::AddAddress(address) | Operation::RemoveAddress(address) => target.address_path(address),
        Operation::AddRoute(route) | Operation::ReplaceRoute(route) | Operation::RemoveRoute(route) => {
            target.route_path(route)
        }
    }
}

/// Where to ask for names that are not ours: the document's servers without any that is this
/// machine itself, which would ask itself for ever.
fn upstreams(desired: &Desired, now: &KernelState) -> Vec<SocketAddr> {
    let own = |ip: IpAddr| ip.is_loopback() || now.addresses.iter().any(|a| a.prefix.address() == ip);
    let index = |name: &str| now.links.iter().find(|link| link.name == name).map(|link| link.index);
    let usable = |upstream: &Upstream| {
        if own(upstream.address) {
            tracing::warn!(%upstream, "not asked for names: it is this machine itself");
            return None;
        }
        match &upstream.scope {
            None => Some(upstream.socket_address(0)),
            Some(scope) => {
                let index = index(scope.as_str());
                if index.is_none() {
                    tracing::warn!(%upstream, "not asked for names: there is no such interface");
                }
                index.map(|index| upstream.socket_address(index))
            }
        }
    };
    desired.upstreams.iter().filter_map(usable).collect()
}

#[cfg(test)]
mod tests {
    use tether_wire::state::Dns;

    use super::*;
    use crate::plan::{Address, Link};

    #[test]
    fn nobody_asks_itself_for_names() {
        let upstreams_of = |servers: &[&str]| {
            let dns = Dns { upstreams: servers.iter().map(ToString::to_string).collect(), ..Dns::default() };
            let desired = DesiredState { dns, ..DesiredState::default() }.check().unwrap();
            let now = KernelState {
                links: vec![Link { index: 7, name: "eth0".into(), ..Link::default() }],
                addresses: vec![Address::ours(7, "172.18.0.2/16".parse().unwrap())],
                routes: Vec::new(),
            };
            upstreams(&desired, &now).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(upstreams_of(&["172.18.0.2", "127.0.0.1", "::1", "172.18.0.1"]), ["172.18.0.1:53"]);
        assert_eq!(upstreams_of(&["fe80::53%eth0", "fe80::53%eth9"]), ["[fe80::53%7]:53"]);
    }

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
