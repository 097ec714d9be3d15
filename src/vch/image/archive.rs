//! Archives of images: what `docker save` writes, old and new, and OCI layouts.
//!
//! Finds the configuration and the layers of each image. What layers mean, and whether they are
//! what the configuration says, is not looked at here.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};
use tar::EntryType;

use super::{
    limits::Limits,
    record::null_is_default,
    reference::{Reference, ReferenceError, is_hexadecimal},
    spool::{Section, digest},
    tape::{Tape, TapeError},
};

/// The only platform.
pub(super) const ARCHITECTURE: &str = "amd64";
/// The only operating system.
pub(super) const OS: &str = "linux";

/// An image in an archive.
#[derive(Debug)]
pub(super) struct Found {
    /// Its configuration, at most `Limits::document` bytes.
    pub(super) config: Vec<u8>,
    /// Its layers, the lowest first, perhaps compressed.
    pub(super) layers: Vec<Section>,
    /// Its names.
    pub(super) tags: Vec<Reference>,
}

/// Why there are no images in an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is no tar archive.
    #[error(transparent)]
    Tape(#[from] TapeError),
    /// It is a tar archive of something else.
    #[error(
        "it has neither manifest.json nor index.json: not made by 'docker save'; for a root file \
         system use 'docker import'"
    )]
    NoManifest,
    /// There are too many entries.
    #[error("it has more than {0} entries, the most that is taken")]
    Members(usize),
    /// There are too many images.
    #[error("it has more than {0} images, the most that is taken")]
    Images(usize),
    /// There are too many layers.
    #[error("an image in it has more than {0} layers, the most that is taken")]
    Layers(usize),
    /// Something is named and not there.
    #[error("it has no '{0}', which it says it has: it is not complete")]
    Missing(String),
    /// A document is too large.
    #[error("its '{0}' is larger than {1} bytes, the most that is taken")]
    Large(String, u64),
    /// A document cannot be read.
    #[error("its '{0}' cannot be understood: {1}")]
    Document(String, #[source] serde_json::Error),
    /// A blob is not what its name says.
    #[error("its '{0}' has the digest {1}: it is damaged")]
    Digest(String, String),
    /// A digest is none.
    #[error("it names a blob '{0}': only sha256 digests are known")]
    BlobName(String),
    /// A tag is none.
    #[error("its tag '{0}': {1}")]
    Tag(String, #[source] ReferenceError),
    /// There is nothing for this platform.
    #[error("it is for {0}: only {OS}/{ARCHITECTURE} can run here")]
    Platform(String),
    /// Indexes in indexes.
    #[error("its indexes lie in each other too deeply")]
    Nested,
}

/// Finds the images in `archive`, which is uncompressed.
pub(super) fn images(archive: Section, limits: &Limits) -> Result<Vec<Found>, ArchiveError> {
    let archive = Archive { members: members(archive, limits)?, limits };
    let found = if archive.members.contains_key(b"manifest.json".as_slice()) {
        archive.docker()?
    } else if archive.members.contains_key(b"index.json".as_slice()) {
        archive.oci()?
    } else {
        return Err(ArchiveError::NoManifest);
    };
    Ok(found)
}

#[derive(Debug)]
enum Member {
    File(Section),
    /// What it leads to; engines of old wrote a layer once and links to it.
    Link(Vec<u8>),
}

struct Archive<'a> {
    /// By normalised name.
    members: BTreeMap<Vec<u8>, Member>,
    limits: &'a Limits,
}

fn members(archive: Section, limits: &Limits) -> Result<BTreeMap<Vec<u8>, Member>, ArchiveError> {
    let mut members = BTreeMap::new();
    let mut tape = Tape::new(archive);
    let mut count = 0;
    while let Some(entry) = tape.next()? {
        count += 1;
        if count > limits.members {
            return Err(ArchiveError::Members(limits.members));
        }
        let member = match entry.kind {
            EntryType::Regular | EntryType::Continuous => Member::File(entry.contents),
            EntryType::Link => Member::Link(normal(&[], &entry.link)),
            EntryType::Symlink => {
                let end = entry.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                Member::Link(normal(&entry.path[..end], &entry.link))
            }
            _ => continue,
        };
        members.insert(normal(&[], &entry.path), member);
    }
    Ok(members)
}

/// `path` seen from `directory`, without `.` and `..`. It is compared, nothing else.
fn normal(directory: &[u8], path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    let split = |byte: &u8| *byte == b'/';
    for name in directory.split(split).chain(path.split(split)) {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names.join(&b'/')
}

/// An image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    config: String,
    #[serde(default, deserialize_with = "null_is_default")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    layers: Vec<String>,
}

