//! The whole engine, check → plan → kernel → verify, on the real kernel: each case on a machine of
//! its own, a network namespace with three NICs. Needs root and `ip`.
//!
//! The properties are tried with generated documents, as many as `TETHER_CASES` says for each of
//! them:
//!
//!     TETHER_CASES=2000 cargo test -p tether-tests --test engine
//!
//! Without it, about five hundred cases in all. A case that fails is made smaller, and told as the
//! JSON of its documents and the `ip` commands of what others had made there before.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod cases;
mod documents;
mod every_operation;
mod foreign;
mod interfaces;
mod kernels;
mod machine;
mod misfits;
mod planner;
mod properties;
mod seen;
mod ways;
