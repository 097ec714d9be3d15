//! The workload's standard input, output and error: two or three pipes, or a terminal.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::PathBuf,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
};
use tether_wire::boot::BootWorkload;

use super::root::{Container, beneath::Beneath};

/// The agent's ends. They never block.
#[derive(Debug)]
pub enum Ends {
    /// Pipes.
    Pipes {
        /// Where its input goes, if it wants any.
        stdin: Option<OwnedFd>,
        /// Where its output comes from.
        stdout: OwnedFd,
        /// Where its errors come from.
        stderr: OwnedFd,
    },
    /// A terminal.
    Terminal {
        /// Its master.
        master: OwnedFd,
        /// Its device. As long as the agent has that open, too, a workload that has closed it and opens
        /// it again goes on where it was: once nobody has, reading the master is an error, for good.
        device: OwnedFd,
    },
}

/// The workload's ends: input, output, error.
pub(super) type Given = [OwnedFd; 3];

/// What a workload reads and writes, both ends.
pub(super) fn make(
    workload: &BootWorkload,
    container: Option<&Container>,
    uid: u32,
) -> io::Result<(Ends, Given)> {
    let (ends, given) =
        if workload.terminal { terminal(workload, container)? } else { pipes(workload.stdin)? };
    for end in &given {
        // So that it may open /dev/stdout. What is a device of everybody's refuses, or is root's
        // already.
        let _ = nix::unistd::fchown(end, Some(uid.into()), None);
    }
    match &ends {
        Ends::Pipes { stdin, stdout, stderr } => {
            for end in stdin.iter().chain([stdout, stderr]) {
                fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            }
        }
        Ends::Terminal { master, .. } => {
            fcntl(master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        }
    }
    Ok((ends, given))
}

fn pipes(wants_input: bool) -> io::Result<(Ends, Given)> {
    let (stdout, out) = io::pipe()?;
    let (stderr, error) = io::pipe()?;
    let (input, stdin) = if wants_input {
        let (input, stdin) = io::pipe()?;
        (input.into(), Some(stdin.into()))
    } else {
        (File::open("/dev/null")?.into(), None)
    };
    let ends = Ends::Pipes { stdin, stdout: stdout.into(), stderr: stderr.into() };
    Ok((ends, [input, out.into(), error.into()]))
}

/// A terminal of the container's own `/dev/pts`, where it has one, so that the workload finds its
/// device by name.
fn terminal(workload: &BootWorkload, container: Option<&Container>) -> io::Result<(Ends, Given)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = match container {
        Some(container) => container.root.open("dev/pts/ptmx", flags)?,
        None => Beneath::open_root("/dev/pts".as_ref())?.open("ptmx", flags)?,
    };
    let zero: libc::c_int = 0;
    let mut number: libc::c_uint = 0;
    // SAFETY: on a terminal's master that is open these read and write one integer.
    let slave = unsafe {
        let fd = master.as_raw_fd();
        check(libc::ioctl(fd, libc::TIOCSPTLCK, &raw const zero))?;
        check(libc::ioctl(fd, libc::TIOCGPTN, &raw mut number))?;
        let peer = check(libc::ioctl(fd, libc::TIOCGPTPEER, flags.bits()))?;
        // SAFETY: the kernel has just made it for us.
        OwnedFd::from_raw_fd(peer)
    };
    if workload.rows > 0 && workload.columns > 0 {
        resize(&master, workload.rows, workload.columns)?;
    }
    if let Some(container) = container {
        let device = PathBuf::from(format!("/run/tether/root/dev/pts/{number}"));
        container.console(&device)?;
    }
    let given = [slave.try_clone()?, slave.try_clone()?, slave.try_clone()?];
    Ok((Ends::Terminal { master, device: slave }, given))
}

/// Sets a terminal's size; the programs on it get SIGWINCH.
pub(crate) fn resize(terminal: &impl AsRawFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one winsize.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}

/// Makes standard input the controlling terminal of a session without one. For a forked child.
pub(super) fn take_terminal() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
