//! A problem in a document somebody wrote: where it is, and what to do about it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing wrong in a document.
///
/// Checks collect every problem they find instead of stopping at the first, so that a person
/// mends a document once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where: a path in the document, such as `interfaces[1].routes[0].gateway`.
    pub path: String,
    /// What is wrong there and how to mend it, one line.
    pub message: String,
}

impl Problem {
    /// A problem at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The most problems that are told at once; the last of them says how many more there are.
pub const MOST: usize = 256;

/// Collects problems while a document is read.
#[derive(Debug, Default)]
pub struct Problems {
    /// At most [`MOST`] of them.
    first: Vec<Problem>,
    /// All that were noted.
    count: usize,
}

impl Problems {
    /// Notes a problem at `path`.
    pub fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.count += 1;
        if self.first.len() < MOST {
            self.first.push(Problem::new(path, message));
        }
    }

    /// The value of `result`, or `None` with its error noted at `path`.
    pub fn keep<T, E: fmt::Display>(&mut self, path: impl fmt::Display, result: Result<T, E>) -> Option<T> {
        // The path is put together when it is needed: documents have thousands of good values.
        result.map_err(|error| self.add(path.to_string(), error.to_string())).ok()
    }

    /// `value` when nothing was noted, every problem otherwise.
    pub fn into_result<T>(mut self, value: T) -> Result<T, Vec<Problem>> {
        if self.count > MOST {
            let more = self.count - MOST + 1;
            self.first.truncate(MOST - 1);
            self.first.push(Problem::new("…", format!("and {more} more; mend these first")));
        }
        if self.first.is_empty() { Ok(value) } else { Err(self.first) }
    }
}
