//! A serial line through any weather: whatever is left in it, whatever is lost, whoever is killed
//! when, each end reads what the other has written in the same life, and the next life always comes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;
use tether_wire::{
    cobs::encode,
    serial::{Line, MOST, Nonce, Serial, SerialMessage, Side, Stage},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

/// One end, and what is known of it.
struct End {
    side: Side,
    line: Line,
    /// What it has read, in the life it is in.
    got: Vec<u8>,
}

impl End {
    fn new(side: Side) -> Self {
        Self { side, line: Line::new(side), got: Vec::new() }
    }

    fn life(&self) -> Option<Nonce> {
        match self.line.stage() {
            Stage::Open { life } => Some(life),
            _ => None,
        }
    }
}

/// A guest, a host, and the two directions between them.
struct Pair {
    guest: End,
    host: End,
    to_host: VecDeque<u8>,
    to_guest: VecDeque<u8>,
    nonces: u64,
    /// What each side has written, by life.
    written: HashMap<(bool, Nonce), Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Step {
    /// So many bytes go from an end into the line.
    Send(bool, usize),
    /// So many arrive.
    Arrive(bool, usize),
    /// An end's program writes.
    Write(bool, Vec<u8>),
    /// A program is killed, and another begins.
    Kill(bool),
    /// An end whose life is over begins the next.
    Next(bool),
    /// The first bytes in a direction are lost.
    LoseFirst(bool, usize),
    /// The last ones are.
    LoseLast(bool, usize),
    /// A bit is turned.
    Damage(bool, usize),
    /// All is well for a while.
    Settle,
    /// Something else is in the line: often what could be ours.
    Garbage(bool, Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let side = any::<bool>;
    let garbage = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::collection::vec(0_u8..3, 0..40),
        any::<u8>().prop_map(|n| {
            let mut bytes = Vec::new();
            encode(&SerialMessage::Open { opening: nonce(n.into()) }, &mut bytes);
            bytes
        }),
        any::<u8>().prop_map(|n| {
            let mut bytes = Vec::new();
            let (opening, life) = (nonce(n.into()), nonce(u64::from(n) + 1));
            encode(&SerialMessage::Accept { opening, life }, &mut bytes);
            encode(&SerialMessage::FromHost { life, offset: 0, bytes: vec![n] }, &mut bytes);
            encode(&SerialMessage::FromGuest { life, offset: 0, bytes: vec![n] }, &mut bytes);
            bytes
        }),
    ];
    prop_oneof![
        4 => (side(), 0..300_usize).prop_map(|(side, count)| Step::Send(side, count)),
        4 => (side(), 0..300_usize).prop_map(|(side, count)| Step::Arrive(side, count)),
        4 => (side(), prop::collection::vec(any::<u8>(), 1..200)).prop_map(|(side, bytes)| Step::Write(side, bytes)),
        1 => side().prop_map(Step::Kill),
        2 => Just(Step::Settle),
        2 => side().prop_map(Step::Next),
        1 => (side(), 0..100_usize).prop_map(|(side, count)| Step::LoseFirst(side, count)),
        1 => (side(), 0..100_usize).prop_map(|(side, count)| Step::LoseLast(side, count)),
        1 => (side(), any::<usize>()).prop_map(|(side, at)| Step::Damage(side, at)),
        1 => (side(), garbage).prop_map(|(side, bytes)| Step::Garbage(side, bytes)),
    ]
}

/// Never that of a pair, whose count begins far above.
fn nonce(n: u64) -> Nonce {
    u128::from(n).to_le_bytes()
}

impl Pair {
    fn new() -> Self {
        let (guest, host) = (End::new(Side::Guest), End::new(Side::Host));
        let lines = (VecDeque::new(), VecDeque::new());
        let mut pair =
            Self { guest, host, to_host: lines.0, to_guest: lines.1, nonces: 1_000, written: HashMap::new() };
        pair.begin(true);
        pair.begin(false);
        pair
    }

    fn end(&mut self, guest: bool) -> (&mut End, &mut VecDeque<u8>, &mut VecDeque<u8>) {
        if guest {
            (&mut self.guest, &mut self.to_host, &mut self.to_guest)
        } else {
            (&mut self.host, &mut self.to_guest, &mut self.to_host)
        }
    }

    fn begin(&mut self, guest: bool) {
        self.nonces += 1;
        let number = nonce(self.nonces);
        let (end, ..) = self.end(guest);
        end.got.clear();
        end.line.begin(number);
    }

    fn kill(&mut self, guest: bool) {
        let (end, ..) = self.end(guest);
        *end = End::new(end.side);
        self.begin(guest);
    }

    fn write(&mut self, guest: bool, bytes: &[u8]) {
        let (end, ..) = self.end(guest);
        let (count, life) = (end.line.write(bytes), end.life());
        if let Some(life) = life {
            self.written.entry((guest, life)).or_default().extend(&bytes[..count]);
        }
    }

    fn send(&mut self, guest: bool, count: usize) {
        let (end, out, _) = self.end(guest);
        let count = count.min(end.line.output().len());
        out.extend(&end.line.output()[..count]);
        end.line.sent(count);
    }

    fn arrive(&mut self, guest: bool, count: usize) {
        let (end, _, incoming) = self.end(guest);
        let bytes: Vec<u8> = incoming.drain(..count.min(incoming.len())).collect();
        let mut rest = &bytes[..];
        // Whoever has no life any more reads on when the next has begun.
        while end.line.stage() != Stage::Over {
            end.line.hear(&mut rest);
            let input = end.line.input().to_vec();
            end.got.extend(&input);
            end.line.consume(input.len());
            if rest.is_empty() {
                break;
            }
        }
        for byte in rest.iter().rev() {
            incoming.push_front(*byte);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Send(guest, count) => self.send(*guest, *count),
            Step::Arrive(guest, count) => self.arrive(*guest, *count),
            Step::Write(guest, bytes) => self.write(*guest, bytes),
            Step::Kill(guest) => self.kill(*guest),
            Step::Settle => self.settle(),
            Step::Next(guest) => {
                if self.end(*guest).0.line.stage() == Stage::Over {
                    self.begin(*guest);
                }
            }
            Step::LoseFirst(guest, count) => {
                let (_, out, _) = self.end(*guest);
                out.drain(..(*count).min(out.len()));
            }
            Step::LoseLast(guest, count) => {
                let (_, out, _) = self.end(*guest);
                out.truncate(out.len() - (*count).min(out.len()));
            }
            Step::Damage(guest, at) => {
                let (_, out, _) = self.end(*guest);
                if let Some(at) = at.checked_rem(out.len()) {
                    out[at] ^= 1 << (at % 8);
                }
            }
            Step::Garbage(guest, bytes) => self.end(*guest).1.extend(bytes),
        }
    }

    /// What an end has read is what the other has written first in the same life.
    fn nobody_reads_what_is_not_meant(&self) -> bool {
        [&self.guest, &self.host].into_iter().all(|end| {
            let other = end.side == Side::Host;
            let written = end.life().and_then(|life| self.written.get(&(other, life)));
            end.life().is_none() || written.map_or(&[][..], Vec::as_slice).starts_with(&end.got)
        })
    }

    /// Everything flows until nothing is left; whose life is over begins the next.
    fn settle(&mut self) {
        for _ in 0..200 {
            for guest in [true, false] {
                self.send(guest, usize::MAX);
                self.arrive(guest, usize::MAX);
                if self.end(guest).0.line.stage() == Stage::Over {
                    self.begin(guest);
                }
            }
            let nothing = |end: &End| end.line.output().is_empty();
            if self.to_guest.is_empty()
                && self.to_host.is_empty()
                && nothing(&self.guest)
                && nothing(&self.host)
            {
                return;
            }
        }
        panic!("they do not come to rest");
    }

    fn both_are_in_one_life_and_hear_each_other(&mut self) {
        assert!(self.guest.life().is_some(), "{:?}", self.guest.line);
        assert_eq!(self.guest.life(), self.host.life());
        for guest in [true, false] {
            for n in 0..4 {
                self.write(guest, &[n; 2_500]);
                self.settle();
            }
        }
        let life = self.guest.life().unwrap();
        assert_eq!(self.written[&(true, life)], self.host.got);
        assert_eq!(self.written[&(false, life)], self.guest.got);
        assert!(self.host.got.len() >= 10_000 && self.guest.got.len() >= 10_000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_byte_of_another_life_is_read_and_the_next_life_comes(
        steps in prop::collection::vec(step(), 0..120),
        last in any::<bool>(),
    ) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.step(step);
            prop_assert!(pair.nobody_reads_what_is_not_meant(), "after {step:?}");
        }
        // Either end is killed now, wherever the bytes are. Where it is the host, the guest gives up
        // by itself too, if it waits for what is lost: an agent does after its time.
        pair.kill(last);
        pair.settle();
        if pair.guest.line.stage() == Stage::Opening {
            pair.begin(true);
            pair.settle();
        }
        pair.both_are_in_one_life_and_hear_each_other();
    }

    /// Without anything lost in between, each death alone is enough: nobody needs a clock.
    #[test]
    fn a_death_is_noticed_by_the_other_end(
        before in prop::collection::vec(step(), 0..40),
        guest in any::<bool>(),
        written in prop::collection::vec(any::<u8>(), 1..3_000),
        sent in 0..3_000_usize,
        arrived in 0..3_000_usize,
    ) {
        let mut pair = Pair::new();
        for step in &before {
            pair.step(step);
        }
        pair.kill(true);
        pair.settle();
        let life = pair.guest.life();
        prop_assert!(life.is_some() && life == pair.host.life());
        // In the middle of a frame, of two, of none.
        for of in [true, false] {
            pair.write(of, &written);
            pair.send(of, sent);
        }
        pair.arrive(guest, arrived);
        pair.kill(guest);
        pair.settle();
        prop_assert_ne!(pair.guest.life(), life);
        pair.both_are_in_one_life_and_hear_each_other();
    }

    #[test]
    fn garbage_costs_no_memory(bytes in prop::collection::vec(any::<u8>(), 0..5_000), guest in any::<bool>()) {
        let mut line = Line::new(if guest { Side::Guest } else { Side::Host });
        line.begin(nonce(7));
        for _ in 0..20 {
            let mut rest = &bytes[..];
            while !rest.is_empty() && line.stage() != Stage::Over {
                line.hear(&mut rest);
                line.consume(usize::MAX);
                prop_assert!(line.output().len() <= 2 * MOST);
            }
        }
    }
}

/// Both ends of a port, which stays when they go.
fn ports() -> (DuplexStream, DuplexStream) {
    duplex(700)
}

#[tokio::test]
async fn a_stream_flows_both_ways_and_ends_with_the_life() {
    let (near, far) = ports();
    let (mut guest, mut host) = (Serial::new(near, Side::Guest), Serial::new(far, Side::Host));
    let (one, other) = tokio::join!(guest.open(nonce(1)), host.open(nonce(2)));
    one.unwrap();
    other.unwrap();
    let all: Vec<u8> = (0..50_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let mut got = vec![0; all.len()];
    let (wrote, read) = tokio::join!(
        async {
            guest.write_all(&all).await?;
            guest.flush().await
        },
        host.read_exact(&mut got)
    );
    wrote.unwrap();
    read.unwrap();
    assert!(got == all);
    // The host's program begins anew: the guest's stream ends, in both directions.
    let mut piece = [0; 10];
    let (opened, heard) = tokio::join!(host.open(nonce(3)), async {
        let heard = guest.read(&mut piece).await;
        assert_eq!(guest.write(b"x").await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
        guest.open(nonce(4)).await.unwrap();
        heard
    });
    assert_eq!((opened.unwrap(), heard.unwrap()), ((), 0));
    guest.write_all(b"next").await.unwrap();
    host.read_exact(&mut piece[..4]).await.unwrap();
    assert_eq!(&piece[..4], b"next");
    // And then the guest's: the host gives it the next life without a word.
    let (opened, heard) = tokio::join!(guest.open(nonce(5)), async {
        let heard = host.read(&mut piece).await;
        host.open(nonce(6)).await.unwrap();
        heard
    });
    assert_eq!((opened.unwrap(), heard.unwrap()), ((), 0));
    drop(guest);
    assert_eq!(host.read(&mut piece).await.unwrap(), 0);
    assert!(host.is_closed() && host.open(nonce(7)).await.is_err());
}

#[tokio::test]
async fn a_line_with_an_echo_is_no_host() {
    let (near, far) = ports();
    let echo = async {
        let (mut read, mut write) = tokio::io::split(far);
        let _ = tokio::io::copy(&mut read, &mut write).await;
    };
    let mut guest = Serial::new(near, Side::Guest);
    tokio::select! {
        opened = guest.open(nonce(1)) => panic!("{opened:?}"),
        () = echo => {}
        () = async { for _ in 0..1_000 { tokio::task::yield_now().await } } => {}
    }
}
