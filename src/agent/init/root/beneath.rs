//! Paths in a tree that somebody hostile has made: no link in it leads out of it.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat},
    unistd::{UnlinkatFlags, faccessat, unlinkat},
};

/// How often a look-up is tried that a change elsewhere has disturbed (EAGAIN).
const ATTEMPTS: u32 = 16;
/// `O_PATH`: a place, not its content.
const PLACE: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// A directory that is the root of every path given here: `..` and links, absolute ones too,
/// stay inside.
#[derive(Debug)]
pub(crate) struct Beneath(OwnedFd);

impl Beneath {
    /// The tree under `root`, a path that can be trusted.
    pub(crate) fn open_root(root: &Path) -> io::Result<Self> {
        Ok(Self(open(root, PLACE | OFlag::O_DIRECTORY, Mode::empty())?))
    }

    /// Opens what is at `path`.
    pub(crate) fn open(&self, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
        self.open_how(path, flags, ResolveFlag::RESOLVE_IN_ROOT)
    }

    /// The directory at `path`, which is no link and has none on its way; its last part is made
    /// when it is missing.
    pub(crate) fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        let strict = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let open = || self.open_how(path, PLACE | OFlag::O_DIRECTORY, strict);
        match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (parent, name) = split(path);
                let parent = self.open_how(parent, PLACE | OFlag::O_DIRECTORY, strict)?;
                mkdirat(&parent, name, Mode::from_bits_truncate(0o755))?;
                open()
            }
            opened => opened,
        }
    }

    /// The directory at `path`, made with everything above it that is missing.
    pub(crate) fn make_directories(&self, path: &str) -> io::Result<()> {
        let mut above = String::from("/");
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let here = format!("{above}/{part}");
            if let Err(error) = self.open(&here, PLACE | OFlag::O_DIRECTORY) {
                if error.kind() != io::ErrorKind::NotFound {
                    return Err(error);
                }
                let parent = self.open(&above, PLACE | OFlag::O_DIRECTORY)?;
                mkdirat(&parent, part, Mode::from_bits_truncate(0o755))?;
            }
            above = here;
        }
        Ok(())
    }

    /// The file at `path`, for something to be mounted on it. A link is followed, inside the
    /// tree; where nothing is, an empty file is made. A link to nowhere is replaced by one.
    pub(crate) fn file(&self, path: &str) -> io::Result<OwnedFd> {
        match self.open(path, PLACE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        let (parent, name) = split(path);
        let parent = match self.open(parent, PLACE | OFlag::O_DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.directory(parent)?,
            opened => opened?,
        };
        match unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let new = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        Ok(nix::fcntl::openat(&parent, name, new, Mode::from_bits_truncate(0o644))?)
    }

    /// What the regular file at `path` says, `limit` bytes at most. Nothing, where there is none.
    pub(crate) fn read(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        let place = match self.open(path, PLACE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened?,
        };
        // Opening a pipe would wait, and opening a device might do anything.
        if kind(&fstat(&place)?) != SFlag::S_IFREG {
            return Err(io::Error::other("is not a regular file"));
        }
        let mut content = Vec::new();
        File::open(magic_path(place.as_fd()))?.take(limit).read_to_end(&mut content)?;
        Ok(content)
    }

    /// Whether anything is at `path`.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.open(path, PLACE).is_ok_and(|place| {
            faccessat(&place, "", nix::unistd::AccessFlags::F_OK, AtFlags::AT_EMPTY_PATH).is_ok()
        })
    }

    fn open_how(&self, path: &str, flags: OFlag, resolve: ResolveFlag) -> io::Result<OwnedFd> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        // An empty path is no path for the kernel.
        let path = if path.is_empty() { "/" } else { path };
        for _ in 1..ATTEMPTS {
            match openat2(&self.0, path, how) {
                Err(Errno::EAGAIN) => {}
                opened => return Ok(opened?),
            }
        }
        Ok(openat2(&self.0, path, how)?)
    }
}

/// A path by which the kernel finds what is open here, for calls that take paths only.
pub(crate) fn magic_path(place: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn tree() -> (tempfile::TempDir, Beneath) {
        let outside = tempfile::TempDir::new().unwrap();
        fs::create_dir_all(outside.path().join("root/etc")).unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let root = Beneath::open_root(&outside.path().join("root")).unwrap();
        (outside, root)
    }

    #[test]
    fn no_link_leads_out() {
        let (outside, root) = tree();
        let inside = outside.path().join("root");
        symlink("../../secret", inside.join("etc/hosts")).unwrap();
        symlink(outside.path(), inside.join("etc/away")).unwrap();
        assert_eq!(root.read("etc/hosts", 100).unwrap(), b"", "there is no such file in the tree");
        assert!(!root.has("etc/away/secret"));
        assert!(root.directory("etc/away").is_err());
        // A file to mount on is made in the tree, in the place of the link.
        drop(root.file("etc/hosts").unwrap());
        assert!(fs::symlink_metadata(inside.join("etc/hosts")).unwrap().is_file());
        assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
    }

    #[test]
    fn links_inside_are_followed() {
        let (outside, root) = tree();
        let inside = outside.path().join("root");
        fs::create_dir(inside.join("real")).unwrap();
        fs::write(inside.join("real/hosts"), "here").unwrap();
        symlink("/real/hosts", inside.join("etc/hosts")).unwrap();
        assert_eq!(root.read("etc/hosts", 3).unwrap(), b"her", "no more than the limit");
        drop(root.file("etc/hosts").unwrap());
        assert!(fs::symlink_metadata(inside.join("etc/hosts")).unwrap().is_symlink());
    }

    #[test]
    fn what_is_missing_is_made() {
        let (outside, root) = tree();
        root.make_directories("/a/b/../c/").unwrap();
        assert!(outside.path().join("root/a/c").is_dir());
        drop(root.file("new/hosts").unwrap());
        assert!(outside.path().join("root/new/hosts").is_file());
        assert!(root.make_directories("/new/hosts/x").is_err());
        let fifo = outside.path().join("root/etc/passwd");
        nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
        assert!(root.read("etc/passwd", 10).is_err(), "and it does not wait for a writer");
    }
}
