//! The hard load, and one question at a time.
//!
//! The hard one keeps a window of questions open and does not sleep: a server that has to wake it
//! for every answer would be measured by the scheduler.

use std::{
    io::{self, ErrorKind},
    net::UdpSocket,
    thread::{sleep, yield_now},
    time::{Duration, Instant},
};

use crate::{
    batch::{Batch, Patience, ROOM},
    questions::Questions,
};

/// How many questions are open at one time.
const WINDOW: usize = 128;
/// How many go out, and come in, at once.
const BATCH: usize = 64;
/// When a question is taken for lost.
const LOST: Duration = Duration::from_millis(200);
/// What is not counted yet: caches, branch predictors, the scheduler.
const WARM: Duration = Duration::from_millis(100);
const MEASURED: Duration = Duration::from_millis(500);
/// How long answers are waited for at the end.
const DRAIN: Duration = Duration::from_millis(50);
/// How many answers are looked at thoroughly beforehand.
const VERIFIED: u64 = 50;
/// How long a wrong answer may be the answer of a server that is not ready yet, and how long it
/// may give none: 100,000 names are read for seconds where the machine is busy.
const WRONG: Duration = Duration::from_secs(1);
const SILENT: Duration = Duration::from_secs(30);
const IDS: usize = 1 << 16;

/// What one turn has measured.
#[derive(Clone, Copy, Default)]
pub(crate) struct Measure {
    pub(crate) qps: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// The server's, in percent of one processor, and for each answer.
    pub(crate) cpu_percent: f64,
    pub(crate) cpu_us: f64,
    pub(crate) lost: u64,
    pub(crate) wrong: u64,
}

/// How it is asked.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// As many questions as the window has room for.
    Hard,
    /// One question at a time: each is asked when the one before is answered.
    One,
}

/// Who is asked, and what.
pub(crate) struct Load<'a> {
    /// Connected to the server.
    pub(crate) socket: UdpSocket,
    pub(crate) questions: &'a Questions,
    /// An echo's answers are no answers.
    pub(crate) is_dns: bool,
    /// The turn of the first question, so that fresh names are not asked for in two rounds.
    pub(crate) first: u64,
}

