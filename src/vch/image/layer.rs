//! Layers onto a tree: what the entries of a layer's tar archive mean.

use tar::EntryType;

use super::{
    spool::Section,
    tape::{Entry, Tape, TapeError},
    tree::{Kind, Meta, Tree, TreeError, names},
};

/// Before the name of what lower layers are not to have.
const WHITEOUT: &[u8] = b".wh.";
/// Before names that storage drivers of old kept for themselves.
const STORAGE: &[u8] = b".wh..wh.";
/// In a directory that is not to have anything of lower layers.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Why a layer cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// It is no tar archive.
    #[error(transparent)]
    Tape(#[from] TapeError),
    /// An entry cannot be placed.
    #[error("'{path}': {source}")]
    Entry {
        /// Its path, as it stands in the layer.
        path: String,
        /// Why.
        source: TreeError,
    },
    /// An entry of a kind that has no meaning in a root file system.
    #[error("'{path}' is of the unknown kind {kind:?}")]
    Kind {
        /// Its path, as it stands in the layer.
        path: String,
        /// The byte of the format.
        kind: char,
    },
}

/// Applies the tar archive `layer` as the next one of `tree`.
pub(super) fn apply(tree: &mut Tree, layer: Section) -> Result<(), LayerError> {
    tree.next_layer();
    let mut tape = Tape::new(layer);
    while let Some(entry) = tape.next()? {
        let path = || String::from_utf8_lossy(&entry.path).into_owned();
        match place(tree, &entry) {
            Ok(true) => {}
            Ok(false) => {
                return Err(LayerError::Kind { path: path(), kind: entry.kind.as_byte().into() });
            }
            Err(source) => return Err(LayerError::Entry { path: path(), source }),
        }
    }
    Ok(())
}

/// Places one entry; whether its kind is known.
fn place(tree: &mut Tree, entry: &Entry) -> Result<bool, TreeError> {
    let path = names(&entry.path)?;
    if let Some((name, parent)) = path.split_last() {
        if *name == OPAQUE {
            return tree.opaque(parent).map(|()| true);
        }
        if name.starts_with(STORAGE) {
            return Ok(true);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            let hidden = match hidden {
                b"" | b"." => return Ok(true),
                b".." => return Err(TreeError::DotDot),
                hidden => hidden,
            };
            let hidden = [parent, &[hidden]].concat();
            return tree.whiteout(&hidden).map(|()| true);
        }
    }
    let meta = Meta { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime };
    let (major, minor) = entry.device;
    let kind = match entry.kind {
        EntryType::Directory => return tree.directory(&path, meta).map(|()| true),
        // Archives older than directories' own kind end their names with a slash.
        EntryType::Regular if entry.path.ends_with(b"/") => {
            return tree.directory(&path, meta).map(|()| true);
        }
        EntryType::Link => return tree.link(&path, &names(&entry.link)?).map(|()| true),
        EntryType::Regular | EntryType::Continuous => Kind::File(entry.contents.clone()),
        EntryType::Symlink if entry.link.is_empty() => return Err(TreeError::EmptyLink),
        EntryType::Symlink => Kind::Symlink(entry.link.as_slice().into()),
        EntryType::Char => Kind::Character(major, minor),
        EntryType::Block => Kind::Block(major, minor),
        EntryType::Fifo => Kind::Fifo,
        _ => return Ok(false),
    };
    tree.put(&path, meta, kind).map(|()| true)
}
