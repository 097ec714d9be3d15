//! What has to outlive the agent: the last good document, what links were like before tether, and
//! whether a change is under way.
//!
//! Two small files, each replaced as a whole. The note on the links is written before the first
//! operation of a change and after its last, so an agent that was killed in between finds what to
//! go back to. Both are for this boot and this network namespace only: anywhere else the kernel
//! knows nothing of what they say. The journal must not decide what to do with it.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tether_wire::{codec, state::DesiredState, status::Stamp};

use crate::{
    plan::{Originals, Others},
    report,
};

/// Where the journal is unless somebody says otherwise.
pub const DIRECTORY: &str = "/run/tether";
/// The longest file that is read, in bytes: a document as long as a message may be, and more.
const LIMIT: usize = 16 << 20;
/// The number of the files' layout.
const VERSION: u32 = 1;

/// What is written down of the links.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What links were like before tether.
    pub originals: Originals,
    /// A change away from the last good document is under way, or not confirmed.
    pub under_way: bool,
    /// What others have that the change may take along, to be put back.
    pub others: Others,
}

/// A document that was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Good {
    /// Its number and digest.
    pub stamp: Stamp,
    /// When it came in force, by the kernel's [`clock`](crate::kernel::clock).
    pub since: u32,
    /// The document.
    pub state: DesiredState,
}

/// A file: whose it is, then what it says.
#[derive(Serialize, Deserialize)]
struct Page<T> {
    version: u32,
    /// The kernel's id of this boot.
    boot_id: String,
    /// The network namespace's inode.
    namespace: u64,
    content: T,
}

/// The journal of one agent.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    note: Note,
    /// The document whose file is there.
    good: Option<Stamp>,
    /// The last good document, where its file could not be written.
    unwritten: Option<Good>,
    /// Why it could not be written the last time.
    trouble: Option<String>,
}

impl Journal {
    /// The journal in `directory`, with what the last agent wrote down there for this boot and
    /// this network namespace.
    pub fn open(directory: PathBuf) -> Self {
        let note = read(&directory.join("links")).unwrap_or_default();
        let mut journal = Self { directory, note, good: None, unwritten: None, trouble: None };
        journal.good = journal.good().map(|good| good.stamp);
        journal
    }

    /// What it says of the links.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// The last good document, from its file: it may be a large one.
    pub fn good(&self) -> Option<Good> {
        self.unwritten.clone().or_else(|| read(&self.directory.join("document")))
    }

    /// Before a change: there is something to go back to now.
    pub fn begin(&mut self, originals: Originals, others: Others) {
        self.write_note(Note { originals, under_way: true, others });
    }

    /// After a change that did not happen: what there was before it is in force.
    pub fn abandon(&mut self, originals: Originals) {
        self.write_note(Note { originals, ..Note::default() });
    }

    /// After a change: this is the last good document now.
    pub fn settle(&mut self, good: &Good, originals: Originals) {
        // In this order: an agent that is killed in between goes on to the new document.
        if self.good != Some(good.stamp) {
            let is_written = self.write("document", good);
            self.good = is_written.then_some(good.stamp);
            self.unwritten = (!is_written).then(|| good.clone());
            if !is_written {
                // No document is better than an old one taken for the last.
                let _ = fs::remove_file(self.directory.join("document"));
            }
        }
        self.write_note(Note { originals, ..Note::default() });
    }

    /// Why it could not be written, if so.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    fn write_note(&mut self, note: Note) {
        if note != self.note || self.trouble.is_some() {
            self.write("links", &note);
            self.note = note;
        }
    }

    /// A journal that cannot be written costs an agent that is killed its memory, and nobody else
    /// anything: that is told in the status, and no reason to do without a network.
    fn write<T: Serialize>(&mut self, name: &str, content: &T) -> bool {
        let (boot_id, namespace) = here();
        let page = Page { version: VERSION, boot_id, namespace, content };
        let written = replace(&self.directory, name, &codec::encode(&page));
        let trouble = written
            .err()
            .map(|error| format!("{}/{name} cannot be written: {error}", self.directory.display()));
        if let Some(trouble) = &trouble {
            tracing::warn!("{trouble}; an agent that is killed will not know what to go back to");
        }
        let is_written = trouble.is_none();
        // A document that is not written stays trouble, whatever is written after it.
        self.trouble = trouble.or_else(|| self.unwritten.as_ref().and(self.trouble.take()));
        is_written
    }
}

/// What a file says, if it is one of this boot and this network namespace.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let page: Page<T> = codec::decode::<_, LIMIT>(&fs::read(path).ok()?).ok()?;
    let ours = page.version == VERSION && (page.boot_id, page.namespace) == here();
    ours.then_some(page.content)
}

/// This boot and this network namespace.
fn here() -> (String, u64) {
    let namespace = fs::metadata("/proc/thread-self/ns/net").map(|namespace| namespace.ino());
    (report::boot_id(), namespace.unwrap_or_default())
}

/// Whoever reads the file finds the old content or the new. It may hold a workload's secrets.
/// Nothing is synchronised to a disk: after the machine's end nobody reads it.
pub(crate) fn replace(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let beside = directory.join(format!("{name}.new"));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    fs::rename(beside, directory.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_agent_reads_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run");
        let state = DesiredState { hostname: "a".into(), ..DesiredState::default() };
        let stamp = Stamp { generation: 7, digest: tether_wire::message::state_digest(&state) };
        let good = Good { stamp, since: 5, state };
        let mut journal = Journal::open(path.clone());
        assert_eq!((journal.note(), journal.good()), (&Note::default(), None));
        journal.settle(&good, Originals::default());
        journal.begin(Originals::default(), Others::default());
        assert_eq!(journal.trouble(), None);
        let next = Journal::open(path.clone());
        assert!(next.note().under_way);
        assert_eq!(next.good(), Some(good.clone()));
        // Torn, foreign or of another boot: nothing is known.
        let file = path.join("document");
        let bytes = fs::read(&file).unwrap();
        for wrong in [&bytes[..bytes.len() - 1], b"", &[0xff; 64]] {
            fs::write(&file, wrong).unwrap();
            assert_eq!(Journal::open(path.clone()).good(), None);
        }
        let mut page: Page<Good> = codec::decode::<_, LIMIT>(&bytes).unwrap();
        page.boot_id.push('x');
        fs::write(&file, codec::encode(&page)).unwrap();
        assert_eq!(Journal::open(path).good(), None);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut journal = Journal::open(file.path().to_owned());
        journal.begin(Originals::default(), Others::default());
        assert!(journal.trouble().unwrap().contains("cannot be written"));
    }
}
