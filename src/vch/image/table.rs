//! The records of images, in the host's database.
//!
//! Two tables: `images`, from an id to the JSON of its record, and `tags`, from a normalised
//! reference to an id. Each function is one transaction.

use std::{collections::BTreeMap, sync::Arc};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{
    record::{Image, ImageId},
    reference::Reference,
};

const IMAGES: TableDefinition<&str, &[u8]> = TableDefinition::new("images");
const TAGS: TableDefinition<&str, &str> = TableDefinition::new("tags");

/// Why the database did not do it.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It cannot be read or written.
    #[error("the database of images: {0}")]
    Database(#[source] Box<redb::Error>),
    /// A record is not one of ours.
    #[error("the record of the image {0}: {1}")]
    Record(String, #[source] serde_json::Error),
}

/// The tables.
#[derive(Debug)]
pub(super) struct Table {
    database: Arc<Database>,
}

impl Table {
    /// Makes the tables unless they are there.
    pub(super) fn open(database: Arc<Database>) -> Result<Self, TableError> {
        let write = database.begin_write().map_err(failed)?;
        write.open_table(IMAGES).map_err(failed)?;
        write.open_table(TAGS).map_err(failed)?;
        write.commit().map_err(failed)?;
        Ok(Self { database })
    }

    /// All images with their tags, by id.
    pub(super) fn all(&self) -> Result<BTreeMap<ImageId, Image>, TableError> {
        let read = self.database.begin_read().map_err(failed)?;
        let mut images = BTreeMap::new();
        for row in read.open_table(IMAGES).map_err(failed)?.iter().map_err(failed)? {
            let (id, record) = row.map_err(failed)?;
            let image: Image = serde_json::from_slice(record.value())
                .map_err(|error| TableError::Record(id.value().to_owned(), error))?;
            images.insert(image.id.clone(), image);
        }
        for row in read.open_table(TAGS).map_err(failed)?.iter().map_err(failed)? {
            let (tag, id) = row.map_err(failed)?;
            let image = ImageId::parse(id.value()).and_then(|id| images.get_mut(&id));
            if let (Some(image), Ok(tag)) = (image, tag.value().parse()) {
                image.tags.push(tag);
            }
        }
        Ok(images)
    }

    /// Keeps the record of `image`, unless there is one, and gives it `tags`, taking them from
    /// others.
    pub(super) fn put(&self, image: &Image, tags: &[Reference]) -> Result<(), TableError> {
        let id = image.id.to_string();
        let record = serde_json::to_vec(image).map_err(|error| TableError::Record(id.clone(), error))?;
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut images = write.open_table(IMAGES).map_err(failed)?;
            if images.get(id.as_str()).map_err(failed)?.is_none() {
                images.insert(id.as_str(), record.as_slice()).map_err(failed)?;
            }
            let mut table = write.open_table(TAGS).map_err(failed)?;
            for tag in tags {
                table.insert(tag.normalised().as_str(), id.as_str()).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }

    /// Takes `tags` away, and the record of `image` if one is given.
    pub(super) fn take(&self, image: Option<&ImageId>, tags: &[Reference]) -> Result<(), TableError> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(TAGS).map_err(failed)?;
            for tag in tags {
                table.remove(tag.normalised().as_str()).map_err(failed)?;
            }
            if let Some(image) = image {
                let mut images = write.open_table(IMAGES).map_err(failed)?;
                images.remove(image.to_string().as_str()).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }
}

fn failed(error: impl Into<redb::Error>) -> TableError {
    TableError::Database(Box::new(error.into()))
}
