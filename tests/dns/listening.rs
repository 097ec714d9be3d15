//! Where the server listens, to whom, and what becomes of a port that somebody else has.

use std::{
    net::{SocketAddr, TcpStream, UdpSocket},
    process::Stdio,
    time::Duration,
};

use serde_json::json;
use tether_tests::{Process, uninterrupted, wait_for};

use crate::{
    client::{Client, Connection, inside},
    hosted::Hosted,
    packet::{A, Question},
    server::{OWN, Server},
    tables::two_networks,
};

fn at(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), 53)
}

#[test]
fn it_listens_where_it_is_told_over_udp_and_tcp() {
    let listen = ["127.0.0.11", "::1", OWN, "fd53::2"];
    let mut server = Server::new(&two_networks(), &json!({ "listen": listen }));
    let question = Question::new("server", A);
    for address in listen {
        let client = Client::of(&server.space, at(address));
        assert_eq!(client.ask(&question).data(), ["172.18.0.2"], "{address}");
        let mut connection = Connection::of(&server.space, at(address));
        assert_eq!(connection.ask(&question).data(), ["172.18.0.2"], "{address}");
    }
    // The first is in resolv.conf, and what is no longer listed is no longer listened on.
    server.again(&two_networks(), &json!({ "listen": ["::1"] }));
    let text = std::fs::read_to_string(server.space.etc().join("resolv.conf")).expect("resolv.conf");
    assert!(text.contains("nameserver ::1\n"), "{text}");
    assert_eq!(Client::of(&server.space, at("::1")).ask(&question).data(), ["172.18.0.2"]);
    wait_for("the other sockets to be closed", || {
        let bound = server.space.run("ss -Hlnut");
        let others = bound.lines().filter(|line| line.contains(":53 ") && !line.contains("[::1]:53 "));
        (others.count() == 0).then_some(())
    });
}

#[test]
fn nobody_but_the_container_is_answered() {
    let server = Server::new(&two_networks(), &json!({ "listen": ["127.0.0.11", OWN] }));
    let question = Question::new("server", A).bytes();
    // From outside over UDP: several, and then one from inside that is answered after them.
    let outside = inside(&server.outside, || UdpSocket::bind("0.0.0.0:0").expect("a socket"));
    for _ in 0..10 {
        outside.send_to(&question, at(OWN)).expect("sent");
    }
    let client = Client::of(&server.space, at(OWN));
    assert_eq!(client.ask(&Question::new("server", A)).data(), ["172.18.0.2"]);
    outside.set_nonblocking(true).expect("a socket");
    assert!(outside.recv(&mut [0; 512]).is_err(), "somebody outside is answered");
    // And over TCP: closed, or never open.
    let stream = inside(&server.outside, || TcpStream::connect_timeout(&at(OWN), Duration::from_secs(5)));
    if let Ok(mut stream) = stream {
        use std::io::{Read, Write};
        let _ = stream.write_all(&crate::client::frame(&question));
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        assert!(
            !matches!(uninterrupted(|| stream.read(&mut [0; 512])), Ok(1..)),
            "somebody outside is answered"
        );
    }
}

#[test]
fn a_port_that_is_taken_is_told_with_who_has_it_and_listened_on_when_it_is_free() {
    let hosted = Hosted::prepare();
    let mut dnsmasq = hosted.space.command("dnsmasq");
    dnsmasq
        .args(["--no-daemon", "--no-resolv", "--listen-address=127.0.0.11", "--bind-interfaces"])
        .args(["--user=root", "--pid-file=", "--no-hosts"])
        .stderr(Stdio::null());
    let mut squatter = Process::start(dnsmasq);
    wait_for("dnsmasq", || hosted.space.run("ss -Hlnu").contains("127.0.0.11:53").then_some(()));
    let hosted = hosted.start();
    hosted.names(&two_networks());
    let message = wait_for("the condition", || {
        let status = hosted.status()?;
        status.conditions.iter().find(|condition| condition.part == "dns").map(|c| c.message.clone())
    });
    for part in ["127.0.0.11", "dnsmasq", &squatter.id().to_string()] {
        assert!(message.contains(part), "{part}: {message}");
    }
    squatter.kill();
    let client = Client::new(&hosted.space);
    wait_for("an answer", || {
        let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.look_up("server", A)));
        (answer.ok()?.data() == ["172.18.0.2"]).then_some(())
    });
    wait_for("the end of the condition", || {
        hosted.names(&two_networks());
        hosted.status()?.conditions.is_empty().then_some(())
    });
}
