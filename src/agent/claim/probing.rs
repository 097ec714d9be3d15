//! Probing for addresses before they are used (RFC 5227 section 2.1.1): a state machine without
//! socket or clock.
//!
//! All addresses share one timetable. Its waits are random so that machines that start together
//! do not probe together, and for that one throw for each machine is as good as one for each
//! address.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use tether_wire::value::MacAddr;

use super::{Claim, Conflict, Heard, Message, Packet, Place, Protocol, Sign};

/// `PROBE_WAIT`: the first probe is sent within this time.
const PROBE_WAIT: Duration = Duration::from_secs(1);
/// `PROBE_NUM`: how many are sent.
pub(super) const PROBE_NUM: usize = 3;
/// `PROBE_MIN`: the least time between two.
const PROBE_MIN: Duration = Duration::from_secs(1);
/// `PROBE_MAX` less that: what may be added to it.
const PROBE_SPREAD: Duration = Duration::from_secs(1);
/// `ANNOUNCE_WAIT`: how long answers to the last one may take.
const ANNOUNCE_WAIT: Duration = Duration::from_secs(2);

/// Addresses that are being probed for.
#[derive(Debug)]
pub(super) struct Probing {
    probed: HashMap<Place, Probed>,
    /// What this round of probes has not sent yet.
    queue: VecDeque<Place>,
    /// The waits before the rounds to come and before the end.
    waits: VecDeque<Duration>,
    /// When the next round, or the end, is due.
    next: Instant,
    over: bool,
}

#[derive(Debug)]
struct Probed {
    mac: MacAddr,
    sent: bool,
    rival: Option<(MacAddr, Sign)>,
}

impl Probing {
    /// Begins to probe for the IPv4 addresses among `claims`. `random` are any numbers, evenly
    /// spread.
    pub(super) fn new(now: Instant, claims: &[Claim], random: [u32; PROBE_NUM]) -> Self {
        let probed = claims.iter().filter(|claim| claim.address.is_ipv4());
        let probed = probed.map(|claim| (claim.place(), Probed { mac: claim.mac, sent: false, rival: None }));
        let [first, others @ ..] = random.map(|number| f64::from(number) / f64::from(u32::MAX));
        let between = others.map(|part| PROBE_MIN + PROBE_SPREAD.mul_f64(part));
        Self {
            probed: probed.collect(),
            queue: VecDeque::new(),
            waits: between.into_iter().chain([ANNOUNCE_WAIT]).collect(),
            next: now + PROBE_WAIT.mul_f64(first),
            over: false,
        }
    }

    /// The links that are listened on, one for each address.
    pub(super) fn links(&self) -> impl Iterator<Item = (u32, Protocol)> {
        self.probed.keys().map(|(link, _)| (*link, Protocol::Arp))
    }

    /// When [`Probing::poll`] is to be called.
    pub(super) fn deadline(&self) -> Instant {
        self.next
    }

    /// What is to be sent now, `most` packets at most.
    pub(super) fn poll(&mut self, now: Instant, most: usize) -> Vec<Packet> {
        if now < self.next || self.over {
            return Vec::new();
        }
        if self.queue.is_empty() {
            if self.waits.is_empty() {
                self.over = true;
                return Vec::new();
            }
            let undecided = self.probed.iter().filter(|(_, probed)| !probed.is_decided());
            self.queue.extend(undecided.map(|(place, _)| *place));
        }
        let mut packets = Vec::new();
        while packets.len() < most
            && let Some(place) = self.queue.pop_front()
        {
            if let Some(probed) = self.probed.get_mut(&place).filter(|probed| !probed.is_decided()) {
                probed.sent = true;
                let claim = Claim { link: place.0, mac: probed.mac, address: place.1 };
                packets.push(Packet { claim, message: Message::Probe });
            }
        }
        if self.queue.is_empty() {
            self.next = now + self.waits.pop_front().unwrap_or_default();
        }
        packets
    }

    /// Takes note of somebody else's packet: from the first moment on, whoever uses or probes for
    /// an address has it.
    pub(super) fn heard(&mut self, link: u32, heard: &Heard) {
        if let Some(probed) = self.probed.get_mut(&(link, heard.address)) {
            match probed.rival {
                Some((_, Sign::Uses)) => {}
                Some((_, Sign::Probes)) if heard.sign == Sign::Probes => {}
                _ => probed.rival = Some((heard.mac, heard.sign)),
            }
        }
    }

    /// All conflicts, once every address is decided.
    pub(super) fn outcome(&self) -> Option<Vec<Conflict>> {
        if !self.over && !self.probed.values().all(Probed::is_decided) {
            return None;
        }
        let mut rivals: Vec<_> =
            self.probed.iter().filter_map(|(place, probed)| Some((*place, probed.rival?.0))).collect();
        rivals.sort_unstable();
        let conflict = |((link, address), mac)| Conflict { link, address, mac: Some(mac) };
        Some(rivals.into_iter().map(conflict).collect())
    }
}

