//! One server under test: where it is, how it is asked, what it costs.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use tempfile::TempDir;
use tether_tests::{Process, Space};

use crate::{churn::Changes, echo::Echo, outside::enter};

/// The kernel's clock ticks a second in `/proc/PID/stat` (`USER_HZ`).
const TICKS: f64 = 100.0;

pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// The domain of which it knows every name.
    pub(crate) suffix: &'static str,
    /// Where it listens, and who asks it.
    pub(crate) server: SocketAddrV4,
    pub(crate) client: Ipv4Addr,
    pub(crate) who: Who,
    /// Behind the server: a host that ends first would be missed.
    pub(crate) changes: Option<Changes>,
    pub(crate) space: Space,
    /// Its files.
    pub(crate) _directory: TempDir,
}

pub(crate) enum Who {
    Echo(Echo),
    Program(Process),
    /// One that went into the background, and the process whose end is its end.
    Daemon {
        id: u32,
        _holder: Process,
    },
}

impl Contender {
    /// A new socket that is connected to it.
    pub(crate) fn socket(&self) -> UdpSocket {
        enter(&self.space, || {
            let socket = UdpSocket::bind((self.client, 0)).expect("an address of its own");
            socket.connect(self.server).expect("loopback");
            socket
        })
    }

    pub(crate) fn is_dns(&self) -> bool {
        !matches!(self.who, Who::Echo(_))
    }

    /// How much time it has had of its processor so far; none where it has ended, and then it
    /// answers nothing either.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = match &self.who {
            Who::Echo(echo) => echo.stat(),
            _ => self.read("stat").unwrap_or_default(),
        };
        // Fields are counted behind the name, which may have anything in it.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: f64 = ticks.map(|field| field.parse::<f64>().expect("a number")).sum();
        Duration::from_secs_f64(ticks / TICKS)
    }

    /// Its resident memory in KiB. An echo is a thread and has none of its own.
    pub(crate) fn resident_kib(&self) -> Option<f64> {
        let status = self.read("status")?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.id()?)).ok()
    }

    fn id(&self) -> Option<u32> {
        match &self.who {
            Who::Echo(_) => None,
            Who::Program(process) => Some(process.id()),
            Who::Daemon { id, .. } => Some(*id),
        }
    }
}
