//! Where devices are on the PCI bus.

use std::{ffi::OsStr, path::Path};

use tether_wire::pci::PciAddress;

use super::Kernel;
use crate::plan::KernelState;

impl Kernel {
    /// Fills in `pci` of every link: `/sys/class/net/NAME/device` leads into the tree of devices,
    /// where every bridge on the way is a directory.
    pub fn locate(&self, state: &mut KernelState) {
        for link in &mut state.links {
            // Virtual devices have no such entry.
            let device = Path::new("/sys/class/net").join(&link.name).join("device").canonicalize();
            link.pci = device.map(|device| way_to(&device)).unwrap_or_default();
        }
    }
}

/// The PCI addresses among a path's components, root first.
fn way_to(device: &Path) -> Vec<PciAddress> {
    device.iter().filter_map(OsStr::to_str).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_is_what_is_on_the_bus() {
        let way = |path: &str| way_to(Path::new(path)).iter().map(ToString::to_string).collect::<Vec<_>>();
        let path = "/sys/devices/pci0000:00/0000:00:02.1/0000:02:00.0/virtio3";
        assert_eq!(way(path), ["0000:00:02.1", "0000:02:00.0"]);
        assert_eq!(way("/sys/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0"), ["0000:00:14.0"]);
        assert!(way("/sys/devices/platform/soc/3f980000.usb").is_empty());
    }
}
