//! `/etc/hosts`, `/etc/resolv.conf` and the host name.
//!
//! What they should say is computed by pure functions; the shell writes them: atomically by
//! rename, or in place where the file is a mount point and cannot be renamed over. Of
//! `/etc/hosts` tether owns a marked block and nothing else.
//!
//! A container may do to the files it is shown what it likes, and harms itself alone by it: nothing
//! here waits for it or reads more than a limit, and what it makes unwritable is told
//! ([`Files::trouble`]) and holds nothing else up.

use std::{
    fmt::Write as _,
    fs, io,
    io::{Read as _, Write as _},
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    libc,
    unistd::{gethostname, sethostname},
};
use tether_wire::{check::Desired, problem::Problem, upstream::EMBEDDED_DNS, value::is_link_local};

const BLOCK_BEGIN: &str = "# tether begin: what stands up to \"tether end\" is made by tether";
const BLOCK_END: &str = "# tether end";

/// Where the kernel shows its domain name (`setdomainname(2)`) and lets it be set.
const DOMAINNAME: &str = "/proc/sys/kernel/domainname";

/// The longest file that is read: lists of names that are to lead nowhere are a few MiB.
const LONGEST: u64 = 64 << 20;
/// The longest that a container is shown. tether's own part of `/etc/hosts` is below 2 MiB.
const LONGEST_SHOWN: u64 = 4 << 20;

/// The files and the host name of one guest.
#[derive(Debug)]
pub struct Files {
    etc: PathBuf,
    /// The files are shown in other places by bind mounts: these show what was there when they
    /// were made, so the files are written in place. `hostname` is among them.
    shown: bool,
    /// Which of the files that are shown do not say what they should.
    trouble: Vec<Problem>,
    /// The last resolv.conf this process wrote. A container that edits the file afterwards is
    /// left alone until tether has something new to say.
    resolv_conf: Option<String>,
}

/// What they said before, to go back to.
#[derive(Debug)]
pub struct Snapshot {
    hosts: Before,
    resolv_conf: Before,
    last: Option<String>,
    hostname: Option<std::ffi::OsString>,
    domain: Option<String>,
    hostname_file: Before,
}

/// What a file said, if it was there; an error where that cannot be known.
type Before = io::Result<Option<Vec<u8>>>;

impl Files {
    /// Files below `etc`, usually `/etc`.
    pub fn new(etc: PathBuf) -> Self {
        Self { etc, shown: false, trouble: Vec::new(), resolv_conf: None }
    }

    /// Files below `etc` that a container sees by bind mounts, `hostname` too.
    pub fn shown(etc: PathBuf) -> Self {
        Self { shown: true, ..Self::new(etc) }
    }

    /// Which of the files that a container is shown do not say what they should, and why.
    pub fn trouble(&self) -> &[Problem] {
        &self.trouble
    }

