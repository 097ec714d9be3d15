//! Whoever speaks something else at the host's port, and openssl, which speaks the same.

use std::{
    fs,
    process::{Command, Stdio},
};

use tether_host::{Pin, message::FromGuest, message::Hello};
use tether_tests::Space;

use crate::place::{GUEST, HOST, HostProgram, PORT, Place, admission, identity};

/// What a line of shell says, errors too.
fn shell(space: &Space, line: &str) -> String {
    let mut command = space.command("sh");
    let output = command.args(["-c", &format!("exec 2>&1; {line}")]).stdin(Stdio::null()).output();
    String::from_utf8_lossy(&output.expect("a shell").stdout).into_owned()
}

/// A place with its NIC up, as an agent leaves it.
fn place() -> Place {
    let place = Place::new();
    place.inside.run("ip address add 10.99.0.2/24 dev ens9");
    place.inside.run("ip link set ens9 up");
    place
}

#[test]
fn only_tls_1_3_with_a_certificate_is_spoken() {
    let (place, admission) = (place(), admission());
    let host = HostProgram::start(&place, identity(), admission);
    let (key, certificate) = (place.file("key.pem"), place.file("certificate.pem"));
    // The command of docs/protocol.md; a space's own /etc has no openssl.cnf.
    let mut made = Command::new("openssl");
    made.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=host".split(' '));
    let made = made.args(["-keyout", &key, "-out", &certificate]).output().expect("openssl");
    assert!(made.status.success(), "{made:?}");
    let client = |more: &str| {
        let line = format!("openssl s_client -connect {HOST}:{PORT} {more}");
        // Something to read, or it would end before the host has judged its certificate.
        shell(&place.inside, &format!("(sleep 2) | {line}"))
    };
    let own = format!("-cert {certificate} -key {key}");
    let old = client(&format!("-tls1_2 {own}"));
    assert!(old.contains("alert protocol version"), "{old}");
    let nobody = client("-tls1_3");
    assert!(nobody.contains("alert certificate required"), "{nobody}");
    let good = client(&format!("-tls1_3 {own}"));
    assert!(good.contains("TLSv1.3") && good.contains("No ALPN negotiated"), "{good}");
    assert!(!good.contains("alert") && !good.contains("New Session Ticket"), "{good}");
    // The pin is what the documented command says.
    let shown = place.file("host.pem");
    fs::write(&shown, &good[good.find("-----BEGIN CERT").expect("a certificate")..]).expect("a file");
    let sum = shell(
        &place.inside,
        &format!("openssl x509 -in {shown} -noout -pubkey | openssl pkey -pubin -outform DER | sha256sum"),
    );
    let pin: Pin = sum.split_whitespace().next().expect("a sum").parse().expect("a pin");
    assert_eq!(host.host.pins(), [pin]);
    assert!(host.heard().is_empty(), "{:?}", host.heard());
}

#[test]
fn a_hello_without_tls_is_not_heard() {
    let (place, admission) = (place(), admission());
    let hello = FromGuest::from(Hello {
        protocol_min: 1,
        protocol_max: 1,
        guest: GUEST.into(),
        agent_version: String::new(),
        capabilities: vec![],
        boot_id: "b".into(),
        applied: None,
        names: None,
        token: admission.token.clone(),
    });
    let frame = hello.to_frame();
    let length = u32::try_from(frame.payload.len()).expect("a short one").to_be_bytes();
    let header = [&length[..], &frame.kind.to_be_bytes(), &[frame.version, 0]].concat();
    let file = place.file("hello");
    fs::write(&file, [&header, &frame.payload[..]].concat()).expect("a file");
    let host = HostProgram::start(&place, identity(), admission);
    let said =
        shell(&place.inside, &format!("(cat {file}; sleep 2) | busybox nc {HOST} {PORT} | od -An -tx1"));
    // An alert of TLS (21) at most, and no Welcome.
    assert!(said.trim().is_empty() || said.trim().starts_with("15 03 03"), "{said}");
    assert!(host.heard().is_empty(), "{:?}", host.heard());
}
