//! The planner: (desired, observed) → ordered operations, or precise problems.
//!
//! Pure functions of their arguments: no I/O, no clock, no randomness. Three steps, each a
//! module:
//!
//! - [`target()`]: what the kernel should look like when the desired state is in force;
//! - [`diff()`]: the operations that lead from one kernel state to another, in a safe order. The
//!   same function plans an apply and its rollback;
//! - [`settled()`]: whether the kernel, read back, is there.

pub mod diff;
pub mod model;
pub mod settled;
pub mod target;

pub use diff::{Operation, diff};
pub use model::{Address, KernelState, Link, Route};
pub use settled::{Progress, settled};
pub use target::{Target, target};
