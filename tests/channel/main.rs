//! Who is let in, and who is believed: the real agent and the host library, a cable between them,
//! and strangers at either end.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking, and says what it expected"
)]

mod apart;
mod carriers;
mod copies;
mod enrolment;
mod place;
mod python;
mod rotation;
mod strangers;
