//! What is in force, and how it gets there: check → plan → kernel → verify, or back to what was.

mod apply;
mod confirm;
mod probe;
mod recover;
mod resolver;
mod watch;

use std::{net::IpAddr, sync::Arc};

use tether_wire::{
    boot::BootWorkload,
    check::Desired,
    message::{EventKind, NamesApplied, NamesDelta, NamesFailed, NamesGap, names_digest},
    names::{NameTables, delta::Change},
    problem::Problem,
    status::{Condition, Stamp, Status},
    value::MacAddr,
};

use crate::{
    claim::{Claims, Conflict},
    deadline::sleep_until_some,
    dns,
    files::Files,
    journal::Journal,
    kernel::Kernel,
    memory,
    names::Names,
    plan::{KernelState, Originals},
    report,
};

pub use watch::LOOK_PAUSE;

/// The way to the host, which no desired state may cut.
#[derive(Clone, Copy, Debug)]
pub struct Lifeline {
    /// The NIC that carries the tether.
    pub nic: MacAddr,
    /// The host's address; `None` where the desired state comes from a file, and nobody could
    /// confirm that it is still heard.
    pub host: Option<IpAddr>,
}

/// The agent's knowledge of what is in force, and its hands.
#[derive(Debug)]
pub struct Agent {
    kernel: Kernel,
    dns: dns::Server,
    /// What the server was told.
    dns_settings: Option<dns::Settings>,
    files: Files,
    claims: Claims,
    journal: Journal,
    lifeline: Option<Lifeline>,
    /// The desired state in force, verified.
    in_force: Option<InForce>,
    /// What links were like before tether.
    originals: Originals,
    /// What is in force and has to be confirmed.
    unconfirmed: Option<confirm::Unconfirmed>,
    /// The last document that was not confirmed in time: it is not tried again under its number.
    given_up: Option<Stamp>,
    /// The kernel when it was last read.
    seen: KernelState,
    watch: watch::Watch,
    /// Something large was there: memory can be given back.
    leaves_memory: bool,
    names: Option<Stamp>,
}

/// A desired state in force.
#[derive(Clone, Debug)]
struct InForce {
    stamp: Stamp,
    desired: Arc<Desired>,
    /// Since when, by the kernel's clock.
    since: u32,
    /// What is left out of it for now.
    skipped: Vec<Problem>,
}

/// Why names are not changed: those in force stay.
#[derive(Clone, Debug)]
pub enum NamesNotChanged {
    /// They are not what the change is one of.
    Gap(NamesGap),
    /// The change is wrong in itself.
    Failed(NamesFailed),
}

/// Something the agent has to see to.
#[derive(Debug)]
pub enum Happened {
    /// The kernel may have changed, or it is time for another repair: [`Agent::look`].
    Kernel,
    /// There is something new to report.
    Dns,
    /// Another machine uses an address of this one.
    Conflict(Conflict),
    /// The host has not confirmed in time: [`Agent::give_up`].
    NotConfirmed,
}

impl Agent {
    /// An agent that has applied nothing yet. What an agent before it has left is
    /// [`recover`](Self::recover)ed.
    pub fn new(
        kernel: Kernel,
        dns: dns::Server,
        files: Files,
        journal: Journal,
        lifeline: Option<Lifeline>,
    ) -> Self {
        Self {
            kernel,
            dns,
            dns_settings: None,
            files,
            claims: Claims::new(),
            originals: journal.note().originals.clone(),
            journal,
            lifeline,
            in_force: None,
            unconfirmed: None,
            given_up: None,
            seen: KernelState::default(),
            watch: watch::Watch::default(),
            leaves_memory: false,
            names: None,
        }
    }

    /// The kernel it works on: for tests, which look at it and make it refuse.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The desired state in force.
    pub fn applied(&self) -> Option<Stamp> {
        self.in_force.as_ref().map(|in_force| in_force.stamp)
    }

    /// The name tables in force.
    pub fn names(&self) -> Option<Stamp> {
        self.names
    }

    /// The workload of the desired state in force.
    pub fn workload(&self) -> Option<BootWorkload> {
        self.in_force.as_ref().and_then(|in_force| in_force.desired.workload.clone()).map(BootWorkload::from)
    }

