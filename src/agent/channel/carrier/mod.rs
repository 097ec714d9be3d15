//! What carries the tether: the ways to the host that a boot document can name, each a byte stream
//! in the end. Nothing above knows which it is.

mod serial;
mod vsock;

use std::{fmt, io, path::PathBuf};

use tether_wire::boot::{VsockAddress, Way};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};

use super::dial;
use crate::management::Management;

/// A connection to the host. One type for all ways: what is above is in the binary once.
pub(super) type Stream = Box<dyn Bytes>;

/// A byte stream in both directions.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// A way to the host.
#[derive(Debug)]
pub(super) enum Carrier {
    /// TCP, by the management NIC.
    Network(Box<Management>),
    /// A vsock stream.
    Vsock(VsockAddress),
    /// The virtio-serial port of this name, or the serial device at this path.
    Serial(String),
    /// The Unix socket at this path.
    Unix(PathBuf),
}

impl Carrier {
    /// The carrier of that way. Nothing is opened or dialled yet.
    pub(super) fn new(way: Way) -> io::Result<Self> {
        Ok(match way {
            Way::Network(network) => Self::Network(Box::new(Management::new(network)?)),
            Way::Vsock(address) => Self::Vsock(address),
            Way::Serial(port) => Self::Serial(port),
            Way::Unix(path) => Self::Unix(path.into()),
        })
    }

    /// Connects to the host; what stands in the way in one line.
    pub(super) async fn connect(&self) -> Result<Stream, String> {
        self.dial().await.map_err(|error| format!("cannot reach {self}: {error}"))
    }

    /// Waits, and says so in the log, for a NIC that is not ready and for a host that is not at its
    /// end of a serial port; a host that is not there otherwise is an error.
    async fn dial(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Network(management) => {
                // Each time anew: the NIC may have been unplugged and come back as another device.
                let nic = management.make_ready().await;
                Box::new(dial::dial(management.tether(), nic).await?)
            }
            Self::Vsock(address) => Box::new(vsock::dial(*address).await?),
            Self::Serial(port) => Box::new(serial::open(port).await?),
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(management) => {
                let network = management.tether();
                write!(f, "{}", dial::peer(network, 0))
            }
            Self::Vsock(VsockAddress { cid, port }) => write!(f, "vsock:{cid}:{port}"),
            Self::Serial(port) => write!(f, "the serial port {port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}
