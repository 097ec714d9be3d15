//! What the kernel answers when it will not.

use netlink_packet_core::ErrorMessage;
use nix::errno::Errno;

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
    /// The netlink socket is gone.
    #[error("the netlink socket is closed")]
    Closed,
}

impl KernelError {
    /// Reads an acknowledgement: `Ok` when it reports no error.
    pub(super) fn from_answer(answer: &ErrorMessage) -> Result<(), Self> {
        match answer.code {
            None => Ok(()),
            Some(code) => Err(Self::Refused {
                errno: Errno::from_raw(code.get().saturating_neg()),
                kernel: words(&answer.header).unwrap_or_default(),
            }),
        }
    }

    /// The refusal at the end of a dump.
    pub(super) fn from_code(code: i32) -> Self {
        Self::Refused { errno: Errno::from_raw(code.saturating_neg()), kernel: String::new() }
    }

    /// Whether it says that what was to be added is there.
    pub fn says_exists(&self) -> bool {
        matches!(self, Self::Refused { errno: Errno::EEXIST, .. })
    }

    /// Whether it says that what was to be removed is not there.
    pub fn says_gone(&self) -> bool {
        let gone = [Errno::ESRCH, Errno::EADDRNOTAVAIL, Errno::ENODEV];
        matches!(self, Self::Refused { errno, .. } if gone.contains(errno))
    }

    /// The error's name, `ENETUNREACH`, or what else happened.
    pub fn name(&self) -> String {
        match self {
            Self::Refused { errno, .. } => format!("{errno:?}"),
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

/// The text of `NLMSGERR_ATTR_MSG` (attribute 1) in what follows an error's code: the header of
/// the request, 16 bytes (the request itself is capped), then attributes, each of a length, a
/// type and a value padded to four bytes, in the machine's byte order.
fn words(after_code: &[u8]) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    const NLA_TYPE_MASK: u16 = 0x3fff;
    let mut attributes = after_code.get(16..)?;
    loop {
        let (length, rest) = attributes.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let kind = u16::from_ne_bytes(*rest.first_chunk()?) & NLA_TYPE_MASK;
        let value = attributes.get(4..length)?;
        if kind == NLMSGERR_ATTR_MSG {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
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
