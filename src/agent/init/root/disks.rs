//! Which disk is which: by the serial number the machine gave it.

use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a disk may take to appear.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked for.
const PAUSE: Duration = Duration::from_millis(5);

/// The device of the disk with this serial number.
pub(super) fn wait_for(serial: &str) -> Option<PathBuf> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(name) = find(Path::new("/sys/block"), serial) {
            return Some(Path::new("/dev").join(name));
        }
        if Instant::now() > end {
            return None;
        }
        sleep(PAUSE);
    }
}

fn find(block: &Path, serial: &str) -> Option<PathBuf> {
    let disks = fs::read_dir(block).ok()?.flatten();
    let mut found = disks.filter(|disk| {
        fs::read_to_string(disk.path().join("serial")).is_ok_and(|text| text.trim_end() == serial)
    });
    found.next().map(|disk| PathBuf::from(disk.file_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_found_by_its_whole_serial_number() {
        let block = tempfile::TempDir::new().unwrap();
        for (disk, serial) in [("vda", Some("image")), ("vdb", Some("image2\n")), ("loop0", None)] {
            fs::create_dir(block.path().join(disk)).unwrap();
            if let Some(serial) = serial {
                fs::write(block.path().join(disk).join("serial"), serial).unwrap();
            }
        }
        assert_eq!(find(block.path(), "image2"), Some("vdb".into()));
        assert_eq!(find(block.path(), "image"), Some("vda".into()));
        assert_eq!(find(block.path(), "imag"), None);
    }
}
