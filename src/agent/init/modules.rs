//! The kernel modules in the image.

use std::{fs, io, path::Path};

use nix::kmod::{ModuleInitFlags, finit_module};

/// The list the image builder wrote: one module file a line, each after those it needs.
const LIST: &str = "/lib/modules/load";

/// Loads every module on the list, in its order. What could not be, one line each. An image
/// without a list has its drivers in the kernel.
pub(super) fn load_all() -> Vec<String> {
    let list = match fs::read_to_string(LIST) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return vec![format!("{LIST} cannot be read: {error}")],
    };
    let names = list.lines().filter(|line| !line.is_empty());
    let complaint = |name: &str| {
        let loaded = load(&Path::new("/lib/modules").join(name));
        loaded.err().map(|error| format!("module {name} cannot be loaded: {error}"))
    };
    names.filter_map(complaint).collect()
}

fn load(path: &Path) -> io::Result<()> {
    match finit_module(fs::File::open(path)?, c"", ModuleInitFlags::empty()) {
        // EEXIST: it is in the kernel already.
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
