//! The embedded DNS server, asked as containers ask it: real packets to the real agent in a
//! network namespace of its own, servers behind it that do what the test says.
//!
//! Every line of the project's field notes on name resolution has a test here: what Docker's users
//! expect in `rows_names`, what went wrong elsewhere in `rows_forward` and `rows_packets`, with the
//! other project's number in the test's name. `differential` compares with other servers, `clients`
//! has real resolvers ask. Packets are written by `packet` and read by `answers`, which share
//! nothing with the server.

#![allow(clippy::expect_used, reason = "a test fails by panicking, and says what it expected")]

mod answers;
mod cache;
mod client;
mod clients;
mod counters;
mod differential;
mod forwarding;
mod garbage;
mod hosted;
mod listening;
mod many_names;
mod packet;
mod peers;
mod questions;
mod reasons;
mod rows_forward;
mod rows_names;
mod rows_packets;
mod server;
mod tables;
mod tls;
mod upstream;
