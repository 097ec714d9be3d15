//! From a checked workload to a running process.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    process::{Child, Command},
    thread,
};

use nix::{
    libc,
    sched::{CloneFlags, unshare},
    sys::resource::{Resource, setrlimit},
    unistd::{chdir, gethostname, setsid},
};
use tether_wire::{boot::BootWorkload, message::Exit};

use super::{
    root::Container,
    stdio::{self, Ends},
    user::{self, User},
    vsock,
};

/// Where programs are looked for, as in Docker's images.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const CONSOLE: &str = "/dev/console";
/// How many files a workload's process may have open, and may raise that to: systemd's defaults
/// (`systemd-system.conf(5)`, `DefaultLimitNOFILE=`), which Docker hands on.
const OPEN_FILES: (u64, u64) = (1_024, 524_288);
/// The most of the container's user lists that is read.
const LISTS: u64 = 4 << 20;

/// What a workload may do as root: Docker's default list, by the numbers of `capability.h`.
/// CHOWN, `DAC_OVERRIDE`, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, `NET_BIND_SERVICE`,
/// `NET_RAW`, `SYS_CHROOT`, MKNOD, `AUDIT_WRITE`, SETFCAP.
const CAPABILITIES: [u8; 14] = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31];
/// One more than the highest capability there could be.
const MOST_CAPABILITIES: u8 = 64;
/// How many user namespaces there may be. In one of its own a process has every capability, which
/// is more than Docker's filter of system calls lets a container have.
const USER_NAMESPACES: &str = "/proc/sys/user/max_user_namespaces";

/// Starts a workload: in its container, with PIDs of its own, where it is the first. Without one, as
/// where tether is not process 1, it is an ordinary child. With `piped` its streams' other ends come
/// back, else they are the console.
pub(super) fn start(
    workload: &BootWorkload,
    container: Option<&Container>,
    piped: bool,
) -> Result<(u32, Option<Ends>), Exit> {
    let program = workload.argv.first().map_or("", String::as_str);
    let cwd = if workload.cwd.is_empty() { "/" } else { &workload.cwd };
    let user = match container {
        Some(container) if container.has_users => {
            container.root.make_directories(cwd).map_err(|error| cannot(cwd, &error))?;
            Some(who(workload, container)?)
        }
        _ => {
            fs::metadata(cwd).map_err(|error| cannot(cwd, &error))?;
            None
        }
    };
    let mut command = Command::new(program);
    command.args(workload.argv.iter().skip(1)).env_clear();
    command.envs(environment(workload, user.as_ref()));
    let user = user.unwrap_or_default();
    let ends = if piped {
        let made = stdio::make(workload, container, user.uid);
        let (ends, [stdin, stdout, stderr]): (Ends, [OwnedFd; 3]) =
            made.map_err(|error| cannot("standard streams", &error))?;
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        Some(ends)
    } else {
        if container.is_some() {
            console_anew(&mut command).map_err(|error| cannot(CONSOLE, &error))?;
        }
        None
    };
    let own_terminal = piped && workload.terminal;
    let path = std::ffi::CString::new(cwd).map_err(|error| cannot(cwd, &error.into()))?;
    let privileged = container.map(|container| container.privileged);
    if privileged == Some(false) {
        fs::write(USER_NAMESPACES, "0").or_else(missing).map_err(|error| cannot(USER_NAMESPACES, &error))?;
    }
    let has_vsock = vsock::is_there();
    let groups: Vec<libc::gid_t> = user.groups.clone();
    let (uid, gid) = (user.uid, user.gid);
    let enter = move || {
        setsid()?;
        if own_terminal {
            stdio::take_terminal()?;
        }
        if let Some(privileged) = privileged {
            Container::enter(privileged)?;
            limits()?;
            if !privileged {
                drop_capabilities()?;
                if has_vsock {
                    vsock::forgo()?;
                }
            }
        }
        chdir(path.as_c_str())?;
        if privileged.is_some() { become_user(uid, gid, &groups) } else { Ok(()) }
    };
    // SAFETY: between fork and exec this makes system calls only: no allocation, no lock.
    unsafe { command.pre_exec(enter) };
    let spawned = if privileged.is_some() { spawn_first(command) } else { command.spawn() };
    let child = spawned.map_err(|error| cannot(program, &error))?;
    Ok((child.id(), ends))
}

/// Spawns the first process of a new PID namespace. When it ends, the kernel ends all others in
/// there.
fn spawn_first(mut command: Command) -> io::Result<Child> {
    // By a thread of its own: from its next fork on it is the children that are in the new
    // namespace, and the kernel gives such a thread no threads beside it.
    let spawning = thread::Builder::new().name("spawn".to_owned()).spawn(move || {
        unshare(CloneFlags::CLONE_NEWPID)?;
        command.spawn()
    });
    spawning?.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it has panicked")))
}

