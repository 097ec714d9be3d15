//! The store: images on disk, found by name.
//!
//! An image is a directory, named by its id, with `root.squashfs` in it, and a record in the
//! database. The directory is made whole under another name and comes into place by a rename,
//! before the record; it goes after the record. So whenever this host dies, an image is there as
//! a whole or not at all; what no record knows goes when the store is opened.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redb::Database;

use super::{
    archive::{self, ARCHITECTURE, ArchiveError, Found, OS},
    build::{self, BuildError},
    changes::{self, ChangeError},
    limits::Limits,
    record::{Document, History, Image, ImageConfig, ImageId, RootFs, now},
    reference::{Reference, ReferenceError},
    remove::{self, Conflict, InUse, Removed},
    spool::{Spool, SpoolError},
    table::{Table, TableError},
};

/// The file that is a container's root file system, read-only.
const ROOT: &str = "root.squashfs";
/// Before the names of directories that are not images yet, or no longer.
const TEMPORARY: &str = ".temporary-";

/// The images of this host.
#[derive(Debug)]
pub struct Images {
    directory: PathBuf,
    table: Table,
    limits: Limits,
    /// Held while directories and records are made to agree.
    changing: Mutex<()>,
}

/// An image that came of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: ImageId,
    /// The tags it was given.
    pub tags: Vec<Reference>,
}

