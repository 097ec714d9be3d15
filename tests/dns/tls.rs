//! Upstreams behind TLS (RFC 7858): who they are is made sure of before they are asked anything.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tether_tests::{Space, wait_for};

use crate::{
    answers::{Message, Reply},
    client::{frame, inside},
    packet::{A, SERVFAIL},
    server::Server,
    tables::two_networks,
};

const AT: &str = "10.53.0.13";

/// A server that answers every question with an address.
struct Secure {
    /// Its certificate, in PEM.
    certificate: String,
    asked: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Secure {
    /// One with a certificate of its own for `name`.
    fn new(space: &Space, name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("TLS 1.2 and 1.3").with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![made.cert.der().clone()], key).expect("they fit"));
        let at = SocketAddr::new(AT.parse().expect("an address"), 853);
        let listener = inside(space, || TcpListener::bind(at).expect("a free port"));
        listener.set_nonblocking(true).expect("a socket");
        let (asked, connections, over) = (Arc::default(), Arc::default(), Arc::new(AtomicBool::new(false)));
        let (all, count, end): (Arc<Mutex<Vec<String>>>, Arc<AtomicUsize>, Arc<AtomicBool>) =
            (Arc::clone(&asked), Arc::clone(&connections), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            while !end.load(Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                };
                count.fetch_add(1, Relaxed);
                let (config, all) = (Arc::clone(&config), Arc::clone(&all));
                // It ends with the connection, or soon after the test.
                std::thread::spawn(move || converse(stream, config, &all));
            }
        });
        Self { certificate: made.cert.pem(), asked, connections, over, thread: Some(thread) }
    }

    fn asked(&self) -> usize {
        self.asked.lock().expect("no panic while it is held").len()
    }

    /// What a container is told about it.
    fn dns(name: &str, ca: &str) -> Value {
        json!({ "cache_kib": 0, "forward": [{ "domains": [], "servers": [AT], "tls": { "name": name, "ca": ca } }] })
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it panicked of it has said.
            let _ = thread.join();
        }
    }
}

fn converse(stream: TcpStream, config: Arc<ServerConfig>, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let session = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(session, stream);
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut packet)?;
        let message = Message::read(&packet).map_err(std::io::Error::other)?;
        asked.lock().expect("no panic while it is held").push(message.name().to_owned());
        // Two writes: a frame may come in pieces.
        let answer = frame(&Reply::to(&message).address(60, "192.0.2.53").bytes());
        stream.write_all(&answer[..1])?;
        stream.flush()?;
        stream.write_all(&answer[1..])?;
        stream.flush()?;
    }
}

#[test]
fn a_server_behind_tls_is_asked_when_it_is_who_it_should_be() {
    let (space, outside) = crate::server::cable();
    let secure = Secure::new(&outside, "dns.corp.example");
    let dns = Secure::dns("dns.corp.example", &secure.certificate);
    let mut server = Server::on(space, outside, &two_networks(), &dns);
    for n in 0..10 {
        assert_eq!(server.look_up(&format!("n{n}.example"), A).data(), ["192.0.2.53"]);
    }
    assert_eq!(secure.asked(), 10);
    // A handshake for every question would be slow for everybody (RFC 7858 section 3.4).
    assert!(secure.connections.load(Relaxed) < 10, "{} connections", secure.connections.load(Relaxed));
    // A server that comes again is asked again.
    drop(secure);
    let secure = Secure::new(&server.outside, "dns.corp.example");
    server.again(&two_networks(), &Secure::dns("dns.corp.example", &secure.certificate));
    wait_for("the new server to be asked", || {
        (server.look_up("again.example", A).data() == ["192.0.2.53"]).then_some(())
    });
}

#[test]
fn a_server_behind_tls_that_is_somebody_else_is_asked_nothing() {
    let (space, outside) = crate::server::cable();
    let secure = Secure::new(&outside, "dns.corp.example");
    // Of another name, and vouched for by somebody else.
    let stranger =
        rcgen::generate_simple_self_signed(["dns.corp.example".to_owned()]).expect("a certificate");
    let wrong = [
        Secure::dns("other.corp.example", &secure.certificate),
        Secure::dns("dns.corp.example", &stranger.cert.pem()),
    ];
    let mut server = Server::on(space, outside, &two_networks(), &wrong[0]);
    // Nor is it asked without TLS instead.
    let plain = server.upstream(AT);
    plain.says(|reply| reply.address(60, "192.0.2.66"));
    for dns in &wrong {
        server.again(&two_networks(), dns);
        assert_eq!(server.look_up("secret.example", A).code(), SERVFAIL);
    }
    assert_eq!((secure.asked(), plain.count()), (0, 0));
    assert!(secure.connections.load(Relaxed) > 0, "nobody came");
}
