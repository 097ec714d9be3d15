//! What the kernel answers when it will not.

use std::io;

use nix::errno::Errno;

use super::attributes::{attributes, i32_of, text_of};

/// Why a request to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel refused.
    #[error("{errno}{}", if .kernel.is_empty() { String::new() } else { format!(" ({kernel})") })]
    Refused {
        /// The error number.
        errno: Errno,
        /// The kernel's own words: the extended acknowledgement's message, empty when none came.
        kernel: String,
    },
    /// No answer that the netlink crates understand came in time.
    #[error("the kernel did not answer in 5 s")]
    NoAnswer,
    /// The table changed faster than it could be read.
    #[error("the kernel's tables change too fast to be read")]
    Interrupted,
    /// The kernel's answers did not fit into the socket's buffer: what was carried out is unknown.
    #[error("answers of the kernel were lost")]
    Lost,
    /// The netlink socket cannot be used.
    #[error("the netlink socket: {errno}")]
    Socket {
        /// The error number.
        errno: Errno,
    },
    /// A setting's file cannot be written.
    #[error("{path}: {errno}")]
    Setting {
        /// The file.
        path: String,
        /// The error number.
        errno: Errno,
    },
}

impl KernelError {
    /// Reads the payload of an acknowledgement, or of a dump's end: `Ok` when it reports no error.
    pub(super) fn from_answer(payload: &[u8]) -> Result<(), Self> {
        match i32_of(payload) {
            // A dump's end has none in old kernels.
            None | Some(0) => Ok(()),
            Some(code) => Err(Self::Refused {
                errno: Errno::from_raw(code.saturating_neg()),
                kernel: payload.get(4..).and_then(words).unwrap_or_default(),
            }),
        }
    }

    /// What a system call on the netlink socket said.
    pub(super) fn from_socket(error: &io::Error) -> Self {
        match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::ENOBUFS => Self::Lost,
            errno => Self::Socket { errno },
        }
    }

    /// Whether it says that what was to be added is there.
    pub fn says_exists(&self) -> bool {
        matches!(self, Self::Refused { errno: Errno::EEXIST, .. })
    }

    /// Whether it says that what was to be removed is not there.
    pub fn says_gone(&self) -> bool {
        // Of routes, addresses, links, and rules and neighbours.
        let gone = [Errno::ESRCH, Errno::EADDRNOTAVAIL, Errno::ENODEV, Errno::ENXIO, Errno::ENOENT];
        matches!(self, Self::Refused { errno, .. } if gone.contains(errno))
    }

    /// The error's name, `ENETUNREACH`, or what else happened.
    pub fn name(&self) -> String {
        match self {
            Self::Refused { errno, .. } | Self::Setting { errno, .. } | Self::Socket { errno } => {
                format!("{errno:?}")
            }
            other => other.to_string(),
        }
    }

    /// The kernel's own words, empty when there are none.
    pub fn words(&self) -> &str {
        match self {
            Self::Refused { kernel, .. } => kernel,
            _ => "",
        }
    }
}

/// The text of `NLMSGERR_ATTR_MSG` in what follows an error's code: the header of the request,
/// 16 bytes (the request itself is capped), then attributes.
fn words(after_code: &[u8]) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let mut told = attributes(after_code.get(16..)?);
    told.find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG).map(|(_, value)| text_of(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_behind_other_attributes_and_garbage_is_survived() {
        let mut bytes = vec![0; 16];
        bytes.extend(8_u16.to_ne_bytes());
        bytes.extend(2_u16.to_ne_bytes());
        bytes.extend([9, 9, 9, 9]);
        bytes.extend(8_u16.to_ne_bytes());
        bytes.extend(1_u16.to_ne_bytes());
        bytes.extend(b"no!\0");
        assert_eq!(words(&bytes).unwrap(), "no!");
        for cut in 0..bytes.len() {
            let _ = words(&bytes[..cut]);
        }
        assert_eq!(words(&[0; 64]), None);
    }
}
