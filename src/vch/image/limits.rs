//! How much an archive may ask for.
//!
//! Archives come from strangers. Every one of these is checked before the memory or the disk
//! that it bounds is taken.

/// Bounds on one `load` or `import`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes on disk while an archive is read: the archive, uncompressed, and its layers,
    /// uncompressed.
    pub spool: u64,
    /// Bytes of all files of an image, hard links counted each time.
    pub content: u64,
    /// Entries of all layers of an image, and directories made because entries lie in them. One
    /// takes at most about 900 bytes of memory.
    pub entries: u64,
    /// Bytes of all paths and link targets of an image together.
    pub names: u64,
    /// Entries of the archive itself.
    pub members: usize,
    /// Bytes of a JSON document.
    pub document: u64,
    /// Images in one archive.
    pub images: usize,
    /// Layers of an image.
    pub layers: usize,
}

impl Limits {
    /// What a host uses: room for images ten times as large as the largest in common use.
    pub const DEFAULT: Self = Self {
        spool: 64 << 30,
        content: 32 << 30,
        entries: 500_000,
        names: 128 << 20,
        members: 10_000,
        document: 4 << 20,
        images: 100,
        // More than any engine can mount.
        layers: 512,
    };
}

/// Bytes of a path, and of what a link leads to: Linux's `PATH_MAX` without its zero.
pub(super) const PATH: usize = 4095;
/// Bytes of a name in a directory: Linux's `NAME_MAX`.
pub(super) const NAME: usize = 255;
/// Directories above a file. Trees are walked by recursion.
pub(super) const DEPTH: usize = 256;
/// Different owners, users and groups together, in an image.
pub(super) const OWNERS: usize = 4096;
/// Bytes of the extended header of a tar entry. GNU tar's own are below 10 kB.
pub(super) const EXTENSION: u64 = 256 << 10;
