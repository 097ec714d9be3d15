//! What holds for any documents.

use std::{collections::BTreeSet, env};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use tether::{
    kernel::Fault,
    plan::{Address, KernelState, Link, Neighbour, Route, Rule, Setting},
};
use tether_wire::{message::Failure, state::DesiredState};

use crate::{
    documents::{Document, document},
    foreign::foreign,
    interfaces::has_ipv6,
    machine::{NICS, first_name, index, mac, on_machine},
    seen::{everything, of_others, same},
};

/// Tries `test` with as many values as the environment says, or `cases`.
pub(crate) fn for_all<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value) -> Result<(), String>) {
    let asked: Option<u32> = env::var("TETHER_CASES").ok().map(|text| text.parse().unwrap());
    let cases = asked.unwrap_or(cases);
    let config = Config { cases, max_shrink_iters: 400, failure_persistence: None, ..Config::default() };
    // The same values each time, so that a change that breaks something is the one that is told;
    // others where somebody asks for a number of them.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner =
        if asked.is_some() { TestRunner::new(config) } else { TestRunner::new_with_rng(config, rng) };
    let result = runner.run(strategy, |value| test(value).map_err(TestCaseError::fail));
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

/// How a document that should be put in force was refused.
fn refused(what: &str) -> impl Fn(Failure) -> String {
    move |failure| format!("{what}: {failure:#?}")
}

/// The same document leads to the same kernel, whatever was in force before it.
#[test]
fn what_was_in_force_before_leaves_no_trace() {
    for_all(80, &(document(), document(), foreign()), |(Document(a), Document(b), foreign)| {
        let fresh = on_machine(&foreign, async |machine| {
            machine.apply(&b).await.map_err(refused("fresh"))?;
            Ok::<_, String>(everything(&left_of(&machine.observe().await, &a)))
        })?;
        on_machine(&foreign, async |machine| {
            machine.apply(&a).await.map_err(refused("the first"))?;
            machine.apply(&b).await.map_err(refused("the second"))?;
            let now = everything(&left_of(&machine.observe().await, &a));
            same("fresh (-), after another (+)", &fresh, &now)
        })
    });
}

#[test]
fn what_is_in_force_takes_no_operation() {
    for_all(60, &(document(), foreign()), |(Document(state), foreign)| {
        on_machine(&foreign, async |machine| {
            machine.apply(&state).await.map_err(refused("the first time"))?;
            let before = everything(&machine.observe().await);
            let again = machine.apply(&state).await.map_err(refused("the second time"))?;
            if again.operations != 0 {
                return Err(format!("{} operations the second time", again.operations));
            }
            // An agent that knows nothing but the journal has nothing to do either.
            machine.restart();
            let again = machine.apply(&state).await.map_err(refused("the third time"))?;
            if again.operations != 0 {
                return Err(format!("{} operations after a restart", again.operations));
            }
            same("once (-), three times (+)", &before, &everything(&machine.observe().await))
        })
    });
}

/// What others made stays, and what the document does not say of a link is as it was.
#[test]
fn what_others_made_is_unchanged() {
    for_all(60, &(document(), document(), foreign()), |(Document(a), Document(b), foreign)| {
        on_machine(&foreign, async |machine| {
            let start = machine.observe().await;
            let (mut left, mut gone) = (start.clone(), Vec::new());
            for state in [&a, &b] {
                machine.apply(state).await.map_err(refused("apply"))?;
                let now = machine.observe().await;
                let named = |link: &Link| named(state, link.index).is_some();
                left = left_of(&left, state);
                let before = of_others(&left, |link| !named(link));
                gone.push(state);
                let stays = gone.iter().fold(now.clone(), |now, state| left_of(&now, state));
                let after = of_others(&stays, |link| !named(link));
                same("before (-), after (+)", &before, &after)?;
                unsaid(state, &start, &now)?;
            }
            machine.apply(&DesiredState::default()).await.map_err(refused("nothing"))?;
            // All of it is gone. What the kernel takes with a link that goes down, or with IPv6,
            // cannot be told from what others have removed once it was out of force for a while.
            let now = machine.observe().await;
            let links =
                |state: &KernelState| state.links.iter().map(|link| format!("{link:?}")).collect::<Vec<_>>();
            same("links before (-), after (+)", &links(&start), &links(&now))?;
            let ours = now.addresses.iter().any(Address::is_ours)
                || now.routes.iter().any(Route::is_ours)
                || now.rules.iter().any(Rule::is_ours)
                || now.neighbours.iter().any(Neighbour::is_ours);
            if ours { Err(format!("something was left: {now:#?}")) } else { Ok(()) }
        })
    });
}

/// What `state` says of a link.
fn named(state: &DesiredState, link: u32) -> Option<&tether_wire::state::Interface> {
    let is_it = |interface: &&tether_wire::state::Interface| {
        let matching = interface.matching.as_ref().unwrap();
        (0..NICS).any(|nic| {
            let fits = matching.mac == Some(mac(nic)) || matching.name == Some(first_name(nic));
            fits && index(nic) == link
        }) || matching.name.as_deref() == Some("lo") && link == 1
    };
    state.interfaces.iter().find(is_it)
}

/// What the kernel leaves of others' things for sure when a document takes links down or IPv6 off
/// them. A route with several next hops stays with those that are left, marked for dead.
fn left_of(state: &KernelState, document: &DesiredState) -> KernelState {
    let mut left = state.clone();
    let goes = |link: u32, ipv6: bool| {
        named(document, link).is_some_and(|interface| interface.down || ipv6 && !has_ipv6(interface))
    };
    left.addresses.retain(|a| a.is_ours() || !(a.prefix.address().is_ipv6() && goes(a.link, true)));
    left.neighbours.retain(|n| n.is_ours() || !goes(n.link, n.address.is_ipv6()));
    left.routes.retain(|route| {
        let ipv6 = route.destination.address().is_ipv6();
        route.is_ours() || !route.hops.iter().any(|hop| goes(hop.link, ipv6))
    });
    left
}

/// What the document does not say of its own links is as it was.
fn unsaid(state: &DesiredState, start: &KernelState, now: &KernelState) -> Result<(), String> {
    for link in &start.links {
        let (Some(interface), Some(now)) = (named(state, link.index), now.link(link.index)) else { continue };
        let mut expected = link.clone();
        expected.name.clone_from(&interface.name);
        expected.mac = interface.mac.as_ref().map(|mac| mac.parse().unwrap()).or(link.mac);
        expected.mtu = interface.mtu.unwrap_or(link.mtu);
        expected.tx_queue_length = interface.tx_queue_length.unwrap_or(link.tx_queue_length);
        expected.up = !interface.down;
        expected.carrier = !interface.down;
        let names: BTreeSet<String> =
            link.alternative_names.iter().chain(&interface.alternative_names).cloned().collect();
        expected.alternative_names = names.into_iter().collect();
        let (ipv4, ipv6) = (interface.ipv4, interface.ipv6);
        let number = |flag: Option<bool>| flag.map(i32::from);
        for (setting, value) in [
            (Setting::Ipv4Forwarding, number(ipv4.forwarding)),
            (Setting::RpFilter, ipv4.rp_filter.map(i32::from)),
            (Setting::ArpIgnore, ipv4.arp_ignore.map(i32::from)),
            (Setting::ArpAnnounce, ipv4.arp_announce.map(i32::from)),
            (Setting::DisableIpv6, number(ipv6.disable_ipv6)),
            (Setting::Ipv6Forwarding, number(ipv6.forwarding)),
            (Setting::AcceptRa, ipv6.accept_ra.map(i32::from)),
        ] {
            if value.is_some() {
                expected.settings.set(setting, value);
            }
        }
        // These follow from its addresses unless it says something else.
        let ipv6_settings =
            [Setting::DisableIpv6, Setting::Ipv6Forwarding, Setting::AcceptRa, Setting::OptimisticDad];
        for setting in Setting::ALL {
            let follows = match setting {
                Setting::ArpIgnore => ipv4.arp_ignore.is_none(),
                Setting::ArpAnnounce => ipv4.arp_announce.is_none(),
                Setting::PromoteSecondaries | Setting::OptimisticDad => true,
                _ => false,
            };
            if follows && !interface.addresses.is_empty() {
                expected.settings.set(setting, now.settings.get(setting));
            }
            if expected.mtu < 1_280 && ipv6_settings.contains(&setting) {
                expected.settings.set(setting, None);
            }
        }
        same("expected (-), found (+)", &[format!("{expected:?}")], &[format!("{now:?}")])?;
    }
    Ok(())
}

/// Refused at any operation, a document has never been tried.
#[test]
fn a_refusal_leaves_everything_as_it_was() {
    for_all(80, &(document(), document(), foreign(), any::<prop::sample::Index>()), |value| {
        let (Document(a), Document(b), foreign, at) = value;
        on_machine(&foreign, async |machine| {
            machine.apply(&a).await.map_err(refused("the first"))?;
            let before = everything(&machine.observe().await);
            let (_, operations) = machine.plan(&b).await;
            // One more than are planned at first: side effects may have to be mended.
            let at = at.index(operations.len() + 1);
            machine.agent.kernel().set_fault(Some(Fault::Refuse(at)));
            let result = machine.apply(&b).await;
            machine.agent.kernel().set_fault(None);
            match result {
                Ok(_) if at == operations.len() => return Ok(()),
                Ok(_) => return Err(format!("operation {at} was refused to no effect")),
                Err(failure) if !failure.restored => return Err(refused("not restored")(failure)),
                Err(_) => {}
            }
            let what = || match operations.get(at) {
                Some(operation) => format!("before (-), after \"{operation}\" was refused (+)"),
                None => "before (-), after the second round was refused (+)".to_owned(),
            };
            same(&what(), &before, &everything(&machine.observe().await))?;
            machine.apply(&b).await.map_err(refused("the second, at last")).map(|_| ())
        })
    });
}

/// An agent that is gone in the middle of it leaves the next one enough to go back.
#[test]
fn what_was_begun_and_not_finished_is_undone() {
    for_all(80, &(document(), document(), foreign(), 1..24_usize), |value| {
        let (Document(a), Document(b), foreign, polls) = value;
        on_machine(&foreign, async |machine| {
            machine.apply(&a).await.map_err(refused("the first"))?;
            let before = everything(&machine.observe().await);
            if machine.begin(&b, polls).await {
                return Ok(());
            }
            machine.restart();
            if !machine.agent.recover().await {
                return Err("not recovered".to_owned());
            }
            same("before (-), recovered (+)", &before, &everything(&machine.observe().await))?;
            machine.apply(&b).await.map_err(refused("the second, at last")).map(|_| ())
        })
    });
}
