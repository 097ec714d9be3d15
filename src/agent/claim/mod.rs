//! Claiming addresses: is somebody else using one, and telling neighbours that we are.
//!
//! The kernel does neither for IPv4, and for IPv6 it says that somebody else has an address but
//! not who, and tells nobody that an address has moved. Here are RFC 5227 for IPv4, and the
//! unsolicited advertisements of RFC 4861 section 7.2.6 for IPv6. Nothing here changes the
//! kernel's configuration.
//!
//! [`Claims`] drives three machines that know neither sockets nor clocks, `schedule`, `probing`
//! and `rivals`, by packet sockets that are open only while there is something to hear.

mod arp;
mod neighbour;
mod probing;
mod rivals;
mod schedule;
mod socket;
mod sockets;

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    future::poll_fn,
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use tether_wire::value::MacAddr;
use tokio::time::{sleep, timeout_at};

use probing::Probing;
use rivals::Rivals;
use schedule::Schedule;
use sockets::{Sockets, about};

/// How many packets are sent in a row, and the pause before the next ones: neither this link's
/// queue nor a neighbour's is to overflow when thousands of addresses come at once.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_millis(10);

/// How long a carrier may take to be there for those who send. The kernel's link watcher, which
/// tells, takes up to a second.
const CARRIER: Duration = Duration::from_secs(2);
const CARRIER_PAUSE: Duration = Duration::from_millis(50);

/// One address on one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The link's index.
    pub link: u32,
    /// The link's MAC address.
    pub mac: MacAddr,
    /// The address.
    pub address: IpAddr,
}

/// Somebody else has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The index of the link it was found on.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// Who has it.
    pub mac: Option<MacAddr>,
}

/// The addresses this machine claims.
///
/// It works in the network namespace of the thread that calls it, and within a tokio runtime: all
/// methods but [`Claims::new`] and [`Claims::rival`] panic elsewhere. What is due is done by every
/// one of them, but only [`Claims::conflict`] and [`Claims::probe`] wait for it.
#[derive(Debug, Default)]
pub struct Claims {
    schedule: Schedule,
    rivals: Rivals,
    /// The MAC addresses of what is held and watched: who hears these hears this machine, which
    /// may have two NICs on one network.
    held_macs: HashSet<MacAddr>,
    watched_macs: HashSet<MacAddr>,
    /// Those of this machine's other links: one without an address of its own answers for others'.
    other_macs: HashSet<MacAddr>,
    sockets: Sockets,
    /// Conflicts that have not been told.
    found: VecDeque<Conflict>,
    /// Nothing is sent before.
    quiet_until: Option<Instant>,
}

impl Claims {
    /// Nothing is claimed, and no socket open.
    pub fn new() -> Self {
        Self::default()
    }

    /// The MAC addresses of all of this machine's links: who is heard by them is nobody else.
    pub fn own(&mut self, macs: impl IntoIterator<Item = MacAddr>) {
        self.other_macs = macs.into_iter().collect();
    }

    /// The addresses that are held and usable, now: all of them. Those that are new, or whose MAC
    /// address or link has changed, are probed (IPv4 only) and announced in the background; those
    /// that are gone are forgotten. Cheap when nothing is new.
    ///
    /// IPv6 addresses belong here once the kernel's duplicate-address detection is past, IPv4 ones
    /// once their link has a carrier: what is sent before is lost. After a link has been without
    /// carrier its addresses are worth announcing again: leave them out once.
    pub fn hold(&mut self, now_held: &[Claim]) {
        // What has come belongs to what has been held up to now.
        self.work(None);
        let fresh = self.schedule.hold(Instant::now(), now_held);
        for place in &fresh {
            self.rivals.forget(*place);
        }
        self.found.retain(|conflict| {
            let place = (conflict.link, conflict.address);
            self.schedule.holds(place) && !fresh.contains(&place)
        });
        self.held_macs = now_held.iter().map(|claim| claim.mac).collect();
        self.work(None);
    }

    /// The IPv6 addresses that are under the kernel's duplicate-address detection, now: all of
    /// them. Others who have one or ask for it are listened for, and known by [`Claims::rival`]
    /// until the address is watched or held anew. Best called before the address is added.
    pub fn watch(&mut self, tentative: &[Claim]) {
        // What has come belongs to what has been watched up to now.
        self.work(None);
        self.rivals.watch(rivals::detected(tentative));
        self.watched_macs = tentative.iter().map(|claim| claim.mac).collect();
        self.work(None);
    }

    /// Who was heard to have this address too, if anybody.
    pub fn rival(&self, link: u32, address: IpAddr) -> Option<MacAddr> {
        self.rivals.get((link, address))
    }

    /// Waits for the next conflict over a held IPv4 address. Each claim has one at most. Waits for
    /// ever when there is nothing to do. Cancel safe.
    ///
    /// It is this that sends and hears what is due: it should be waited for all the time.
    pub async fn conflict(&mut self) -> Conflict {
        loop {
            self.work(None);
            if let Some(conflict) = self.found.pop_front() {
                return conflict;
            }
            self.wait(self.schedule.deadline()).await;
        }
    }

