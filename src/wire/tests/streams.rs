//! Output gets to the host once and in order, however the byte stream is cut and whenever the
//! host is started again.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test fails by panicking")]

use proptest::prelude::*;
use tether_wire::streams::{
    Decoder, Stream, StreamsFromGuest, StreamsFromHost, encode,
    output::{OutputBuffer, OutputReceiver},
};

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// The workload writes.
    Write(bool, usize),
    /// The guest puts messages into the port.
    Send(usize),
    /// The host reads so many bytes.
    Read(usize),
    /// The guest reads what the host has sent.
    Hear,
    /// The host acknowledges.
    Acknowledge,
    /// The host is killed, with so many bytes lost on their way to it, and started again.
    Restart(usize),
    /// A byte is damaged.
    Damage(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (any::<bool>(), 0_usize..40_000).prop_map(|(err, n)| Step::Write(err, n)),
        (1_usize..4).prop_map(Step::Send),
        (1_usize..30_000).prop_map(Step::Read),
        Just(Step::Hear),
        Just(Step::Acknowledge),
        (0_usize..30_000).prop_map(Step::Restart),
        (0_usize..30_000).prop_map(Step::Damage),
    ]
}

struct Pair {
    buffer: OutputBuffer,
    attached: bool,
    heard: Decoder<StreamsFromHost>,
    to_host: Vec<u8>,
    to_guest: Vec<u8>,
    receiver: OutputReceiver,
    read: Decoder<StreamsFromGuest>,
    written: Vec<(Stream, u8)>,
    /// What the host has kept, which survives it.
    got: Vec<(Stream, u8)>,
    over: bool,
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self {
            buffer: OutputBuffer::new(),
            attached: false,
            heard: Decoder::new(),
            to_host: vec![],
            to_guest: vec![],
            receiver: OutputReceiver::new(0, 0),
            read: Decoder::new(),
            written: vec![],
            got: vec![],
            over: false,
        };
        pair.attach();
        pair
    }

    fn attach(&mut self) {
        encode(&self.receiver.attach(), &mut self.to_guest);
    }

    fn send(&mut self, count: usize) {
        for _ in 0..count {
            match self.buffer.next_message().filter(|_| self.attached) {
                Some(message) => encode(&message, &mut self.to_host),
                None => return,
            }
        }
    }

    fn hear(&mut self) {
        let bytes = std::mem::take(&mut self.to_guest);
        let mut rest = &bytes[..];
        while let Some(message) = self.heard.next(&mut rest) {
            match message {
                StreamsFromHost::Attach { session, received } => {
                    let output = self.buffer.attach(received);
                    self.attached = true;
                    encode(&StreamsFromGuest::Attached { session, output }, &mut self.to_host);
                }
                StreamsFromHost::Ack { received } => self.buffer.acknowledge(received),
                _ => unreachable!(),
            }
        }
    }

    fn read(&mut self, count: usize) {
        let bytes: Vec<u8> = self.to_host.drain(..count.min(self.to_host.len())).collect();
        let mut rest = &bytes[..];
        while let Some(message) = self.read.next(&mut rest) {
            let taken = match message {
                StreamsFromGuest::Attached { session, output } => {
                    assert_eq!(self.receiver.attached(session, output), 0, "nothing is ever lost");
                    Ok(())
                }
                StreamsFromGuest::Output { stream, offset, bytes } => {
                    let new = self.receiver.take(offset, &bytes);
                    new.map(|new| self.got.extend(new.iter().map(|byte| (stream, *byte))))
                }
                StreamsFromGuest::OutputEnd { offset } => self.receiver.end(offset),
                StreamsFromGuest::Window { .. } => Ok(()),
            };
            if taken.is_err() {
                self.attach();
            }
        }
        self.over = self.receiver.is_over();
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write(err, count) => {
                let stream = if err { Stream::Stderr } else { Stream::Stdout };
                let count = count.min(self.buffer.room());
                let start = self.written.len();
                let bytes: Vec<u8> = (start..start + count).map(|n| (n % 251) as u8).collect();
                self.buffer.push(stream, &bytes);
                self.written.extend(bytes.iter().map(|byte| (stream, *byte)));
            }
            Step::Send(count) => self.send(count),
            Step::Read(count) => self.read(count),
            Step::Hear => self.hear(),
            Step::Acknowledge => {
                let received = self.receiver.received();
                encode(&StreamsFromHost::Ack { received }, &mut self.to_guest);
            }
            Step::Restart(lost) => {
                self.to_host.drain(..lost.min(self.to_host.len()));
                // The last thing it said may be cut short.
                self.to_guest.truncate(self.to_guest.len() - lost % (self.to_guest.len() + 1));
                let session = rand_session(lost, self.got.len());
                self.receiver = OutputReceiver::new(session, self.got.len() as u64);
                self.read = Decoder::new();
                self.attach();
            }
            Step::Damage(at) => {
                let at = at.checked_rem(self.to_host.len());
                if let Some(byte) = at.and_then(|at| self.to_host.get_mut(at)) {
                    *byte ^= 0x55;
                }
            }
        }
    }
}

/// Different for every restart is all that matters.
fn rand_session(a: usize, b: usize) -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(1);
    COUNT.fetch_add(1, Ordering::Relaxed) << 32 | (a ^ b) as u64
}

proptest! {
    #[test]
    fn every_byte_comes_once_and_in_order(steps in prop::collection::vec(step(), 0..60)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.step(step);
            prop_assert!(pair.written.starts_with(&pair.got), "after {step:?}");
        }
        // Then all goes well.
        pair.buffer.finish();
        pair.step(&Step::Restart(1));
        for _ in 0..200 {
            for step in [Step::Hear, Step::Send(8), Step::Read(1 << 20), Step::Acknowledge] {
                pair.step(&step);
            }
        }
        prop_assert!(pair.over && pair.buffer.is_over());
        prop_assert_eq!(pair.got, pair.written);
    }
}

#[test]
fn a_workload_nobody_listens_to_fills_the_buffer_and_no_more() {
    let mut buffer = OutputBuffer::new();
    let mut streams = [Stream::Stdout, Stream::Stderr].into_iter().cycle();
    let mut pushes = 0;
    while buffer.room() > 0 {
        buffer.push(streams.next().unwrap(), b"x");
        pushes += 1;
    }
    // A byte and the change of stream count for 17.
    assert!((15_000..16_000).contains(&pushes), "{pushes}");
}

#[test]
fn a_host_that_knows_too_much_or_too_little_gets_what_there_is() {
    let mut buffer = OutputBuffer::new();
    buffer.push(Stream::Stdout, b"0123456789");
    assert_eq!(buffer.attach(u64::MAX), 10, "of another life of the machine");
    buffer.push(Stream::Stdout, b"ab");
    assert_eq!(buffer.attach(0), 10, "the rest is gone");
    buffer.acknowledge(99);
    assert_eq!(buffer.attach(10), 10, "nothing was sent that it could have");
    let Some(StreamsFromGuest::Output { offset, bytes, .. }) = buffer.next_message() else { panic!() };
    assert_eq!((offset, &bytes[..]), (10, &b"ab"[..]));
    assert_eq!(buffer.next_message(), None);
    buffer.acknowledge(11);
    buffer.finish();
    assert_eq!(buffer.next_message(), Some(StreamsFromGuest::OutputEnd { offset: 12 }));
    assert!(!buffer.is_over());
    buffer.acknowledge(12);
    assert!(buffer.is_over());
}
