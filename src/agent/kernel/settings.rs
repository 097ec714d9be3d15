//! An interface's settings, which are files.

use std::fs;

use nix::errno::Errno;

use super::{Kernel, KernelError};
use crate::plan::{KernelState, Setting};

/// Writes a setting of the interface with this name in the current thread's network namespace.
pub(super) fn write(name: &str, setting: Setting, value: i32) -> Result<(), KernelError> {
    let (protocol, file) = setting.place();
    write_file(format!("/proc/sys/net/{protocol}/conf/{name}/{file}"), value)
}

impl Kernel {
    /// Fills in what a new device's settings are.
    pub fn read_default_settings(&self, state: &mut KernelState) {
        for setting in Setting::ALL {
            let (protocol, file) = setting.place();
            let text = fs::read_to_string(format!("/proc/sys/net/{protocol}/conf/default/{file}"));
            let value = text.ok().and_then(|text| text.trim().parse().ok());
            state.default_settings.set(setting, value);
        }
    }
}

/// Tries a file that the kernel does not have.
#[cfg(debug_assertions)]
pub(super) fn write_nowhere(name: &str, value: i32) -> Result<(), KernelError> {
    write_file(format!("/proc/sys/net/ipv4/conf/{name}/fault"), value)
}

fn write_file(path: String, value: i32) -> Result<(), KernelError> {
    fs::write(&path, value.to_string()).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        KernelError::Setting { path, errno }
    })
}