    /// What they say now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            hosts: self.read("hosts"),
            resolv_conf: self.read("resolv.conf"),
            last: self.resolv_conf.clone(),
            hostname: gethostname().ok(),
            domain: domainname(),
            hostname_file: self.read("hostname"),
        }
    }

    /// Makes them say what `desired` wants. Files that say it already are not written.
    ///
    /// A file that a container is shown and that cannot be written is no error but
    /// [`trouble`](Self::trouble): the container is not to choose which network it has.
    pub fn put_in_force(&mut self, desired: &Desired) -> Result<(), Vec<Problem>> {
        put_names_in_force(desired).map_err(|problem| vec![problem])?;
        let done = [self.put_hostname(), self.put_hosts(desired), self.put_resolv_conf(desired)];
        let problems: Vec<_> = done.into_iter().filter_map(Result::err).collect();
        if !self.shown {
            return if problems.is_empty() { Ok(()) } else { Err(problems) };
        }
        for new in problems.iter().filter(|problem| !self.trouble.contains(problem)) {
            tracing::warn!("{new}");
        }
        self.trouble = problems;
        Ok(())
    }

    fn put_hostname(&self) -> Result<(), Problem> {
        let Some(name) = self.shown.then(|| gethostname().ok()).flatten() else { return Ok(()) };
        let line = [name.as_encoded_bytes(), b"\n"].concat();
        self.put("hostname", &line).map_err(|error| self.cannot("hostname", "hostname", "written", &error))
    }

    fn put_hosts(&self, desired: &Desired) -> Result<(), Problem> {
        let now = match self.read("hosts") {
            Ok(now) => now.unwrap_or_default(),
            // A container has blown it up.
            Err(error) if self.shown && error.kind() == io::ErrorKind::FileTooLarge => Vec::new(),
            Err(error) => return Err(self.cannot("hosts", "hosts", "read", &error)),
        };
        let wanted = hosts(&now, desired);
        if wanted == now {
            return Ok(());
        }
        self.write("hosts", &wanted).map_err(|error| self.cannot("hosts", "hosts", "written", &error))
    }

    fn put_resolv_conf(&mut self, desired: &Desired) -> Result<(), Problem> {
        let wanted = resolv_conf(desired);
        if self.resolv_conf.as_ref() == Some(&wanted) {
            return Ok(());
        }
        self.put("resolv.conf", wanted.as_bytes())
            .map_err(|error| self.cannot("dns", "resolv.conf", "written", &error))?;
        self.resolv_conf = Some(wanted);
        Ok(())
    }

    /// Takes resolv.conf to have been written for `desired`, by an agent before this one: what a
    /// container has made of it since is left alone.
    pub fn assume(&mut self, desired: &Desired) {
        if self.etc.join("resolv.conf").exists() {
            self.resolv_conf = Some(resolv_conf(desired));
        }
    }

    /// Goes back to `before`. Says whether everything is as it was, what a container is shown apart.
    pub fn restore(&mut self, before: &Snapshot) -> bool {
        self.resolv_conf.clone_from(&before.last);
        let named = before
            .hostname
            .as_ref()
            .is_none_or(|name| gethostname().is_ok_and(|now| now == *name) || sethostname(name).is_ok());
        let domain = before.domain.as_ref();
        let in_domain = domain.is_none_or(|domain| {
            domainname().as_ref() == Some(domain) || fs::write(DOMAINNAME, domain).is_ok()
        });
        let hosts = self.put_back("hosts", &before.hosts);
        let resolv_conf = self.put_back("resolv.conf", &before.resolv_conf);
        let files = if self.shown {
            self.put_back("hostname", &before.hostname_file);
            true
        } else {
            hosts && resolv_conf
        };
        named && in_domain && files
    }

    fn put_back(&self, name: &str, before: &Before) -> bool {
        match before {
            Ok(Some(content)) => self.put(name, content).is_ok(),
            Ok(None) => match fs::remove_file(self.etc.join(name)) {
                Err(error) => error.kind() == io::ErrorKind::NotFound,
                Ok(()) => true,
            },
            // What could not be read was not written either, but for what a container had blown up,
            // which nobody wants back.
            Err(_) => true,
        }
    }

    /// Has the file say this. One that does already is not written.
    fn put(&self, name: &str, content: &[u8]) -> io::Result<()> {
        if self.read(name).is_ok_and(|now| now.as_deref() == Some(content)) {
            return Ok(());
        }
        self.write(name, content)
    }

    /// What the file says: `None` where there is none.
    fn read(&self, name: &str) -> Before {
        let file = match without_waiting().read(true).open(self.etc.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let longest = if self.shown { LONGEST_SHOWN } else { LONGEST };
        let mut content = Vec::new();
        file.take(longest + 1).read_to_end(&mut content)?;
        if content.len() as u64 > longest {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(Some(content))
    }

    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = self.etc.join(name);
        if self.shown { write_in_place(&path, content) } else { write(&path, content) }
    }

    fn cannot(&self, field: &str, name: &str, what: &str, error: &io::Error) -> Problem {
        Problem::new(field, format!("{} cannot be {what}: {error}", self.etc.join(name).display()))
    }
}

/// Host name and domain of the kernel.
fn put_names_in_force(desired: &Desired) -> Result<(), Problem> {
    if let Some(name) = &desired.hostname
        && gethostname().is_ok_and(|now| now != name.as_str())
    {
        sethostname(name).map_err(|errno| {
            Problem::new("hostname", format!("cannot be set: {errno:?}; tether needs CAP_SYS_ADMIN for it"))
        })?;
    }
    if let Some(domain) = &desired.domain
        && domainname().as_ref() != Some(domain)
    {
        fs::write(DOMAINNAME, domain).map_err(|error| {
            Problem::new("domain", format!("cannot be set: {error}; tether needs CAP_SYS_ADMIN for it"))
        })?;
    }
    Ok(())
}

