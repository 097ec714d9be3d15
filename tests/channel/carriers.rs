//! What carries the tether: IPv6, and without a NIC a Unix socket, and a serial device with whatever was
//! left in it. IPv4 is everybody else's.

use std::{fs::File, io::Write as _, net::SocketAddrV6, os::fd::OwnedFd};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    pty::openpty,
    unistd::ttyname,
};
use serde_json::json;
use tether_host::{Admission, EventKind, Host, Identity, Options, state::DesiredState};
use tether_tests::wait_for;
use tokio::net::unix::pipe;

use crate::place::{HostProgram, PORT, Place, admission, identity};

#[test]
fn a_guest_comes_by_ipv6_of_its_network_and_of_its_link_alone() {
    for (own, address) in [(Some("fd99::2/64"), "fd99::1"), (None, "fe80::1")] {
        let (place, admission) = (Place::new(), admission());
        place.outside.run(&format!("ip address add {address}/64 dev pm nodad"));
        let link = place.outside.run("ip -o link show pm");
        let link = link.split(':').next().and_then(|number| number.parse().ok()).expect("its number");
        let at = SocketAddrV6::new(
            address.parse().expect("an address"),
            PORT,
            0,
            if own.is_none() { link } else { 0 },
        );
        let token = admission.token.clone();
        let host = HostProgram::serving(&place, Options::on(at.into(), identity()), admission, async |_| ());
        let _tether = place.agent_at(own, address, &host.host.pins(), &token);
        host.drives("by-ipv6");
        assert_eq!(place.inside.run("hostname").trim(), "by-ipv6");
        let established = place.outside.run("ss -Hnt6 state established");
        assert!(
            established.contains(&format!("{address}%pm")) || established.contains(&format!("[{address}]")),
            "{established}"
        );
    }
}

#[test]
fn a_guest_comes_by_a_unix_socket_and_nothing_can_cut_it_off() {
    let (place, admission, identity) = (Place::new(), admission(), identity());
    let token = admission.token.clone();
    let path = place.file("host.sock");
    let start = |admission| {
        let (path, options) = (path.clone(), Options::without_port(identity.clone()));
        HostProgram::serving(&place, options, admission, async move |host: Host| {
            host.listen_unix(path).expect("a socket");
        })
    };
    let host = start(admission);
    let tether = place.agent_by(&json!({ "unix": path }), &host.host.pins(), &token);
    host.drives("by-socket");
    assert_eq!(place.inside.run("hostname").trim(), "by-socket");
    let key = host.enrols();
    // By a NIC this would have to be confirmed: a rule stands before every way.
    let rules = json!([{ "priority": 100, "table": 254, "family": "ipv4" }, { "priority": 100, "table": 254, "family": "ipv6" }]);
    let document = json!({ "hostname": "ruled", "rules": rules });
    host.drives_state(serde_json::from_value::<DesiredState>(document).expect("a document"));
    let asked =
        host.heard().iter().any(|kind| matches!(kind, EventKind::Verified(v) if v.confirm_within_s > 0));
    assert!(!asked, "{:?}", host.heard());
    assert!(place.inside.run("ip rule").contains("100:"));
    // Its successor takes over what it has left there, and the guest comes again.
    drop(host);
    wait_for("the loss", || {
        tether.lines().iter().any(|line| line.contains("the tether is lost")).then_some(())
    });
    let host = start(Admission::known(key));
    host.lets_in(1);
    host.drives("again");
    // Somebody listens there now: it is nobody else's.
    assert!(host.host.listen_unix(&path).is_err());
}

/// A serial line: what a machine's agent opens, and the end that its host has.
struct SerialLine {
    path: String,
    host: OwnedFd,
    /// Held, so that the line outlives the agent.
    _guest: OwnedFd,
}

impl SerialLine {
    fn new() -> Self {
        let line = openpty(None, None).expect("a pseudo terminal");
        fcntl(&line.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("no waiting");
        let path = ttyname(&line.slave).expect("its name").display().to_string();
        Self { path, host: line.master, _guest: line.slave }
    }

    /// What somebody has left in it for the guest.
    fn leave(&self, bytes: &[u8]) {
        let mut host = File::from(self.host.try_clone().expect("another of it"));
        host.write_all(bytes).expect("room");
    }

    /// A host program at its end.
    fn host(&self, place: &Place, identity: &Identity, admission: Admission) -> HostProgram {
        let end = |fd: &OwnedFd| fd.try_clone().expect("another of it");
        let (read, write) = (end(&self.host), end(&self.host));
        HostProgram::serving(place, Options::without_port(identity.clone()), admission, async |host: Host| {
            // A terminal is read and written as a pipe is.
            let read = pipe::Receiver::from_owned_fd_unchecked(read).expect("it can be waited for");
            let write = pipe::Sender::from_owned_fd_unchecked(write).expect("it can be waited for");
            let _ = host.serve_serial(tokio::io::join(read, write), "serial").await;
        })
    }
}

#[test]
fn what_earlier_lives_have_left_in_a_serial_line_harms_nobody() {
    let (place, admission, identity) = (Place::new(), admission(), identity());
    let token = admission.token.clone();
    let line = SerialLine::new();
    let way = json!({ "serial": line.path });
    // Of a program that is no more: half a frame, and an answer to somebody else.
    line.leave(b"\x00\x18\x04half a frame");
    line.leave(&hex("0026030a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b32233b0600"));
    let mut tether = place.agent_by(&way, &[identity.pin()], &token);
    let host = line.host(&place, &identity, admission);
    host.drives("one");
    assert_eq!(place.inside.run("hostname").trim(), "one");
    let key = host.enrols();
    // The host is killed. What the guest goes on to say stays in the line, and what was on its way to
    // the guest too.
    drop(host);
    line.leave(&hex("0016040b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b07046869060ac6b5829600"));
    line.leave(b"\x00\x16\x04\x0b\x0b");
    let host = line.host(&place, &identity, Admission::known(key));
    tether.wait_for_line("the tether is lost: the host has closed it");
    host.lets_in(1);
    host.drives("two");
    // The agent is killed, twice; the second time while no host is there.
    tether.kill();
    let mut tether = place.agent_by(&way, &[identity.pin()], &token);
    host.lets_in(2);
    host.drives("three");
    // That was told by the next agent's first word, and not by silence.
    let reason = host.hears("an end", |kind| match kind {
        EventKind::Disconnected { reason } => Some(reason.clone()),
        _ => None,
    });
    assert_eq!(reason, "the guest has closed it");
    drop(host);
    tether.kill();
    let _tether = place.agent_by(&way, &[identity.pin()], &token);
    let host = line.host(&place, &identity, Admission::known(key));
    host.drives("four");
    assert_eq!(place.inside.run("hostname").trim(), "four");
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).expect("digits"));
    digits.map(|two| u8::from_str_radix(two, 16).expect("a byte")).collect()
}
