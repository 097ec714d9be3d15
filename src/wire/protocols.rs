//! Which versions of the protocol an end speaks, and which one two ends agree on.
//!
//! It knows numbers only: what a version says is in [`crate::message`].

use std::fmt;

/// Versions of the protocol, from one to another. A greeting has the guest's; a host answers with
/// the one both will speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

impl Protocols {
    /// Those this crate speaks.
    pub const SPOKEN: Self = Self { min: 1, max: 1 };

    /// The newest version that is in both.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (self.contains(newest) && other.contains(newest)).then_some(newest)
    }

    /// Whether `version` is one of them.
    pub fn contains(self, version: u16) -> bool {
        (self.min..=self.max).contains(&version)
    }
}

impl fmt::Display for Protocols {
    /// `1 to 2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_of_both_is_spoken() {
        let protocols = |min, max| Protocols { min, max };
        for (one, other, common) in [
            (protocols(1, 1), protocols(1, 1), Some(1)),
            (protocols(1, 1), protocols(1, 2), Some(1)),
            (protocols(1, 3), protocols(2, 5), Some(3)),
            (protocols(1, 1), protocols(2, 3), None),
            // Nobody speaks that.
            (protocols(3, 1), protocols(1, 3), None),
            (protocols(0, u16::MAX), protocols(u16::MAX, u16::MAX), Some(u16::MAX)),
        ] {
            assert_eq!(one.common(other), common, "{one}, {other}");
            assert_eq!(other.common(one), common, "{other}, {one}");
        }
    }
}
