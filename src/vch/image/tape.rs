//! The entries of a tar archive.
//!
//! Headers are read by the crate `tar`; walking from one to the next is done here, because that
//! crate takes extended headers of any size into memory, and because an entry's contents are
//! wanted as a place and not as bytes. Nothing here looks at what names mean.

use std::io;

use tar::{EntryType, Header, PaxExtensions};

use super::{limits, spool::Section};

/// Bytes of a header; everything is a multiple of it.
const BLOCK: u64 = 512;

/// An entry.
#[derive(Debug)]
pub(super) struct Entry {
    /// As it is written, with `./`, `..` and slashes. Without zeros, of `limits::PATH` bytes at
    /// most.
    pub(super) path: Vec<u8>,
    /// The same for what a link leads to; empty for anything else.
    pub(super) link: Vec<u8>,
    pub(super) kind: EntryType,
    /// The twelve bits that `chmod` sets.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970, those outside of 32 bits moved to the nearest.
    pub(super) mtime: u32,
    /// Major and minor.
    pub(super) device: (u32, u32),
    /// Its contents.
    pub(super) contents: Section,
}

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TapeError {
    /// The spool cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A header makes no sense; the reason.
    #[error("its header at byte {0} is not one of a tar archive: {1}")]
    Header(u64, io::Error),
    /// The archive ends inside of an entry, whose header is at that byte.
    #[error("it is cut off inside the entry at byte {0}")]
    Short(u64),
    /// A name or an extended header is too long.
    #[error("the name at byte {0} is longer than {max} bytes", max = limits::PATH)]
    LongName(u64),
    /// An extended header is too long.
    #[error("the extended header at byte {0} is longer than {max} bytes", max = limits::EXTENSION)]
    LongExtension(u64),
    /// Sparse files have several forms, none of which engines write.
    #[error("the entry at byte {0} is a sparse file: make the archive without --sparse")]
    Sparse(u64),
}

/// The entries of `archive`.
#[derive(Debug)]
pub(super) struct Tape {
    archive: Section,
    /// Where the next header is.
    position: u64,
}

/// What comes before the header that it is about.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<u32>,
}

impl Tape {
    pub(super) fn new(archive: Section) -> Self {
        Self { archive, position: 0 }
    }

    /// The next entry, `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, TapeError> {
        let mut extension = Extension::default();
        loop {
            let at = self.position;
            let Some(header) = self.header()? else { return Ok(None) };
            let malformed = |error| TapeError::Header(at, error);
            match header.entry_type() {
                EntryType::GNULongName => extension.path = Some(self.name(at, &header)?),
                EntryType::GNULongLink => extension.link = Some(self.name(at, &header)?),
                EntryType::XHeader => {
                    let records = self.small(at, &header)?;
                    extension.take(at, &records)?;
                }
                // Of global records none is about files.
                EntryType::XGlobalHeader => {
                    self.contents(at, header.entry_size().map_err(malformed)?)?;
                }
                EntryType::GNUSparse => return Err(TapeError::Sparse(at)),
                kind => {
                    let size = match kind {
                        // Their size is no size of contents.
                        EntryType::Link
                        | EntryType::Symlink
                        | EntryType::Char
                        | EntryType::Block
                        | EntryType::Directory
                        | EntryType::Fifo => 0,
                        _ => extension.size.map_or_else(|| header.entry_size(), Ok).map_err(malformed)?,
                    };
                    let contents = self.contents(at, size)?;
                    return entry(at, &header, extension, contents).map(Some);
                }
            }
        }
    }

    /// The header at the position, which moves behind it. `None` at the end: two blocks of
    /// zeros, as the format has it, or one, or none, as it comes.
    fn header(&mut self) -> Result<Option<Header>, TapeError> {
        let at = self.position;
        let Some(block) = self.archive.part(at, BLOCK) else {
            return if at >= self.archive.length() { Ok(None) } else { Err(TapeError::Short(at)) };
        };
        let bytes = block.bytes()?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&bytes).clone();
        let sum: u32 = bytes
            .iter()
            .enumerate()
            .map(|(index, byte)| if (148..156).contains(&index) { 32 } else { u32::from(*byte) })
            .sum();
        let written = header.cksum().map_err(|error| TapeError::Header(at, error))?;
        if sum != written {
            return Err(TapeError::Header(at, io::Error::other("its checksum is another")));
        }
        self.position = at + BLOCK;
        Ok(Some(header))
    }

    /// The next `size` bytes. The position moves behind them and what fills their last block.
    fn contents(&mut self, at: u64, size: u64) -> Result<Section, TapeError> {
        let contents = self.archive.part(self.position, size).ok_or(TapeError::Short(at))?;
        self.position += size.next_multiple_of(BLOCK);
        Ok(contents)
    }

    /// Contents that are read into memory.
    fn small(&mut self, at: u64, header: &Header) -> Result<Vec<u8>, TapeError> {
        let size = header.entry_size().map_err(|error| TapeError::Header(at, error))?;
        if size > limits::EXTENSION {
            return Err(TapeError::LongExtension(at));
        }
        Ok(self.contents(at, size)?.bytes()?)
    }

    /// Contents that are a name, with a zero behind it.
    fn name(&mut self, at: u64, header: &Header) -> Result<Vec<u8>, TapeError> {
        let mut name = self.small(at, header)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }
}

