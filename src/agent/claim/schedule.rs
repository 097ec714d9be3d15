//! What is said about the addresses that are held, and when: a state machine without socket or
//! clock.
//!
//! An address is in use from the first moment, so an IPv4 one is probed for a moment only before
//! it is announced, and conflicts are listened for a while longer. An IPv6 one has been through
//! the kernel's duplicate-address detection and is only announced.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    net::IpAddr,
    time::{Duration, Instant},
};

use tether_wire::value::MacAddr;

use super::{Claim, Conflict, Heard, Message, Packet, Place, Protocol, Sign};

/// Something is said, then there is time for others to answer.
#[derive(Debug)]
struct Step {
    say: Message,
    then: Duration,
}

/// RFC 5227 with one probe of 100 ms instead of three of one to two seconds each: a neighbour on
/// the same link answers in a few milliseconds. Where it cannot yet, as its own end of the link has
/// come up this moment, there is a second probe: Linux defends an address against probes, but is
/// silent about announcements. The second announcement is `ANNOUNCE_INTERVAL` (2 s) after the first
/// (section 2.3). After 10 s nobody listens any more: an idle guest is not to wake for other people's
/// ARP.
const IPV4: &[Step] = &[
    Step { say: Message::Probe, then: Duration::from_millis(100) },
    Step { say: Message::Announcement, then: Duration::from_millis(900) },
    Step { say: Message::Probe, then: Duration::from_millis(1_100) },
    Step { say: Message::Announcement, then: Duration::from_millis(7_900) },
];

/// Two advertisements (RFC 4861 section 7.2.6 allows three), `RetransTimer` (1 s) apart.
const IPV6: &[Step] = &[
    Step { say: Message::Announcement, then: Duration::from_secs(1) },
    Step { say: Message::Announcement, then: Duration::ZERO },
];

/// The held addresses, and what is still to be said about each.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    held: HashMap<Place, Held>,
    /// What is due when: those of `held` that are not done, once each.
    due: BTreeSet<(Instant, Place)>,
    /// How many of them are of each link and protocol.
    active: HashMap<(u32, Protocol), usize>,
    /// Counts the calls of [`Schedule::hold`]: who has not been named in the last one is gone.
    round: u64,
}

#[derive(Debug)]
struct Held {
    mac: MacAddr,
    round: u64,
    /// How many steps have been taken.
    taken: usize,
    /// When the next one is due; `None` when all is said and nobody listens.
    due: Option<Instant>,
}

impl Schedule {
    /// These are held now, and only these. Returns those that are new, or have another MAC address.
    pub(super) fn hold(&mut self, now: Instant, claims: &[Claim]) -> Vec<Place> {
        self.round += 1;
        let (mut fresh, mut named) = (Vec::new(), 0);
        for claim in claims {
            let place = claim.place();
            let before = match self.held.entry(place) {
                Entry::Occupied(mut entry) => {
                    let held = entry.get_mut();
                    named += usize::from(held.round != self.round);
                    held.round = self.round;
                    if held.mac == claim.mac {
                        continue;
                    }
                    held.mac = claim.mac;
                    held.taken = 0;
                    held.due.replace(now)
                }
                Entry::Vacant(entry) => {
                    named += 1;
                    entry.insert(Held { mac: claim.mac, round: self.round, taken: 0, due: Some(now) });
                    None
                }
            };
            self.reschedule(place, before, Some(now));
            fresh.push(place);
        }
        if named < self.held.len() {
            let round = self.round;
            let gone: Vec<_> = self.held.extract_if(|_, held| held.round != round).collect();
            for (place, held) in gone {
                self.reschedule(place, held.due, None);
            }
        }
        fresh
    }

    /// Whether this one is held.
    pub(super) fn holds(&self, place: Place) -> bool {
        self.held.contains_key(&place)
    }

    /// When [`Schedule::poll`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The links and protocols that are listened on.
    pub(super) fn listens(&self) -> impl Iterator<Item = (u32, Protocol)> {
        self.active.keys().copied()
    }

