//! One end of a tether: frames both ways at once over any byte stream, and what can be told of the
//! other end from how its bytes come and go.
//!
//! Whoever waits until something is sent before it reads on may wait for somebody who does the
//! same. Here nothing waits: what is put in leaves while frames come in.
//!
//! It opens no stream and reads no clock: both are arguments.

use std::{
    future::poll_fn,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::Framed;

use crate::frame::{Frame, FrameCodec, FrameError};

/// A frame on its way is a sign of life for as long as so many bytes of it come in the time that is
/// allowed for silence: a long document on a bad link is not cut, one that never ends is.
pub const PACE: usize = 4 << 10;
/// The longest TLS record. The other end sees nothing of one before it has all of it: with the 16 KiB that
/// TLS allows, a link of 2 KB in a second is silent for 8 s at a time.
pub const RECORD: usize = 2 << 10;
/// How much TLS may take in before it has left: what is in there does not show whether it leaves.
pub const SEALED: usize = 16 << 10;
/// So many heartbeat intervals, and [`STUCK`] at least, the other end may take none of what it is sent. It
/// may live all the same, on a slow link: kernel and TLS take in far more than leaves at once, and nothing
/// is seen until a part of that has left. Whether it lives is seen by its heartbeats; this is about the
/// memory.
pub const STUCK_INTERVALS: u32 = 12;
/// The least such time.
pub const STUCK: Duration = Duration::from_secs(10);
/// How long a buffer is while nothing longer comes or goes: a host has two for each of thousands of
/// guests, which say and hear nothing but heartbeats most of the time. What is read comes out of the
/// TLS library's buffer, so that small pieces cost little.
const KEPT: usize = 256;

/// Frames both ways over one stream.
#[derive(Debug)]
pub struct Line<S> {
    framed: Framed<S, FrameCodec>,
    /// What was put in has not left yet.
    sending: bool,
    /// When some of it last left, or, before that, when it was put in.
    left: Instant,
    /// When the other end last gave a sign of life.
    heard: Instant,
    /// How many bytes of the next frame were there at that time.
    part: usize,
    /// How much time reading has taken since it was asked for last.
    reading: Duration,
}

/// What has become of a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A frame has come.
    Heard(Frame),
    /// Everything that was put in has left.
    Sent,
    /// The other end has closed the stream.
    Closed,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    /// A line over a stream on which nothing is being sent, of which some may have been read.
    pub fn new(mut framed: Framed<S, FrameCodec>, now: Instant) -> Self {
        give_back(framed.write_buffer_mut());
        give_back(framed.read_buffer_mut());
        let part = framed.read_buffer().len();
        Self { framed, sending: false, left: now, heard: now, part, reading: Duration::ZERO }
    }

    /// Whether everything that was put in has left. Long messages are put in only then, so that one
    /// of them at most is in memory.
    pub fn is_free(&self) -> bool {
        !self.sending
    }

    /// Has this sent.
    pub fn put(&mut self, frame: Frame, now: Instant) -> Result<(), FrameError> {
        self.framed.start_send_unpin(frame)?;
        if !self.sending {
            (self.sending, self.left) = (true, now);
        }
        Ok(())
    }

    /// Sends what is put in, and reads where that is wanted, until there is something to tell.
    /// Cancel-safe.
    pub async fn step(&mut self, reads: bool, now: fn() -> Instant) -> Result<Step, FrameError> {
        poll_fn(|cx| self.poll_step(cx, reads, now)).await
    }

    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        reads: bool,
        now: fn() -> Instant,
    ) -> Poll<Result<Step, FrameError>> {
        if self.sending {
            let before = self.framed.write_buffer().len();
            let flushed = self.framed.poll_flush_unpin(cx)?;
            if self.framed.write_buffer().len() < before {
                self.left = now();
            }
            if flushed.is_ready() {
                self.sending = false;
                if before > KEPT {
                    *self.framed.write_buffer_mut() = BytesMut::new();
                }
                return Poll::Ready(Ok(Step::Sent));
            }
        }
        if !reads {
            return Poll::Pending;
        }
        let began = now();
        let next = self.framed.poll_next_unpin(cx);
        self.reading += now() - began;
        next.map(|next| {
            let Some(frame) = next.transpose()? else {
                return Ok(Step::Closed);
            };
            if self.framed.read_buffer().is_empty() || frame.payload.len() > KEPT {
                give_back(self.framed.read_buffer_mut());
            }
            self.sign_of_life(now());
            Ok(Step::Heard(frame))
        })
    }

    /// How much time reading has taken since this was asked for last: of a message that comes in a
    /// million pieces, say, far more than its length tells.
    pub fn reading(&mut self) -> Duration {
        std::mem::take(&mut self.reading)
    }

    /// Notes that the other end was not listened to until now: its silence begins anew.
    pub fn sign_of_life(&mut self, now: Instant) {
        self.heard = now;
        self.part = self.framed.read_buffer().len();
    }

    /// Until when the other end may be silent, `silence` being how long.
    pub fn silent_at(&self, silence: Duration) -> Instant {
        self.heard + silence
    }

    /// Whether nothing has come for so long: no frame, and too little of one.
    pub fn is_silent(&mut self, silence: Duration, now: Instant) -> bool {
        if self.framed.read_buffer().len() >= self.part + PACE {
            self.sign_of_life(now);
        }
        now >= self.silent_at(silence)
    }

    /// Until when something has to leave, `patience` being how long the other end may take none of
    /// what is sent. However long the whole takes, it is not stuck while some of it leaves.
    pub fn stuck_at(&self, patience: Duration) -> Instant {
        self.left + patience
    }
}

