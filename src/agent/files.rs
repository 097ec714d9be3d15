//! `/etc/hosts`, `/etc/resolv.conf` and the host name.
//!
//! What they should say is computed by pure functions; the shell writes them: atomically by
//! rename, or in place where the file is a mount point and cannot be renamed over. Of
//! `/etc/hosts` tether owns a marked block and nothing else.

use std::{
    fmt::Write as _,
    fs, io,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    unistd::{gethostname, sethostname},
};
use tether_wire::{check::Desired, problem::Problem, upstream::EMBEDDED_DNS, value::is_link_local};

const BLOCK_BEGIN: &str = "# tether begin: what stands up to \"tether end\" is made by tether";
const BLOCK_END: &str = "# tether end";

/// Where the kernel shows its domain name (`setdomainname(2)`) and lets it be set.
const DOMAINNAME: &str = "/proc/sys/kernel/domainname";

/// The files and the host name of one guest.
#[derive(Debug)]
pub struct Files {
    etc: PathBuf,
    /// The files are shown in other places by bind mounts: these show what was there when they
    /// were made, so the files are written in place. `hostname` is among them.
    shown: bool,
    /// The last resolv.conf this process wrote. A container that edits the file afterwards is
    /// left alone until tether has something new to say.
    resolv_conf: Option<String>,
}

/// What they said before, to go back to.
#[derive(Debug)]
pub struct Snapshot {
    hosts: Option<Vec<u8>>,
    resolv_conf: Option<Vec<u8>>,
    last: Option<String>,
    hostname: Option<std::ffi::OsString>,
    domain: Option<String>,
    hostname_file: Option<Vec<u8>>,
}

impl Files {
    /// Files below `etc`, usually `/etc`.
    pub fn new(etc: PathBuf) -> Self {
        Self { etc, shown: false, resolv_conf: None }
    }

    /// Files below `etc` that a container sees by bind mounts, `hostname` too.
    pub fn shown(etc: PathBuf) -> Self {
        Self { etc, shown: true, resolv_conf: None }
    }

    /// What they say now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            hosts: fs::read(self.etc.join("hosts")).ok(),
            resolv_conf: fs::read(self.etc.join("resolv.conf")).ok(),
            last: self.resolv_conf.clone(),
            hostname: gethostname().ok(),
            domain: domainname(),
            hostname_file: fs::read(self.etc.join("hostname")).ok(),
        }
    }

    /// Makes them say what `desired` wants. Files that say it already are not written.
    pub fn put_in_force(&mut self, desired: &Desired) -> Result<(), Problem> {
        if let Some(name) = &desired.hostname
            && gethostname().is_ok_and(|now| now != name.as_str())
        {
            sethostname(name).map_err(|errno| {
                Problem::new(
                    "hostname",
                    format!("cannot be set: {errno:?}; tether needs CAP_SYS_ADMIN for it"),
                )
            })?;
        }
        if let Some(domain) = &desired.domain
            && domainname().as_ref() != Some(domain)
        {
            fs::write(DOMAINNAME, domain).map_err(|error| {
                Problem::new("domain", format!("cannot be set: {error}; tether needs CAP_SYS_ADMIN for it"))
            })?;
        }
        if self.shown
            && let Ok(name) = gethostname()
        {
            let path = self.etc.join("hostname");
            let line = [name.as_encoded_bytes(), b"\n"].concat();
            if fs::read(&path).ok().as_ref() != Some(&line) {
                self.write(&path, &line).map_err(|error| cannot_write("hostname", &path, &error))?;
            }
        }
        let path = self.etc.join("hosts");
        let now = fs::read(&path).unwrap_or_default();
        let wanted = hosts(&now, desired);
        if wanted != now {
            self.write(&path, &wanted).map_err(|error| cannot_write("hosts", &path, &error))?;
        }
        let path = self.etc.join("resolv.conf");
        let wanted = resolv_conf(desired);
        if self.resolv_conf.as_ref() != Some(&wanted) {
            if fs::read(&path).ok().as_deref() != Some(wanted.as_bytes()) {
                self.write(&path, wanted.as_bytes()).map_err(|error| cannot_write("dns", &path, &error))?;
            }
            self.resolv_conf = Some(wanted);
        }
        Ok(())
    }

    /// Takes resolv.conf to have been written for `desired`, by an agent before this one: what a
    /// container has made of it since is left alone.
    pub fn assume(&mut self, desired: &Desired) {
        if self.etc.join("resolv.conf").exists() {
            self.resolv_conf = Some(resolv_conf(desired));
        }
    }

    /// Goes back to `before`. Says whether everything is as it was.
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
        let this = &*self;
        let put_back = |name: &str, content: &Option<Vec<u8>>| {
            let path = self.etc.join(name);
            if fs::read(&path).ok() == *content {
                return true;
            }
            match content {
                Some(content) => this.write(&path, content).is_ok(),
                None => fs::remove_file(&path).is_ok(),
            }
        };
        let hosts = put_back("hosts", &before.hosts);
        let resolv_conf = put_back("resolv.conf", &before.resolv_conf);
        let hostname = !self.shown || put_back("hostname", &before.hostname_file);
        named && in_domain && hosts && resolv_conf && hostname
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        if self.shown { fs::write(path, content) } else { write(path, content) }
    }
}

/// The kernel's domain name, empty where it was never set.
fn domainname() -> Option<String> {
    fs::read_to_string(DOMAINNAME).ok().map(|name| match name.trim_end() {
        "(none)" => String::new(),
        name => name.to_owned(),
    })
}

fn cannot_write(field: &str, path: &Path, error: &io::Error) -> Problem {
    Problem::new(field, format!("{} cannot be written: {error}", path.display()))
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
        Some(errno) if in_place.contains(&Errno::from_raw(errno)) => fs::write(path, content),
        // A full disk, say: the old content is worth more than half of the new.
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
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
}