/// The kernel's domain name, empty where it was never set.
fn domainname() -> Option<String> {
    fs::read_to_string(DOMAINNAME).ok().map(|name| match name.trim_end() {
        "(none)" => String::new(),
        name => name.to_owned(),
    })
}

/// The content of `/etc/hosts`: the block in the place it had, or at the end, every other byte
/// as it was.
fn hosts(now: &[u8], desired: &Desired) -> Vec<u8> {
    let block = hosts_block(desired).into_bytes();
    let mut lines: Vec<&[u8]> = now.split_inclusive(|byte| *byte == b'\n').collect();
    let is = |line: &&[u8], mark: &str| line.trim_ascii_end() == mark.as_bytes();
    let begin = lines.iter().position(|line| is(line, BLOCK_BEGIN));
    let end = begin
        .and_then(|begin| lines[begin..].iter().position(|line| is(line, BLOCK_END)).map(|at| begin + at));
    if let Some((begin, end)) = begin.zip(end) {
        lines.splice(begin..=end, [block.as_slice()]);
        return lines.concat();
    }
    let mut content = now.to_vec();
    if content.last().is_some_and(|byte| *byte != b'\n') {
        content.push(b'\n');
    }
    content.extend(block);
    content
}

fn hosts_block(desired: &Desired) -> String {
    let mut block = format!("{BLOCK_BEGIN}\n127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    if let Some(name) = &desired.hostname {
        // The name leads to the addresses others reach this guest by, never to 127.0.1.1, which
        // a program would announce to its peers.
        let names = match (&desired.domain, name.split_once('.')) {
            (Some(domain), None) => format!("{name}.{domain} {name}"),
            (_, Some((short, _))) => format!("{name} {short}"),
            (None, None) => name.clone(),
        };
        // The loopback interface's addresses and those of one link mean nothing to others.
        let others = |address: &IpAddr| !address.is_loopback() && !is_link_local(*address);
        let interfaces = desired.interfaces.iter().filter(|interface| interface.name.as_str() != "lo");
        let addresses = interfaces.flat_map(|interface| &interface.addresses);
        for address in addresses.map(|address| address.prefix.address()).filter(others) {
            let _ = writeln!(block, "{address} {names}");
        }
    }
    for host in &desired.hosts {
        let _ = writeln!(block, "{} {}", host.address, host.names.join(" "));
    }
    block.push_str(BLOCK_END);
    block.push('\n');
    block
}

/// The content of `/etc/resolv.conf`: our server alone, because musl asks all servers at once
/// and takes the first answer.
fn resolv_conf(desired: &Desired) -> String {
    let server = desired.dns.listen.first().copied().unwrap_or(EMBEDDED_DNS.into());
    let mut text = format!("# Made by tether, which knows the real servers.\nnameserver {server}\n");
    if !desired.dns.search.is_empty() {
        let _ = writeln!(text, "search {}", desired.dns.search.join(" "));
    }
    let is_ndots =
        |option: &String| option.strip_prefix("ndots:").is_some_and(|number| number.parse::<u8>().is_ok());
    let mut options = desired.dns.options.clone();
    if !options.iter().any(is_ndots) {
        options.push("ndots:0".to_owned());
    }
    let _ = writeln!(text, "options {}", options.join(" "));
    text
}

/// Writes a file so that a reader sees the old content or the new: beside it, then renamed over
/// it. A bind mount refuses that (EBUSY, or EXDEV), and so may its directory; there it is written
/// in place. Where it is a symbolic link, what it leads to is written.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let target = fs::canonicalize(path);
    let path = target.as_deref().unwrap_or(path);
    let beside = path.with_extension("tether-new");
    let renamed = fs::File::create(&beside).and_then(|mut file| {
        file.write_all(content)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        fs::rename(&beside, path)
    });
    let Err(error) = renamed else { return Ok(()) };
    // Perhaps it was never made; what matters is what follows.
    let _ = fs::remove_file(&beside);
    let in_place = [Errno::EBUSY, Errno::EXDEV, Errno::EROFS, Errno::EACCES, Errno::EPERM];
    match error.raw_os_error() {
        Some(errno) if in_place.contains(&Errno::from_raw(errno)) => write_in_place(path, content),
        // A full disk, say: the old content is worth more than half of the new.
        _ => Err(error),
    }
}

