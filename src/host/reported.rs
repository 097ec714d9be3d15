//! How much of what a guest reports is kept: as much as an honest one says
//! ([`tether_wire::status`] has the numbers). A message of 4 MiB can be made to take 60 MiB when it
//! is decoded, as millions of empty names, say.

use tether_wire::{
    message::FromGuest,
    status::{MAX_ADDRESSES, MAX_INTERFACES, MAX_ROUTES, MAX_RULES, Observed},
};

/// The most conditions, and problems of a kind: an honest guest says fewer.
const MAX_TOLD: usize = 2_048;
/// The most names of one interface and next hops of one route.
const MAX_LISTED: usize = 16;

/// Takes what is too much out of a message.
pub(crate) fn shorten(message: &mut FromGuest) {
    match message {
        FromGuest::Status(status) => {
            shorten_observed(&mut status.observed);
            keep(&mut status.conditions, &mut { MAX_TOLD });
        }
        FromGuest::Verified(verified) => {
            shorten_observed(&mut verified.observed);
            keep(&mut verified.skipped, &mut { MAX_ROUTES });
        }
        FromGuest::Failed(failed) => keep(&mut failed.failure.problems, &mut { MAX_TOLD }),
        FromGuest::NamesFailed(failed) => keep(&mut failed.problems, &mut { MAX_TOLD }),
        _ => {}
    }
}

fn shorten_observed(observed: &mut Observed) {
    let (mut addresses, mut routes) = (MAX_ADDRESSES, MAX_ROUTES);
    keep(&mut observed.interfaces, &mut { MAX_INTERFACES });
    for interface in &mut observed.interfaces {
        keep(&mut interface.addresses, &mut addresses);
        keep(&mut interface.routes, &mut routes);
        keep(&mut interface.alternative_names, &mut { MAX_LISTED });
    }
    keep(&mut observed.routes, &mut routes);
    for route in &mut observed.routes {
        keep(&mut route.hops, &mut { MAX_LISTED });
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
    use tether_wire::status::{
        AddressState, Condition, ObservedAddress, ObservedInterface, ObservedRule, Status,
    };

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
        let shortened = |status: Status| {
            let mut message = FromGuest::from(status);
            shorten(&mut message);
            let FromGuest::Status(status) = message else { panic!("{message:?}") };
            status
        };
        assert_eq!(shortened(honest.clone()), honest);

        let mut much = honest.clone();
        let observed = &mut much.observed;
        observed.interfaces.resize(2_000, observed.interfaces[0].clone());
        observed.interfaces[1].alternative_names = vec![String::new(); 1_000_000];
        observed.rules.resize(1_000_000, observed.rules[0].clone());
        much.conditions.resize(1_000_000, much.conditions[0].clone());
        let much = shortened(much);
        let Observed { interfaces, rules, .. } = &much.observed;
        assert_eq!((interfaces.len(), interfaces.capacity()), (MAX_INTERFACES, MAX_INTERFACES));
        assert_eq!(
            interfaces.iter().map(|interface| interface.addresses.len()).sum::<usize>(),
            MAX_ADDRESSES
        );
        assert_eq!(interfaces[1].alternative_names.len(), MAX_LISTED);
        assert_eq!((rules.capacity(), much.conditions.capacity()), (MAX_RULES, MAX_TOLD));
    }
}