impl Load<'_> {
    /// Asks some of the questions one by one and looks at the answers; what is wrong with them.
    pub(crate) fn verify(&self) -> Result<(), String> {
        if !self.is_dns {
            return Ok(());
        }
        self.socket.set_read_timeout(Some(LOST)).expect("a time limit");
        let step = (self.questions.list.len() as u64 / VERIFIED).max(1);
        for n in 0..VERIFIED {
            self.verify_one(self.first + n * step)?;
        }
        Ok(())
    }

    /// One question, again and again until it is answered rightly: a server may still be reading.
    fn verify_one(&self, turn: u64) -> Result<(), String> {
        let mut packet = [0; ROOM];
        let began = Instant::now();
        loop {
            let length = self.questions.write(turn, Window::id(turn), &mut packet);
            let answer = self.socket.send(&packet[..length]).and_then(|_| self.receive(turn, &mut packet));
            let (wrong, patience) = match answer {
                Ok(length) => match self.questions.verify(turn, &packet[..length]) {
                    Ok(()) => return Ok(()),
                    Err(wrong) => (wrong, WRONG),
                },
                Err(error) => (format!("no answer: {error}"), SILENT),
            };
            if began.elapsed() > patience {
                return Err(wrong);
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// The answer to this question. Others are late: to what was asked again meanwhile.
    fn receive(&self, turn: u64, packet: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.socket.recv(packet)?;
            if packet[..2] == Window::id(turn).to_be_bytes() {
                return Ok(length);
            }
        }
    }

    /// One turn; `cpu` says how much time the server has had so far.
    pub(crate) fn measure(&self, way: Way, cpu: impl Fn() -> Duration) -> Measure {
        match way {
            Way::Hard => self.hard(cpu),
            Way::One => self.one(cpu),
        }
    }

    fn one(&self, cpu: impl Fn() -> Duration) -> Measure {
        self.socket.set_read_timeout(Some(LOST)).expect("a time limit");
        let (mut packet, mut tally, mut turn) = ([0; ROOM], Tally::default(), self.first);
        let mut began = Instant::now();
        let (mut warm, mut used) = (false, cpu());
        while !warm || began.elapsed() < MEASURED {
            if !warm && began.elapsed() > WARM {
                (warm, tally, used, began) = (true, Tally::default(), cpu(), Instant::now());
            }
            let length = self.questions.write(turn, Window::id(turn), &mut packet);
            let asked = Instant::now();
            match self.socket.send(&packet[..length]).and_then(|_| self.receive(turn, &mut packet)) {
                Ok(length) => {
                    let right = !self.is_dns || self.questions.is_answered(turn, &packet[..length]);
                    tally.answered(nanoseconds(asked.elapsed()), right);
                }
                Err(_) => tally.lost += 1,
            }
            turn += 1;
        }
        let took = began.elapsed();
        tally.measure(took, cpu().saturating_sub(used))
    }

    fn hard(&self, cpu: impl Fn() -> Duration) -> Measure {
        let (mut out, mut come) = (Batch::new(BATCH), Batch::new(BATCH));
        let mut window = Window::new(self.first);
        let mut tally = Tally::default();
        let start = Instant::now();
        let (mut warm, mut used, mut began) = (false, cpu(), start);
        loop {
            let now = start.elapsed();
            if !warm && now > WARM {
                (warm, tally, used, began) = (true, Tally::default(), cpu(), Instant::now());
            }
            if warm && began.elapsed() > MEASURED {
                break;
            }
            tally.lost += window.give_up(now);
            let room = (WINDOW - window.open).min(BATCH);
            for n in 0..room {
                let turn = window.next + n as u64;
                out.write(n, |packet, _| self.questions.write(turn, Window::id(turn), packet));
            }
            if room > 0 {
                let sent = out.send(&self.socket, room, true);
                // Where the server is not there, or its queue full, they are to be sent again.
                window.sent(sent.unwrap_or(0), start.elapsed());
            }
            self.take(&mut come, &mut window, &mut tally, start);
        }
        let took = began.elapsed();
        let measure = tally.measure(took, cpu().saturating_sub(used));
        // A server that answers a socket that is closed gets errors for it in the next turn.
        let end = Instant::now() + DRAIN;
        while window.open > 0 && Instant::now() < end {
            self.take(&mut come, &mut window, &mut tally, start);
        }
        measure
    }

    /// Takes what answers there are.
    fn take(&self, come: &mut Batch, window: &mut Window, tally: &mut Tally, start: Instant) {
        let count = match come.receive(&self.socket, Patience::Never) {
            Ok(count) => count,
            Err(error) => {
                if error.kind() == ErrorKind::WouldBlock {
                    // The upstream server is on this processor too.
                    yield_now();
                }
                return;
            }
        };
        let now = start.elapsed();
        for n in 0..count {
            let packet = come.packet(n);
            let Some(id) = packet.first_chunk().map(|id| u16::from_be_bytes(*id)) else { continue };
            if let Some((turn, sent)) = window.answered(id) {
                let right = !self.is_dns || self.questions.is_answered(turn, packet);
                tally.answered(nanoseconds(now.saturating_sub(sent)), right);
            }
        }
    }
}

/// What is open: a ring by id, in the order in which it was asked.
struct Window {
    asked: Vec<Option<(u64, Duration)>>,
    /// No turn before this one is open.
    oldest: u64,
    next: u64,
    open: usize,
}

impl Window {
    fn new(first: u64) -> Self {
        Self { asked: vec![None; IDS], oldest: first, next: first, open: 0 }
    }

    fn id(turn: u64) -> u16 {
        u16::try_from(turn % IDS as u64).expect("it is smaller")
    }

    fn sent(&mut self, count: usize, now: Duration) {
        for turn in (self.next..).take(count) {
            self.asked[usize::from(Self::id(turn))] = Some((turn, now));
        }
        self.next += count as u64;
        self.open += count;
    }

    /// Which one was asked under an id, and when, if it is open.
    fn answered(&mut self, id: u16) -> Option<(u64, Duration)> {
        let asked = self.asked[usize::from(id)].take()?;
        self.open -= 1;
        Some(asked)
    }

    /// Gives up what has been open for too long; how many these are.
    fn give_up(&mut self, now: Duration) -> u64 {
        let mut lost = 0;
        while self.oldest < self.next {
            match self.asked[usize::from(Self::id(self.oldest))] {
                Some((turn, sent)) if turn == self.oldest => {
                    // Before its id comes round again, however fast that is.
                    if now.saturating_sub(sent) < LOST && self.next - self.oldest < (IDS - BATCH) as u64 {
                        break;
                    }
                    self.asked[usize::from(Self::id(self.oldest))] = None;
                    self.open -= 1;
                    lost += 1;
                }
                _ => {}
            }
            self.oldest += 1;
        }
        lost
    }
}

/// Answers that are counted.
#[derive(Default)]
struct Tally {
    times_ns: Vec<u32>,
    lost: u64,
    wrong: u64,
}

impl Tally {
    fn answered(&mut self, nanoseconds: u32, right: bool) {
        self.times_ns.push(nanoseconds);
        self.wrong += u64::from(!right);
    }

    fn measure(&mut self, took: Duration, cpu: Duration) -> Measure {
        self.times_ns.sort_unstable();
        let answers = self.times_ns.len();
        let at = |percent: usize| {
            self.times_ns.get(answers * percent / 100).map_or(f64::NAN, |time| f64::from(*time) / 1e3)
        };
        #[expect(clippy::cast_precision_loss, reason = "there are not that many")]
        let count = answers as f64;
        Measure {
            qps: count / took.as_secs_f64(),
            p50_us: at(50),
            p99_us: at(99),
            cpu_percent: cpu.as_secs_f64() / took.as_secs_f64() * 100.0,
            cpu_us: cpu.as_secs_f64() * 1e6 / count,
            lost: self.lost,
            wrong: self.wrong,
        }
    }
}

fn nanoseconds(time: Duration) -> u32 {
    u32::try_from(time.as_nanos()).unwrap_or(u32::MAX)
}