impl Probed {
    /// Whether nothing more is to be found out. Who has heard another's probe sends one of its own
    /// first: else the other would never know, and which of the two gets the address would be luck.
    fn is_decided(&self) -> bool {
        match self.rival {
            Some((_, Sign::Uses)) => true,
            Some((_, Sign::Probes)) => self.sent,
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mac(last: u8) -> MacAddr {
        MacAddr::from_bytes([2, 0, 0, 0, 0, last]).unwrap()
    }

    fn claim(last: u8) -> Claim {
        Claim { link: 7, mac: mac(1), address: [172, 18, 0, last].into() }
    }

    fn heard(last: u8, sign: Sign) -> Heard {
        Heard { address: claim(last).address, mac: mac(2), sign }
    }

    fn conflict(last: u8) -> Conflict {
        Conflict { link: 7, address: claim(last).address, mac: Some(mac(2)) }
    }

    /// Runs to the end and returns when each probe was sent, the time of the end, and its outcome.
    fn run(probing: &mut Probing, start: Instant) -> (Vec<Duration>, Duration, Vec<Conflict>) {
        let mut sent = Vec::new();
        loop {
            let now = probing.deadline();
            sent.extend(probing.poll(now, 64).iter().map(|_| now - start));
            if let Some(outcome) = probing.outcome() {
                return (sent, now - start, outcome);
            }
        }
    }

    proptest! {
        #[test]
        fn the_timetable_is_rfc_5227s(random: [u32; PROBE_NUM]) {
            let start = Instant::now();
            let (sent, end, outcome) = run(&mut Probing::new(start, &[claim(2)], random), start);
            prop_assert_eq!(sent.len(), PROBE_NUM);
            prop_assert!(sent[0] <= PROBE_WAIT);
            let next = |before: Duration| before + PROBE_MIN..=before + PROBE_MIN + PROBE_SPREAD;
            prop_assert!(sent.windows(2).all(|two| next(two[0]).contains(&two[1])));
            prop_assert_eq!(end, sent[2] + ANNOUNCE_WAIT);
            prop_assert!((Duration::from_secs(4)..=Duration::from_secs(7)).contains(&end));
            prop_assert!(outcome.is_empty());
        }
    }

    #[test]
    fn conflicts_end_it_when_all_is_decided() {
        let start = Instant::now();
        let mut probing = Probing::new(start, &[claim(2), claim(3)], [0; 3]);
        assert_eq!(probing.poll(start, 64).len(), 2);
        probing.heard(8, &heard(2, Sign::Uses));
        probing.heard(7, &heard(4, Sign::Uses));
        probing.heard(7, &heard(3, Sign::Uses));
        assert_eq!(probing.outcome(), None);
        // What is decided is probed for no more.
        let now = probing.deadline();
        assert_eq!(probing.poll(now, 64).iter().map(|p| p.claim).collect::<Vec<_>>(), [claim(2)]);
        probing.heard(7, &heard(2, Sign::Probes));
        assert_eq!(probing.outcome(), Some(vec![conflict(2), conflict(3)]));
    }

    #[test]
    fn who_hears_a_probe_first_is_heard_too() {
        let start = Instant::now();
        let mut probing = Probing::new(start, &[claim(2)], [u32::MAX; 3]);
        probing.heard(7, &heard(2, Sign::Probes));
        assert_eq!(probing.outcome(), None);
        assert_eq!(run(&mut probing, start), (vec![PROBE_WAIT], PROBE_WAIT, vec![conflict(2)]));
        // Who is sure to have lost need not be heard.
        let mut probing = Probing::new(start, &[claim(2)], [u32::MAX; 3]);
        probing.heard(7, &heard(2, Sign::Probes));
        probing.heard(7, &heard(2, Sign::Uses));
        assert_eq!(probing.outcome(), Some(vec![conflict(2)]));
    }

    #[test]
    fn nothing_to_probe_for_is_no_conflict_at_once() {
        let six = Claim { address: "fd00::2".parse().unwrap(), ..claim(2) };
        assert_eq!(Probing::new(Instant::now(), &[six], [0; 3]).outcome(), Some(Vec::new()));
    }

    #[test]
    fn many_are_paced() {
        let claims: Vec<_> = (0..200).map(claim).collect();
        let (start, mut sent) = (Instant::now(), Vec::new());
        let mut probing = Probing::new(start, &claims, [0; 3]);
        let mut now = start;
        while probing.outcome().is_none() {
            if probing.deadline() <= now {
                sent.push(probing.poll(now, 64).len());
            }
            now += Duration::from_millis(10);
        }
        assert_eq!(sent, [64, 64, 64, 8, 64, 64, 64, 8, 64, 64, 64, 8, 0]);
    }
}
