//! What a guest's networking is like while things happen to it: its agent is killed, somebody in
//! the guest changes it, NICs come and go, others take its addresses, a document cuts the host off.
//!
//! The real binaries in network namespaces. Where a test stands for something that went wrong
//! elsewhere, its name has that project's number (`field-notes.md`).

#![allow(clippy::expect_used, reason = "a test fails by panicking, and says what it expected")]

mod conflicts;
mod drift;
mod machine;
mod neighbours;
mod notes;
mod plugging;
mod restart;
mod stream;
mod tether_at_risk;