/// Keeps no more memory than what is in it needs.
fn give_back(buffer: &mut BytesMut) {
    let mut kept = BytesMut::with_capacity(buffer.len().max(KEPT));
    kept.extend_from_slice(buffer);
    *buffer = kept;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn frame(length: usize) -> Frame {
        Frame { kind: 1, version: 1, payload: vec![7; length].into() }
    }

    fn line(stream: DuplexStream) -> Line<DuplexStream> {
        let limit = |_| 8 << 20;
        Line::new(Framed::new(stream, FrameCodec::new(limit, limit)), Instant::now())
    }

    #[tokio::test]
    async fn two_ends_that_send_megabytes_at_the_same_moment_both_get_them() {
        let (near, far) = duplex(1 << 12);
        let (mut near, mut far) = (line(near), line(far));
        let exchange = async |line: &mut Line<DuplexStream>| {
            line.put(frame(4 << 20), Instant::now()).unwrap();
            let (mut heard, mut sent) = (false, false);
            while !(heard && sent) {
                match line.step(true, Instant::now).await.unwrap() {
                    Step::Heard(got) => heard = got == frame(4 << 20),
                    Step::Sent => sent = true,
                    Step::Closed => panic!("closed"),
                }
            }
            assert!(line.is_free());
        };
        tokio::join!(exchange(&mut near), exchange(&mut far));
        // And nobody keeps the memory.
        assert!(near.framed.write_buffer().capacity() <= KEPT);
        near.put(frame(1), Instant::now()).unwrap();
        assert_eq!(near.step(false, Instant::now).await.unwrap(), Step::Sent);
        assert_eq!(far.step(true, Instant::now).await.unwrap(), Step::Heard(frame(1)));
        assert!(far.framed.read_buffer().capacity() <= KEPT);
    }

    #[tokio::test]
    async fn what_leaves_slowly_is_not_stuck() {
        let (near, mut far) = duplex(64);
        let mut near = line(near);
        let before = Instant::now();
        near.put(frame(1_000), before).unwrap();
        assert_eq!(near.stuck_at(SECOND), before + SECOND);
        let mut some = [0; 64];
        for _ in 0..3 {
            let stuck = near.stuck_at(SECOND);
            tokio::select! {
                biased;
                step = near.step(true, Instant::now) => panic!("{step:?}"),
                read = far.read_exact(&mut some) => drop(read.unwrap()),
            }
            tokio::select! {
                biased;
                step = near.step(true, Instant::now) => panic!("{step:?}"),
                () = std::future::ready(()) => {}
            }
            assert!(near.stuck_at(SECOND) > stuck);
            assert!(!near.is_free());
        }
        assert!(near.reading() > Duration::ZERO);
        assert_eq!(near.reading(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_frame_has_to_go_on_to_be_a_sign_of_life() {
        let (near, mut far) = duplex(1 << 16);
        let (mut near, start) = (line(near), Instant::now());
        let at = |seconds: u32| start + SECOND * seconds;
        near.sign_of_life(start);
        let mut comes = async |near: &mut Line<DuplexStream>, bytes: &[u8]| {
            far.write_all(bytes).await.unwrap();
            tokio::select! {
                biased;
                step = near.step(true, Instant::now) => panic!("{step:?}"),
                () = std::future::ready(()) => {}
            }
        };
        comes(&mut near, &[0, 1, 0, 0, 0, 1, 1, 0]).await;
        assert!(!near.is_silent(SECOND * 3, at(2)));
        assert!(near.is_silent(SECOND * 3, at(3)), "a header is nothing");
        comes(&mut near, &[7; PACE]).await;
        assert!(!near.is_silent(SECOND * 3, at(3)));
        assert_eq!(near.silent_at(SECOND * 3), at(6));
        // A byte a second.
        comes(&mut near, &[7; 3]).await;
        assert!(near.is_silent(SECOND * 3, at(6)));
    }
}
