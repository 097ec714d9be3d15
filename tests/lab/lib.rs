//! What the end-to-end tests stand on: network namespaces, processes, waiting.
//!
//! A namespace lives as long as a process that holds it, and that process dies with the test
//! that made it, however the test ends. Nothing gets a name under `/run`, nothing is left.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking, and says for what it waited"
)]

pub mod acquaintance;
pub mod docker;
pub mod driven;
pub mod guests;
pub mod process;
pub mod space;

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

pub use acquaintance::{admission, boot_document, host_identity};
pub use driven::{Driven, Site, Socket, on_site};
pub use guests::{Lab, verified};
pub use process::Process;
pub use space::Space;

/// How long anything in a test may take. Long, because the machine may be busy; nothing waits
/// for it to pass unless the test fails.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// The binary `name`, built in the same profile as the tests.
///
/// # Panics
///
/// When it has not been built.
pub fn binary(name: &str) -> PathBuf {
    let path = above_test(2).join(name);
    assert!(path.exists(), "{} is missing: run cargo build --workspace, or scripts/test", path.display());
    path
}

/// The directory of everything that is built: images are there too.
pub fn target() -> PathBuf {
    above_test(4)
}

fn above_test(levels: usize) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    test.ancestors().nth(levels).expect("target/<triple>/<profile>/deps/<test>").to_owned()
}

/// Asks `what` again and again until it has an answer.
///
/// # Panics
///
/// After [`DEADLINE`], with `whatfor`.
pub fn wait_for<T>(whatfor: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = what() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {DEADLINE:?} in vain for {whatfor}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Does `what` again when it was interrupted: a receive with a time limit is, where others go on,
/// when its process or the whole machine was stopped for a while (signal(7)).
///
/// # Errors
///
/// What else goes wrong.
pub fn uninterrupted<T>(mut what: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match what() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
