//! Reaching the host by a serial port, which has no connections: `tether_wire::serial` makes them.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tether_wire::serial::{Serial, Side};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

use crate::port::{self, Port};

/// How long until the host is asked again. Nothing is lost on such a port that would call for it,
/// but a damaged byte.
const AGAIN: Duration = Duration::from_secs(1);
/// After so many times without an answer, the log says what is waited for.
const PATIENCE: u32 = 5;

/// Opens the port, which drops what is in it as far as the kernel has it, and waits for a host.
pub(super) async fn open(port: &str) -> io::Result<Serial<Bytes>> {
    let mut serial = Serial::new(Bytes::at(find(port).await?)?, Side::Guest);
    let opening = crate::random::random();
    let mut asked = 0;
    loop {
        if let Ok(opened) = timeout(AGAIN, serial.open(opening)).await {
            return opened.map(|()| serial);
        }
        asked += 1;
        if asked == PATIENCE {
            tracing::warn!("no host answers at the serial port {port}; waiting");
        }
    }
}

/// A virtio-serial port by its name, another device by its path.
async fn find(port: &str) -> io::Result<PathBuf> {
    if port.starts_with('/') {
        return Ok(Path::new(port).to_owned());
    }
    let missing = || io::Error::new(io::ErrorKind::NotFound, "this machine has no such virtio-serial port");
    port::find(port).await.ok_or_else(missing)
}

/// A port's bytes. The task that reads is to be the one that writes: the port tells one of a change.
#[derive(Debug)]
pub(super) struct Bytes {
    port: Port,
    /// Somebody has been at the other end.
    heard: bool,
}

impl Bytes {
    fn at(path: PathBuf) -> io::Result<Self> {
        let port = Port::at(path)?;
        port.make_raw()?;
        Ok(Self { port, heard: false })
    }

    /// Does what can be done with the port, as soon as it can be.
    fn poll(
        &self,
        context: &mut Context<'_>,
        mut something: impl FnMut(&Port) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match something(&self.port) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.port.poll_changed(context))?;
                }
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncRead for Bytes {
    /// The end is there when the host's end was open and is not any more.
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let heard = self.heard;
        let count = ready!(self.poll(context, |port| match port.read(to.initialize_unfilled()) {
            // Nobody is there yet.
            Ok(0) if !heard => Err(io::ErrorKind::WouldBlock.into()),
            read => read,
        }))?;
        to.advance(count);
        self.heard = true;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bytes {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(context, |port| port.write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