    /// What is to be said now, `most` packets at most.
    pub(super) fn poll(&mut self, now: Instant, most: usize) -> Vec<Packet> {
        let mut packets = Vec::new();
        while packets.len() < most
            && let Some(&(at, place)) = self.due.first()
            && at <= now
            && let Some(held) = self.held.get_mut(&place)
        {
            let step = steps(place.1).get(held.taken);
            if let Some(step) = step {
                let claim = Claim { link: place.0, mac: held.mac, address: place.1 };
                packets.push(Packet { claim, message: step.say });
            }
            held.taken += 1;
            held.due = step.map(|step| now + step.then);
            let due = held.due;
            self.reschedule(place, Some(at), due);
        }
        packets
    }

    /// What somebody else's packet means for the addresses held on `link`. A conflict is told
    /// once, and is the end of what is said: the kernel answers for the address as before, but
    /// connections are not to be drawn here from who may be its rightful owner.
    pub(super) fn heard(&mut self, link: u32, heard: &Heard) -> Option<Conflict> {
        let place = (link, heard.address);
        let held = self.held.get_mut(&place).filter(|_| heard.address.is_ipv4())?;
        // Who probes for what is announced already will hear the kernel's answer and go away.
        let announced =
            steps(heard.address).iter().take(held.taken).any(|step| step.say == Message::Announcement);
        if heard.sign == Sign::Probes && announced {
            return None;
        }
        let due = held.due.take()?;
        self.reschedule(place, Some(due), None);
        Some(Conflict { link, address: heard.address, mac: Some(heard.mac) })
    }

    /// Moves `place` in the tables that are made of `held`.
    fn reschedule(&mut self, place: Place, from: Option<Instant>, to: Option<Instant>) {
        let kind = (place.0, Protocol::of(place.1));
        if let Some(at) = from {
            self.due.remove(&(at, place));
        }
        if let Some(at) = to {
            self.due.insert((at, place));
        }
        match (from, to) {
            (None, Some(_)) => *self.active.entry(kind).or_default() += 1,
            (Some(_), None) => {
                if let Entry::Occupied(mut entry) = self.active.entry(kind) {
                    *entry.get_mut() -= 1;
                    if *entry.get() == 0 {
                        entry.remove();
                    }
                }
            }
            _ => {}
        }
    }
}