/// Has a workload without a port read and write the console. Opened anew: the agent's log would share
/// what the workload makes of its own, `O_NONBLOCK` say. A machine without one has `/dev/null` there.
fn console_anew(command: &mut Command) -> io::Result<()> {
    let console = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(CONSOLE);
    if let Ok(console) = console {
        command.stdin(console.try_clone()?).stdout(console.try_clone()?).stderr(console);
    }
    Ok(())
}

/// Gives this process what a workload has in place of the agent's: open files as under Docker, and
/// nobody's precedence. For a forked child.
fn limits() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.0, OPEN_FILES.1)?;
    super::set_precedence(0)
}

/// Not every kernel has what is written to.
fn missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Why it does not run, in one line: what, and the reason.
fn cannot(what: &str, error: &io::Error) -> Exit {
    // Only so much of a name that may be anything, or the message would not fit.
    let shown: String = what.chars().take(200).collect();
    Exit::NotStarted(format!("{shown}: {error}"))
}

fn who(workload: &BootWorkload, container: &Container) -> Result<User, Exit> {
    let read = |path: &str| container.root.read(path, LISTS).map_err(|error| cannot(path, &error));
    user::resolve(&workload.user, &read("etc/passwd")?, &read("etc/group")?)
        .map_err(|message| cannot("user", &io::Error::other(message)))
}

/// The workload's variables, and those Docker adds where they are not given.
fn environment(workload: &BootWorkload, user: Option<&User>) -> Vec<(String, String)> {
    let given = workload.env.iter().filter_map(|variable| variable.split_once('='));
    let mut all: Vec<(String, String)> = given.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let mut add = |name: &str, value: String| {
        if !all.iter().any(|(given, _)| given == name) {
            all.push((name.to_owned(), value));
        }
    };
    add("PATH", PATH.to_owned());
    if let Some(user) = user {
        add("HOME", user.home.clone());
        if let Ok(Ok(name)) = gethostname().map(std::ffi::OsString::into_string) {
            add("HOSTNAME", name);
        }
    }
    if workload.terminal {
        add("TERM", "xterm".to_owned());
    }
    all
}

/// Takes from this process and its children for good what is not on the list. For a forked child.
fn drop_capabilities() -> io::Result<()> {
    for capability in (0..MOST_CAPABILITIES).filter(|capability| !CAPABILITIES.contains(capability)) {
        // SAFETY: numbers only. What the kernel gives root at `exec` is what is left in this set.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
        if dropped < 0 {
            let error = io::Error::last_os_error();
            // EINVAL: this kernel has not that many.
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// For a forked child.
fn become_user(uid: u32, gid: u32, groups: &[libc::gid_t]) -> io::Result<()> {
    // SAFETY: the kernel reads as many groups as there are.
    let results = unsafe {
        [
            libc::setgroups(groups.len(), groups.as_ptr()),
            libc::setresgid(gid, gid, gid),
            libc::setresuid(uid, uid, uid),
        ]
    };
    // The first failure is rarely the last call, but its error is all the same: EPERM or EINVAL.
    if results.contains(&-1) { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_not_added() {
        let workload = BootWorkload {
            env: vec!["PATH=/mine".into(), "A=b=c".into()],
            terminal: true,
            ..BootWorkload::default()
        };
        let user = User { home: "/root".into(), ..User::default() };
        let all = environment(&workload, Some(&user));
        let value = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(value("PATH"), Some("/mine"));
        assert_eq!(value("A"), Some("b=c"));
        assert_eq!((value("HOME"), value("TERM")), (Some("/root"), Some("xterm")));
        assert!(value("HOSTNAME").is_some());
        let plain = environment(&BootWorkload::default(), None);
        assert_eq!(plain, [("PATH".to_owned(), PATH.to_owned())]);
    }

    #[test]
    fn a_terminal_is_a_terminal_and_pipes_are_pipes() {
        use std::io::Read as _;
        let run = |terminal| {
            let workload = BootWorkload {
                argv: ["sh", "-c", "tty; stty size; echo e >&2"].map(ToOwned::to_owned).into(),
                terminal,
                rows: 24,
                columns: 80,
                ..BootWorkload::default()
            };
            let (_, ends) = start(&workload, None, true).unwrap();
            // Without the agent's own hold on the terminal, which would keep its end from being seen.
            let end = match ends.unwrap() {
                Ends::Terminal { master, .. } => master,
                Ends::Pipes { stdout, .. } => stdout,
            };
            let (mut text, mut file) = (Vec::new(), fs::File::from(end));
            let mut piece = [0; 100];
            loop {
                match file.read(&mut piece) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    // EIO: nobody has the terminal open any more.
                    Ok(0) | Err(_) => return String::from_utf8(text).unwrap(),
                    Ok(count) => text.extend(&piece[..count]),
                }
            }
        };
        let text = run(true);
        assert!(text.starts_with("/dev/pts/") && text.ends_with("\r\n24 80\r\ne\r\n"), "{text}");
        assert!(run(false).starts_with("not a tty"));
    }
}
