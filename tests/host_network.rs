//! The host's networks and its packet filter in a real kernel: containers, a machine outside and
//! an administrator's link are namespaces, the host's side is the library itself.

#![allow(clippy::expect_used, reason = "a test fails by panicking, and says what it expected")]

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};
use tether_tests::{Space, uninterrupted};
use vch::{
    firewall::{self, Bridge, Kind, Management, Published, Rules},
    network::Networks,
    reserved::Protocol,
};

/// How long is waited for what must not come.
const NEVER: Duration = Duration::from_millis(300);
/// How long for what must.
const DEADLINE: Duration = Duration::from_secs(10);
const TETHER: u16 = 7341;
const ENDPOINT: u16 = 2375;

/// Runs something in the network namespace of a space: sockets it makes stay there.
fn inside<T: Send>(space: &Space, what: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/proc/{}/ns/net", space.id())).expect("the space lives");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter it");
            what()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs something of the host's on a runtime of its own.
fn on<T: Send>(space: &Space, what: impl AsyncFnOnce(Networks) -> T + Send) -> T {
    inside(space, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { what(Networks::open().expect("netlink")).await })
    })
}

/// A TCP server that says who its client is, and then repeats what it is told.
fn serve(space: &Space, address: &str) {
    let listener = inside(space, || TcpListener::bind(address).expect(address));
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let _ = writeln!(client, "{}", client.peer_addr().expect("it is connected").ip());
                let mut reader = client.try_clone().expect("a descriptor");
                let _ = std::io::copy(&mut reader, &mut client);
            });
        }
    });
}

/// The same with UDP.
fn serve_udp(space: &Space, address: &str) {
    let socket = inside(space, || UdpSocket::bind(address).expect(address));
    std::thread::spawn(move || {
        while let Ok((_, client)) = socket.recv_from(&mut [0; 100]) {
            let _ = socket.send_to(client.ip().to_string().as_bytes(), client);
        }
    });
}

fn dial(space: &Space, to: &str, patience: Duration) -> Option<BufReader<TcpStream>> {
    let to: SocketAddr = to.parse().expect(to);
    let stream = inside(space, || TcpStream::connect_timeout(&to, patience).ok())?;
    stream.set_read_timeout(Some(patience)).expect("not zero");
    Some(BufReader::new(stream))
}

fn line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    (!line.is_empty()).then(|| line.trim().to_owned())
}

/// Who the server at `to` thinks is calling.
#[track_caller]
fn seen_by(space: &Space, to: &str) -> String {
    let end = Instant::now() + DEADLINE;
    loop {
        match dial(space, to, Duration::from_secs(1)).as_mut().and_then(line) {
            Some(seen) => return seen,
            // Here and not in `wait_for`, so that the line that waits is named.
            None => assert!(Instant::now() < end, "{to} is not reached"),
        }
    }
}

/// That nobody answers at `to`.
#[track_caller]
fn unreachable(space: &Space, to: &str) {
    let seen = dial(space, to, NEVER).as_mut().and_then(line);
    assert_eq!(seen, None, "{to} is reached");
}

