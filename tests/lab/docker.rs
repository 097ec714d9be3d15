//! A whole container host: `vch serve` in a space, the docker client that talks to it, and a
//! machine outside on its external links.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Process, Space, binary, target, wait_for};

/// How long a docker command may take, in seconds.
const PATIENCE: &str = "30";
/// How long a connection may keep a test waiting.
const QUIET: Duration = Duration::from_secs(20);

/// What an administrator hands over: `default-external` with an address of the host's own, and
/// `vic-production` without.
pub const EXTERNAL: &str = r#"
    [[external]]
    name = "default-external"
    subnet = "10.2.0.0/16"
    gateway = "10.2.0.1"
    link = "eth1"
    address = "10.2.0.5"

    [[external]]
    name = "vic-production"
    subnet = "208.91.3.0/24"
    gateway = "208.91.3.1"
    link = "eth2"
"#;

/// A container host that runs, with its clients' and its neighbours' places.
#[derive(Debug)]
pub struct Docker {
    /// Where the host runs.
    pub host: Space,
    /// A machine on both external networks: the router of each.
    pub outside: Space,
    vch: Process,
    directory: TempDir,
    // Last, so that the next test starts when everything of this one has ended.
    _turn: MutexGuard<'static, ()>,
}

/// A container somebody types into.
#[derive(Debug)]
pub struct Shell {
    child: Child,
    input: Option<ChildStdin>,
    heard: Arc<Mutex<Vec<u8>>>,
    asked: usize,
}

impl Docker {
    /// Starts a host with both external networks and loads `images`. One at a time: the machine
    /// has few processors, and a machine that starts wants one.
    pub fn new(images: &[&str]) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let (host, outside) = (Space::new(), Space::new());
        for (link, address) in [("eth1", "10.2.0.1/16"), ("eth2", "208.91.3.1/24")] {
            host.run(&format!("ip link add {link} type veth peer name {link} netns {}", outside.id()));
            host.run(&format!("ip link set {link} up"));
            outside.run(&format!("ip addr add {address} dev {link}"));
            outside.run(&format!("ip link set {link} up"));
        }
        let directory = TempDir::new().expect("a temporary directory");
        fs::write(directory.path().join("vch.toml"), EXTERNAL).expect("the configuration");
        let vch = serve(&host, directory.path());
        let mut docker = Self { host, outside, vch, directory, _turn: turn };
        docker.answers();
        let made = docker.directory.path().join("images");
        make_images(&made);
        for image in images {
            let file = made.join(format!("{image}.tar"));
            let said = docker.ok(&["load", "-i", &file.display().to_string()]);
            assert_eq!(said, format!("Loaded image: {image}:latest"));
        }
        docker
    }

    /// A docker command, to be run on the host.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = self.within("timeout");
        command.args(["--foreground", PATIENCE, "docker"]).args(arguments);
        command
    }

    /// `program`, to be run on the host by somebody who uses docker.
    fn within(&self, program: &str) -> Command {
        let mut command = self.host.command(program);
        aim(&mut command, &self.socket(), self.directory.path());
        command
    }

    /// Runs a docker command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("docker can be started")
    }

    /// Runs a docker command that has to succeed. What it printed, without the last line's end.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "docker {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Runs a docker command that has to fail with this exit code. What it complained.
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "docker {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs a docker command with something on its standard input.
    pub fn fed(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("docker can be started");
        child.stdin.take().expect("it is piped").write_all(input).expect("it reads");
        child.wait_with_output().expect("it ends")
    }

    /// What `docker inspect` says of one thing.
    pub fn inspect(&self, what: &str) -> Value {
        let text = self.ok(&["inspect", what]);
        let mut list: Vec<Value> = serde_json::from_str(&text).expect("inspect prints JSON");
        assert_eq!(list.len(), 1, "{what}");
        list.remove(0)
    }

    /// A docker command somebody types into, through a pipe.
    pub fn shell(&self, arguments: &[&str]) -> Shell {
        let mut command = self.within("docker");
        command.args(arguments);
        Shell::start(command)
    }

    /// A docker command somebody types into on a terminal of 31 lines and 97 columns.
    pub fn terminal(&self, arguments: &str) -> Shell {
        let mut command = self.within("script");
        let line = format!("stty rows 31 cols 97; exec docker {arguments}");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        command.env("TERM", "xterm").env("SHELL", "/bin/sh");
        Shell::start(command)
    }

    /// Sends bytes to the Docker endpoint, and returns everything it answers. The status comes
    /// first.
    pub fn raw(&self, request: &[u8]) -> (u16, String) {
        let mut stream = UnixStream::connect(self.socket()).expect("the endpoint is there");
        stream.set_read_timeout(Some(QUIET)).expect("a socket");
        // It may answer, and hang up, before it has read everything.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no status: {answer:?}")), answer)
    }

    /// Kills the host's program at once, as nobody would.
    pub fn crash(&mut self) {
        self.vch.kill();
    }

    /// Starts the host's program again.
    pub fn restart(&mut self) {
        self.vch = serve(&self.host, self.directory.path());
        self.answers();
    }

    /// `vch shutdown`, to the end of `vch serve`.
    pub fn shut_down(&mut self) {
        let mut command = self.host.command(binary("vch"));
        command.arg("shutdown").arg("--run").arg(self.run_directory());
        let output = command.output().expect("vch can be started");
        assert!(output.status.success(), "vch shutdown: {output:?}");
        assert!(self.vch.end().success(), "vch serve has ended well");
    }

    /// The machines that run: QEMU's processes in the host's network namespace.
    pub fn machines(&self) -> Vec<u32> {
        let of = |id: u32| fs::read_link(format!("/proc/{id}/ns/net")).ok();
        let ours = of(self.host.id());
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter(|id| of(*id) == ours)
            .filter(|id| {
                let name = fs::read_to_string(format!("/proc/{id}/comm"));
                name.is_ok_and(|name| name.starts_with("qemu"))
            })
            .collect()
    }

    /// The names of the host's links.
    pub fn links(&self) -> Vec<String> {
        let text = self.host.run("ip -o link");
        let names = text.lines().filter_map(|line| line.split(": ").nth(1));
        names.map(|name| name.split('@').next().unwrap_or(name).to_owned()).collect()
    }

    /// What there is in a directory of the host's run directory or, with `state/`, of its state.
    pub fn entries(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join(directory)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    fn run_directory(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    fn socket(&self) -> PathBuf {
        self.run_directory().join("docker.sock")
    }

    fn answers(&mut self) {
        wait_for("the Docker endpoint", || {
            assert!(!self.vch.has_ended(), "vch serve has ended; what it said is above");
            self.run(&["version"]).status.success().then_some(())
        });
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // First the one who would see the others end.
        self.vch.kill();
        for id in self.machines() {
            let _ = kill(Pid::from_raw(id.cast_signed()), Signal::SIGKILL);
        }
    }
}

impl Shell {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("docker can be started");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let gathered = Arc::clone(&heard);
        let mut output = child.stdout.take().expect("it is piped");
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                gathered.lock().expect("no panic while it is held").extend_from_slice(&buffer[..n]);
            }
        });
        let input = child.stdin.take();
        Self { child, input, heard, asked: 0 }
    }

    /// Everything heard so far.
    pub fn heard(&self) -> String {
        let heard = self.heard.lock().expect("no panic while it is held");
        String::from_utf8_lossy(&heard).into_owned()
    }

    /// Types a line.
    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it has not been ended");
        input.write_all(format!("{line}\n").as_bytes()).expect("it still runs");
        input.flush().expect("it still runs");
    }

    /// Runs a command in the shell at the other end: what it printed, and its exit code. On a
    /// terminal what was typed is part of it.
    pub fn ask(&mut self, command: &str) -> (String, i32) {
        self.asked += 1;
        let begin = self.heard().len();
        // Apart in what is typed, together in what is printed: a terminal shows both.
        self.say(&format!("{command}; echo '=='answered-{}=$?=", self.asked));
        let mark = format!("==answered-{}=", self.asked);
        wait_for(&format!("an answer to {command}"), || {
            let heard = self.heard();
            let (answer, rest) = heard.get(begin..)?.split_once(&mark)?;
            let (code, _) = rest.split_once('=')?;
            Some((answer.to_owned(), code.parse().ok()?))
        })
    }

    /// What a command printed that has to succeed.
    pub fn ok(&mut self, command: &str) -> String {
        let (answer, code) = self.ask(command);
        assert_eq!(code, 0, "{command}: {answer}");
        answer
    }

    /// What a command printed that has to fail.
    pub fn fails(&mut self, command: &str) -> String {
        let (answer, code) = self.ask(command);
        assert_ne!(code, 0, "{command}: {answer}");
        answer
    }

    /// Ends the shell with `exit`. The code that docker ended with.
    pub fn exit(mut self, code: i32) -> Option<i32> {
        self.say(&format!("exit {code}"));
        let status = wait_for("the end of a shell", || self.child.try_wait().expect("it is ours"));
        status.code()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection from within `space`.
pub fn connect(space: &Space, to: &str) -> std::io::Result<TcpStream> {
    let to: SocketAddr = to.parse().expect("an address and a port");
    let namespace = File::open(format!("/proc/{}/ns/net", space.id()))?;
    let connected = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(QUIET))?;
        Ok(stream)
    });
    connected.join().expect("connecting does not panic")
}

