//! Bytes of archives on disk.
//!
//! One file for each `load`, which has no name: it ends with whoever holds it, kill -9 included.
//! What is in it is read by position, so that layers and files in them are no more than an
//! offset and a length.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use ring::digest::{Context, SHA256};

/// Bytes copied at once.
const CHUNK: usize = 128 << 10;

/// A file that is appended to, up to a limit.
#[derive(Debug)]
pub(super) struct Spool {
    file: Arc<File>,
    /// `length <= limit`
    length: u64,
    limit: u64,
}

/// Why bytes cannot be spooled.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The limit, in bytes.
    #[error("it has more than {0} bytes when unpacked, the most that is taken: refused")]
    TooLarge(u64),
    /// The archive ends early, is damaged, or is not what its first bytes say.
    #[error("it cannot be read: {0}")]
    Read(#[source] io::Error),
    /// The state directory cannot take it.
    #[error("it cannot be kept on disk: {0}")]
    Write(#[source] io::Error),
}

impl Spool {
    /// An empty spool on the file system of `directory`.
    pub(super) fn new(directory: &Path, limit: u64) -> Result<Self, SpoolError> {
        let file = tempfile::tempfile_in(directory).map_err(SpoolError::Write)?;
        Ok(Self { file: Arc::new(file), length: 0, limit })
    }

    /// Takes everything that `input` has, uncompressed if it is compressed, and says where it is.
    pub(super) fn append(&mut self, input: impl Read) -> Result<Section, SpoolError> {
        let mut input = uncompressed(input).map_err(SpoolError::Read)?;
        let start = self.length;
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match input.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(SpoolError::Read(error)),
            };
            if count as u64 > self.limit - self.length {
                return Err(SpoolError::TooLarge(self.limit));
            }
            self.file.write_all_at(&chunk[..count], self.length).map_err(SpoolError::Write)?;
            self.length += count as u64;
        }
        Ok(Section { file: Arc::clone(&self.file), offset: start, length: self.length - start })
    }
}

/// Some bytes of a spool.
#[derive(Clone, Debug)]
pub(super) struct Section {
    file: Arc<File>,
    offset: u64,
    /// `offset + length` is in the file.
    length: u64,
}

impl Section {
    /// How many bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The `length` bytes from `offset` on, if they are in it.
    pub(super) fn part(&self, offset: u64, length: u64) -> Option<Self> {
        (offset.checked_add(length)? <= self.length).then(|| Self {
            file: Arc::clone(&self.file),
            offset: self.offset + offset,
            length,
        })
    }

    /// Reads them from the first on.
    pub(super) fn reader(&self) -> SectionReader {
        SectionReader { section: self.clone(), position: 0 }
    }

    /// All of them in memory; the caller has looked at the length.
    pub(super) fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.length).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, self.offset)?;
        Ok(bytes)
    }

    /// Their SHA-256 in hexadecimal digits.
    pub(super) fn digest(&self) -> io::Result<String> {
        let mut context = Context::new(&SHA256);
        let mut reader = self.reader();
        let mut chunk = vec![0; CHUNK];
        loop {
            match reader.read(&mut chunk)? {
                0 => return Ok(hexadecimal(context.finish().as_ref())),
                count => context.update(&chunk[..count]),
            }
        }
    }

    /// Whether their first bytes say that they are compressed.
    pub(super) fn is_compressed(&self) -> io::Result<bool> {
        let mut first = [0; MAGIC];
        let count = fill(&mut self.reader(), &mut first)?;
        Ok(compression(&first[..count]) != Compression::None)
    }
}

/// Reads a section.
#[derive(Debug)]
pub(super) struct SectionReader {
    section: Section,
    /// `position <= section.length`
    position: u64,
}

impl Read for SectionReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.section.length - self.position;
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.section.file.read_at(&mut buffer[..most], self.section.offset + self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

/// The SHA-256 of `bytes` in hexadecimal digits.
///
/// ring's and not the crate sha2's: that one is in the guest too, where everything is compiled
/// for size, which makes it 20 times slower.
pub(super) fn digest(bytes: &[u8]) -> String {
    hexadecimal(ring::digest::digest(&SHA256, bytes).as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// As many first bytes as tell compressions apart.
const MAGIC: usize = 6;

#[derive(Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
    Other(&'static str),
}

fn compression(first: &[u8]) -> Compression {
    match first {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Compression::Other("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Other("bzip2"),
        _ => Compression::None,
    }
}

/// Reads until `buffer` is full or the input ends.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// What `input` is when uncompressed. zstd's own limit of 128 MiB for a window holds.
fn uncompressed<'a>(mut input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut first = vec![0; MAGIC];
    let count = fill(&mut input, &mut first)?;
    first.truncate(count);
    let found = compression(&first);
    let input = io::Cursor::new(first).chain(input);
    match found {
        Compression::None => Ok(Box::new(input)),
        Compression::Gzip => Ok(Box::new(flate2::read::MultiGzDecoder::new(input))),
        Compression::Zstd => Ok(Box::new(zstd::Decoder::new(input)?)),
        Compression::Other(name) => {
            Err(io::Error::other(format!("compressed with {name}, use gzip, zstd or nothing")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression as Level, write::GzEncoder};

    use super::*;

    fn spool(limit: u64) -> Spool {
        Spool::new(&std::env::temp_dir(), limit).unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn everything_comes_out_uncompressed() {
        let mut spool = spool(1 << 20);
        let text = b"hello ".repeat(1000);
        for input in [text.clone(), gzip(&text), zstd::encode_all(&text[..], 1).unwrap()] {
            let section = spool.append(&input[..]).unwrap();
            assert_eq!(section.bytes().unwrap(), text);
            assert_eq!(section.digest().unwrap(), digest(&text));
        }
        assert_eq!(spool.append(&b"ab"[..]).unwrap().bytes().unwrap(), b"ab");
        assert_eq!(spool.append(&b""[..]).unwrap().length(), 0);
    }

    #[test]
    fn parts_stay_inside() {
        let section = spool(100).append(&b"0123456789"[..]).unwrap();
        assert_eq!(section.part(2, 3).unwrap().bytes().unwrap(), b"234");
        assert!(section.part(8, 3).is_none());
        assert!(section.part(u64::MAX, 2).is_none());
    }

    #[test]
    fn bombs_stop_at_the_limit() {
        let bomb = gzip(&vec![0; 10 << 20]);
        assert!(matches!(spool(1 << 20).append(&bomb[..]), Err(SpoolError::TooLarge(_))));
        let bomb = zstd::encode_all(&vec![0; 10 << 20][..], 1).unwrap();
        assert!(matches!(spool(1 << 20).append(&bomb[..]), Err(SpoolError::TooLarge(_))));
    }

    #[test]
    fn damage_is_an_error() {
        let whole = gzip(&b"hello".repeat(1000));
        let cut = &whole[..whole.len() - 9];
        assert!(matches!(spool(1 << 20).append(cut), Err(SpoolError::Read(_))));
        let xz = b"\xfd7zXZ\0...";
        assert!(matches!(spool(1 << 20).append(&xz[..]), Err(SpoolError::Read(_))));
    }
}