    /// Probes for IPv4 addresses before they are used (RFC 5227 section 2.1.1), all at once.
    ///
    /// Returns every conflict after 4 to 7 seconds, or as soon as all have one. What is held goes
    /// on being announced. A link that has no carrier (after 2 seconds of waiting for it), loses
    /// it, or cannot be listened on is an error with its name: the question has no answer there.
    /// Cancel safe.
    pub async fn probe(&mut self, claims: &[Claim]) -> io::Result<Vec<Conflict>> {
        let outcome = self.probe_all(claims).await;
        // Closes what only this has needed.
        self.work(None);
        for conflict in outcome.iter().flatten() {
            if let Some(mac) = conflict.mac {
                self.rivals.note((conflict.link, conflict.address), mac);
            }
        }
        outcome
    }

    async fn probe_all(&mut self, claims: &[Claim]) -> io::Result<Vec<Conflict>> {
        let links: BTreeSet<_> =
            claims.iter().filter(|claim| claim.address.is_ipv4()).map(|claim| claim.link).collect();
        self.wait_for_carrier(&links).await?;
        let own: HashSet<_> = claims.iter().map(|claim| claim.mac).collect();
        let mut probing = Probing::new(Instant::now(), claims, crate::random::random());
        let conflicts = loop {
            self.work(Some((&mut probing, &own)));
            if let Some(conflicts) = probing.outcome() {
                break conflicts;
            }
            let next = self.schedule.deadline().map_or(probing.deadline(), |at| at.min(probing.deadline()));
            self.wait(Some(next)).await;
        };
        // Without a carrier nobody could answer.
        links.iter().try_for_each(|link| self.must_run(*link))?;
        Ok(conflicts)
    }

    async fn wait_for_carrier(&mut self, links: &BTreeSet<u32>) -> io::Result<()> {
        let end = Instant::now() + CARRIER;
        for link in links {
            while !self.sockets.is_running(*link)? && Instant::now() < end {
                sleep(CARRIER_PAUSE).await;
            }
            self.must_run(*link)?;
        }
        Ok(())
    }

    fn must_run(&mut self, link: u32) -> io::Result<()> {
        let no_carrier = || about(link, &io::Error::new(io::ErrorKind::NetworkDown, "no carrier"));
        self.sockets.is_running(link)?.then_some(()).ok_or_else(no_carrier)
    }

    /// Hears what has come, then says what is due: who has defended an address is heard before it
    /// is announced, however late this is called. Never blocks.
    fn work(&mut self, mut probing: Option<(&mut Probing, &HashSet<MacAddr>)>) {
        let probed: Vec<_> = probing.iter().flat_map(|(probing, _)| probing.links()).collect();
        self.sockets.keep(&self.needed(&probed));

        let Self { schedule, rivals, held_macs, watched_macs, other_macs, sockets, found, .. } = self;
        sockets.receive(|link, heard| {
            let own = probing.as_ref().is_some_and(|(_, own)| own.contains(&heard.mac));
            let macs = [&*held_macs, watched_macs, other_macs];
            if own || macs.iter().any(|macs| macs.contains(&heard.mac)) {
                return;
            }
            rivals.heard(link, heard);
            if let Some(conflict) = schedule.heard(link, heard) {
                rivals.note((link, heard.address), heard.mac);
                found.push_back(conflict);
            }
            if let Some((probing, _)) = &mut probing {
                probing.heard(link, heard);
            }
        });

        let now = Instant::now();
        if self.quiet_until.is_none_or(|until| until <= now) {
            let mut packets = self.schedule.poll(now, BURST);
            if let Some((probing, _)) = probing {
                packets.extend(probing.poll(now, BURST - packets.len()));
            }
            for packet in &packets {
                self.sockets.send(packet);
            }
            self.quiet_until = (!packets.is_empty()).then(|| now + PAUSE);
        }
        self.sockets.keep(&self.needed(&probed));
    }

    /// The sockets that there has to be.
    fn needed(&self, probed: &[(u32, Protocol)]) -> HashSet<(u32, Protocol)> {
        let watched = self.rivals.links().map(|link| (link, Protocol::Ipv6));
        self.schedule.listens().chain(watched).chain(probed.iter().copied()).collect()
    }

    /// Waits until something may have come, or may be sent that is due at `deadline`.
    async fn wait(&self, deadline: Option<Instant>) {
        let readable = poll_fn(|context| self.sockets.poll_readable(context));
        match deadline.map(|at| self.quiet_until.map_or(at, |quiet| at.max(quiet))) {
            // Late or in time, the next thing to do is to look.
            Some(at) => drop(timeout_at(at.into(), readable).await),
            None => readable.await,
        }
    }
}

/// A claim without its MAC address: the address on a link, which only one claim can have.
type Place = (u32, IpAddr);

impl Claim {
    fn place(&self) -> Place {
        (self.link, self.address)
    }
}

/// By what neighbours find an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Protocol {
    Arp,
    Ipv6,
}

impl Protocol {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Arp } else { Self::Ipv6 }
    }

    fn ethertype(self) -> u16 {
        match self {
            Self::Arp => 0x0806,
            Self::Ipv6 => 0x86dd,
        }
    }
}

/// What is said about a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    /// Who has it?
    Probe,
    /// We have it.
    Announcement,
}

/// Something to be sent to everybody on the claim's link.
#[derive(Clone, Copy, Debug)]
struct Packet {
    claim: Claim,
    message: Message,
}

/// What a packet says: `mac` has, or wants, `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    address: IpAddr,
    mac: MacAddr,
    sign: Sign,
}

/// How far somebody is with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Uses,
    /// It asks whether somebody else does, before it does.
    Probes,
}