fn steps(address: IpAddr) -> &'static [Step] {
    if address.is_ipv4() { IPV4 } else { IPV6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const FOUR: &str = "172.18.0.2";
    const SIX: &str = "fd00:18::2";

    fn mac(bytes: [u8; 6]) -> MacAddr {
        MacAddr::from_bytes(bytes).unwrap()
    }

    fn claim(address: &str) -> Claim {
        Claim { link: 7, mac: mac(MINE), address: address.parse().unwrap() }
    }

    fn heard(address: &str, sign: Sign) -> Heard {
        Heard { address: address.parse().unwrap(), mac: mac(THEIRS), sign }
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Runs to the end of all deadlines and returns what was said, with its time.
    fn run(schedule: &mut Schedule, start: Instant) -> Vec<(Duration, Message)> {
        let mut said = Vec::new();
        while let Some(at) = schedule.deadline() {
            said.extend(schedule.poll(at, 64).iter().map(|packet| (at - start, packet.message)));
        }
        said
    }

    /// That all tables say the same.
    fn is_sound(schedule: &Schedule) {
        let due: BTreeSet<_> =
            schedule.held.iter().filter_map(|(place, held)| held.due.map(|at| (at, *place))).collect();
        assert_eq!(schedule.due, due);
        assert_eq!(schedule.active.values().sum::<usize>(), due.len());
    }

    #[test]
    fn an_ipv4_address_is_probed_for_and_announced_twice_and_listened_for() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        assert_eq!(schedule.hold(start, &[claim(FOUR)]), [claim(FOUR).place()]);
        assert_eq!(schedule.listens().collect::<Vec<_>>(), [(7, Protocol::Arp)]);
        let said = run(&mut schedule, start);
        let (probe, announcement) = (Message::Probe, Message::Announcement);
        let expected = [(0, probe), (100, announcement), (1_000, probe), (2_100, announcement)];
        assert_eq!(said, expected.map(|(at, message)| (ms(at), message)));
        assert_eq!(schedule.listens().count(), 0, "nobody listens any more");
        assert_eq!(schedule.heard(7, &heard(FOUR, Sign::Uses)), None);
        // Named again it is nothing new.
        assert_eq!(schedule.hold(start, &[claim(FOUR)]), []);
        assert_eq!(schedule.deadline(), None);
    }

    #[test]
    fn it_is_listened_until_10_s_after_the_hold() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.hold(start, &[claim(FOUR)]);
        for at in [0, 100, 1_000, 2_100] {
            schedule.poll(start + ms(at), 64);
        }
        assert_eq!(schedule.deadline(), Some(start + ms(10_000)));
        schedule.poll(start + ms(9_999), 64);
        assert!(schedule.heard(7, &heard(FOUR, Sign::Uses)).is_some());
    }

    #[test]
    fn an_ipv6_address_is_announced_twice_and_has_no_conflicts() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.hold(start, &[claim(SIX)]);
        assert_eq!(schedule.heard(7, &heard(SIX, Sign::Uses)), None);
        let said = run(&mut schedule, start);
        assert_eq!(said, [(ms(0), Message::Announcement), (ms(1_000), Message::Announcement)]);
        assert_eq!(schedule.listens().count(), 0);
    }

    #[test]
    fn what_is_defended_is_told_once_and_not_announced() {
        for sign in [Sign::Uses, Sign::Probes] {
            let (mut schedule, start) = (Schedule::default(), Instant::now());
            schedule.hold(start, &[claim(FOUR)]);
            assert_eq!(schedule.poll(start, 64).len(), 1);
            assert_eq!(schedule.heard(8, &heard(FOUR, sign)), None, "another link");
            assert_eq!(schedule.heard(7, &heard("172.18.0.3", sign)), None, "another address");
            let told = Conflict { link: 7, address: claim(FOUR).address, mac: Some(mac(THEIRS)) };
            assert_eq!(schedule.heard(7, &heard(FOUR, sign)), Some(told));
            assert_eq!(schedule.heard(7, &heard(FOUR, sign)), None);
            assert_eq!(run(&mut schedule, start), []);
            is_sound(&schedule);
        }
    }

    #[test]
    fn after_the_announcement_only_use_is_a_conflict() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.hold(start, &[claim(FOUR)]);
        schedule.poll(start, 64);
        schedule.poll(start + ms(100), 64);
        assert_eq!(schedule.heard(7, &heard(FOUR, Sign::Probes)), None);
        assert!(schedule.heard(7, &heard(FOUR, Sign::Uses)).is_some());
        assert_eq!(run(&mut schedule, start), [], "the second announcement would be a fight");
    }

    #[test]
    fn what_moves_is_announced_again_and_what_is_gone_is_forgotten() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.hold(start, &[claim(FOUR), claim(SIX)]);
        run(&mut schedule, start);
        let other_mac = Claim { mac: mac([2, 0, 0, 0, 0, 9]), ..claim(FOUR) };
        let other_link = Claim { link: 8, ..claim(SIX) };
        assert_eq!(schedule.hold(start, &[other_mac, other_link]).len(), 2);
        assert!(!schedule.holds(claim(SIX).place()));
        is_sound(&schedule);
        assert_eq!(schedule.poll(start, 64)[0].claim, other_mac);
        // Named twice is named once; a pending one that is gone leaves nothing behind.
        assert_eq!(schedule.hold(start, &[other_mac, other_mac]).len(), 0);
        is_sound(&schedule);
        schedule.hold(start, &[]);
        assert_eq!((schedule.deadline(), schedule.listens().count()), (None, 0));
        is_sound(&schedule);
    }

    #[test]
    fn thousands_are_paced_and_each_has_its_time_for_answers() {
        let claims: Vec<_> = (0..1_000).map(|n| claim(&format!("10.0.{}.{}", n / 250, n % 250))).collect();
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        assert_eq!(schedule.hold(start, &claims).len(), 1_000);
        let (mut now, mut probed, mut announced) = (start, HashMap::new(), 0);
        let mut asked = 0;
        while schedule.deadline().is_some() {
            let packets = schedule.poll(now, 64);
            assert!(packets.len() <= 64);
            for packet in packets {
                if packet.message == Message::Probe {
                    probed.entry(packet.claim.address).or_insert(now);
                    asked += 1;
                } else {
                    announced += 1;
                    assert!(now >= probed[&packet.claim.address] + ms(100));
                }
            }
            now += ms(10);
        }
        assert_eq!((probed.len(), asked, announced), (1_000, 2_000, 2_000));
        assert!(now <= start + ms(11_000));
        is_sound(&schedule);
    }
}
