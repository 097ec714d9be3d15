//! A root file system in memory, as layers make it.
//!
//! What an extraction into a directory would do is done to this tree: links among parents are
//! followed (and end at this tree's root, whatever they say), missing parents are made, whiteouts
//! take away what lower layers have. File contents stay where they are, in the spool. No path of
//! it is ever one of this host.

use std::collections::BTreeMap;

use super::{limits, spool::Section};

/// A name in a directory: not empty, not `.` nor `..`, no slash or zero in it, `limits::NAME`
/// bytes at most.
pub(super) type Name = Box<[u8]>;

/// The entries of a directory.
pub(super) type Directory = BTreeMap<Name, Node>;

/// What every node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// The twelve bits that `chmod` sets.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970.
    pub(super) mtime: u32,
}

/// What nobody described: a directory for everybody to read.
pub(super) const PLAIN: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0 };

/// What a node is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Directory(Directory),
    File(Section),
    /// Not empty.
    Symlink(Box<[u8]>),
    /// Major and minor.
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// A node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) meta: Meta,
    pub(super) kind: Kind,
    /// The layer that described it, or that first had something inside it.
    layer: usize,
}

/// Why an entry cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// It has `..` in it, which no engine writes.
    #[error("its path has '..' in it: refused")]
    DotDot,
    /// A name is too long.
    #[error("a name in its path is longer than {max} bytes", max = limits::NAME)]
    LongName,
    /// Too many directories in each other.
    #[error("it lies deeper than {max} directories", max = limits::DEPTH)]
    TooDeep,
    /// Symbolic links that lead to each other, or too many of them.
    #[error("symbolic links in its path lead nowhere: a circle, or more than {LINKS} of them")]
    Links,
    /// A parent is no directory.
    #[error("a directory in its path is something else")]
    NotDirectory,
    /// The root directory can only be a directory.
    #[error("it would replace the root directory")]
    Root,
    /// A hard link to what is not there, or to a directory.
    #[error("it is a hard link to '{0}', which is no file of this image")]
    NoTarget(String),
    /// A symbolic link to nothing.
    #[error("it is a symbolic link without a target")]
    EmptyLink,
    /// Too many of everything.
    #[error("the image has more than {0} files and directories, the most that is taken")]
    Entries(u64),
}

/// Symbolic links followed for one path: Linux's own limit.
const LINKS: usize = 40;

/// A root file system.
#[derive(Debug)]
pub(super) struct Tree {
    root: Node,
    /// The layer that is being applied, from 1 on.
    layer: usize,
    /// How many nodes were made, those that are gone again too.
    made: u64,
    /// `made <= most`
    most: u64,
}

impl Tree {
    /// An empty one, for `most` nodes.
    pub(super) fn new(most: u64) -> Self {
        let root = Node { meta: PLAIN, kind: Kind::Directory(Directory::new()), layer: 0 };
        Self { root, layer: 0, made: 0, most }
    }

    /// Everything from here on is of the next layer.
    pub(super) fn next_layer(&mut self) {
        self.layer += 1;
    }

    /// The root directory.
    pub(super) fn root(&self) -> &Node {
        &self.root
    }

    /// Puts a directory at `path`. One that is there keeps what is in it.
    pub(super) fn directory(&mut self, path: &[&[u8]], meta: Meta) -> Result<(), TreeError> {
        let layer = self.layer;
        let Some((name, parent)) = path.split_last() else {
            self.root.meta = meta;
            return Ok(());
        };
        self.count()?;
        let parent = self.parent(parent)?;
        match parent.get_mut(*name) {
            Some(node) if matches!(node.kind, Kind::Directory(_)) => {
                node.meta = meta;
                node.layer = layer;
            }
            _ => {
                let kind = Kind::Directory(Directory::new());
                parent.insert((*name).into(), Node { meta, kind, layer });
            }
        }
        Ok(())
    }

    /// Puts anything else at `path`, in the place of what is there.
    pub(super) fn put(&mut self, path: &[&[u8]], meta: Meta, kind: Kind) -> Result<(), TreeError> {
        let layer = self.layer;
        let (name, parent) = path.split_last().ok_or(TreeError::Root)?;
        self.count()?;
        self.parent(parent)?.insert((*name).into(), Node { meta, kind, layer });
        Ok(())
    }

    /// Puts at `path` what is at `target`: a hard link. That the two are one is not kept; the
    /// image is read-only.
    pub(super) fn link(&mut self, path: &[&[u8]], target: &[&[u8]]) -> Result<(), TreeError> {
        let none = || TreeError::NoTarget(String::from_utf8_lossy(&target.join(&b'/')).into_owned());
        let (name, parent) = target.split_last().ok_or_else(none)?;
        let parent = self.resolve(parent)?;
        let found = self.find(&parent).and_then(|directory| directory.get(*name)).ok_or_else(none)?;
        if matches!(found.kind, Kind::Directory(_)) {
            return Err(none());
        }
        let found = found.clone();
        self.put(path, found.meta, found.kind)
    }

