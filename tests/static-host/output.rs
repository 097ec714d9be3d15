//! What `vch` tells on its standard output: lines for a person, or JSON for a program.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use serde::Serialize;
use tether_host::{Event, EventKind};
use tether_wire::{
    message::Exit,
    status::{AddressState, Status},
};

/// Something worth telling.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", content = "detail", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "news is made, told and gone")]
pub(crate) enum News {
    /// Guests can dial in.
    Listening {
        /// Where.
        address: String,
    },
    /// A container's machine was started.
    MachineStarted {
        /// `kvm` or `tcg`.
        accelerator: &'static str,
    },
    /// A line on a guest's console.
    Console {
        /// The line, without its end.
        line: String,
    },
    /// A container's machine has ended.
    MachineEnded {
        /// QEMU's exit status.
        status: String,
    },
    /// What the guest's agent says.
    Guest(EventKind),
    /// A guest's newest status, for a person.
    Status {
        /// Several lines.
        text: String,
    },
    /// Something did not work.
    Trouble {
        /// What, one line.
        message: String,
    },
}

/// Where news goes.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    started: Instant,
    json: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    at_ms: f64,
    guest: &'a str,
    #[serde(flatten)]
    news: &'a News,
}

impl Output {
    /// Starts the clock that every line carries.
    pub(crate) fn new(json: bool) -> Self {
        Self { started: Instant::now(), json }
    }

    /// Tells an event of a guest.
    pub(crate) fn event(&self, event: Event) {
        self.tell(&event.guest.to_string(), &News::Guest(event.kind));
    }

    /// Tells news of `guest`, or of the host itself when that is empty.
    pub(crate) fn tell(&self, guest: &str, news: &News) {
        let at = self.started.elapsed();
        let text = if self.json {
            let at_ms = at.as_secs_f64() * 1_000.0;
            serde_json::to_string(&Line { at_ms, guest, news }).unwrap_or_default()
        } else {
            let said = say(news);
            if said.is_empty() {
                return;
            }
            said.lines().map(|line| Self::prefixed(at, guest, &clean(line))).collect::<Vec<_>>().join("\n")
        };
        // Standard output gone means that nobody wants to know.
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }

    fn prefixed(at: Duration, guest: &str, line: &str) -> String {
        let who = if guest.is_empty() { "vch" } else { guest };
        format!("{:7.3} s  {who:<8} {line}", at.as_secs_f64())
    }
}

/// A line without what a terminal would obey: a guest says what it likes.
pub(crate) fn clean(line: &str) -> String {
    line.chars().filter(|c| !c.is_control() || *c == '\t').collect()
}

/// News for a person; empty for what only programs want.
fn say(news: &News) -> String {
    match news {
        News::Listening { address } => format!("listening on {address}"),
        News::MachineStarted { accelerator } => format!("machine started ({accelerator})"),
        News::Console { line } => format!("| {line}"),
        News::MachineEnded { status } => format!("machine ended: {status}"),
        News::Status { text } => text.clone(),
        News::Trouble { message } => format!("! {message}"),
        News::Guest(kind) => match kind {
            EventKind::Connected(hello) => format!("tether up (agent {})", hello.agent_version),
            EventKind::Disconnected { reason } => format!("tether down: {reason}"),
            EventKind::Refused { reason } => format!("refused: {reason}"),
            EventKind::Enrolled { key } => format!("enrolled with key {key}"),
            EventKind::IdentityReuse { peer, shown, .. } => {
                format!("! {peer} says it is this guest, with another key: {shown}")
            }
            EventKind::HostKeyKept { pins } => format!("knows {} keys of this host", pins.len()),
            EventKind::Received { generation } => format!("received generation {generation}"),
            EventKind::Verified(verified) => format!(
                "verified generation {} in {:.1} ms, {} operations",
                verified.stamp.generation,
                Duration::from_micros(verified.took_us).as_secs_f64() * 1_000.0,
                verified.operations
            ),
            EventKind::Failed(failed) => {
                let problems: Vec<_> = failed.failure.problems.iter().map(ToString::to_string).collect();
                format!("failed generation {}: {}", failed.generation, problems.join("; "))
            }
            EventKind::NamesApplied(stamp) => format!("names in force, version {}", stamp.generation),
            EventKind::WorkloadExited(exit) => match exit {
                Exit::Code(code) => format!("workload ended with {code}"),
                Exit::Signal(signal) => format!("workload ended by signal {signal}"),
                Exit::NotStarted(why) => format!("workload not started: {why}"),
            },
            EventKind::Guest(event) => event.kind.to_string(),
            EventKind::Status(_) => String::new(),
        },
    }
}

/// A guest's status for a person.
pub(crate) fn status(status: &Status) -> String {
    let mut lines = vec![format!(
        "agent {}, up {:.1} s, {} KiB resident",
        status.agent_version,
        Duration::from_millis(status.uptime_ms).as_secs_f64(),
        status.rss_kib
    )];
    if let Some(stamp) = status.applied {
        lines.push(format!("generation {} ({}) verified", stamp.generation, stamp.digest));
    }
    for interface in &status.observed.interfaces {
        let state = match (interface.up, interface.carrier) {
            (false, _) => "down",
            (true, false) => "up, no carrier",
            (true, true) => "up",
        };
        lines.push(format!("{}: {} mtu {} {state}", interface.name, interface.mac, interface.mtu));
        for address in &interface.addresses {
            let state = match address.state {
                AddressState::Usable => "",
                AddressState::Tentative => " (being checked)",
                AddressState::Duplicate => " (duplicate!)",
            };
            lines.push(format!("  {}{state}", address.address));
        }
        for route in &interface.routes {
            let via = route.gateway.as_ref().map(|gateway| format!(" via {gateway}")).unwrap_or_default();
            lines.push(format!("  route {}{via}", route.destination));
        }
    }
    let dns = &status.dns;
    lines.push(format!(
        "DNS: {} queries, {} local, {} forwarded, {} failed",
        dns.queries, dns.local, dns.forwarded, dns.failed
    ));
    lines.extend(
        status.conditions.iter().map(|condition| format!("! {}: {}", condition.part, condition.message)),
    );
    lines.join("\n")
}