impl Extension {
    /// Takes what PAX records say.
    fn take(&mut self, at: u64, records: &[u8]) -> Result<(), TapeError> {
        for record in PaxExtensions::new(records) {
            let record = record.map_err(|error| TapeError::Header(at, error))?;
            let bad = || TapeError::Header(at, io::Error::other("an extended value is no number"));
            let text = record.value_bytes();
            match record.key_bytes() {
                b"path" => self.path = Some(text.to_vec()),
                b"linkpath" => self.link = Some(text.to_vec()),
                b"size" => self.size = Some(number(text).ok_or_else(bad)?),
                b"uid" => self.uid = Some(narrow(number(text).ok_or_else(bad)?)),
                b"gid" => self.gid = Some(narrow(number(text).ok_or_else(bad)?)),
                b"mtime" => self.mtime = Some(seconds(text).ok_or_else(bad)?),
                key if key.starts_with(b"GNU.sparse.") => return Err(TapeError::Sparse(at)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn entry(at: u64, header: &Header, extension: Extension, contents: Section) -> Result<Entry, TapeError> {
    let malformed = |error| TapeError::Header(at, error);
    let kind = header.entry_type();
    let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = if matches!(kind, EntryType::Link | EntryType::Symlink) {
        extension.link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned())
    } else {
        Vec::new()
    };
    if path.len() > limits::PATH || link.len() > limits::PATH {
        return Err(TapeError::LongName(at));
    }
    if path.contains(&0) || link.contains(&0) {
        return Err(malformed(io::Error::other("a name has a zero byte")));
    }
    let device = match kind {
        EntryType::Char | EntryType::Block => (
            header.device_major().map_err(malformed)?.unwrap_or_default(),
            header.device_minor().map_err(malformed)?.unwrap_or_default(),
        ),
        _ => (0, 0),
    };
    let id = |given: Option<u32>, written: io::Result<u64>| -> Result<u32, TapeError> {
        given.map_or_else(|| written.map(narrow).map_err(malformed), Ok)
    };
    Ok(Entry {
        // Only twelve bits are kept.
        mode: u16::try_from(header.mode().map_err(malformed)? & 0o7777).unwrap_or_default(),
        uid: id(extension.uid, header.uid())?,
        gid: id(extension.gid, header.gid())?,
        // Times before 1970 are written in binary with a sign, which the crate reads as huge.
        mtime: match extension.mtime {
            Some(mtime) => mtime,
            None => match header.mtime().map_err(malformed)? {
                mtime if mtime > i64::MAX.cast_unsigned() => 0,
                mtime => narrow(mtime),
            },
        },
        path,
        link,
        kind,
        device,
        contents,
    })
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Whole seconds of `1700000000.123`, none of those before 1970.
fn seconds(text: &[u8]) -> Option<u32> {
    let whole = text.split(|byte| *byte == b'.').next()?;
    if whole.starts_with(b"-") { Some(0) } else { number(whole).map(narrow) }
}
