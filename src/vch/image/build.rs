//! From what an archive has to a record and a root file system.
//!
//! Everything that an image says about itself is checked here against what it is.

use std::fs::File;

use super::{
    archive::{ARCHITECTURE, Found, OS},
    layer::{self, LayerError},
    limits::Limits,
    record::{Document, Image, ImageId, NO_TIME, is_time},
    spool::{Section, Spool, SpoolError, digest},
    squash::{self, SquashError},
    tree::Tree,
};

/// Why an image is none.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Its configuration is not of the known shape.
    #[error("its configuration cannot be understood: {0}")]
    Config(#[source] serde_json::Error),
    /// It is for other machines.
    #[error("it is for {0}: only {OS}/{ARCHITECTURE} can run here")]
    Platform(String),
    /// Its time of making is none.
    #[error("it was created '{0}', which is no time")]
    Created(String),
    /// As many layers as it says are not there.
    #[error("its configuration has {0} layers and the archive {1}")]
    Count(usize, usize),
    /// A layer is another.
    #[error("its layer {number} has the digest sha256:{found}, not {wanted}: it is damaged")]
    Digest {
        /// Which, from 1 on.
        number: usize,
        /// The digest of what is there, in digits.
        found: String,
        /// What its configuration says.
        wanted: String,
    },
    /// A layer cannot be unpacked.
    #[error("its layer {number}: {source}")]
    Spool {
        /// Which, from 1 on.
        number: usize,
        /// Why.
        source: SpoolError,
    },
    /// A layer cannot be applied.
    #[error("its layer {number}: {source}")]
    Layer {
        /// Which, from 1 on.
        number: usize,
        /// Why.
        source: LayerError,
    },
    /// It cannot be written.
    #[error(transparent)]
    Squash(#[from] SquashError),
}

/// The image that `config` says it is, without its size.
pub(super) fn describe(config: &[u8]) -> Result<Image, BuildError> {
    let document: Document = serde_json::from_slice(config).map_err(BuildError::Config)?;
    if document.os != OS || document.architecture != ARCHITECTURE {
        let named = |text: String| if text.is_empty() { "nothing".to_owned() } else { text };
        return Err(BuildError::Platform(format!("{}/{}", named(document.os), named(document.architecture))));
    }
    let created = document.created.unwrap_or_else(|| NO_TIME.to_owned());
    if !is_time(&created) {
        return Err(BuildError::Created(created));
    }
    let Some(id) = ImageId::parse(&digest(config)) else {
        // A digest of ours is always an id.
        return Err(BuildError::Created(created));
    };
    Ok(Image {
        id,
        tags: Vec::new(),
        created,
        size: 0,
        config: document.config,
        architecture: document.architecture,
        os: document.os,
        layers: document.rootfs.diff_ids,
        author: document.author,
        comment: document.comment,
        history: document.history,
    })
}

/// Merges the layers of `found`, which must be those of `image`.
pub(super) fn merge(
    image: &Image,
    found: &Found,
    spool: &mut Spool,
    limits: &Limits,
) -> Result<Tree, BuildError> {
    if image.layers.len() != found.layers.len() {
        return Err(BuildError::Count(image.layers.len(), found.layers.len()));
    }
    let mut tree = Tree::new(limits.entries);
    for (index, (layer, wanted)) in found.layers.iter().zip(&image.layers).enumerate() {
        let number = index + 1;
        let layer = unpacked(layer, spool).map_err(|source| BuildError::Spool { number, source })?;
        let read = |source| BuildError::Spool { number, source: SpoolError::Read(source) };
        let found = layer.digest().map_err(read)?;
        if wanted.strip_prefix("sha256:") != Some(found.as_str()) {
            return Err(BuildError::Digest { number, found, wanted: wanted.clone() });
        }
        layer::apply(&mut tree, layer).map_err(|source| BuildError::Layer { number, source })?;
    }
    Ok(tree)
}

/// `layer` uncompressed: itself if it is.
fn unpacked(layer: &Section, spool: &mut Spool) -> Result<Section, SpoolError> {
    if layer.is_compressed().map_err(SpoolError::Read)? {
        spool.append(layer.reader())
    } else {
        Ok(layer.clone())
    }
}

/// Writes `tree` to `file` and says how many bytes it takes.
pub(super) fn write(tree: &Tree, file: &File, limits: &Limits) -> Result<u64, BuildError> {
    Ok(squash::write(tree, file, limits)?)
}
