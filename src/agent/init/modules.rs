//! The kernel modules in the image.

use std::{fs, io, path::Path};

use nix::kmod::{ModuleInitFlags, finit_module};

/// The list the image builder wrote, see [`Line`].
const LIST: &str = "/lib/modules/load";

/// One line of the list: a module's file, after those it needs, and perhaps the beginning of a
/// device's modalias, `pci:v000015ADd000007B0`. A module with one is loaded only where there is
/// such a device: what the machine has not costs it nothing.
struct Line<'a> {
    file: &'a str,
    device: Option<&'a str>,
}

/// Loads every module on the list that the machine has a use for, in the list's order. What could
/// not be, one line each. An image without a list has its drivers in the kernel.
pub(super) fn load_all() -> Vec<String> {
    let list = match fs::read_to_string(LIST) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return vec![format!("{LIST} cannot be read: {error}")],
    };
    let complaint = |line: Line<'_>| {
        // Looked up at its turn: a bus's driver, loaded before, brings its devices with it.
        if line.device.is_some_and(|device| !has_device(Path::new("/sys/bus"), device)) {
            return None;
        }
        let loaded = load(&Path::new("/lib/modules").join(line.file));
        loaded.err().map(|error| format!("module {} cannot be loaded: {error}", line.file))
    };
    list.lines().filter_map(parse).filter_map(complaint).collect()
}

fn parse(line: &str) -> Option<Line<'_>> {
    let mut words = line.split_ascii_whitespace();
    Some(Line { file: words.next()?, device: words.next() })
}

/// Whether a device on the bus that `modalias` begins with has a modalias that begins like it.
fn has_device(buses: &Path, modalias: &str) -> bool {
    let bus = modalias.split(':').next().unwrap_or_default();
    let devices = fs::read_dir(buses.join(bus).join("devices"));
    devices.into_iter().flatten().flatten().any(|device| {
        fs::read_to_string(device.path().join("modalias")).is_ok_and(|text| text.starts_with(modalias))
    })
}

fn load(path: &Path) -> io::Result<()> {
    match finit_module(fs::File::open(path)?, c"", ModuleInitFlags::empty()) {
        // EEXIST: it is in the kernel already.
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_by_the_beginning_of_its_modalias() {
        let buses = tempfile::TempDir::new().unwrap();
        let device = buses.path().join("pci/devices/0000:00:03.0");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("modalias"), "pci:v000015ADd000007B0sv0000\n").unwrap();
        assert!(has_device(buses.path(), "pci:v000015ADd000007B0"));
        assert!(!has_device(buses.path(), "pci:v00001AF4"));
        assert!(!has_device(buses.path(), "virtio:d00000001"));
    }

    #[test]
    fn a_condition_may_stand_after_a_module() {
        assert!(parse("").is_none());
        assert!(parse("overlay.ko").is_some_and(|line| line.file == "overlay.ko" && line.device.is_none()));
        assert!(parse("a.ko pci:v1").is_some_and(|line| line.device == Some("pci:v1")));
    }
}
