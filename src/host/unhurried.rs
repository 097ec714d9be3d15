//! A byte stream that is read only so fast, whatever comes of it.
//!
//! Garbage on a serial port ends nothing, as it does a connection over TCP: it would be skipped as fast
//! as it comes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use crate::credit::Credit;

/// As fast as one guest [may speak](Credit).
#[derive(Debug)]
pub(crate) struct Unhurried<S> {
    stream: S,
    credit: Credit,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> Unhurried<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, credit: Credit::default(), pause: None }
    }
}

/// The time, as it is in tests too.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

impl<S: AsyncRead + Unpin> AsyncRead for Unhurried<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            let Some(until) = self.credit.until(now()) else { break };
            self.pause = Some(Box::pin(sleep_until(until.into())));
        }
        let before = to.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, to))?;
        let read = to.filled().len() - before;
        self.credit.said(read, now());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unhurried<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_fast_is_read_slowly_and_whole() {
        let (near, mut far) = duplex(1 << 16);
        let mut near = Unhurried::new(near);
        let began = Instant::now();
        let writes = async {
            for n in 0..20 << 8 {
                let mut piece = [0; 4_096];
                piece[..4].copy_from_slice(&i32::to_le_bytes(n));
                far.write_all(&piece).await.unwrap();
            }
            drop(far);
        };
        let reads = async {
            let mut piece = [0; 4_096];
            for n in 0..20 << 8 {
                near.read_exact(&mut piece).await.unwrap();
                assert_eq!(piece[..4], i32::to_le_bytes(n));
            }
            near.read(&mut piece).await.unwrap()
        };
        let ((), rest) = tokio::join!(writes, reads);
        assert_eq!(rest, 0);
        // 8 MiB at once, and 4 MiB a second.
        let took = began.elapsed().as_secs_f64();
        assert!((2.9..3.5).contains(&took), "{took}");
    }
}
