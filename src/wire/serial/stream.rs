//! A byte stream that ends, of a serial port that does not.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Line, Nonce, Side, Stage};

/// How much is read from the port at once, in bytes.
const PIECE: usize = 4 << 10;

/// A serial port and its lives, one after the other: a byte stream from [`open`](Self::open) until
/// it ends, and then from the next `open` on.
#[derive(Debug)]
pub struct Serial<P> {
    port: P,
    line: Line,
    /// What was read from the port.
    piece: Box<[u8]>,
    /// Where in it there is what was not heard yet.
    unheard: std::ops::Range<usize>,
    /// The port itself has ended.
    closed: bool,
}

impl<P: AsyncRead + AsyncWrite + Unpin> Serial<P> {
    /// This side's end of `port`, before its first life.
    pub fn new(port: P, side: Side) -> Self {
        Self { port, line: Line::new(side), piece: vec![0; PIECE].into(), unheard: 0..0, closed: false }
    }

    /// Begins the next life, `nonce` being random, and waits until both ends are in it.
    ///
    /// Waits for as long as the other end is not there. When it was dropped before it was ready, the
    /// next call begins anew; a guest may take the same number for that. An error is the port's, and
    /// final.
    pub async fn open(&mut self, nonce: Nonce) -> io::Result<()> {
        self.line.begin(nonce);
        poll_fn(|context| {
            loop {
                if let Poll::Ready(Err(error)) = self.drain(context) {
                    return Poll::Ready(Err(error));
                }
                match self.line.stage() {
                    Stage::Opening => ready!(self.hear(context))?,
                    Stage::Open { .. } => return Poll::Ready(Ok(())),
                    Stage::Over => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                }
            }
        })
        .await
    }

    /// Whether the port itself has ended: there is no other life.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes what there is to be written to the port.
    fn drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.line.output().is_empty() {
            let count = ready!(Pin::new(&mut self.port).poll_write(context, self.line.output()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.line.sent(count);
        }
        Poll::Ready(Ok(()))
    }

    /// Hears what was read, and reads when there is nothing left of it.
    fn hear(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unheard.is_empty() {
            let mut piece = ReadBuf::new(&mut self.piece);
            ready!(Pin::new(&mut self.port).poll_read(context, &mut piece))?;
            self.unheard = 0..piece.filled().len();
            if self.unheard.is_empty() {
                self.closed = true;
                self.line.end();
                return Poll::Ready(Ok(()));
            }
        }
        let mut rest = &self.piece[self.unheard.clone()];
        self.line.hear(&mut rest);
        self.unheard.start = self.unheard.end - rest.len();
        Poll::Ready(Ok(()))
    }
}

impl<P: AsyncRead + AsyncWrite + Unpin> AsyncRead for Serial<P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            // An answer that was asked for again goes out from here, when nobody writes.
            if let Poll::Ready(Err(error)) = self.drain(context) {
                return Poll::Ready(Err(error));
            }
            let input = self.line.input();
            if !input.is_empty() {
                let count = input.len().min(to.remaining());
                to.put_slice(&input[..count]);
                self.line.consume(count);
                return Poll::Ready(Ok(()));
            }
            if !matches!(self.line.stage(), Stage::Open { .. }) {
                return Poll::Ready(Ok(()));
            }
            ready!(self.hear(context))?;
        }
    }
}

impl<P: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Serial<P> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.drain(context))?;
        if !matches!(self.line.stage(), Stage::Open { .. }) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = self.line.write(bytes);
        // As far as it goes: the rest with the next call, or the flush.
        match self.drain(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(context))?;
        Pin::new(&mut self.port).poll_flush(context)
    }

    /// The port stays: the other end hears of the end by the next life, or by silence.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