    /// Waits for something to see to. Nothing is lost when the wait is given up.
    pub async fn next(&mut self) -> Happened {
        let not_before = self.watch.not_before();
        let kernel = async {
            // In this order: whoever gives up waiting has not taken notice of anything yet.
            if let Some(not_before) = not_before {
                tokio::time::sleep_until(not_before).await;
            }
            self.kernel.changed().await;
        };
        let confirm = self.unconfirmed.as_ref().map(|unconfirmed| unconfirmed.until);
        tokio::select! {
            () = kernel => Happened::Kernel,
            () = sleep_until_some(self.watch.retry_at()) => Happened::Kernel,
            () = self.dns.changed() => Happened::Dns,
            conflict = self.claims.conflict() => Happened::Conflict(conflict),
            () = sleep_until_some(confirm) => Happened::NotConfirmed,
        }
    }

    /// Another machine uses an address of this one: what the host is told.
    pub fn conflict(&self, conflict: &Conflict) -> EventKind {
        let interface = self.seen.link_name(conflict.link);
        let mac = conflict.mac.map(|mac| mac.to_string()).unwrap_or_default();
        tracing::warn!(%interface, address = %conflict.address, mac, "another machine has this address too");
        EventKind::AddressConflict { interface, address: conflict.address.to_string(), mac }
    }

    /// Answers by `tables` from now on, or says everything that is wrong with them.
    pub fn set_names(&mut self, version: u64, tables: NameTables) -> Result<NamesApplied, NamesFailed> {
        let stamp = Stamp { generation: version, digest: names_digest(&tables) };
        let failed = |problems| NamesFailed { version, problems };
        apply::judge(self.names, stamp).map_err(|problem| failed(vec![problem]))?;
        let checked = tables.check().map_err(failed)?;
        self.dns.set_names(Names::new(&checked));
        self.names = Some(stamp);
        drop((checked, tables));
        memory::give_back();
        tracing::debug!(version, "names in force");
        Ok(NamesApplied { stamp })
    }

    /// Changes the names in force, all of it or nothing.
    pub fn change_names(&mut self, delta: &NamesDelta) -> Result<NamesApplied, NamesNotChanged> {
        let version = delta.stamp.generation;
        // The same change again, whose acknowledgement was lost perhaps.
        if self.names == Some(delta.stamp) {
            return Ok(NamesApplied { stamp: delta.stamp });
        }
        let gap = NamesNotChanged::Gap(NamesGap { version, has: self.names });
        if version <= delta.base || self.names.is_none_or(|now| now.generation != delta.base) {
            return Err(gap);
        }
        let checked = Change::check_all(&delta.changes)
            .map_err(|problems| NamesNotChanged::Failed(NamesFailed { version, problems }))?;
        self.dns.change_names(&checked, &delta.stamp.digest).map_err(|_| gap)?;
        self.names = Some(delta.stamp);
        tracing::debug!(version, "names changed");
        Ok(NamesApplied { stamp: delta.stamp })
    }

    /// Forgets what upstreams have answered.
    pub fn flush_cache(&self) {
        self.dns.flush_cache();
    }

    /// What there is to report.
    pub fn status(&self, skipped_frames: u64) -> Status {
        let mut conditions = Vec::new();
        let mut condition = |part: &str, message: String| {
            conditions.push(Condition { part: part.to_owned(), message });
        };
        if let Some(message) = self.dns.condition() {
            condition("dns", message);
        }
        if let Some(message) = self.watch.trouble() {
            condition("kernel", message.to_owned());
        }
        if let Some(message) = self.journal.trouble() {
            condition("journal", message.to_owned());
        }
        for problem in self.files.trouble() {
            condition("files", problem.to_string());
        }
        for skipped in
            self.in_force.iter().flat_map(|in_force| &in_force.skipped).take(report::MAX_CONDITIONS)
        {
            condition("network", skipped.to_string());
        }
        Status {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: report::uptime_ms(),
            rss_kib: report::rss_kib(),
            applied: self.applied(),
            names: self.names,
            observed: report::observed(&self.seen, self.management()),
            dns: self.dns.counters(),
            skipped_frames,
            conditions,
        }
    }

    fn management(&self) -> Option<MacAddr> {
        self.lifeline.map(|lifeline| lifeline.nic)
    }
}
