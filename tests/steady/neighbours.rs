//! What neighbours of a guest with several NICs see.

use serde_json::json;

use crate::machine::{Machine, first, second, state};

#[test]
fn one_nic_does_not_answer_for_anothers_address_vic_8556() {
    let machine = Machine::new(2);
    // Without tether the kernel answers on any NIC for any of its addresses.
    for line in [
        "ip link set ens3 up",
        "ip link set ens4 up",
        "ip address add 172.18.0.2/16 dev ens3",
        "ip address add 172.19.0.2/16 dev ens4",
    ] {
        machine.inside.run(line);
    }
    let asks = || {
        machine.outside.run("ip neigh flush dev p0");
        machine.outside.run("ip route replace 172.19.0.2/32 dev p0 src 172.18.0.1");
        machine.outside.output("busybox ping -c 1 -W 2 172.19.0.2");
        machine.outside.run("ip neigh show 172.19.0.2 dev p0")
    };
    tether_tests::wait_for("the kernel to answer for another NIC", || {
        asks().contains("02:42:ac:12:00:02").then_some(())
    });
    for line in ["ip address flush dev ens3", "ip address flush dev ens4"] {
        machine.inside.run(line);
    }
    let mut agent = machine.with_state(&state(&[first(), second()], json!({})));
    agent.verified();
    let known = asks();
    assert!(!known.contains("02:42:ac:12:00:02"), "{known}");
    machine.outside.run("ip route del 172.19.0.2/32 dev p0");
    machine.outside.run("busybox ping -c 1 -W 5 172.19.0.2");
    // What is asked of others is asked with the NIC's own address.
    machine.inside.output("busybox ping -c 1 -W 1 -I 172.18.0.2 172.19.0.99");
    let heard = machine.outside.run("ip neigh show dev p1");
    assert!(!heard.contains("172.18.0.2"), "{heard}");
}
