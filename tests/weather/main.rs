//! The channel in any weather: between the real agent and the host library every Ethernet frame is
//! carried by these tests, or lost, doubled, held back; and others are there who mean no good.
//!
//! Real kernels' TCP does the rest. The weather's luck has a seed for each test.

#![allow(clippy::expect_used, reason = "a test fails by panicking, and says what it expected")]

mod air;
mod crowd;
mod cuts;
mod forgeries;
mod place;
mod relay;
mod speaker;
mod storms;
