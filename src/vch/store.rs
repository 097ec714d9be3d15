//! The database: networks and containers, as they are to be found after a crash.
//!
//! redb commits are atomic and durable: after kill -9 or a power failure a change is there whole
//! or not at all. Records are JSON, so that a newer version can read an older one's.

use std::{
    fs::{OpenOptions, Permissions},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, backends::FileBackend};
use serde::{Serialize, de::DeserializeOwned};

use crate::engine::record::{Container, Network};

const NETWORKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("networks");
const CONTAINERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("containers");

/// Why something could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database does not do it: most often another vch has it open, or the disk is full.
    #[error("the database: {0}")]
    Database(#[from] redb::Error),
    /// A record is not what it should be.
    #[error("the database: {table} {id}: {source}")]
    Record {
        /// Which table.
        table: String,
        /// Which record.
        id: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// The database.
#[derive(Clone, Debug)]
pub struct Store {
    database: Arc<Database>,
}

/// What is changed together.
#[derive(Debug, Default)]
pub struct Change {
    put: Vec<(&'static str, String, Vec<u8>)>,
    delete: Vec<(&'static str, String)>,
}

impl Store {
    /// Opens the database in the file at `path`, or makes it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        // Tokens are in it, until they are redeemed. Also where an earlier vch made it for everybody.
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(redb::Error::Io)?;
        file.set_permissions(Permissions::from_mode(0o600)).map_err(redb::Error::Io)?;
        let backend = FileBackend::new(file).map_err(redb::Error::from)?;
        let database = Database::builder().create_with_backend(backend).map_err(redb::Error::from)?;
        let store = Self { database: Arc::new(database) };
        // The tables are there from the first reading on.
        store.commit(&Change::default())?;
        Ok(store)
    }

    /// The database itself, for rooms that keep tables of their own in it.
    pub fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database)
    }

    /// Every network.
    pub fn networks(&self) -> Result<Vec<Network>, StoreError> {
        self.all(NETWORKS)
    }

    /// Every container.
    pub fn containers(&self) -> Result<Vec<Container>, StoreError> {
        self.all(CONTAINERS)
    }

    /// Makes a change, whole, on the disk when this returns.
    pub fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let commit = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut networks = transaction.open_table(NETWORKS)?;
                let mut containers = transaction.open_table(CONTAINERS)?;
                for (table, id, bytes) in &change.put {
                    let table = if *table == "networks" { &mut networks } else { &mut containers };
                    table.insert(id.as_str(), bytes.as_slice())?;
                }
                for (table, id) in &change.delete {
                    let table = if *table == "networks" { &mut networks } else { &mut containers };
                    table.remove(id.as_str())?;
                }
            }
            transaction.commit()?;
            Ok(())
        };
        Ok(commit()?)
    }

    fn all<T: DeserializeOwned>(
        &self,
        table: TableDefinition<'_, &str, &[u8]>,
    ) -> Result<Vec<T>, StoreError> {
        let read = || -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
            let transaction = self.database.begin_read()?;
            let table = transaction.open_table(table)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (id, bytes) = row?;
                rows.push((id.value().to_owned(), bytes.value().to_vec()));
            }
            Ok(rows)
        };
        let parse = |(id, bytes): (String, Vec<u8>)| {
            serde_json::from_slice(&bytes).map_err(|source| StoreError::Record {
                table: redb::TableHandle::name(&table).to_owned(),
                id,
                source,
            })
        };
        read()?.into_iter().map(parse).collect()
    }
}

impl Change {
    /// A network that is new or has changed.
    #[must_use]
    pub fn network(mut self, network: &Network) -> Self {
        self.put.push(("networks", network.id.clone(), json(network)));
        self
    }

    /// A container that is new or has changed.
    #[must_use]
    pub fn container(mut self, container: &Container) -> Self {
        self.put.push(("containers", container.id.clone(), json(container)));
        self
    }

    /// A network that is no more.
    #[must_use]
    pub fn without_network(mut self, id: &str) -> Self {
        self.delete.push(("networks", id.to_owned()));
        self
    }

    /// A container that is no more.
    #[must_use]
    pub fn without_container(mut self, id: &str) -> Self {
        self.delete.push(("containers", id.to_owned()));
        self
    }
}

#[expect(clippy::expect_used, reason = "records are maps with string keys, which JSON always has words for")]
fn json(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("records can be written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vch.redb");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        drop(Store::open(&path).unwrap());
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let store = Store::open(&path).unwrap();
        assert_eq!(mode(), 0o600);
        assert!(Store::open(&path).is_err(), "one vch has it at a time");
        drop(store);
    }
}