/// Why something with images was not done.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is none of that name; Docker's words.
    #[error("No such image: {0}")]
    NotFound(String),
    /// A short id is that of several.
    #[error("more than one image has an id that begins with '{0}': use more of its digits")]
    Ambiguous(String),
    /// A name is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Something uses the image.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The archive cannot be taken in.
    #[error("the archive cannot be loaded: {0}")]
    Spool(#[from] SpoolError),
    /// There is no image in the archive.
    #[error("the archive cannot be loaded: {0}")]
    Archive(#[from] ArchiveError),
    /// An image in the archive is none.
    #[error("the image cannot be loaded: {0}")]
    Build(#[from] BuildError),
    /// A change of an import cannot be made.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The records cannot be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The directory of images cannot be read or written.
    #[error("{path}: {source}")]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Images {
    /// Opens the store whose images are in `directory/images`, and takes away what earlier ones
    /// left half done.
    pub fn open(directory: &Path, database: Arc<Database>) -> Result<Self, ImageError> {
        Self::with_limits(directory, database, Limits::DEFAULT)
    }

    /// The same with other limits.
    pub fn with_limits(
        directory: &Path,
        database: Arc<Database>,
        limits: Limits,
    ) -> Result<Self, ImageError> {
        let directory = directory.join("images");
        fs::create_dir_all(&directory).map_err(at(&directory))?;
        let store = Self { directory, table: Table::open(database)?, limits, changing: Mutex::new(()) };
        store.tidy()?;
        Ok(store)
    }

    /// Takes the images of `archive` in, one that `docker save` or its like wrote, and says
    /// which, in its order. Those before one that is refused stay.
    pub fn load(&self, archive: impl Read) -> Result<Vec<Loaded>, ImageError> {
        let mut spool = Spool::new(&self.directory, self.limits.spool)?;
        let archive = spool.append(archive)?;
        let mut loaded = Vec::new();
        for found in archive::images(archive, &self.limits)? {
            let id = self.keep(&found, &mut spool)?;
            loaded.push(Loaded { id, tags: found.tags });
        }
        Ok(loaded)
    }

    /// Makes an image of `tar`, a root file system, names it `reference`, and says its id.
    /// `changes` are instructions of a Dockerfile, `message` its comment.
    pub fn import(
        &self,
        tar: impl Read,
        reference: Option<Reference>,
        changes: &[String],
        message: &str,
    ) -> Result<ImageId, ImageError> {
        let mut config = ImageConfig::default();
        for line in changes {
            changes::apply(&mut config, line)?;
        }
        let mut spool = Spool::new(&self.directory, self.limits.spool)?;
        let layer = spool.append(tar)?;
        let digest = layer.digest().map_err(SpoolError::Read)?;
        let created = now();
        let document = Document {
            created: Some(created.clone()),
            author: String::new(),
            comment: message.to_owned(),
            architecture: ARCHITECTURE.to_owned(),
            os: OS.to_owned(),
            config,
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![format!("sha256:{digest}")] },
            history: vec![History { created, comment: message.to_owned(), ..History::default() }],
        };
        let config = serde_json::to_vec(&document).map_err(BuildError::Config)?;
        let found = Found { config, layers: vec![layer], tags: reference.into_iter().collect() };
        self.keep(&found, &mut spool)
    }

    /// All images, the newest first.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut images: Vec<_> = self.table.all()?.into_values().collect();
        images.sort_by_key(|image| std::cmp::Reverse(image.created_seconds()));
        Ok(images)
    }

    /// The image that `text` means: a reference, or an id, whole or as many of its first digits
    /// as no other has, with `sha256:` or without.
    pub fn find(&self, text: &str) -> Result<Image, ImageError> {
        let mut images = self.table.all()?;
        if let Some(id) = ImageId::parse(text) {
            return images.remove(&id).ok_or_else(|| ImageError::NotFound(text.to_owned()));
        }
        let reference: Reference = text.parse()?;
        if let Some(image) = images.values().find(|image| image.tags.contains(&reference)) {
            return Ok(image.clone());
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let mut matching = images.into_values().filter(|image| image.id.digits().starts_with(digits));
        match (matching.next(), matching.next()) {
            (Some(image), None) => Ok(image),
            (Some(_), Some(_)) => Err(ImageError::Ambiguous(text.to_owned())),
            (None, _) => Err(ImageError::NotFound(reference.to_string())),
        }
    }

    /// Gives the image that `text` means the tag `reference`, taking it from another.
    pub fn tag(&self, text: &str, reference: Reference) -> Result<(), ImageError> {
        let _changing = self.changing();
        let image = self.find(text)?;
        Ok(self.table.put(&image, &[reference])?)
    }

    /// Removes what `text` means: a tag, and the image with its last one. `in_use` says which
    /// container uses an image, one that runs before others.
    pub fn remove(
        &self,
        text: &str,
        force: bool,
        in_use: &dyn Fn(&ImageId) -> Option<InUse>,
    ) -> Result<Vec<Removed>, ImageError> {
        let _changing = self.changing();
        let image = self.find(text)?;
        let plan = remove::plan(&image, text, force, in_use(&image.id))?;
        self.table.take(plan.image.then_some(&image.id), &plan.tags)?;
        let mut removed: Vec<_> = plan.tags.iter().map(|tag| Removed::Untagged(tag.to_string())).collect();
        if plan.image {
            // Without a record it is no image any more, so what fails here is tidied later.
            if let Err(error) = self.discard(&self.place(&image.id)) {
                tracing::warn!(image = image.id.short(), %error, "its directory is left for later");
            }
            removed.push(Removed::Deleted(image.id));
        }
        Ok(removed)
    }

    /// The root file system of an image: a squashfs file that never changes.
    pub fn root(&self, image: &ImageId) -> PathBuf {
        self.place(image).join(ROOT)
    }

    fn place(&self, image: &ImageId) -> PathBuf {
        self.directory.join(image.digits())
    }

    /// The lock guards no data, so one that a panic left is as good as any.
    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the image `found` and says its id.
    fn keep(&self, found: &Found, spool: &mut Spool) -> Result<ImageId, ImageError> {
        let mut image = build::describe(&found.config)?;
        {
            // One that is there needs no more than its tags: the id stands for all of it.
            let _changing = self.changing();
            if let Some(known) = self.table.all()?.remove(&image.id) {
                self.table.put(&known, &found.tags)?;
                return Ok(known.id);
            }
        }
        let tree = build::merge(&image, found, spool, &self.limits)?;
        let new = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempdir_in(&self.directory)
            .map_err(at(&self.directory))?;
        let path = new.path().join(ROOT);
        let file = File::create_new(&path).map_err(at(&path))?;
        image.size = build::write(&tree, &file, &self.limits)?;
        sync(new.path())?;
        // Nobody but its owner may look into a temporary directory; images are kept from others
        // by the directory that they are all in.
        let _changing = self.changing();
        let place = self.place(&image.id);
        match fs::rename(new.path(), &place) {
            Ok(()) => {
                // It has another name now.
                let _ = new.keep();
            }
            // Somebody else has loaded the same in the meantime; theirs is as good.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) => return Err(at(&place)(error)),
        }
        sync(&self.directory)?;
        self.table.put(&image, &found.tags)?;
        Ok(image.id)
    }

    /// Removes the directory `path`, which a crash can leave under a temporary name only.
    fn discard(&self, path: &Path) -> Result<(), ImageError> {
        let old = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempdir_in(&self.directory)
            .map_err(at(&self.directory))?;
        fs::rename(path, old.path().join("image")).map_err(at(path))?;
        old.close().map_err(at(&self.directory))
    }

    /// Makes directories and records agree.
    fn tidy(&self) -> Result<(), ImageError> {
        let images = self.table.all()?;
        let mut there = BTreeSet::new();
        for entry in fs::read_dir(&self.directory).map_err(at(&self.directory))? {
            let entry = entry.map_err(at(&self.directory))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            match ImageId::parse(&name) {
                Some(id) if images.contains_key(&id) && entry.path().join(ROOT).is_file() => {
                    there.insert(id);
                }
                Some(_) => fs::remove_dir_all(entry.path()).map_err(at(&entry.path()))?,
                None if name.starts_with(TEMPORARY) => {
                    fs::remove_dir_all(entry.path()).map_err(at(&entry.path()))?;
                }
                // Not ours.
                None => {}
            }
        }
        for image in images.values().filter(|image| !there.contains(&image.id)) {
            tracing::warn!(image = image.id.short(), "its file is gone: the image is forgotten");
            self.table.take(Some(&image.id), &image.tags)?;
        }
        Ok(())
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Directory { path: path.clone(), source }
}

/// Makes sure that what was made in `directory` is there after a crash.
fn sync(directory: &Path) -> Result<(), ImageError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(at(directory))
}
