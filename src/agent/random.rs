//! Random numbers, the kernel's, asked for each time.
//!
//! A generator of the process's own goes on alike in every copy of a machine: copies would ask
//! upstreams by the same DNS IDs, and come back to the host at the same moments. The kernel's is
//! seeded anew where it hears that the machine is a copy.

use rand::{
    RngExt as _,
    distr::{Distribution, StandardUniform},
    rand_core::UnwrapErr,
    rngs::SysRng,
};

/// A random value, evenly spread. One `getrandom(2)`, which cannot fail once the machine has booted.
pub(crate) fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    UnwrapErr(SysRng).random()
}
