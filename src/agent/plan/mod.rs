//! The planner: (desired, observed) → ordered operations, or precise problems.
//!
//! Pure functions of their arguments: no I/O, no clock, no randomness. Three steps, each a
//! module:
//!
//! - [`target()`]: what the kernel should look like when the desired state is in force;
//! - [`diff()`]: the operations that lead from one kernel state to another, in a safe order. The
//!   same function plans an apply, its rollback and a repair;
//! - [`settled()`]: whether the kernel, read back, is there.
//!
//! Beside them: [`Originals`], what there was before tether; [`drift`], what others have changed;
//! [`danger`], whether a change could cut the host off.

pub mod danger;
pub mod diff;
pub mod drift;
pub mod model;
pub mod operation;
pub mod originals;
pub mod setting;
pub mod settled;
pub mod target;

pub use diff::{diff, lost};
pub use model::{
    Address, AddressKey, Hop, KernelState, Lifetime, Link, LinkKind, Neighbour, Others, PROTOCOL,
    RTN_UNICAST, RawAttribute, Route, RouteKey, Rule, TABLE_MAIN,
};
pub use operation::{Named, Operation};
pub use originals::Originals;
pub use setting::{Setting, Settings};
pub use settled::{Progress, settled};
pub use target::{Facts, Target, makes_devices, missing, needs_places, target};
