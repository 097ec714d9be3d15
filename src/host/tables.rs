//! Name tables on their way to a guest: whole the first time, then as what has changed since.

use std::sync::{Arc, Mutex};

use tether_wire::{
    codec,
    frame::Frame,
    message::{FromHost, Names, NamesDelta},
    names::{
        NameTables,
        delta::{self, Change},
    },
    status::{Digest, Stamp},
};

use crate::{error::NamesError, lock, outbox::fits};

/// Name tables that any guest will take. Clones are the same tables: a thousand guests that find
/// the same names cost the memory and the checking of one, and what changes from the same tables
/// before is found out once.
#[derive(Clone, Debug)]
pub struct Tables(Arc<Checked>);

#[derive(Debug)]
struct Checked {
    names: NameTables,
    digest: Digest,
    /// As a message has them.
    encoded: Vec<u8>,
    /// What was last compared with them, and what came of it.
    compared: Mutex<Option<(Digest, Difference)>>,
}

/// What makes tables of others; `None` where the whole is shorter, or it cannot be said in changes.
pub(crate) type Difference = Option<Arc<Vec<Change>>>;

impl Tables {
    /// Checks name tables, or says everything that is wrong with them: [`NamesError::Wrong`], or
    /// [`NamesError::TooLong`] from 16 MiB on.
    pub fn new(names: NameTables) -> Result<Self, NamesError> {
        let digest = names.check().map_err(NamesError::Wrong)?.summary.digest();
        let encoded = codec::encode(&names);
        fits(&Names::frame(u64::MAX, &encoded)).map_err(NamesError::TooLong)?;
        Ok(Self(Arc::new(Checked { names, digest, encoded, compared: Mutex::default() })))
    }

    /// Their stamp under this number.
    pub(crate) fn stamp(&self, generation: u64) -> Stamp {
        Stamp { generation, digest: self.0.digest }
    }

    /// How long they are in a message.
    pub(crate) fn length(&self) -> usize {
        self.0.encoded.len()
    }

    /// How many there are of these very tables.
    #[cfg(test)]
    pub(crate) fn copies(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// What makes these tables of those.
    pub(crate) fn since(&self, old: &Self) -> Difference {
        // Held while they are compared: whoever else is to send the same waits for it.
        let mut compared = lock(&self.0.compared);
        if let Some((digest, difference)) = &*compared
            && *digest == old.0.digest
        {
            return difference.clone();
        }
        let difference = self.compare(old).map(Arc::new);
        *compared = Some((old.0.digest, difference.clone()));
        difference
    }

    fn compare(&self, old: &Self) -> Option<Vec<Change>> {
        let changes = delta::between(&old.0.names, &self.0.names)?;
        let longest = FromHost::from(NamesDelta { base: u64::MAX, stamp: self.stamp(u64::MAX), changes });
        let shorter = fits(&longest.to_frame()).is_ok_and(|length| length < self.0.encoded.len());
        let FromHost::NamesDelta(NamesDelta { changes, .. }) = longest else {
            unreachable!("it was made above")
        };
        shorter.then_some(changes)
    }
}

/// The tables of one connection: those that are to be sent, and those that have been.
#[derive(Debug, Default)]
pub(crate) struct Course {
    /// To be sent.
    next: Option<(u64, Tables)>,
    /// What the guest has once it has read everything it was sent, unless it says otherwise.
    sent: Option<(u64, Tables)>,
    /// The number of the last message, where that may have been a delta and no gap was told of it.
    delta: Option<u64>,
}

impl Course {
    /// Sends these next, in place of what was not sent yet.
    pub(crate) fn send(&mut self, version: u64, tables: Tables) {
        self.next = Some((version, tables));
    }

    /// The guest has these: it said so, they need not be sent.
    pub(crate) fn known(&mut self, version: u64, tables: Tables) {
        self.sent = Some((version, tables));
    }

    /// The guest has something else than what it was sent: what comes next goes whole.
    pub(crate) fn forget(&mut self) {
        self.sent = None;
    }

    /// A gap was told of this version. `false`: it was not the last message, and what was sent
    /// after it brings the guest up to date, or is answered by a gap of its own.
    pub(crate) fn gap(&mut self, version: u64) -> bool {
        let last = self.delta.take_if(|delta| *delta == version).is_some();
        if last {
            self.forget();
        }
        last
    }

    /// As [`take`](Self::take), if it is `wanted`.
    pub(crate) fn take_if(&mut self, wanted: bool) -> Option<Due> {
        if wanted { self.take() } else { None }
    }

    /// Takes out what is to be sent. The message is made by whoever gets it, without a lock.
    pub(crate) fn take(&mut self) -> Option<Due> {
        let (version, tables) = self.next.take()?;
        let base = self.sent.replace((version, tables.clone()));
        self.delta = base.is_some().then_some(version);
        Some(Due { version, tables, base })
    }
}

/// Tables that are to be sent now.
#[derive(Debug)]
pub(crate) struct Due {
    version: u64,
    tables: Tables,
    /// What the guest has.
    base: Option<(u64, Tables)>,
}

impl Due {
    /// The shortest message that brings the guest there.
    pub(crate) fn frame(self) -> Frame {
        self.delta().unwrap_or_else(|| Names::frame(self.version, &self.tables.0.encoded))
    }

    fn delta(&self) -> Option<Frame> {
        // The same number again asks for the guest's word about the whole.
        let (base, old) = self.base.as_ref().filter(|(base, _)| *base < self.version)?;
        let changes = self.tables.since(old)?;
        let stamp = self.tables.stamp(self.version);
        let changes = Arc::unwrap_or_clone(changes);
        Some(FromHost::from(NamesDelta { base: *base, stamp, changes }).to_frame())
    }
}
