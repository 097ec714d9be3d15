//! The container's process, and everybody else's orphans.

use nix::{errno::Errno, libc, unistd::Pid};
use tether_wire::{boot::BootWorkload, message::Exit};

use super::{root::Container, start::start, stdio::Ends};

/// A workload that was started.
#[derive(Debug)]
pub(super) struct Running {
    pid: Pid,
}

impl Running {
    /// Starts a checked workload, in a session of its own.
    pub(super) fn start(
        workload: &BootWorkload,
        container: Option<&Container>,
        piped: bool,
    ) -> Result<(Self, Option<Ends>), Exit> {
        let (id, ends) = start(workload, container, piped)?;
        // A process id fits: pid_max is at most 2^22.
        Ok((Self { pid: Pid::from_raw(id.cast_signed()) }, ends))
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// Sends the signal of this number, which need not have a name, to it alone.
    pub(super) fn signal(&self, number: i32) {
        if (1..=64).contains(&number) {
            // SAFETY: numbers go in, nothing else. The process is a child that was not reaped
            // yet, so its id is nobody else's.
            let _ = unsafe { libc::kill(self.pid.as_raw(), number) };
        }
    }

    /// Its end, if it is among those that [`reap`] has found.
    pub(super) fn exit(&self, reaped: &Reaped) -> Option<Exit> {
        reaped.exits.iter().find(|(pid, _)| *pid == self.pid).map(|(_, exit)| exit.clone())
    }
}

/// Who has ended since the last call.
#[derive(Debug, Default)]
pub(super) struct Reaped {
    exits: Vec<(Pid, Exit)>,
    /// There is no child left.
    pub(super) everybody_is_gone: bool,
}

/// Takes note of every process that has ended: process 1 is everybody's parent in the end.
pub(super) fn reap() -> Reaped {
    let mut reaped = Reaped::default();
    loop {
        let mut status = 0;
        // nix's waitpid takes the child and then fails on a real-time signal, which it has no
        // name for: that end would be lost.
        // SAFETY: the kernel writes one int.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        match (pid, Errno::last()) {
            (-1, Errno::EINTR) => {}
            (-1, _) => {
                reaped.everybody_is_gone = true;
                return reaped;
            }
            (0, _) => return reaped,
            (pid, _) if libc::WIFEXITED(status) => {
                reaped.exits.push((Pid::from_raw(pid), Exit::Code(libc::WEXITSTATUS(status))));
            }
            (pid, _) => reaped.exits.push((Pid::from_raw(pid), Exit::Signal(libc::WTERMSIG(status)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test, because `reap` takes every child of this process.
    #[test]
    fn workloads_start_end_and_say_how() {
        let run = |argv: &[&str], env: &[&str]| {
            let workload = BootWorkload {
                argv: argv.iter().map(ToString::to_string).collect(),
                env: env.iter().map(ToString::to_string).collect(),
                cwd: "/".into(),
                ..BootWorkload::default()
            };
            Running::start(&workload, None, false).map(|(running, _)| {
                loop {
                    if let Some(exit) = running.exit(&reap()) {
                        return exit;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            })
        };
        assert_eq!(run(&["sh", "-c", "exit $CODE"], &["CODE=7"]), Ok(Exit::Code(7)));
        assert_eq!(run(&["sh", "-c", "kill -9 $$"], &[]), Ok(Exit::Signal(9)));
        // A real-time signal, which has no name.
        assert_eq!(run(&["sh", "-c", "kill -40 $$"], &[]), Ok(Exit::Signal(40)));
        assert!(matches!(run(&["/no/such/program"], &[]), Err(Exit::NotStarted(_))));
    }
}
