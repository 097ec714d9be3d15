//! Why the engine does not do what it was asked.

use std::fmt;

/// A refusal: what kind it is, and a sentence for the person who asked. The sentences are
/// Docker's own wherever Docker has one, because programs read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineError {
    /// What kind of refusal.
    pub kind: Kind,
    /// Why, one line where possible.
    pub message: String,
}

/// What kind of refusal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is so already.
    NotModified,
    /// What was asked is wrong in itself.
    Invalid,
    /// What was asked is not allowed.
    Forbidden,
    /// It is about something that is not there.
    NotFound,
    /// Something else is in the way.
    Conflict,
    /// More than is taken at once.
    TooLarge,
    /// Nobody has built it.
    Unsupported,
    /// Something on this machine failed.
    Internal,
}

impl EngineError {
    /// It is so already.
    pub fn not_modified() -> Self {
        Self { kind: Kind::NotModified, message: String::new() }
    }

    /// What was asked is wrong in itself.
    pub fn invalid(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Invalid, message: message.to_string() }
    }

    /// What was asked is not allowed.
    pub fn forbidden(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Forbidden, message: message.to_string() }
    }

    /// It is about something that is not there.
    pub fn not_found(message: impl fmt::Display) -> Self {
        Self { kind: Kind::NotFound, message: message.to_string() }
    }

    /// Something else is in the way.
    pub fn conflict(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Conflict, message: message.to_string() }
    }

    /// More than is taken at once.
    pub fn too_large(message: impl fmt::Display) -> Self {
        Self { kind: Kind::TooLarge, message: message.to_string() }
    }

    /// Nobody has built it.
    pub fn unsupported(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Unsupported, message: message.to_string() }
    }

    /// Something on this machine failed.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Internal, message: message.to_string() }
    }

    /// Says first where it happened.
    #[must_use]
    pub fn at(self, place: impl fmt::Display) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for EngineError {}
