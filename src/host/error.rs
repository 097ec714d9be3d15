//! Why a guest does not have what was wanted of it. One enum for each operation.

use std::{fmt, sync::Arc};

use tether_wire::{
    message::{Failed, Failure, Phase},
    problem::Problem,
};

/// Why a desired state is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// This guest was not [admitted](crate::Host::admit).
    #[error("no such guest: admit it first")]
    Unknown,
    /// The document is wrong in itself; the guest never saw it.
    #[error("{}", lines(.0))]
    Wrong(Vec<Problem>),
    /// The document is longer than a message may be.
    #[error("the document has {0} bytes when encoded, more than a message may")]
    TooLong(usize),
    /// The guest could not put it in force; it says whether it is as it was before.
    #[error("{}", Told(.0))]
    Failed(Arc<Failed>),
    /// Another document was wanted before this one was in force, or the guest was dismissed.
    #[error("another document took its place")]
    Superseded,
}

/// Why name tables are not in force.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// This guest was not [admitted](crate::Host::admit).
    #[error("no such guest: admit it first")]
    Unknown,
    /// The tables are wrong.
    #[error("{}", lines(.0))]
    Wrong(Vec<Problem>),
    /// The tables are longer than a message may be.
    #[error("the names have {0} bytes when encoded, more than a message may")]
    TooLong(usize),
    /// Other names were given before these were in force, or the guest was dismissed.
    #[error("other names took their place")]
    Superseded,
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

struct Told<'a>(&'a Failed);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { phase, problems, restored, .. } = &self.0.failure;
        let stage = match phase {
            Phase::Generation | Phase::Check | Phase::Plan => "refused",
            Phase::Apply => "refused by the kernel",
            Phase::Files => "a file could not be written",
            Phase::Verify => "not verified",
            Phase::Confirm => "was not confirmed in time",
        };
        write!(f, "{stage}: {}", lines(problems))?;
        if *restored { Ok(()) } else { write!(f, "; the guest is not as it was before") }
    }
}
