//! The network namespace that the management NIC lives in, apart from the container's.
//!
//! The container has the machine's first one, where devices appear. So it is the tether that moves:
//! the NIC is taken over there as soon as it is seen, and whatever goes through it is opened by a
//! thread that is in there. The namespace has a name in the file system, as iproute2's have (`ip netns
//! exec tether …` on the console of a machine whose image has it), and by that it outlives an agent
//! that is not process 1.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};
use tether_wire::value::MacAddr;
use tokio::time::sleep;

use super::PAUSE;
use crate::kernel::Kernel;

/// Where process 1 has it.
pub const PATH: &str = "/run/netns/tether";

/// A network namespace.
#[derive(Debug)]
pub struct Namespace(File);

/// Why there is none.
#[derive(Debug, thiserror::Error)]
#[error("no network namespace at {}: {source}; the management NIC would be the container's", path.display())]
pub struct NamespaceError {
    path: PathBuf,
    source: io::Error,
}

impl Namespace {
    /// The one at `path`, which is made where there is none.
    pub fn open(path: &Path) -> Result<Self, NamespaceError> {
        let opened = match kept(path) {
            Ok(Some(namespace)) => Ok(namespace),
            Ok(None) => make(path),
            Err(error) => Err(error),
        };
        opened.map_err(|source| NamespaceError { path: path.to_owned(), source })
    }

    /// Makes it the calling thread's.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.0, CloneFlags::CLONE_NEWNET)?)
    }

    /// Takes the device of this address out of `outside` and into the namespace, as often as it appears
    /// there. Does not end.
    pub async fn take(&self, mac: MacAddr, outside: &Kernel) {
        let mut told = None;
        loop {
            match outside.move_device(mac, self.0.as_fd()).await {
                Ok(moved) => {
                    if moved {
                        tracing::debug!(%mac, "the management NIC is apart from the container's");
                    }
                    outside.changed().await;
                }
                Err(error) => {
                    let error = error.to_string();
                    if told.as_ref() != Some(&error) {
                        tracing::warn!("the management NIC cannot be set apart: {error}; trying on");
                        told = Some(error);
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// What is at `path`, if it is a namespace.
fn kept(path: &Path) -> io::Result<Option<Namespace>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    Ok((fstatfs(&file)?.filesystem_type() == NSFS_MAGIC).then_some(Namespace(file)))
}

fn make(path: &Path) -> io::Result<Namespace> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // A file of somebody's is not to be covered.
    OpenOptions::new().write(true).create_new(true).mode(0o444).open(path).map(drop).or_else(|error| {
        let is_empty = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0);
        if is_empty { Ok(()) } else { Err(error) }
    })?;
    // A thread of its own makes it, and is the first in there.
    let place = path.to_owned();
    let making = thread::Builder::new().name("netns".to_owned()).spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let none = None::<&str>;
        mount(Some("/proc/thread-self/ns/net"), &place, none, MsFlags::MS_BIND, none)
    })?;
    making.join().unwrap_or(Err(nix::errno::Errno::EIO))?;
    Ok(Namespace(File::open(path)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebodys_file_is_not_covered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes");
        fs::write(&path, "mine").unwrap();
        let refused = Namespace::open(&path).unwrap_err().to_string();
        assert!(refused.contains("notes") && refused.contains("exists"), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