fn seen_by_udp(space: &Space, to: &str, patience: Duration) -> Option<String> {
    inside(space, || {
        let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.set_read_timeout(Some(patience)).expect("not zero");
        socket.connect(to).ok()?;
        socket.send(b"who am I?").ok()?;
        let mut buffer = [0; 100];
        let length = uninterrupted(|| socket.recv(&mut buffer)).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
}

fn pings(space: &Space, to: &str) -> bool {
    space.output(&format!("busybox ping -c 1 -W 1 {to}")).status.success()
}

fn link_index(space: &Space, name: &str) -> u32 {
    let shown = space.run(&format!("ip -o link show {name}"));
    shown.split(':').next().and_then(|index| index.trim().parse().ok()).expect("an index")
}

/// A host with networks `a`, `b` (bridges), `i` (internal), a management network, and a machine
/// outside, which is also its way to everywhere.
struct Stage {
    host: Space,
    outside: Space,
    rules: Rules,
    links: AtomicU32,
}

impl Stage {
    fn new() -> Self {
        let rules = Rules {
            management: Management {
                bridge: "vch-management".parse().expect("a name"),
                address: "10.99.0.1/16".parse().expect("a prefix"),
                port: TETHER,
            },
            endpoint: vec![
                SocketAddr::from(([0, 0, 0, 0], ENDPOINT)),
                "192.0.2.1:2376".parse().expect("one"),
            ],
            bridges: Vec::new(),
            published: Vec::new(),
        };
        let mut stage = Self { host: Space::new(), outside: Space::new(), rules, links: AtomicU32::new(0) };
        stage.bridge("br-a", &["172.18.0.1/16", "fd00:18::1/64"], Kind::Nat);
        stage.bridge("br-b", &["172.19.0.1/16"], Kind::Nat);
        stage.bridge("br-i", &["172.20.0.1/16"], Kind::Internal);
        stage.ensure("vch-management", &["10.99.0.1/16", "fe80::1/64"]);
        let id = stage.outside.id();
        stage.host.run(&format!("ip link add uplink type veth peer name eth0 netns {id}"));
        for (space, link, addresses) in [
            (&stage.host, "uplink", ["192.0.2.1/24", "2001:db8::1/64"]),
            (&stage.outside, "eth0", ["192.0.2.2/24", "2001:db8::2/64"]),
        ] {
            for address in addresses {
                space.run(&format!("ip address add {address} dev {link} nodad"));
            }
            space.run(&format!("ip link set {link} up"));
        }
        stage.host.run("ip route add default via 192.0.2.2");
        stage.host.run("ip -6 route add default via 2001:db8::2");
        serve(&stage.outside, "[::]:5000");
        stage
    }

    fn bridge(&mut self, name: &str, addresses: &[&str], kind: Kind) {
        self.ensure(name, addresses);
        let prefix = |text: &&str| text.parse::<tether_wire::value::Prefix>().expect(text).network();
        let subnets = addresses.iter().map(prefix).collect();
        self.rules.bridges.push(Bridge { name: name.parse().expect(name), subnets, kind });
    }

    fn ensure(&self, name: &str, addresses: &[&str]) {
        let addresses: Vec<_> = addresses.iter().map(|address| address.parse().expect(address)).collect();
        let n = self.links.fetch_add(1, Relaxed);
        let mac = format!("02:7e:00:00:00:{n:02x}").parse().expect("a MAC address");
        let name = name.parse().expect(name);
        on(&self.host, async |networks| {
            networks.ensure_bridge(&name, "network", mac, None, &addresses).await.expect("a bridge");
        });
    }

    /// A container on a bridge, with routes to everywhere by its gateways.
    fn container(&self, bridge: &str, addresses: &[&str], gateways: &[&str]) -> Space {
        let space = Space::new();
        self.plug(&space, bridge, addresses);
        for gateway in gateways {
            space.run(&format!("ip route add default via {gateway}"));
        }
        space
    }

    fn plug(&self, space: &Space, bridge: &str, addresses: &[&str]) {
        let (n, id) = (self.links.fetch_add(1, Relaxed), space.id());
        let mac = format!("02:7e:00:00:00:{n:02x}");
        self.host.run(&format!("ip link add port{n} type veth peer name eth0 address {mac} netns {id}"));
        let (index, is_guest) = (link_index(&self.host, &format!("port{n}")), bridge == "vch-management");
        let bridge = bridge.parse().expect(bridge);
        on(&self.host, async |networks| {
            let done = if is_guest {
                networks.attach_guest(index, &bridge, mac.parse().expect("a MAC address")).await
            } else {
                networks.attach(index, &bridge, None).await
            };
            done.expect("a port");
        });
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            space.run(&format!("ip address add {address} dev eth0 {nodad}"));
        }
        space.run("ip link set eth0 up");
    }

    fn a(&self, number: u8) -> Space {
        let addresses = [format!("172.18.0.{number}/16"), format!("fd00:18::{number}/64")];
        self.container("br-a", &addresses.each_ref().map(String::as_str), &["172.18.0.1", "fd00:18::1"])
    }

    fn b(&self, number: u8) -> Space {
        self.container("br-b", &[&format!("172.19.0.{number}/16")], &["172.19.0.1"])
    }

    fn publish(&mut self, protocol: Protocol, at: Option<&str>, host_port: u16, to: &str, bridge: &str) {
        self.rules.published.push(Published {
            protocol,
            host_address: at.map(|at| at.parse::<IpAddr>().expect(at)),
            host_port,
            to: to.parse().expect(to),
            bridge: bridge.parse().expect(bridge),
        });
    }

    fn apply(&self) {
        on(&self.host, async |networks| {
            firewall::apply(&self.rules).await.expect("rules that nft takes");
            networks.prepare(&self.rules).await.expect("settings");
        });
    }
}

#[test]
fn published_ports_are_reached_from_everywhere() {
    let mut stage = Stage::new();
    let (server, neighbour, other) = (stage.a(2), stage.a(3), stage.b(2));
    serve(&server, "[::]:80");
    serve_udp(&server, "172.18.0.2:53");
    stage.publish(Protocol::Tcp, None, 8080, "172.18.0.2:80", "br-a");
    stage.publish(Protocol::Tcp, None, 8080, "[fd00:18::2]:80", "br-a");
    stage.publish(Protocol::Tcp, Some("127.0.0.1"), 8081, "172.18.0.2:80", "br-a");
    stage.publish(Protocol::Udp, Some("0.0.0.0"), 5353, "172.18.0.2:53", "br-a");
    stage.publish(Protocol::Sctp, None, 9, "172.18.0.2:9", "br-a");
    stage.apply();

    let patience = Duration::from_secs(2);
    // From outside, with the client's own address.
    assert_eq!(seen_by(&stage.outside, "192.0.2.1:8080"), "::ffff:192.0.2.2");
    assert_eq!(seen_by(&stage.outside, "[2001:db8::1]:8080"), "2001:db8::2");
    assert_eq!(seen_by_udp(&stage.outside, "192.0.2.1:5353", patience).as_deref(), Some("192.0.2.2"));
    // From the host by each of its addresses.
    for to in ["192.0.2.1:8080", "172.18.0.1:8080", "172.19.0.1:8080", "127.0.0.1:8080", "127.0.0.1:8081"] {
        seen_by(&stage.host, to);
    }
    assert_eq!(seen_by(&stage.host, "127.0.0.1:8080"), "::ffff:172.18.0.1");
    assert!(seen_by_udp(&stage.host, "127.0.0.1:5353", patience).is_some());
    seen_by(&stage.host, "[2001:db8::1]:8080");
    // By the container itself, its neighbour, and a stranger's container.
    for space in [&server, &neighbour] {
        assert_eq!(seen_by(space, "192.0.2.1:8080"), "::ffff:172.18.0.1");
        assert_eq!(seen_by(space, "172.18.0.1:8080"), "::ffff:172.18.0.1");
        assert_eq!(seen_by(space, "[2001:db8::1]:8080"), "fd00:18::1");
    }
    seen_by(&other, "192.0.2.1:8080");
    // One that is for the host alone.
    unreachable(&stage.outside, "192.0.2.1:8081");
    unreachable(&neighbour, "192.0.2.1:8081");
    stage.outside.run("ip route add 127.0.0.2/32 via 192.0.2.1");
    unreachable(&stage.outside, "127.0.0.2:8080");
    // And by a guest, not at all.
    let guest = stage.container("vch-management", &["10.99.0.2/16"], &["10.99.0.1"]);
    for to in ["10.99.0.1:8080", "192.0.2.1:8080", "172.18.0.2:80"] {
        unreachable(&guest, to);
    }
}

#[test]
fn loopback_is_the_hosts_own() {
    let stage = Stage::new();
    let container = stage.a(2);
    serve(&stage.host, "127.0.0.1:6000");
    stage.apply();
    assert_eq!(stage.host.run("cat /proc/sys/net/ipv4/conf/br-a/route_localnet").trim(), "1");
    // A container that sends to 127.0.0.1 by way of its gateway.
    container.run("ip link set lo down");
    container.run("ip address flush dev lo");
    container.run("sysctl -q -w net.ipv4.conf.eth0.route_localnet=1");
    container.run("ip route flush table local");
    container.run("ip route add local 172.18.0.2 dev eth0 table local src 172.18.0.2");
    container.run("ip route add 127.0.0.1/32 via 172.18.0.1 src 172.18.0.2");
    unreachable(&container, "127.0.0.1:6000");
    seen_by(&stage.host, "127.0.0.1:6000");
}

#[test]
fn networks_are_apart() {
    let stage = Stage::new();
    let (a, b) = (stage.a(2), stage.b(2));
    let guest = stage.container("vch-management", &["10.99.0.2/16", "fe80::2/64"], &["10.99.0.1"]);
    let second = stage.container("vch-management", &["10.99.0.3/16", "fe80::3/64"], &["10.99.0.1"]);
    for space in [&a, &b, &guest, &second] {
        serve(space, "[::]:80");
    }
    for port in [22, TETHER, ENDPOINT, 2376] {
        serve(&stage.host, &format!("[::]:{port}"));
    }
    // Before there are rules the host itself would let all of it through.
    stage.host.run("sysctl -q -w net.ipv4.ip_forward=1");
    seen_by(&a, "172.19.0.2:80");
    seen_by(&a, "10.99.0.1:2375");
    stage.apply();

    // The host's own address is a container's as far as it is its gateway.
    seen_by(&a, "172.18.0.1:22");
    seen_by(&a, "[fd00:18::1]:22");
    seen_by(&a, "192.0.2.1:22");
    assert!(pings(&a, "172.18.0.1"));
    for to in ["172.19.0.2:80", "172.19.0.1:22", "10.99.0.1:22", "10.99.0.1:7341", "10.99.0.2:80"] {
        unreachable(&a, to);
    }
    for to in ["172.19.0.2", "172.19.0.1", "10.99.0.1", "10.99.0.2"] {
        assert!(!pings(&a, to), "{to}");
    }
    // Not the Docker endpoint by any address.
    for to in ["172.18.0.1:2375", "[fd00:18::1]:2375", "192.0.2.1:2375", "192.0.2.1:2376"] {
        unreachable(&a, to);
    }
    seen_by(&a, "172.18.0.1:2376");
    seen_by(&stage.outside, "192.0.2.1:2375");

    // A guest has the tether and no more.
    seen_by(&guest, "10.99.0.1:7341");
    assert!(guest.output("busybox ping -6 -c 1 -W 2 -I eth0 fe80::1").status.success());
    for to in ["10.99.0.1:22", "10.99.0.1:2375", "192.0.2.1:22", "192.0.2.1:7341", "172.18.0.1:7341"] {
        unreachable(&guest, to);
    }
    for to in ["172.18.0.2:80", "192.0.2.2:5000", "10.99.0.3:80"] {
        unreachable(&guest, to);
    }
    assert!(!pings(&guest, "10.99.0.1") && !pings(&guest, "10.99.0.3"));
    // Nor does it speak for another, whatever address it takes.
    guest.run("ip link set eth0 address 02:7e:00:00:00:99");
    unreachable(&guest, "10.99.0.1:7341");
    // The management network is nobody else's.
    stage.outside.run("ip route add 10.99.0.0/16 via 192.0.2.1");
    unreachable(&stage.outside, "10.99.0.1:7341");
    unreachable(&stage.outside, "10.99.0.2:80");
}

#[test]
fn a_guest_with_many_addresses_has_no_more_connections_than_one() {
    let stage = Stage::new();
    let addresses: Vec<String> = (2..66).map(|n| format!("10.99.0.{n}/16")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let greedy = stage.container("vch-management", &addresses, &[]);
    let second = stage.container("vch-management", &["10.99.1.1/16"], &[]);
    serve(&stage.host, &format!("[::]:{TETHER}"));
    stage.apply();
    // What is put in place again counts anew, and no further.
    stage.apply();
    let dial_from = |n: u8, patience| {
        inside(&greedy, || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.bind(&SocketAddr::from(([10, 99, 0, n], 0)).into()).expect("an address of its own");
            let to = SocketAddr::from(([10, 99, 0, 1], TETHER)).into();
            socket.connect_timeout(&to, patience).ok().map(|()| socket)
        })
    };
    let there: Vec<_> = (2..18).filter_map(|n| dial_from(n, DEADLINE)).collect();
    assert_eq!(there.len(), 16);
    assert!((18..66).all(|n| dial_from(n, NEVER).is_none()));
    assert_eq!(seen_by(&second, "10.99.0.1:7341"), "::ffff:10.99.1.1");
    std::mem::drop(there);
    seen_by(&greedy, "10.99.0.1:7341");
}

#[test]
fn an_internal_network_stays_inside() {
    let mut stage = Stage::new();
    let container = stage.container("br-i", &["172.20.0.2/16"], &["172.20.0.1"]);
    let neighbour = stage.container("br-i", &["172.20.0.3/16"], &["172.20.0.1"]);
    let other = stage.a(2);
    serve(&container, "[::]:80");
    serve(&other, "[::]:80");
    serve(&stage.host, "[::]:22");
    stage.publish(Protocol::Tcp, None, 8080, "172.20.0.2:80", "br-i");
    stage.publish(Protocol::Tcp, None, 8081, "172.18.0.2:80", "br-a");
    stage.apply();

    // The rules hold without the settings.
    stage.host.run("sysctl -q -w net.ipv4.ip_forward=1");
    seen_by(&neighbour, "172.20.0.2:80");
    seen_by(&stage.host, "172.20.0.2:80");
    seen_by(&container, "172.20.0.1:22");
    for to in ["192.0.2.2:5000", "172.18.0.2:80", "172.18.0.1:22", "192.0.2.1:22", "192.0.2.1:8081"] {
        unreachable(&container, to);
    }
    stage.outside.run("ip route add 172.20.0.0/16 via 192.0.2.1");
    unreachable(&stage.outside, "172.20.0.2:80");
    unreachable(&stage.outside, "192.0.2.1:8080");
    unreachable(&other, "172.20.0.2:80");
    unreachable(&other, "192.0.2.1:8080");
}

#[test]
fn the_way_out_is_under_the_hosts_address() {
    let mut stage = Stage::new();
    let container = stage.a(2);
    serve(&container, "[::]:80");
    serve(&container, "[::]:81");
    stage.publish(Protocol::Tcp, None, 8080, "172.18.0.2:80", "br-a");
    stage.apply();
    assert_eq!(seen_by(&container, "192.0.2.2:5000"), "::ffff:192.0.2.1");
    assert_eq!(seen_by(&container, "[2001:db8::2]:5000"), "2001:db8::1");
    assert!(pings(&container, "192.0.2.2"));
    // Who has a route to a container has no way to it, whether the port is published or not.
    stage.outside.run("ip route add 172.18.0.0/16 via 192.0.2.1");
    stage.outside.run("ip -6 route add fd00:18::/64 via 2001:db8::1");
    for to in ["172.18.0.2:80", "172.18.0.2:81", "[fd00:18::2]:80", "172.18.0.1:8080"] {
        unreachable(&stage.outside, to);
    }
    assert!(!pings(&stage.outside, "172.18.0.2") && !pings(&stage.outside, "172.18.0.1"));
    seen_by(&stage.outside, "192.0.2.1:8080");
}

#[test]
fn external_networks_are_the_way_in_and_out() {
    let mut stage = Stage::new();
    stage.bridge("br-x", &["198.51.100.1/24"], Kind::External { attached: true });
    stage.bridge("br-y", &[], Kind::External { attached: false });
    let (there, elsewhere) = (Space::new(), Space::new());
    for (space, link, bridge, address) in
        [(&there, "eth2", "br-x", "198.51.100.2/24"), (&elsewhere, "eth3", "br-y", "203.0.113.2/24")]
    {
        stage.host.run(&format!("ip link add {link} type veth peer name eth0 netns {}", space.id()));
        space.run(&format!("ip address add {address} dev eth0"));
        space.run("ip link set eth0 up");
        serve(space, "[::]:5000");
        let [link, bridge] = [link, bridge].map(|name| name.parse().expect(name));
        on(&stage.host, async |networks| {
            networks.enslave_uplink(&link, &bridge).await.expect("a link");
            networks.enslave_uplink(&link, &bridge).await.expect("it may be there already");
        });
    }
    let (server, direct) = (stage.a(2), stage.container("br-x", &["198.51.100.3/24"], &["198.51.100.1"]));
    serve(&server, "[::]:80");
    serve(&direct, "[::]:80");
    serve(&stage.host, "[::]:22");
    stage.publish(Protocol::Tcp, None, 8080, "172.18.0.2:80", "br-a");
    // Whatever else the host forwards.
    stage.host.run("sysctl -q -w net.ipv4.ip_forward=1");
    stage.apply();
    // In: by the external network, the host, other containers, and no other interface.
    assert_eq!(seen_by(&there, "198.51.100.1:8080"), "::ffff:198.51.100.2");
    seen_by(&direct, "198.51.100.1:8080");
    seen_by(&stage.host, "127.0.0.1:8080");
    assert_eq!(seen_by(&server, "198.51.100.1:8080"), "::ffff:172.18.0.1");
    unreachable(&stage.outside, "192.0.2.1:8080");
    // Out, and directly.
    assert_eq!(seen_by(&server, "198.51.100.2:5000"), "::ffff:198.51.100.1");
    assert_eq!(seen_by(&server, "198.51.100.3:80"), "::ffff:198.51.100.1");
    assert_eq!(seen_by(&there, "198.51.100.3:80"), "::ffff:198.51.100.2");
    // Nothing else, were the answers to find their way.
    stage.host.run("ip route add 203.0.113.0/24 dev br-y");
    for (space, bridge) in [(&there, "br-x"), (&elsewhere, "br-y")] {
        space.run("ip route add default dev eth0");
        let shown = stage.host.run(&format!("ip -o link show {bridge}"));
        let mac = shown
            .split_whitespace()
            .skip_while(|word| *word != "link/ether")
            .nth(1)
            .expect("its MAC address");
        for to in ["172.18.0.2", "172.18.0.1", "192.0.2.1", "203.0.113.2", "198.51.100.2"] {
            // Its own addresses never get that far.
            space.run(&format!("ip neighbour replace {to} lladdr {mac} dev eth0"));
        }
    }
    for to in ["172.18.0.2:80", "172.18.0.1:22", "203.0.113.2:5000", "192.0.2.2:5000", "198.51.100.1:2375"] {
        unreachable(&there, to);
    }
    for to in ["172.18.0.2:80", "192.0.2.1:22", "198.51.100.2:5000", "192.0.2.1:8080"] {
        unreachable(&elsewhere, to);
    }
    // What is no way out is none for containers either.
    unreachable(&server, "203.0.113.2:5000");
}

#[test]
fn a_connection_outlives_the_table_and_nothing_outlives_removal() {
    let mut stage = Stage::new();
    let (server, client) = (stage.a(2), stage.a(3));
    serve(&server, "[::]:80");
    stage.publish(Protocol::Tcp, None, 8080, "172.18.0.2:80", "br-a");
    stage.host.run("nft add table inet foreign");
    stage.host.run("nft add set inet foreign kept { type ifname ; }");
    let before = stage.host.run("nft list ruleset");
    stage.apply();
    seen_by(&stage.outside, "192.0.2.1:8080");
    let mut connections = [
        dial(&stage.outside, "192.0.2.1:8080", Duration::from_secs(5)).expect("a connection"),
        dial(&stage.host, "127.0.0.1:8080", Duration::from_secs(5)).expect("a connection"),
        dial(&client, "192.0.2.2:5000", Duration::from_secs(5)).expect("a connection"),
    ];
    for connection in &mut connections {
        line(connection).expect("who I am");
    }
    for port in 0..20 {
        stage.publish(Protocol::Tcp, None, 9000 + port, "172.18.0.2:80", "br-a");
        stage.apply();
        for connection in &mut connections {
            writeln!(connection.get_mut(), "still there {port}?").expect("an open connection");
            assert_eq!(line(connection), Some(format!("still there {port}?")));
        }
    }
    seen_by(&stage.outside, "192.0.2.1:9019");
    stage.rules.published.pop();
    stage.apply();
    unreachable(&stage.outside, "192.0.2.1:9019");
    on(&stage.host, async |_| {
        firewall::remove().await.expect("it is there");
        firewall::remove().await.expect("it is not there");
    });
    assert_eq!(stage.host.run("nft list ruleset"), before);
    unreachable(&stage.outside, "192.0.2.1:8080");
}

#[test]
fn thousands_of_ports_are_published_at_once() {
    let mut stage = Stage::new();
    let server = stage.a(2);
    serve(&server, "[::]:80");
    for (count, limit) in [(10, 2), (1_000, 5), (5_000, 20)] {
        stage.rules.published.clear();
        for port in 0..count {
            stage.publish(Protocol::Tcp, None, 10_000 + port, "172.18.0.2:80", "br-a");
        }
        stage.apply();
        let began = Instant::now();
        stage.apply();
        let took = began.elapsed();
        println!("{count} published ports: {took:?}");
        assert!(took < Duration::from_secs(limit), "{count}: {took:?}");
        seen_by(&stage.outside, &format!("192.0.2.1:{}", 10_000 + count - 1));
    }
}

#[test]
fn errors_say_what_to_do() {
    let mut stage = Stage::new();
    stage.rules.bridges.push(Bridge {
        name: "br*".parse().expect("a name the kernel takes"),
        subnets: Vec::new(),
        kind: Kind::Nat,
    });
    let error = on(&stage.host, async |_| firewall::apply(&stage.rules).await.expect_err("a wildcard"));
    assert!(error.to_string().contains("letters, digits"), "{error}");
    let link = |name: &str| name.parse().expect(name);
    on(&stage.host, async |networks| {
        let error = networks.enslave_uplink(&link("uplink"), &link("br-a")).await.expect_err("an address");
        assert!(error.to_string().contains("--address 192.0.2.1/24"), "{error}");
        let error = networks.enslave_uplink(&link("eth9"), &link("br-a")).await.expect_err("none");
        assert!(error.to_string().contains("there is no link eth9"), "{error}");
        let error = networks.enslave_uplink(&link("br-b"), &link("br-a")).await.expect_err("ours");
        assert!(error.to_string().contains("a bridge of vch"), "{error}");
        let mac = "02:7e:01:00:00:01".parse().expect("a MAC address");
        let error =
            networks.ensure_bridge(&link("uplink"), "x", mac, None, &[]).await.expect_err("no bridge");
        assert!(error.to_string().contains("it is no bridge"), "{error}");
        let error = networks.ensure_bridge(&link("br-a"), "x", mac, None, &[]).await.expect_err("another's");
        assert!(error.to_string().contains("vch:network"), "{error}");
        let error = networks.remove_bridge(&link("uplink")).await.expect_err("not ours");
        assert!(error.to_string().contains("not this network's"), "{error}");
    });
}

#[test]
fn bridges_are_found_again_and_leave_nothing() {
    let space = Space::new();
    space.run("ip link add eth2 type veth peer name other");
    space.run("ip link add theirs type bridge");
    let link = |name: &str| name.parse().expect(name);
    let prefix = |text: &str| text.parse().expect(text);
    let mac = "02:7e:01:00:00:01".parse().expect("a MAC address");
    on(&space, async |networks| {
        let id = "f".repeat(64);
        let first = ["172.18.0.1/16", "fd00:18::1/64"].map(prefix);
        let index = networks.ensure_bridge(&link("br-a"), &id, mac, Some(1400), &first).await.expect("made");
        let second = ["172.18.0.9/16"].map(prefix);
        let again =
            networks.ensure_bridge(&link("br-a"), &id, mac, Some(1400), &second).await.expect("found");
        assert_eq!(index, again);
        let shown = space.run("ip address show br-a");
        assert!(shown.contains("mtu 1400") && shown.contains("172.18.0.9/16"), "{shown}");
        assert!(!shown.contains("172.18.0.1/16") && !shown.contains("fd00:18::1"), "{shown}");
        assert_eq!(networks.make_bridge(&link("br-a"), &id, mac, Some(1400)).await.expect("found"), index);
        assert!(space.run("ip address show br-a").contains("172.18.0.9/16"), "an address is removed");
        assert_eq!(networks.ours().await.expect("a list"), [(link("br-a"), id)]);

        networks.enslave_uplink(&link("eth2"), &link("br-a")).await.expect("a link");
        assert!(space.run("ip link show eth2").contains("master br-a"));
        space.run("ip route add 10.5.0.0/16 via 172.18.0.7");
        space.run("ip route add 0.0.0.0/1 via 172.18.0.7");
        space.run("ip route add default via 172.18.0.7");
        space.run("ip route add blackhole 10.6.0.0/16");
        let used = networks.addresses_and_routes().await.expect("a list");
        assert_eq!(used, ["10.5.0.0/16", "10.6.0.0/16", "172.18.0.0/16"].map(prefix));

        space.run("ip neighbour add 172.18.0.5 lladdr 02:00:00:00:00:01 dev br-a");
        let address = "172.18.0.5".parse().expect("an address");
        networks.forget_neighbour(&link("br-a"), address).await.expect("it is known");
        networks.forget_neighbour(&link("br-a"), address).await.expect("it is not known");
        assert!(!space.run("ip neighbour show").contains("172.18.0.5"));

        networks.release_uplink(&link("eth2")).await.expect("a port");
        networks.release_uplink(&link("eth2")).await.expect("no port");
        assert!(!space.run("ip link show eth2").contains("master"));
        networks.remove_bridge(&link("br-a")).await.expect("ours");
        networks.remove_bridge(&link("br-a")).await.expect("gone");
        assert_eq!(networks.ours().await.expect("a list"), []);
        assert!(networks.remove_bridge(&link("theirs")).await.is_err());
    });
}
