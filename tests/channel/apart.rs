//! The management NIC in a network namespace of its own.

use tether_tests::{Space, wait_for};

use crate::place::{HOST, HostProgram, MAC, PORT, Place, admission, identity};

const NETNS: &str = "/run/netns/tether";
const OPTIONS: [&str; 4] = ["--run", "/run/tether", "--netns", NETNS];

/// What a line for the shell prints in there, if it succeeds.
fn shell(space: &Space, line: &str) -> Option<String> {
    let output = space.command("bash").args(["-c", line]).output().expect("it can be started");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_container_has_no_way_to_the_host_and_the_tether_has() {
    let place = Place::new();
    let (identity, admission) = (identity(), admission());
    let pins = [identity.pin()];
    let token = admission.token.clone();
    let host = HostProgram::start(&place, identity, admission);
    let in_there = |line: &str| format!("nsenter --net={NETNS} bash -c '{line}'");
    let connects = format!("timeout 2 bash -c \"exec 3<>/dev/tcp/{HOST}/{PORT}\"");
    let mut agent = place.agent_with(&OPTIONS, &pins, &token);
    let key = host.enrols();
    host.drives("apart");
    // Interfaces, routes, neighbours: none of it here, all of it there.
    let all = "ip -o link; ip -o address; ip route show table all; ip -6 route show table all; ip neigh";
    let here = shell(&place.inside, all).expect("it works");
    assert!(!here.contains("tether0") && !here.contains("10.99.0"), "{here}");
    let there = shell(&place.inside, &in_there(all)).expect("it works");
    assert!(there.contains("tether0") && there.contains("10.99.0.2/24"), "{there}");
    // Whoever fills the table of neighbours, which all namespaces share, does not take the host's place.
    let host_there = shell(&place.inside, &in_there(&format!("ip neigh show {HOST}"))).expect("it works");
    assert!(host_there.contains("extern_learn"), "{host_there}");
    assert_eq!(shell(&place.inside, &connects), None, "the host's port can be reached from the container");
    assert!(shell(&place.inside, &in_there(&connects)).is_some(), "the test proves nothing");

    // An agent that is killed leaves it all there, and the next comes back as the same guest.
    agent.kill();
    let _agent = place.agent_with(&OPTIONS, &pins, &token);
    host.lets_in(2);
    assert_eq!(host.host.key(&"guest".parse().expect("an id")), Some(key));

    // A NIC that is plugged in anew is taken there again.
    place.outside.run("ip link delete pm");
    let id = place.inside.id();
    place.outside.run(&format!("ip link add pm type veth peer name ens9 address {MAC} netns {id}"));
    place.outside.run(&format!("ip address add {HOST}/24 dev pm"));
    place.outside.run("ip link set pm up");
    host.lets_in(3);
    wait_for("it is gone here", || (!place.inside.run("ip -o link").contains("ens9")).then_some(()));
}
