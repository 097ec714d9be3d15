//! The planner by itself: any document, right or wrong, on any kernel, possible or not.

use std::net::IpAddr;

use proptest::{
    collection::vec,
    option::{self, weighted},
    prelude::*,
    sample::{Index, select},
};
use tether::plan::{self, Facts, Operation, Originals, danger, drift::drift};
use tether_wire::state::{ConflictCheck, Create, DesiredState, Interface, Match};

use crate::{
    documents::{Document, document},
    kernels::kernel,
    machine::mac,
    properties::for_all,
};

#[test]
fn no_document_panics_the_planner() {
    let kernel = || kernel().boxed();
    let strategy =
        (any_document().boxed(), kernel(), kernel(), kernel(), option::of(0..4_usize), any::<[bool; 2]>());
    for_all(
        1_000,
        &strategy,
        |(Document(document), first, now, later, management, [may_be_missing, held])| {
            let Ok(desired) = document.check() else { return Ok(()) };
            let originals = Originals::default().after(&first, &now);
            let management = management.map(|nic| mac(nic).parse().unwrap());
            let held = held.then_some(&desired);
            let facts = Facts {
                management,
                host: None,
                originals: &originals,
                since: 100,
                now: 700,
                held,
                may_be_missing,
            };
            let _ = plan::missing(&desired, &now, facts);
            let Ok(target) = plan::target(&desired, &now, facts) else { return Ok(()) };
            // Somebody who is where they are to be has nothing to do.
            let nothing = plan::diff(&target.state, &target);
            if !nothing.is_empty() {
                return Err(format!("in force: {}", told(&nothing)));
            }
            for state in [&now, &later] {
                let operations = plan::diff(state, &target);
                for operation in &operations {
                    let _ = (target.path_of(operation), operation.to_string(), operation.disturbs());
                }
                danger::could_cut_off(&operations, IpAddr::from([10, 1, 0, 9]));
                let _ = plan::settled(&target, state);
                let _ = (drift(&target, &now, state), target.to_probe(state));
                let _ = plan::diff(state, &target.links_only(&now));
                let _ = plan::diff(state, &target.back_to(now.clone()));
            }
            let _ = originals.after(&now, &target.state).and(&originals);
            // Nor has somebody who is back where they came from.
            let back = plan::diff(&now, &target.back_to(now.clone()));
            if back.is_empty() { Ok(()) } else { Err(format!("back: {}", told(&back))) }
        },
    );
}

fn told(operations: &[Operation]) -> String {
    operations.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// One that is good, with devices to be made, and here and there something else in it.
fn any_document() -> impl Strategy<Value = Document> {
    let text = prop_oneof![
        6 => select(vec!["n1", "n2", "eth0", "lo", "v", "", "10.1.0.1/24", "fd00:1::1/64", "0.0.0.0/0", "::/0", "fe80::1"]),
        1 => select(vec!["10.1.0.1/33", "02:00:00:00:00:01", "0000:00:03.0", "ÿ", "a/b", "255.255.255.255/32", "\0"]),
    ];
    let devices =
        vec((weighted(0.4, (select(vec!["v", "n1", "eth0", "eth1"]), 1..4_u16)), text.clone()), 0..3);
    let one_change = (0..14_u8, any::<Index>(), text, any::<u32>());
    let changes = prop_oneof![2 => Just(Vec::new()), 1 => vec(one_change, 1..3)];
    (document().boxed(), devices, changes, weighted(0.3, 0..3_usize)).prop_map(
        |(mut document, devices, changes, pci)| {
            let state = &mut document.0;
            for (d, (vlan, name)) in devices.into_iter().enumerate() {
                let create = Some(match vlan {
                    Some((parent, id)) => Create::Vlan { parent: parent.to_owned(), id },
                    None => Create::Dummy {},
                });
                let name = if d == 0 { "v".to_owned() } else { format!("{name}{d}") };
                state.interfaces.push(Interface { create, name, ..Interface::default() });
            }
            if let Some(matching) = pci.and_then(|i| state.interfaces.get_mut(i)?.matching.as_mut()) {
                matching.pci = Some("02.0/00.0".to_owned());
            }
            for (what, which, text, number) in changes {
                change(state, what, which, text.to_owned(), number);
            }
            document
        },
    )
}

fn change(state: &mut DesiredState, what: u8, which: Index, text: String, number: u32) {
    if let Some(interface) = (!state.interfaces.is_empty()).then(|| which.get_mut(&mut state.interfaces)) {
        match what {
            0 => interface.name = text,
            1 => interface.matching = Some(Match { name: Some(text), ..Match::default() }),
            2 => interface.addresses.push(text.into()),
            3 => interface.mtu = Some(number),
            4 => interface.alternative_names.push(text),
            5 => interface.optional = true,
            6 => interface.down = true,
            7 => interface.ipv6.disable_ipv6 = Some(true),
            8 => interface.routes.iter_mut().for_each(|route| route.gateway = Some(text.clone())),
            9 => interface.addresses.iter_mut().for_each(|address| address.valid_s = Some(number % 1_000)),
            10 => {
                interface.addresses.iter_mut().for_each(|address| address.conflicts = ConflictCheck::Strict);
            }
            11 => interface.create = Some(Create::Dummy {}),
            12 => interface
                .routes
                .iter_mut()
                .for_each(|route| (route.table, route.metric) = (Some(number), Some(number))),
            _ => state.rules.iter_mut().for_each(|rule| rule.table = number),
        }
    }
}
