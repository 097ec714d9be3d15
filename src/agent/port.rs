//! Virtio-serial ports and their like, without blocking and without spinning.
//!
//! Linux reports such a port as hung up for as long as no host program has its other end open,
//! and tokio never forgets a hang-up: its readiness would be there for ever. So a port has an
//! epoll instance of its own, edge-triggered, and tokio watches that. It becomes readable at each
//! change of the port (`drivers/char/virtio_console.c` wakes the port's queue when data or room
//! comes, and when the host's end opens or closes), and is silent in between.

use std::{
    fs::{self, File, OpenOptions},
    future::poll_fn,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    task::{Context, Poll, ready},
    time::Duration,
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr},
    },
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep,
};

/// Where the kernel lists the ports.
const PORTS: &str = "/sys/class/virtio-ports";
/// How long a port of a machine that has some may take to get its name: the host tells it after
/// the driver has asked.
const NAMES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// The port, open.
#[derive(Debug)]
pub(crate) struct Port {
    /// Where it can be opened again.
    path: Option<PathBuf>,
    /// `None` only while it is.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    epoll: AsyncFd<OwnEpoll>,
}

#[derive(Debug)]
struct OwnEpoll(Epoll);

impl AsRawFd for OwnEpoll {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.0.as_raw_fd()
    }
}

/// The port of this name, if the machine has one.
pub(crate) async fn find(name: &str) -> Option<PathBuf> {
    for _ in 0..NAMES {
        match look(Path::new(PORTS), name) {
            Look::Found(port) => return Some(port),
            Look::Absent => return None,
            Look::Unnamed => sleep(PAUSE).await,
        }
    }
    tracing::info!("a port of the virtio console has no name; taking none of them for {name}");
    None
}

enum Look {
    Found(PathBuf),
    Absent,
    /// A port is there that has no name yet.
    Unnamed,
}

fn look(ports: &Path, wanted: &str) -> Look {
    let mut answer = Look::Absent;
    let mut any = false;
    for port in fs::read_dir(ports).into_iter().flatten().flatten() {
        any = true;
        match fs::read_to_string(port.path().join("name")) {
            Ok(name) if name.trim_end() == wanted => {
                return Look::Found(Path::new("/dev").join(port.file_name()));
            }
            Ok(name) if !name.trim_end().is_empty() => {}
            _ => answer = Look::Unnamed,
        }
    }
    // The driver is there, its ports are still to come.
    if !any && ports.exists() && console_device() { Look::Unnamed } else { answer }
}

/// Whether the machine has a virtio console device (type 3 of the virtio specification).
fn console_device() -> bool {
    fs::read_dir("/sys/bus/virtio/devices").into_iter().flatten().flatten().any(|device| {
        fs::read_to_string(device.path().join("device")).is_ok_and(|kind| kind.trim_end() == "0x0003")
    })
}

impl Port {
    /// Opens the port at `path`.
    pub(crate) fn at(path: PathBuf) -> io::Result<Self> {
        let open = Some(Open::at(&path)?);
        Ok(Self { path: Some(path), open })
    }

    /// A port that is open, without blocking.
    #[cfg(test)]
    pub(crate) fn new(port: OwnedFd) -> io::Result<Self> {
        Ok(Self { path: None, open: Some(Open::new(port)?) })
    }

    /// Closes the port and opens it again, which drops what is on its way in either direction.
    ///
    /// A host program that goes away while QEMU holds a piece for it that it did not take leaves
    /// that piece where it is (QEMU 7.2's `virtio_serial_close` drops the queue behind it only),
    /// and Linux sends nothing more before it comes back. Opening the port makes Linux forget it.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            // First: only one may have it open.
            self.open = None;
            self.open = Some(Open::at(path)?);
        }
        Ok(())
    }

    /// Waits until something may have changed since the last call. Cancel-safe.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        poll_fn(|context| self.poll_changed(context)).await
    }

    /// The same. Only the task that called last is woken.
    pub(crate) fn poll_changed(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let epoll = &self.open()?.epoll;
        loop {
            let mut guard = ready!(epoll.poll_read_ready(context))?;
            let events = guard.get_inner().0.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO)?;
            guard.clear_ready();
            if events > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Has a terminal device pass every byte as it is. To a port that is none it does nothing.
    pub(crate) fn make_raw(&self) -> io::Result<()> {
        let file = &self.open()?.file;
        match tcgetattr(file) {
            Ok(mut settings) => {
                cfmakeraw(&mut settings);
                Ok(tcsetattr(file, SetArg::TCSANOW, &settings)?)
            }
            Err(Errno::ENOTTY | Errno::EINVAL) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads what is there. 0: the host's end is closed.
    pub(crate) fn read(&self, to: &mut [u8]) -> io::Result<usize> {
        (&self.open()?.file).read(to)
    }

    /// Writes what there is room for.
    pub(crate) fn write(&self, from: &[u8]) -> io::Result<usize> {
        (&self.open()?.file).write(from)
    }

    fn open(&self) -> io::Result<&Open> {
        self.open.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        // A serial device is not to become process 1's terminal.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        Self::new(OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?.into())
    }

    fn new(port: OwnedFd) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let edges = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll.add(port.as_fd(), EpollEvent::new(edges, 0))?;
        // SAFETY: the descriptor is the epoll instance's own, and stays open as long as it lives.
        let epoll = unsafe { AsyncFd::register_with_interest(OwnEpoll(epoll), Interest::READABLE) };
        let epoll = epoll.map_err(|error| error.into_parts().1)?;
        Ok(Self { file: port.into(), epoll })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_by_its_name() {
        let ports = tempfile::TempDir::new().unwrap();
        assert!(matches!(look(ports.path(), "tether.streams"), Look::Absent));
        for (port, name) in [("vport1p1", "other"), ("vport1p2", "")] {
            fs::create_dir(ports.path().join(port)).unwrap();
            fs::write(ports.path().join(port).join("name"), name).unwrap();
        }
        assert!(matches!(look(ports.path(), "tether.streams"), Look::Unnamed));
        fs::write(ports.path().join("vport1p2/name"), "tether.streams\n").unwrap();
        assert!(
            matches!(look(ports.path(), "tether.streams"), Look::Found(path) if path == Path::new("/dev/vport1p2"))
        );
    }
}