fn write_in_place(path: &Path, content: &[u8]) -> io::Result<()> {
    without_waiting().write(true).create(true).truncate(true).open(path)?.write_all(content)
}

/// To open a file that is perhaps a pipe, or that somebody has a lease on: who has may let others
/// wait for 45 s (`fcntl(2)`, `F_SETLEASE`), again and again.
fn without_waiting() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.custom_flags(libc::O_NONBLOCK);
    options
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use tether_wire::state::{DesiredState, Dns, HostEntry, Interface, Match};

    use super::*;

    fn desired() -> Desired {
        let state = DesiredState {
            hostname: "server.example".into(),
            interfaces: vec![Interface {
                matching: Some(Match::of_mac("02:42:ac:12:00:02")),
                name: "eth0".into(),
                addresses: vec!["172.18.0.2/16".into()],
                ..Interface::default()
            }],
            dns: Dns { search: vec!["a.example".into(), ".".into()], ..Dns::default() },
            hosts: vec![HostEntry { address: "10.0.0.9".into(), names: vec!["db".into()] }],
            ..DesiredState::default()
        };
        state.check().unwrap()
    }

    #[test]
    fn hosts_keeps_every_line_that_is_not_ours() {
        let first = hosts(b"1.2.3.4 mine", &desired());
        let text = String::from_utf8(first.clone()).unwrap();
        assert!(text.starts_with("1.2.3.4 mine\n# tether begin"), "{text}");
        assert!(text.contains("\n172.18.0.2 server.example server\n10.0.0.9 db\n# tether end\n"), "{text}");
        let edited = [&first[..], b"5.6.7.8 later\n"].concat();
        assert_eq!(hosts(&edited, &desired()), edited);
        let changed = String::from_utf8(hosts(&edited, &Desired::nothing())).unwrap();
        assert!(changed.starts_with("1.2.3.4 mine\n") && changed.ends_with("end\n5.6.7.8 later\n"));
        assert!(!changed.contains("172.18.0.2"));
    }

    #[test]
    fn links_are_followed_and_other_bytes_kept() {
        let etc = tempfile::tempdir().unwrap();
        let real = etc.path().join("real");
        fs::write(&real, b"\xff\xfe mine\n").unwrap();
        std::os::unix::fs::symlink(&real, etc.path().join("hosts")).unwrap();
        let mut files = Files::new(etc.path().to_owned());
        let before = files.snapshot();
        let mut wanted = desired();
        wanted.hostname = None;
        for _ in 0..2 {
            files.put_in_force(&wanted).unwrap();
            assert!(fs::read(&real).unwrap().starts_with(b"\xff\xfe mine\n# tether begin"));
        }
        assert!(files.restore(&before));
        assert_eq!(fs::read(&real).unwrap(), b"\xff\xfe mine\n");
        assert!(etc.path().join("hosts").is_symlink());
    }

    #[test]
    fn a_begin_without_an_end_loses_nothing() {
        let broken = format!("{BLOCK_BEGIN}\n1.2.3.4 mine\n");
        let text = String::from_utf8(hosts(broken.as_bytes(), &desired())).unwrap();
        assert!(text.contains("1.2.3.4 mine"));
    }

    #[test]
    fn ndots_is_added_once() {
        let mut desired = desired();
        assert!(
            resolv_conf(&desired).ends_with("nameserver 127.0.0.11\nsearch a.example\noptions ndots:0\n")
        );
        desired.dns.options = vec!["ndots:2".into(), "edns0".into()];
        assert!(resolv_conf(&desired).ends_with("\noptions ndots:2 edns0\n"));
        desired.dns.options = vec!["ndots:x".into()];
        assert!(resolv_conf(&desired).ends_with("\noptions ndots:x ndots:0\n"));
    }

    #[test]
    fn rolling_back_restores_content_and_absence() {
        let etc = tempfile::tempdir().unwrap();
        fs::write(etc.path().join("hosts"), "1.2.3.4 mine\n").unwrap();
        let mut files = Files::new(etc.path().to_owned());
        let before = files.snapshot();
        let mut wanted = desired();
        wanted.hostname = None;
        files.put_in_force(&wanted).unwrap();
        assert!(etc.path().join("resolv.conf").exists());
        assert!(files.restore(&before));
        assert_eq!(fs::read(etc.path().join("hosts")).unwrap(), b"1.2.3.4 mine\n");
        assert!(!etc.path().join("resolv.conf").exists());
    }

    #[test]
    fn a_containers_own_resolv_conf_is_not_fought() {
        let etc = tempfile::tempdir().unwrap();
        let mut files = Files::new(etc.path().to_owned());
        let mut wanted = desired();
        wanted.hostname = None;
        files.put_in_force(&wanted).unwrap();
        fs::write(etc.path().join("resolv.conf"), "nameserver 9.9.9.9\n").unwrap();
        files.put_in_force(&wanted).unwrap();
        assert_eq!(fs::read(etc.path().join("resolv.conf")).unwrap(), b"nameserver 9.9.9.9\n");
    }

    /// Files that a container is shown, on a file system as the machine's.
    fn shown() -> (tempfile::TempDir, Files, Desired) {
        let etc = tempfile::tempdir_in("/dev/shm").unwrap();
        for name in ["hosts", "resolv.conf", "hostname"] {
            fs::write(etc.path().join(name), "").unwrap();
        }
        let mut wanted = desired();
        wanted.hostname = None;
        let files = Files::shown(etc.path().to_owned());
        (etc, files, wanted)
    }

    #[test]
    fn who_has_a_lease_on_a_file_holds_nothing_up() {
        let (etc, mut files, wanted) = shown();
        let leased = fs::File::options().write(true).open(etc.path().join("hosts")).unwrap();
        let lease = |kind: libc::c_int| {
            // SAFETY: numbers only. The signal is one that does nothing by itself.
            unsafe {
                libc::fcntl(leased.as_raw_fd(), 10 /* F_SETSIG */, libc::SIGURG);
                libc::fcntl(leased.as_raw_fd(), libc::F_SETLEASE, kind)
            }
        };
        assert_eq!(lease(libc::F_WRLCK), 0, "{}", io::Error::last_os_error());
        let before = files.snapshot();
        files.put_in_force(&wanted).unwrap();
        let told = files.trouble().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(matches!(&told[..], [one] if one.starts_with("hosts: ")), "{told:?}");
        assert!(fs::read_to_string(etc.path().join("resolv.conf")).unwrap().contains("nameserver"));
        assert!(files.restore(&before));
        assert_eq!(lease(libc::F_UNLCK), 0);
        files.put_in_force(&wanted).unwrap();
        assert!(files.trouble().is_empty());
        assert!(fs::read_to_string(etc.path().join("hosts")).unwrap().contains("10.0.0.9 db"));
    }

    #[test]
    fn a_file_that_was_blown_up_is_not_read_but_made_anew() {
        let (etc, mut files, wanted) = shown();
        for name in ["hosts", "hostname", "resolv.conf"] {
            fs::File::create(etc.path().join(name)).unwrap().set_len(1 << 40).unwrap();
        }
        let before = files.snapshot();
        files.put_in_force(&wanted).unwrap();
        assert!(files.trouble().is_empty(), "{:?}", files.trouble());
        let hosts = fs::read_to_string(etc.path().join("hosts")).unwrap();
        assert!(hosts.starts_with(BLOCK_BEGIN), "{hosts}");
        // Nothing goes back to that, and nothing is removed: what is shown would be lost.
        assert!(files.restore(&before));
        assert_eq!(fs::read_to_string(etc.path().join("hosts")).unwrap(), hosts);
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_missing() {
        let etc = tempfile::tempdir().unwrap();
        let mut files = Files::new(etc.path().to_owned());
        fs::File::create(etc.path().join("hosts")).unwrap().set_len(LONGEST + 1).unwrap();
        let before = files.snapshot();
        let mut wanted = desired();
        wanted.hostname = None;
        let problems = files.put_in_force(&wanted).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].message.ends_with("/hosts cannot be read: file too large"), "{problems:?}");
        assert!(files.restore(&before));
        assert_eq!(fs::metadata(etc.path().join("hosts")).unwrap().len(), LONGEST + 1);
        assert!(!etc.path().join("resolv.conf").exists(), "it had been written, and goes again");
    }
}