/// An OCI index, or an OCI manifest, or Docker's of either.
#[derive(Deserialize)]
struct Index {
    #[serde(default, deserialize_with = "null_is_default")]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_is_default")]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<Platform>,
    #[serde(default, deserialize_with = "null_is_default")]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

/// The annotation with the whole name.
const NAME: &str = "io.containerd.image.name";
/// The annotation with a tag, or the whole name, as it comes.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Indexes in each other; real ones have two.
const NESTED: usize = 4;

impl Archive<'_> {
    /// The file of that name.
    fn file(&self, name: &str) -> Result<&Section, ArchiveError> {
        let mut path = normal(&[], name.as_bytes());
        for _ in 0..8 {
            match self.members.get(&path) {
                Some(Member::File(section)) => return Ok(section),
                Some(Member::Link(target)) => path.clone_from(target),
                None => break,
            }
        }
        Err(ArchiveError::Missing(name.to_owned()))
    }

    /// The bytes of a document.
    fn document(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let section = self.file(name)?;
        if section.length() > self.limits.document {
            return Err(ArchiveError::Large(name.to_owned(), self.limits.document));
        }
        Ok(section.bytes().map_err(TapeError::Io)?)
    }

    /// The bytes of a document that is named by its digest.
    fn blob(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let path = blob(name)?;
        let bytes = self.document(&path)?;
        let found = digest(&bytes);
        if path.ends_with(&found) { Ok(bytes) } else { Err(ArchiveError::Digest(path, found)) }
    }

    fn docker(&self) -> Result<Vec<Found>, ArchiveError> {
        const NAME: &str = "manifest.json";
        let manifests: Vec<Manifest> = parsed(NAME, &self.document(NAME)?)?;
        self.bounded(manifests.len())?;
        manifests
            .into_iter()
            .map(|manifest| {
                Ok(Found {
                    config: self.document(&manifest.config)?,
                    layers: self.layers(manifest.layers.iter().map(|name| Ok(name.clone())))?,
                    tags: manifest.repo_tags.iter().map(|text| tag(text)).collect::<Result<_, _>>()?,
                })
            })
            .collect()
    }

    fn oci(&self) -> Result<Vec<Found>, ArchiveError> {
        const NAME: &str = "index.json";
        let index: Index = parsed(NAME, &self.document(NAME)?)?;
        let mut found = Vec::new();
        self.index(index, &[], 0, &mut found)?;
        // Two platforms of one image, of which this host takes one, are one image.
        Ok(found)
    }

    /// Finds the images of `index`, named `tags` if it does not say otherwise.
    fn index(
        &self,
        index: Index,
        tags: &[Reference],
        depth: usize,
        found: &mut Vec<Found>,
    ) -> Result<(), ArchiveError> {
        if depth > NESTED {
            return Err(ArchiveError::Nested);
        }
        if let Some(config) = index.config {
            self.bounded(found.len() + 1)?;
            found.push(Found {
                config: self.blob(&config.digest)?,
                layers: self.layers(index.layers.iter().map(|layer| blob(&layer.digest)))?,
                tags: tags.to_vec(),
            });
            return Ok(());
        }
        self.bounded(index.manifests.len())?;
        let (here, elsewhere): (Vec<_>, Vec<_>) = index.manifests.into_iter().partition(|manifest| {
            manifest
                .platform
                .as_ref()
                .is_none_or(|platform| platform.os == OS && platform.architecture == ARCHITECTURE)
        });
        if here.is_empty() {
            let names = elsewhere.iter().filter_map(|manifest| manifest.platform.as_ref());
            let names: Vec<_> =
                names.map(|platform| format!("{}/{}", platform.os, platform.architecture)).collect();
            let none = || "no platform".to_owned();
            return Err(ArchiveError::Platform(if names.is_empty() { none() } else { names.join(", ") }));
        }
        for manifest in here {
            let own = match (manifest.annotations.get(NAME), manifest.annotations.get(REF_NAME)) {
                (Some(name), _) => vec![tag(name)?],
                // A tag alone does not say of what.
                (None, Some(name)) if name.contains([':', '/']) => vec![tag(name)?],
                _ => tags.to_vec(),
            };
            let next: Index = parsed(&manifest.digest, &self.blob(&manifest.digest)?)?;
            self.index(next, &own, depth + 1, found)?;
        }
        Ok(())
    }

    fn layers(
        &self,
        names: impl ExactSizeIterator<Item = Result<String, ArchiveError>>,
    ) -> Result<Vec<Section>, ArchiveError> {
        if names.len() > self.limits.layers {
            return Err(ArchiveError::Layers(self.limits.layers));
        }
        names.map(|name| self.file(&name?).cloned()).collect()
    }

    fn bounded(&self, images: usize) -> Result<(), ArchiveError> {
        if images > self.limits.images { Err(ArchiveError::Images(self.limits.images)) } else { Ok(()) }
    }
}

/// Where a blob is.
fn blob(name: &str) -> Result<String, ArchiveError> {
    match name.strip_prefix("sha256:") {
        Some(digits) if is_hexadecimal(digits, 64) => Ok(format!("blobs/sha256/{digits}")),
        _ => Err(ArchiveError::BlobName(name.to_owned())),
    }
}

fn tag(text: &str) -> Result<Reference, ArchiveError> {
    text.parse().map_err(|error| ArchiveError::Tag(text.to_owned(), error))
}

fn parsed<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|error| ArchiveError::Document(name.to_owned(), error))
}
