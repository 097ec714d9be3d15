//! A place of its own for a host or a guest: network, mounts and host name.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

use crate::{Process, wait_for};

/// Who there is in a space: dnsmasq wants to know.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";

/// A set of namespaces, held by a process that dies with the test, with an `/etc` of its own.
#[derive(Debug)]
pub struct Space {
    holder: Process,
    etc: TempDir,
}

impl Space {
    /// Makes one, with `lo` up.
    ///
    /// # Panics
    ///
    /// When that is not allowed: tests of namespaces run as root, or under `unshare -Ur`.
    pub fn new() -> Self {
        let etc = TempDir::new().expect("a temporary directory");
        for (file, content) in
            [("hosts", ""), ("resolv.conf", ""), ("nsswitch.conf", "hosts: files dns\n"), ("passwd", PASSWD)]
        {
            fs::write(etc.path().join(file), content).expect("a file in it");
        }
        let mut holder = Command::new("setpriv");
        // A new namespace may inherit the machine's forwarding, and networks would not be apart.
        let script = "mount --bind \"$0\" /etc && mount -t tmpfs tmpfs /run && ip link set lo up && echo 0 > /proc/sys/net/ipv4/ip_forward \
                      && echo ready && exec sleep 600";
        holder
            .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts", "sh", "-c", script])
            .arg(etc.path());
        let mut holder = Process::start(holder);
        wait_for("a namespace: run as root or under unshare -Ur", || {
            assert!(!holder.has_ended(), "namespaces are not allowed: run as root or under unshare -Ur");
            holder.lines().contains(&"ready".to_owned()).then_some(())
        });
        Self { holder, etc }
    }

    /// The directory that is this space's `/etc`.
    pub fn etc(&self) -> &Path {
        self.etc.path()
    }

    /// The process that holds the namespaces.
    pub fn id(&self) -> u32 {
        self.holder.id()
    }

    /// `program`, to be run in here.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--uts", "--target", &self.holder.id().to_string()]);
        command.args(["setpriv", "--pdeathsig", "KILL"]).arg(program.as_ref());
        command
    }

    /// Runs a line of words in here to its end.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn output(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a program");
        self.command(program).args(words).output().expect("it can be started")
    }

    /// Runs a line of words in here and returns what it printed.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn run(&self, line: &str) -> String {
        let output = self.output(line);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Default for Space {
    fn default() -> Self {
        Self::new()
    }
}
