//! What containers write: one sparse file each, an ext4 that grows as it is filled.
//!
//! The file system is made once, by `mkfs.ext4` in 25 ms, and copied from then on: its 0.2 MB of
//! blocks in one millisecond.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use nix::unistd::Whence;

/// How much a container may write, in bytes. Sparse: what is not written takes no room.
const SIZE: u64 = 8 << 30;
/// How much is copied at once.
const CHUNK: usize = 1 << 20;

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// `mkfs.ext4` cannot be run.
    #[error("mkfs.ext4: {0}; on Debian, install e2fsprogs")]
    Missing(io::Error),
    /// It refused.
    #[error("mkfs.ext4: {0}")]
    Refused(String),
    /// A file cannot be made.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Where disks come from.
#[derive(Debug)]
pub struct Disks {
    template: PathBuf,
}

impl Disks {
    /// Uses the template in `directory`, or makes it.
    pub fn open(directory: &Path) -> Result<Self, DiskError> {
        // The size is in the name: a later version with another one makes another.
        let template = directory.join(format!("writable-{}.ext4", SIZE >> 30));
        if !template.exists() {
            let new = template.with_extension("new");
            let at = |source| DiskError::File { path: new.clone(), source };
            let file = File::create(&new).map_err(at)?;
            file.set_len(SIZE).map_err(at)?;
            let made = Command::new("mkfs.ext4")
                .args(["-q", "-F", "-m", "0", "-J", "size=4", "-E", "lazy_itable_init=1,lazy_journal_init=1"])
                .args(["-O", "^resize_inode", "-N", "262144"])
                .arg(&new)
                .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
                .output()
                .map_err(DiskError::Missing)?;
            if !made.status.success() {
                return Err(DiskError::Refused(String::from_utf8_lossy(&made.stderr).trim().to_owned()));
            }
            file.sync_all().map_err(at)?;
            fs::rename(&new, &template).map_err(at)?;
        }
        Ok(Self { template })
    }

    /// Makes a fresh disk at `path`.
    pub fn make(&self, path: &Path) -> Result<(), DiskError> {
        copy_sparse(&self.template, path).map_err(|source| DiskError::File { path: path.to_owned(), source })
    }
}

/// Copies a file without its holes.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let from = File::open(from)?;
    let to = OpenOptions::new().write(true).create(true).truncate(true).open(to)?;
    let size = from.metadata()?.len();
    to.set_len(size)?;
    let seek = |at: u64, whence| -> io::Result<Option<u64>> {
        match nix::unistd::lseek64(&from, at.cast_signed(), whence) {
            Ok(found) => Ok(Some(found.cast_unsigned())),
            // No more data after this.
            Err(nix::errno::Errno::ENXIO) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    };
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while let Some(start) = seek(at, Whence::SeekData)? {
        let end = seek(start, Whence::SeekHole)?.unwrap_or(size);
        at = start;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let read = from.read_at(&mut buffer[..want], at)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            to.write_all_at(&buffer[..read], at)?;
            at += read as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn disks_are_copies_and_sparse() {
        let directory = tempfile::tempdir().unwrap();
        let disks = Disks::open(directory.path()).unwrap();
        let (one, template) = (directory.path().join("one"), &disks.template);
        disks.make(&one).unwrap();
        let (a, b) = (fs::metadata(&one).unwrap(), fs::metadata(template).unwrap());
        assert_eq!(a.len(), b.len());
        assert!(a.blocks() * 512 < 64 << 20, "{}", a.blocks() * 512);
        let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        File::open(&one).unwrap().read_exact_at(&mut x, 0).unwrap();
        File::open(template).unwrap().read_exact_at(&mut y, 0).unwrap();
        assert!(x == y && x.iter().any(|byte| *byte != 0));
        // Made once only.
        let made = b.mtime_nsec();
        Disks::open(directory.path()).unwrap();
        assert_eq!(fs::metadata(template).unwrap().mtime_nsec(), made);
    }
}
