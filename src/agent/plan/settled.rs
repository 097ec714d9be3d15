//! Whether the kernel, read back, is where the target wants it.

use std::collections::HashMap;

use tether_wire::problem::Problem;

use super::{diff::diff, model::KernelState, target::Target};

/// How a verification stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Everything is as desired and usable.
    Settled,
    /// Nothing is wrong, but not everything is finished: read back again when the kernel has
    /// something new to tell. What is waited for, each with its path.
    Waiting(Vec<Problem>),
    /// The kernel differs from the target: more operations are needed.
    Different,
    /// It will not come right by itself.
    Wrong(Vec<Problem>),
}

/// How far `observed` is from `target`.
pub fn settled(target: &Target, observed: &KernelState) -> Progress {
    if !diff(observed, target).is_empty() {
        return Progress::Different;
    }
    let (mut waiting, mut wrong) = (Vec::new(), Vec::new());
    for (index, path) in &target.links {
        match observed.link(*index) {
            Some(link) if link.carrier => {}
            Some(link) => {
                waiting.push(Problem::new(
                    path,
                    format!("{} has no carrier: check its cable or switch port", link.name),
                ));
            }
            None => wrong.push(Problem::new(path, "the device is gone")),
        }
    }
    let addresses: HashMap<_, _> =
        observed.addresses.iter().map(|address| ((address.link, address.prefix), address)).collect();
    for (wanted, path) in target.wanted_addresses() {
        match addresses.get(&wanted) {
            Some(address) if address.duplicate => {
                wrong.push(Problem::new(path, format!("{} is in use by another machine", address.prefix)));
            }
            Some(address) if address.tentative => {
                let message = format!("{} is still being checked for duplicates", address.prefix);
                waiting.push(Problem::new(path, message));
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
