//! A container's output, kept: what `docker logs` shows.
//!
//! Two files at most, the newer one appended to: bounded, whatever a container writes. A record
//! is one line or a part of a long one; the offset in it is how much the workload had said before,
//! so that a host that was killed knows from where on it wants the rest.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use tether_wire::streams::Stream;

/// The size at which a new file is begun, in bytes; so many more are kept at most.
const FILE_LIMIT: u64 = 8 << 20;
/// The longest record, in bytes.
const RECORD: usize = 16 << 10;
/// What is before the bytes of a record: offset (8), time in ns (8), stream (1), length (4).
const HEADER: usize = 21;

/// A piece of output: at most one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// How many bytes the workload had said before, on both streams.
    pub offset: u64,
    /// When it came.
    pub time: SystemTime,
    /// On which stream.
    pub stream: Stream,
    /// What.
    pub bytes: Vec<u8>,
}

impl Record {
    /// Where it is among all of a container's records: the time tells runs apart, which count from
    /// 0 each.
    pub fn position(&self) -> (SystemTime, u64) {
        (self.time, self.offset)
    }
}

/// The log of one container, open for writing.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    next: u64,
}

impl Log {
    /// Opens the log at `path`, or begins it. What a crash has left of a record is cut off.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut reader = Records::new(&mut file);
        let (mut size, mut next) = (0, 0);
        while let Some(record) = reader.next_record() {
            size += (HEADER + record.bytes.len()) as u64;
            next = record.offset + record.bytes.len() as u64;
        }
        file.set_len(size)?;
        if size == 0 {
            // Perhaps a new file was just begun.
            next = records(&older(path)).last().map_or(0, |last| last.offset + last.bytes.len() as u64);
        }
        Ok(Self { path: path.to_owned(), file, size, next })
    }

    /// How many bytes of output there have been.
    pub fn next_offset(&self) -> u64 {
        self.next
    }

    /// Has the next record be at another offset than it would: the guest says where it goes on.
    pub fn continue_at(&mut self, offset: u64) {
        self.next = offset;
    }

    /// Notes that the workload is started anew and counts from 0: an empty record says so.
    pub fn restart(&mut self) -> io::Result<()> {
        self.next = 0;
        let mut mark = Vec::new();
        let time = SystemTime::now();
        encode(&Record { offset: 0, time, stream: Stream::Stdout, bytes: Vec::new() }, &mut mark);
        self.size += mark.len() as u64;
        self.file.write_all(&mark)
    }

    /// Appends what came, cut into lines. Returns the records.
    pub fn append(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<Vec<Record>> {
        if self.size > FILE_LIMIT {
            fs::rename(&self.path, older(&self.path))?;
            self.file = OpenOptions::new().append(true).create(true).open(&self.path)?;
            self.size = 0;
        }
        let time = SystemTime::now();
        let lines = bytes.split_inclusive(|byte| *byte == b'\n').flat_map(|line| line.chunks(RECORD));
        let mut records = Vec::new();
        let mut written = Vec::new();
        for line in lines {
            let record = Record { offset: self.next, time, stream, bytes: line.to_vec() };
            self.next += line.len() as u64;
            encode(&record, &mut written);
            records.push(record);
        }
        self.file.write_all(&written)?;
        self.size += written.len() as u64;
        Ok(records)
    }
}

/// What is in the log at `path`, oldest first. A log that is not there is empty.
pub fn read(path: &Path) -> Vec<Record> {
    records(&older(path)).chain(records(path)).filter(|record| !record.bytes.is_empty()).collect()
}

/// Removes the log at `path`.
pub fn remove(path: &Path) {
    for file in [path.to_owned(), older(path)] {
        // It may never have been made.
        let _ = fs::remove_file(file);
    }
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("older")
}

fn records(path: &Path) -> impl Iterator<Item = Record> + use<> {
    let mut records = File::open(path).ok().map(Records::new);
    std::iter::from_fn(move || records.as_mut()?.next_record())
}

fn encode(record: &Record, to: &mut Vec<u8>) {
    let since = record.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    to.extend(record.offset.to_be_bytes());
    to.extend(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).to_be_bytes());
    to.push(match record.stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    });
    to.extend(u32::try_from(record.bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend(&record.bytes);
}

struct Records<R>(BufReader<R>);

impl<R: Read> Records<R> {
    fn new(from: R) -> Self {
        Self(BufReader::new(from))
    }

    /// The next whole record; `None` at the end, or where a crash has left a part of one.
    fn next_record(&mut self) -> Option<Record> {
        let mut header = [0; HEADER];
        self.0.read_exact(&mut header).ok()?;
        let (offset, rest) = header.split_first_chunk::<8>()?;
        let (nanoseconds, rest) = rest.split_first_chunk::<8>()?;
        let (stream, length) = rest.split_first()?;
        let stream = match stream {
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            _ => return None,
        };
        let length = usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
        if length > RECORD {
            return None;
        }
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).ok()?;
        let since = std::time::Duration::from_nanos(u64::from_be_bytes(*nanoseconds));
        let (offset, time) = (u64::from_be_bytes(*offset), SystemTime::UNIX_EPOCH + since);
        Some(Record { offset, time, stream, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path) -> Vec<String> {
        read(path).iter().map(|record| String::from_utf8_lossy(&record.bytes).into_owned()).collect()
    }

    #[test]
    fn lines_are_kept_and_counted_over_a_crash() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("output");
        let mut log = Log::open(&path).unwrap();
        assert_eq!(log.append(Stream::Stdout, b"one\ntwo\nthr").unwrap().len(), 3);
        log.append(Stream::Stderr, b"ee\n").unwrap();
        drop(log);
        // Half a record, as a crash leaves it.
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], &whole[..30]].concat()).unwrap();
        // 30 bytes hold a header and a part of what it announces: nine bytes, four of them "one\n".
        fs::write(&path, [&whole[..], &whole[..HEADER + 2]].concat()).unwrap();
        let mut log = Log::open(&path).unwrap();
        assert_eq!(log.next_offset(), 14);
        log.append(Stream::Stdout, b"four\n").unwrap();
        assert_eq!(text(&path), ["one\n", "two\n", "thr", "ee\n", "four\n"]);
        assert_eq!(read(&path)[4].offset, 14);
    }

    #[test]
    fn a_log_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("output");
        let mut log = Log::open(&path).unwrap();
        for _ in 0..1_300 {
            log.append(Stream::Stdout, &[b'x'; RECORD]).unwrap();
        }
        let kept: u64 =
            fs::read_dir(directory.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
        assert!(kept < 2 * FILE_LIMIT + (2 << 20), "{kept}");
        assert_eq!(read(&path).last().unwrap().offset, 1_299 * RECORD as u64);
        assert_eq!(Log::open(&path).unwrap().next_offset(), 1_300 * RECORD as u64);
        remove(&path);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
