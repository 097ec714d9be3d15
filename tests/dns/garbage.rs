//! Noise at full speed: the agent lives, does not grow, and answers whoever asks meanwhile.

use std::{
    io::Write,
    net::{TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use serde_json::json;
use tether_tests::wait_for;

use crate::{
    client::{Client, SERVER, read},
    packet::{A, Edns, NOERROR, QR, Question, RD, SERVFAIL, header, hex},
    questions::Dice,
    server::Server,
    tables::two_networks,
};

const MILLION: u32 = 1_000_000;
/// How long a good question is waited for before it is asked again: a queue may have been full.
const BREATH: Duration = Duration::from_millis(250);

/// A packet that nobody should send. Sometimes it is nearly a question, for what is easily told to
/// be none is not what goes wrong.
fn noise(dice: &mut Dice, packet: &mut Vec<u8>) {
    packet.clear();
    match dice.below(4) {
        0 => packet.extend((0..dice.below(80)).map(|_| dice.byte())),
        1 => {
            packet.extend(header(dice.word(), dice.word() & !QR, [1, 0, 0, 1]));
            packet.extend((0..dice.below(300)).map(|_| dice.byte()));
        }
        2 => {
            // A good question, bitten.
            packet.extend(Question::new("server.front", A).edns(Edns::of(1_232)).bytes());
            for _ in 0..=dice.below(4) {
                let at = dice.below(packet.len());
                packet[at] = dice.byte();
            }
            packet.truncate(12 + dice.below(packet.len() - 11));
        }
        _ => {
            // Counts that promise what is not there.
            packet.extend(header(dice.word(), RD, [1, dice.word(), dice.word(), dice.word()]));
            packet.extend(&Question::new("server", A).bytes()[12..]);
            packet.extend([0xC0, dice.byte()].repeat(dice.below(30)));
        }
    }
}

#[test]
fn a_million_packets_of_garbage_change_nothing() {
    let mut server = Server::new(&two_networks(), &json!({}));
    let client = server.client();
    client.patience(BREATH);
    // Memory as it is when everything has been used once.
    let question = Question::new("server", A);
    let flood = |count: u32, seed: u64| {
        server.inside(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            socket.connect(SERVER).expect("a way there");
            let (mut dice, mut packet) = (Dice::new(seed), Vec::new());
            for n in 0..count {
                noise(&mut dice, &mut packet);
                let sent = socket.send(&packet);
                assert!(sent.is_ok(), "packet {n} of seed {seed}, {}: {sent:?}", hex(&packet));
            }
        });
    };
    flood(20_000, 1);
    wait_for("an answer", || is_answered(&client, &question).then_some(()));
    let before = server.resident();
    let over = AtomicBool::new(false);
    let answered = std::thread::scope(|scope| {
        let good = scope.spawn(|| {
            let beside = server.client();
            beside.patience(BREATH);
            let mut answered = 0_u32;
            while !over.load(Relaxed) {
                answered += u32::from(is_answered(&beside, &question));
            }
            answered
        });
        flood(MILLION, 2);
        over.store(true, Relaxed);
        good.join().expect("no answer is wrong")
    });
    assert!(answered > 0, "no question was answered beside the flood");
    wait_for("an answer", || is_answered(&client, &question).then_some(()));
    assert!(!server.tether.has_ended());
    let after = server.resident();
    println!("{answered} good questions beside a million bad ones; {before} KiB before, {after} KiB after");
    // What the allocator keeps of once, not of every packet: a byte of each would be 1,000 KiB.
    assert!(after < before + 768, "{after} KiB, {before} KiB before");
}

/// Asks as a stub resolver does: again when there is no answer, which a full queue may cause.
fn is_answered(client: &Client, question: &Question) -> bool {
    client.send(&question.bytes());
    let Some(bytes) = client.try_receive() else { return false };
    assert_eq!(read(&bytes).data(), ["172.18.0.2"]);
    true
}

#[test]
fn garbage_over_tcp_ends_its_connection_and_no_other() {
    let server = Server::new(&two_networks(), &json!({}));
    let mut good = server.connection();
    let mut dice = Dice::new(3);
    for n in 0..2_000 {
        let length = dice.below(200);
        let bytes: Vec<u8> = (0..length).map(|_| dice.byte()).collect();
        let stream = server.inside(|| TcpStream::connect(SERVER));
        // It may have been closed before all of it is written.
        let _ = stream.expect("it listens").write_all(&bytes);
        if n % 50 == 0 {
            assert_eq!(good.ask(&Question::new("server", A)).code(), NOERROR, "after {n}");
        }
    }
    assert_eq!(server.look_up("server", A).data(), ["172.18.0.2"]);
    assert_eq!(server.look_up("nobody", A).code(), SERVFAIL);
}