    /// Takes away what lower layers have at `path`.
    pub(super) fn whiteout(&mut self, path: &[&[u8]]) -> Result<(), TreeError> {
        let layer = self.layer;
        let (name, parent) = path.split_last().ok_or(TreeError::Root)?;
        let parent = self.resolve(parent)?;
        let Some(directory) = self.find_mut(&parent) else { return Ok(()) };
        if directory.get_mut(*name).is_some_and(|node| !prune(node, layer)) {
            directory.remove(*name);
        }
        Ok(())
    }

    /// Takes away everything that lower layers have in the directory at `path`.
    pub(super) fn opaque(&mut self, path: &[&[u8]]) -> Result<(), TreeError> {
        let layer = self.layer;
        let path = self.resolve(path)?;
        if let Some(directory) = self.find_mut(&path) {
            directory.retain(|_, node| prune(node, layer));
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), TreeError> {
        if self.made >= self.most {
            return Err(TreeError::Entries(self.most));
        }
        self.made += 1;
        Ok(())
    }

    /// The directory at `path`, whose links are followed; what is missing is made.
    fn parent(&mut self, path: &[&[u8]]) -> Result<&mut Directory, TreeError> {
        let path = self.resolve(path)?;
        let layer = self.layer;
        let missing = path.len() - self.existing(&path);
        for _ in 0..missing {
            self.count()?;
        }
        let mut node = &mut self.root;
        for name in path {
            let Kind::Directory(entries) = &mut node.kind else { return Err(TreeError::NotDirectory) };
            node = entries.entry(name).or_insert_with(|| Node {
                meta: PLAIN,
                kind: Kind::Directory(Directory::new()),
                layer,
            });
        }
        match &mut node.kind {
            Kind::Directory(entries) => Ok(entries),
            _ => Err(TreeError::NotDirectory),
        }
    }

    /// How many of the names of `path` are there.
    fn existing(&self, path: &[Name]) -> usize {
        let mut node = &self.root;
        for (index, name) in path.iter().enumerate() {
            match &node.kind {
                Kind::Directory(entries) => match entries.get(name) {
                    Some(child) => node = child,
                    None => return index,
                },
                _ => return index,
            }
        }
        path.len()
    }

    /// The directory at a path that has no links.
    fn find(&self, path: &[Name]) -> Option<&Directory> {
        let mut node = &self.root;
        for name in path {
            let Kind::Directory(entries) = &node.kind else { return None };
            node = entries.get(name)?;
        }
        if let Kind::Directory(entries) = &node.kind { Some(entries) } else { None }
    }

    fn find_mut(&mut self, path: &[Name]) -> Option<&mut Directory> {
        let mut node = &mut self.root;
        for name in path {
            let Kind::Directory(entries) = &mut node.kind else { return None };
            node = entries.get_mut(name)?;
        }
        if let Kind::Directory(entries) = &mut node.kind { Some(entries) } else { None }
    }

    /// Where the directory at `path` is when all links are followed. From the first name that is
    /// missing on, names stand for what would be made.
    fn resolve(&self, path: &[&[u8]]) -> Result<Vec<Name>, TreeError> {
        // The last is the next.
        let mut todo: Vec<Name> = path.iter().rev().map(|name| Name::from(*name)).collect();
        let mut done: Vec<Name> = Vec::new();
        // Beside each of `done` the directory, if it is there; the root before them.
        let mut here: Vec<Option<&Directory>> = vec![self.find(&[])];
        let mut links = 0;
        while let Some(name) = todo.pop() {
            match &*name {
                b"" | b"." => continue,
                b".." => {
                    // The root's parent is the root.
                    if done.pop().is_some() {
                        here.pop();
                    }
                    continue;
                }
                _ => {}
            }
            if name.len() > limits::NAME {
                return Err(TreeError::LongName);
            }
            let node = here.last().copied().flatten().and_then(|directory| directory.get(&name));
            let directory = match node.map(|node| &node.kind) {
                None => None,
                Some(Kind::Directory(entries)) => Some(entries),
                Some(Kind::Symlink(target)) => {
                    links += 1;
                    // A target has `limits::PATH` bytes at most, so this bounds `todo` too.
                    if links > LINKS {
                        return Err(TreeError::Links);
                    }
                    if target.starts_with(b"/") {
                        done.clear();
                        here.truncate(1);
                    }
                    todo.extend(target.split(|byte| *byte == b'/').rev().map(Name::from));
                    continue;
                }
                Some(_) => return Err(TreeError::NotDirectory),
            };
            if done.len() >= limits::DEPTH {
                return Err(TreeError::TooDeep);
            }
            done.push(name);
            here.push(directory);
        }
        Ok(done)
    }
}

/// Takes what is of lower layers than `layer` out of `node`, and says whether something is left.
fn prune(node: &mut Node, layer: usize) -> bool {
    let mut left = node.layer >= layer;
    if let Kind::Directory(entries) = &mut node.kind {
        entries.retain(|_, child| prune(child, layer));
        left |= !entries.is_empty();
    }
    left
}

/// The names of a path as it stands in an archive: without slashes at its ends, doubled ones
/// and `.`.
pub(super) fn names(path: &[u8]) -> Result<Vec<&[u8]>, TreeError> {
    let mut names = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(TreeError::DotDot),
            name if name.len() > limits::NAME => return Err(TreeError::LongName),
            name => names.push(name),
        }
    }
    if names.len() > limits::DEPTH { Err(TreeError::TooDeep) } else { Ok(names) }
}