/// What `to` answers to `request` from within `space`, to the end of the connection. Asked again
/// while nobody listens there yet.
pub fn fetch(space: &Space, to: &str, request: &str) -> String {
    wait_for(&format!("an answer from {to}"), || {
        let mut stream = connect(space, to).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        (!answer.is_empty()).then(|| String::from_utf8_lossy(&answer).into_owned())
    })
}

/// Sends a line to somebody who sends back what comes.
pub fn echoed(stream: &mut TcpStream, line: &str) {
    stream.write_all(line.as_bytes()).expect("the connection lives");
    let mut back = vec![0; line.len()];
    stream.read_exact(&mut back).expect("the connection lives");
    assert_eq!(String::from_utf8_lossy(&back), line);
}

/// Has a docker client ask the host at `socket`, without the configuration, contexts or plugins of
/// whoever runs the tests.
pub fn aim(client: &mut Command, socket: &Path, home: &Path) {
    client.env("DOCKER_HOST", format!("unix://{}", socket.display()));
    client.env("HOME", home).env_remove("DOCKER_CONFIG").env_remove("DOCKER_CONTEXT");
}

fn serve(host: &Space, directory: &Path) -> Process {
    let mut command = host.command(binary("vch"));
    command.arg("serve").arg("--config").arg(directory.join("vch.toml"));
    command.arg("--state").arg(directory.join("state")).arg("--run").arg(directory.join("run"));
    command.arg("--image").arg(target().join("vmimage"));
    Process::start(command)
}

/// Has `scripts/images` make the images, and nobody else's in the way.
fn make_images(directory: &Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/images");
    let output = Command::new(script).arg(directory).output().expect("scripts/images can be started");
    assert!(output.status.success(), "scripts/images: {output:?}");
}
