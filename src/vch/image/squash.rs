//! A tree as a squashfs file.
//!
//! # How it is stored
//!
//! Uncompressed, under the compressor id of zlib, which every kernel with squashfs knows: a
//! block that is marked as stored needs none. Guests may run on emulated CPUs, and there
//! decompression is what reading costs. Reading 900 MB of programs and libraries, links
//! followed, by Linux 6.1 under QEMU's TCG from a file that this host has in memory: stored
//! 3.2 s, lz4 4.0 s, zstd 7.4 s, zlib 10.3 s. On disk an image takes what its files take, as in
//! Docker's own store; lz4 would save about half.
//!
//! # What is lost
//!
//! Extended attributes (so file capabilities, too) and the identity of hard links: the crate
//! that writes the file can do neither. Hard links become files of their own; the contents of
//! those with a full block or more are stored once. Times before 1970 and after 2106 become the
//! nearest that can be written.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufWriter},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use backhand::{
    BackhandError, FilesystemCompressor, FilesystemWriter, NodeHeader, SuperBlock,
    compression::{CompressionAction, Compressor},
    kind::Kind as Format,
};

use super::{
    limits::{self, Limits},
    tree::{Directory, Kind, Meta, Tree},
};

/// Why there is no file system.
#[derive(Debug, thiserror::Error)]
pub enum SquashError {
    /// All files together are too large.
    #[error("its files have more than {0} bytes together, the most that is taken")]
    Content(u64),
    /// All paths together are too long.
    #[error("its paths have more than {0} bytes together, the most that is taken")]
    Names(u64),
    /// Too many owners.
    #[error("its files have more than {max} different owners, the most that is taken", max = limits::OWNERS)]
    Owners,
    /// It cannot be written.
    #[error("its file system cannot be written: {0}")]
    Write(#[from] io::Error),
    /// The crate does not take it.
    #[error("its file system cannot be made: {0}")]
    Make(#[from] BackhandError),
}

/// The compressor that does not: every block comes out longer than it went in, which is when
/// squashfs stores a block as it is, marked so.
struct Stored;

static STORED: Stored = Stored;

impl CompressionAction for Stored {
    type Error = BackhandError;
    type Compressor = Compressor;
    type FilesystemCompressor = FilesystemCompressor;
    type SuperBlock = SuperBlock;

    fn decompress(&self, _: &[u8], _: &mut Vec<u8>, _: Compressor) -> Result<(), BackhandError> {
        Err(io::Error::other("nothing of this file system is compressed").into())
    }

    fn compress(&self, bytes: &[u8], _: FilesystemCompressor, _: u32) -> Result<Vec<u8>, BackhandError> {
        Ok(vec![0; bytes.len() + 1])
    }
}

/// Writes `tree` to `file`, all of it to the disk, and says how many bytes that are.
pub(super) fn write(tree: &Tree, file: &File, limits: &Limits) -> Result<u64, SquashError> {
    let mut total = Total { content: 0, names: 0, owners: Vec::new() };
    let root = tree.root();
    let Kind::Directory(entries) = &root.kind else {
        return Err(io::Error::other("the root is no directory").into());
    };
    total.owner(root.meta)?;
    total.add(entries, 1, limits)?;

    let mut writer = FilesystemWriter::default();
    writer.set_kind(Format::new_v4(&STORED));
    writer.set_compressor(FilesystemCompressor::new(Compressor::Gzip, None)?);
    let root_header = header(root.meta);
    writer.set_root_mode(root_header.permissions);
    writer.set_root_uid(root_header.uid);
    writer.set_root_gid(root_header.gid);
    // Owners are made known by pushing what they own. The root cannot be pushed, it is there;
    // but the attempt does what is wanted.
    let _ = writer.push_dir("/", root_header);
    push(&mut writer, entries, &mut PathBuf::from("/"))?;
    let (_, bytes) = writer.write(BufWriter::with_capacity(1 << 20, file))?;
    // Contents found to be there already were written first and taken back.
    file.set_len(bytes)?;
    file.sync_all()?;
    Ok(bytes)
}

/// What a tree comes to.
struct Total {
    content: u64,
    names: u64,
    /// Sorted.
    owners: Vec<u32>,
}

impl Total {
    /// Adds `entries`, whose paths have `length` bytes before their names.
    fn add(&mut self, entries: &Directory, length: usize, limits: &Limits) -> Result<(), SquashError> {
        for (name, node) in entries {
            let length = length + name.len() + 1;
            self.names += length as u64;
            self.owner(node.meta)?;
            match &node.kind {
                Kind::Directory(entries) => self.add(entries, length, limits)?,
                Kind::File(contents) => self.content = self.content.saturating_add(contents.length()),
                Kind::Symlink(target) => self.names += target.len() as u64,
                Kind::Character(..) | Kind::Block(..) | Kind::Fifo => {}
            }
            if self.names > limits.names {
                return Err(SquashError::Names(limits.names));
            }
            if self.content > limits.content {
                return Err(SquashError::Content(limits.content));
            }
        }
        Ok(())
    }

    /// The crate looks owners up one by one.
    fn owner(&mut self, meta: Meta) -> Result<(), SquashError> {
        for id in [meta.uid, meta.gid] {
            if let Err(place) = self.owners.binary_search(&id) {
                if self.owners.len() >= limits::OWNERS {
                    return Err(SquashError::Owners);
                }
                self.owners.insert(place, id);
            }
        }
        Ok(())
    }
}

/// Pushes `entries`, which are at `path`, in the order that the crate keeps them in.
fn push<'a>(
    writer: &mut FilesystemWriter<'a, 'a, 'a>,
    entries: &Directory,
    path: &mut PathBuf,
) -> Result<(), BackhandError> {
    for (name, node) in entries {
        path.push(OsStr::from_bytes(name));
        let header = header(node.meta);
        let at: &Path = path;
        match &node.kind {
            Kind::Directory(entries) => {
                writer.push_dir(at, header)?;
                push(writer, entries, path)?;
            }
            Kind::File(contents) => writer.push_file(contents.reader(), at, header)?,
            Kind::Symlink(target) => writer.push_symlink(OsStr::from_bytes(target), at, header)?,
            Kind::Character(major, minor) => {
                writer.push_char_device(device(*major, *minor), at, header)?;
            }
            Kind::Block(major, minor) => writer.push_block_device(device(*major, *minor), at, header)?,
            Kind::Fifo => writer.push_fifo(at, header)?,
        }
        path.pop();
    }
    Ok(())
}

fn header(meta: Meta) -> NodeHeader {
    NodeHeader::new(meta.mode, meta.uid, meta.gid, meta.mtime)
}

/// A device number as the kernel writes it outside of itself (`new_encode_dev`).
fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
}
