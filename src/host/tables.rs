//! Name tables on their way to a guest: whole the first time, then as what has changed since.

use std::sync::Arc;

use tether_wire::{
    message::{FromHost, Names, NamesDelta},
    names::{NameTables, delta},
    status::{Digest, Stamp},
};

use crate::{error::NamesError, outbox::fits};

/// Name tables that any guest will take. Clones are the same tables: a thousand guests that find
/// the same names cost the memory and the checking of one.
#[derive(Clone, Debug)]
pub struct Tables {
    pub(crate) names: Arc<NameTables>,
    digest: Digest,
    /// How many bytes a message with the whole of them has.
    length: usize,
}

impl Tables {
    /// Checks name tables, or says everything that is wrong with them.
    pub fn new(names: NameTables) -> Result<Self, NamesError> {
        let digest = names.check().map_err(NamesError::Wrong)?.summary.digest();
        let names = Arc::new(names);
        let length = fits(&whole(u64::MAX, &names)).map_err(NamesError::TooLong)?;
        Ok(Self { names, digest, length })
    }

    /// Their stamp under this number.
    pub(crate) fn stamp(&self, generation: u64) -> Stamp {
        Stamp { generation, digest: self.digest }
    }
}

fn whole(version: u64, names: &NameTables) -> FromHost {
    Names { version, tables: names.clone() }.into()
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
    pub(crate) fn message(self) -> FromHost {
        self.delta().unwrap_or_else(|| whole(self.version, &self.tables.names))
    }

    fn delta(&self) -> Option<FromHost> {
        // The same number again asks for the guest's word about the whole.
        let (base, old) = self.base.as_ref().filter(|(base, _)| *base < self.version)?;
        let changes = delta::between(&old.names, &self.tables.names)?;
        let stamp = self.tables.stamp(self.version);
        let delta = FromHost::from(NamesDelta { base: *base, stamp, changes });
        fits(&delta).is_ok_and(|length| length < self.tables.length).then_some(delta)
    }
}
