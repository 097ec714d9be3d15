//! Whether the kernel, read back, is where the target wants it.

use std::collections::HashMap;

use tether_wire::{problem::Problem, state::ConflictCheck};

use super::{
    model::{Address, KernelState},
    target::Target,
};

/// How a verification stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Everything is as desired and usable.
    Settled,
    /// Nothing is wrong, but not everything is finished: read back again when the kernel has
    /// something new to tell. What is waited for, each with its path.
    Waiting(Vec<Problem>),
    /// It will not come right by itself.
    Wrong(Vec<Wrong>),
}

/// Something that will not come right by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What it is.
    pub problem: Problem,
    /// The address that another machine has, where that is it.
    pub taken: Option<Address>,
}

/// Whether what was done is usable: `observed` does not differ from `target` any more.
pub fn settled(target: &Target, observed: &KernelState) -> Progress {
    let (mut waiting, mut wrong) = (Vec::new(), Vec::new());
    for (index, path) in &target.links {
        match observed.link(*index) {
            Some(link) if link.carrier || !link.up => {}
            Some(link) => {
                waiting.push(Problem::new(
                    path,
                    format!("{} has no carrier: check its cable or switch port", link.name),
                ));
            }
            None => wrong.push(Wrong { problem: Problem::new(path, "the device is gone"), taken: None }),
        }
    }
    let addresses: HashMap<_, _> =
        observed.addresses.iter().map(|address| (address.key(), address)).collect();
    for (key, (_, check)) in &target.addresses {
        let Some(address) = addresses.get(key) else { continue };
        let path = || target.address_path(address);
        match check {
            // One that is used at once and found to be another's is reported, not undone.
            ConflictCheck::Strict if address.duplicate => wrong.push(Wrong {
                problem: Problem::new(path(), format!("{} is in use by another machine", address.prefix)),
                taken: Some((*address).clone()),
            }),
            _ if address.tentative && !address.optimistic && !address.duplicate => {
                let message = format!("{} is still being checked for duplicates", address.prefix);
                waiting.push(Problem::new(path(), message));
            }
            _ => {}
        }
    }
    match (wrong.is_empty(), waiting.is_empty()) {
        (false, _) => Progress::Wrong(wrong),
        (true, false) => Progress::Waiting(waiting),
        (true, true) => Progress::Settled,
    }
}
