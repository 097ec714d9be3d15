//! Who is let in: by the key of its connection, and the first time by its join token.
//!
//! Values only: the time is an argument, and what has to be told is returned.

use std::time::{Duration, SystemTime};

use tether_wire::identity::{JoinToken, Pin};

/// How long for ever is: a hundred years.
const FOREVER: Duration = Duration::from_hours(100 * 365 * 24);

/// What a guest is let in by. `Clone` and `Debug` show nothing of the token.
#[derive(Clone, Debug)]
pub struct Admission {
    /// What its boot document has. It is redeemed once, by the first key that comes with it, and
    /// zeroed then.
    pub token: JoinToken,
    /// Until when it can be redeemed. A key that has redeemed it is let in for as long as the guest
    /// is admitted.
    pub expires: SystemTime,
    /// The key that has redeemed it, where an earlier run of the host program was told of one by
    /// [`EventKind::Enrolled`](crate::EventKind::Enrolled). The token counts for nothing then.
    pub key: Option<Pin>,
}

impl Admission {
    /// A token that nobody has had before, good for so long from now on.
    pub fn new(valid: Duration) -> Self {
        let token = JoinToken::from_bytes(rand::random());
        // Longer ones have no end that could be said.
        let expires = SystemTime::now() + valid.min(FOREVER);
        Self { token, expires, key: None }
    }

    /// A guest whose key was noted. Its token was zeroed when it was redeemed: nobody has another.
    pub fn known(key: Pin) -> Self {
        Self { key: Some(key), ..Self::new(Duration::ZERO) }
    }
}

/// How it stands with one guest.
#[derive(Debug)]
pub(crate) enum Enrolment {
    /// Its first connection is waited for.
    Open { token: JoinToken, expires: SystemTime },
    /// It is whoever has this key.
    Bound(Pin),
}

/// Whoever has not been refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// For the first time: its key is bound now.
    Enrolled,
    /// Again.
    Known,
}

/// Why a connection is not this guest's. What is said to whoever is there, in one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The guest is bound to another key.
    #[error("another key has redeemed this guest's join token")]
    Reuse {
        /// Which.
        bound: Pin,
    },
    /// It has another token.
    #[error("its join token is not the one this host has given out")]
    Token,
    /// It is too late.
    #[error("its join token has expired")]
    Expired,
}

impl From<Admission> for Enrolment {
    fn from(Admission { token, expires, key }: Admission) -> Self {
        match key {
            Some(key) => Self::Bound(key),
            None => Self::Open { token, expires },
        }
    }
}

impl Enrolment {
    /// Judges a connection that comes with this key and token.
    pub(crate) fn enter(&mut self, key: Pin, shown: &JoinToken, now: SystemTime) -> Result<Entry, Refusal> {
        match self {
            Self::Bound(bound) if *bound == key => Ok(Entry::Known),
            Self::Bound(bound) => Err(Refusal::Reuse { bound: *bound }),
            // In this order: that a token has expired is nobody's business who has not got it.
            Self::Open { token, .. } if token != shown => Err(Refusal::Token),
            Self::Open { expires, .. } if now > *expires => Err(Refusal::Expired),
            Self::Open { .. } => {
                // The token goes, and is zeroed by that.
                *self = Self::Bound(key);
                Ok(Entry::Enrolled)
            }
        }
    }

    /// The key it is bound to.
    pub(crate) fn key(&self) -> Option<Pin> {
        match self {
            Self::Bound(key) => Some(*key),
            Self::Open { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Pin = Pin::from_bytes([1; 32]);
    const OTHER: Pin = Pin::from_bytes([2; 32]);

    fn token(byte: u8) -> JoinToken {
        JoinToken::from_bytes([byte; 32])
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn enrolment(key: Option<Pin>) -> Enrolment {
        Admission { token: token(7), expires: at(600), key }.into()
    }

    #[test]
    fn a_token_is_redeemed_once_and_its_key_comes_back() {
        let mut guest = enrolment(None);
        assert_eq!(guest.key(), None);
        assert_eq!(guest.enter(ONE, &token(7), at(600)), Ok(Entry::Enrolled));
        assert_eq!(guest.key(), Some(ONE));
        // Whenever, and whatever it says besides.
        assert_eq!(guest.enter(ONE, &token(7), at(0)), Ok(Entry::Known));
        assert_eq!(guest.enter(ONE, &token(8), at(9_999)), Ok(Entry::Known));
    }

    #[test]
    fn another_key_is_refused_with_and_without_the_token() {
        let mut guest = enrolment(None);
        guest.enter(ONE, &token(7), at(1)).unwrap();
        for shown in [token(7), token(8)] {
            assert_eq!(guest.enter(OTHER, &shown, at(1)), Err(Refusal::Reuse { bound: ONE }));
        }
        assert_eq!(guest.enter(ONE, &token(7), at(1)), Ok(Entry::Known), "the first one stays");
    }

    #[test]
    fn wrong_and_expired_tokens_bind_nothing() {
        let mut guest = enrolment(None);
        assert_eq!(guest.enter(ONE, &token(8), at(1)), Err(Refusal::Token));
        assert_eq!(guest.enter(ONE, &token(7), at(601)), Err(Refusal::Expired));
        assert_eq!(guest.enter(ONE, &token(8), at(601)), Err(Refusal::Token));
        assert_eq!(guest.enter(OTHER, &token(7), at(1)), Ok(Entry::Enrolled));
    }

    #[test]
    fn a_key_that_was_noted_needs_no_token() {
        let mut guest = enrolment(Some(ONE));
        assert_eq!(guest.enter(ONE, &token(0), at(9_999)), Ok(Entry::Known));
        assert_eq!(guest.enter(OTHER, &token(7), at(1)), Err(Refusal::Reuse { bound: ONE }));
    }

    #[test]
    fn each_admission_has_a_token_of_its_own() {
        let (one, other) = (Admission::new(Duration::from_mins(10)), Admission::new(Duration::MAX));
        assert_ne!(one.token, other.token);
        assert!(SystemTime::now() < one.expires && one.expires < other.expires);
    }
}
