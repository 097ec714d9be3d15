//! How much of what a guest reports is kept: as much as an honest one says
//! ([`tether_wire::status`] has the numbers). A message of 4 MiB can be made to take 60 MiB when it
//! is decoded, as millions of empty names, say.

use tether_wire::{
    message::Verified,
    status::{MAX_ADDRESSES, MAX_INTERFACES, MAX_ROUTES, MAX_RULES, Observed, Status},
};

/// The most conditions, and the most names and next hops of one thing: an honest guest says 16 of each
/// part.
const MAX_LISTED: usize = 2_048;

/// Takes what is too much out of a status.
pub(crate) fn shorten(status: &mut Status) {
    shorten_observed(&mut status.observed);
    keep(&mut status.conditions, &mut { MAX_LISTED });
}

/// Takes what is too much out of the word about a state.
pub(crate) fn shorten_verified(verified: &mut Verified) {
    shorten_observed(&mut verified.observed);
    keep(&mut verified.skipped, &mut { MAX_ROUTES });
}

fn shorten_observed(observed: &mut Observed) {
    let (mut addresses, mut routes, mut names) = (MAX_ADDRESSES, MAX_ROUTES, MAX_LISTED);
    keep(&mut observed.interfaces, &mut { MAX_INTERFACES });
    for interface in &mut observed.interfaces {
        keep(&mut interface.addresses, &mut addresses);
        keep(&mut interface.routes, &mut routes);
        keep(&mut interface.alternative_names, &mut names);
    }
    keep(&mut observed.routes, &mut routes);
    let mut hops = MAX_ROUTES;
    for route in &mut observed.routes {
        keep(&mut route.hops, &mut hops);
    }
    keep(&mut observed.rules, &mut { MAX_RULES });
}

/// Keeps of a list what there is room `left` for, and no memory beyond that.
fn keep<T>(list: &mut Vec<T>, left: &mut usize) {
    list.truncate(*left);
    list.shrink_to_fit();
    *left -= list.len();
}

#[cfg(test)]
mod tests {
    use tether_wire::status::{AddressState, Condition, ObservedAddress, ObservedInterface, ObservedRule};

    use super::*;

    #[test]
    fn what_an_honest_guest_says_is_kept_and_millions_of_nothing_are_not() {
        let address = ObservedAddress { address: String::new(), state: AddressState::Usable, ours: false };
        let interface = ObservedInterface { addresses: vec![address; 4_096], ..ObservedInterface::default() };
        let rule = ObservedRule { rule: String::new(), ours: false };
        let honest = Status {
            observed: Observed { interfaces: vec![interface; 2], rules: vec![rule; 1_024], routes: vec![] },
            conditions: vec![Condition { part: "dns".into(), message: String::new() }; 16],
            ..Status::default()
        };
        let mut kept = honest.clone();
        shorten(&mut kept);
        assert_eq!(kept, honest);

        let mut much = honest.clone();
        let observed = &mut much.observed;
        observed.interfaces.resize(2_000, observed.interfaces[0].clone());
        observed.interfaces[1].alternative_names = vec![String::new(); 1_000_000];
        observed.rules.resize(1_000_000, observed.rules[0].clone());
        much.conditions.resize(1_000_000, much.conditions[0].clone());
        shorten(&mut much);
        let Observed { interfaces, rules, .. } = &much.observed;
        assert_eq!((interfaces.len(), interfaces.capacity()), (MAX_INTERFACES, MAX_INTERFACES));
        assert_eq!(
            interfaces.iter().map(|interface| interface.addresses.len()).sum::<usize>(),
            MAX_ADDRESSES
        );
        assert_eq!(interfaces[1].alternative_names.len(), MAX_LISTED);
        assert_eq!((rules.capacity(), much.conditions.capacity()), (MAX_RULES, MAX_LISTED));
    }
}
