//! Images: archives in, read-only root file systems and what is known about them out.
//!
//! [`Images`] is the store. An archive is spooled to disk (`spool`), its images are found
//! (`archive`), their layers read (`tape`) and merged in memory (`layer`, `tree`), and the result
//! is written as one squashfs file for each image (`squash`). `limits` has the bounds of all of
//! it.
//!
//! Everything here is blocking. Nothing here unpacks anything into a directory, follows a path
//! from an archive on this host, or runs a program. Extended attributes and the identity of
//! hard links are not kept (`squash` says why).

mod archive;
mod build;
mod changes;
mod layer;
mod limits;
mod record;
mod reference;
mod remove;
mod spool;
mod squash;
mod store;
mod table;
mod tape;
#[cfg(test)]
mod tests;
mod tree;

pub use archive::ArchiveError;
pub use build::BuildError;
pub use changes::ChangeError;
pub use layer::LayerError;
pub use limits::Limits;
pub use record::{History, Image, ImageConfig, ImageId, Nothing};
pub use reference::{Reference, ReferenceError};
pub use remove::{Conflict, InUse, Reason, Removed};
pub use spool::SpoolError;
pub use squash::SquashError;
pub use store::{ImageError, Images, Loaded};
pub use table::TableError;
pub use tape::TapeError;
pub use tree::TreeError;
