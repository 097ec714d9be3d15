//! A machine in a network namespace, and the agent on it.

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    panic::resume_unwind,
    path::Path,
    pin::pin,
    process::{Command, Stdio},
    task::Poll,
    thread,
};

use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use tether::{
    agent::{Agent, Lifeline},
    dns,
    files::Files,
    journal::Journal,
    kernel::Kernel,
    plan::{self, Facts, KernelState, Operation, Target},
};
use tether_wire::{
    message::{Failure, Verified},
    state::DesiredState,
    value::MacAddr,
};

/// How many NICs a machine has.
pub(crate) const NICS: usize = 3;

/// The MAC address of a NIC, counted from 0.
pub(crate) fn mac(nic: usize) -> String {
    format!("02:00:00:00:00:{:02x}", nic + 1)
}

/// The name a NIC has before tether comes.
pub(crate) fn first_name(nic: usize) -> String {
    format!("n{}", nic + 1)
}

/// The index of a NIC.
pub(crate) fn index(nic: usize) -> u32 {
    11 + u32::try_from(nic).unwrap()
}

/// A machine with an agent.
pub(crate) struct Machine {
    pub(crate) agent: Agent,
    generation: u64,
    lifeline: Option<Lifeline>,
    etc: TempDir,
    run: TempDir,
}

/// Runs `test` on a machine of its own. What others have made there before the agent comes is made
/// by `foreign`, commands of `ip` without the word, or `PATH=VALUE` below `/proc/sys/net`.
pub(crate) fn on_machine<T: Send>(foreign: &[String], test: impl AsyncFnOnce(&mut Machine) -> T + Send) -> T {
    let on_thread = || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS).unwrap();
        plug_in();
        make(foreign);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (etc, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let agent = agent(&etc, &run, None);
            let mut machine = Machine { agent, generation: 0, lifeline: None, etc, run };
            test(&mut machine).await
        })
    };
    thread::scope(|scope| scope.spawn(on_thread).join().unwrap_or_else(|panic| resume_unwind(panic)))
}

/// Each NIC is one end of a cable; at the other nobody says anything.
fn plug_in() {
    let mut commands = vec!["link set lo up".to_owned()];
    for nic in 0..NICS {
        let (name, mac, index) = (first_name(nic), mac(nic), index(nic));
        let far = index + 10;
        commands.push(format!(
            "link add {name} address {mac} index {index} type veth peer name far{far} address \
             02:ff:00:00:00:{far:02x} index {far}"
        ));
        commands.push(format!("link set far{far} arp off addrgenmode none up"));
        commands.push(format!("link set {name} up"));
    }
    ip(&commands);
}

/// Makes what others have made.
pub(crate) fn make(foreign: &[String]) {
    let (settings, commands): (Vec<_>, Vec<_>) = foreign.iter().cloned().partition(|line| line.contains('='));
    let (ipv6, either): (Vec<_>, Vec<_>) = commands.into_iter().partition(|line| line.starts_with("-6 "));
    ip(&either);
    for command in ipv6 {
        let status = Command::new("ip").args(command.split(' ')).status().unwrap();
        assert!(status.success(), "ip {command}");
    }
    for setting in settings {
        let (path, value) = setting.split_once('=').unwrap();
        fs::write(Path::new("/proc/sys/net").join(path), value).unwrap();
    }
}

/// Carries out commands of `ip`, all of which have to succeed.
pub(crate) fn ip(commands: &[String]) {
    if commands.is_empty() {
        return;
    }
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    ip.stdin.take().unwrap().write_all((commands.join("\n") + "\n").as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success(), "ip: {commands:#?}");
}

fn agent(etc: &TempDir, run: &TempDir, lifeline: Option<Lifeline>) -> Agent {
    let files = Files::new(etc.path().to_owned());
    let journal = Journal::open(run.path().to_owned());
    // Nobody is asked here for names.
    let dns = dns::Server::start(&dns::Settings { listen: vec![], ..dns::Settings::default() }).unwrap();
    Agent::new(Kernel::open().unwrap(), dns, files, journal, lifeline)
}

impl Machine {
    /// The agent goes, and another one comes in its place that knows what it has written down.
    pub(crate) fn restart(&mut self) {
        self.agent = agent(&self.etc, &self.run, self.lifeline);
    }

    /// The agent has a host from now on, whose tether goes by this NIC.
    pub(crate) fn set_lifeline(&mut self, nic: usize) {
        let host = Some(IpAddr::from([192, 0, 2, 1]));
        self.lifeline = Some(Lifeline { nic: mac(nic).parse().unwrap(), host });
        self.restart();
    }

    pub(crate) async fn apply(&mut self, state: &DesiredState) -> Result<Verified, Failure> {
        self.generation += 1;
        let result = self.agent.apply(self.generation, state).await;
        result.map_err(|failed| failed.failure)
    }

    /// Begins to apply `state`, and stops at the `polls`th time it has to wait for something.
    /// Says whether it had come to its end by then.
    pub(crate) async fn begin(&mut self, state: &DesiredState, polls: usize) -> bool {
        let mut left = polls;
        let mut apply = pin!(self.apply(state));
        std::future::poll_fn(|context| {
            if apply.as_mut().poll(context).is_ready() {
                return Poll::Ready(true);
            }
            left = left.saturating_sub(1);
            if left == 0 { Poll::Ready(false) } else { Poll::Pending }
        })
        .await
    }

    pub(crate) async fn observe(&self) -> KernelState {
        self.agent.kernel().observe().await.unwrap()
    }

    /// What `state` means here, and the operations it takes at first.
    pub(crate) async fn plan(&self, state: &DesiredState) -> (Target, Vec<Operation>) {
        let now = self.observe().await;
        let journal = Journal::open(self.run.path().to_owned());
        let facts = Facts {
            host: None,
            management: self.lifeline.map(|line| -> MacAddr { line.nic }),
            originals: &journal.note().originals,
            since: 0,
            now: 0,
            held: None,
            may_be_missing: false,
        };
        let target = plan::target(&state.check().unwrap(), &now, facts).unwrap();
        let operations = plan::diff(&now, &target);
        (target, operations)
    }
}
