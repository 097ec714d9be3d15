//! Real clients: the resolvers that containers have, looking up names through `/etc/resolv.conf`
//! as it was written for them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::json;
use tempfile::TempDir;
use tether_tests::{Process, target, wait_for};

use crate::{
    client::Client,
    packet::{A, AAAA, NOERROR, NXDOMAIN, Question, TC},
    server::Server,
    tables::two_networks,
    upstream::Upstream,
};

/// A container with the usual tables, and an upstream that knows `www.example`.
fn container() -> (Server, Upstream) {
    let server = Server::new(&two_networks(), &json!({ "upstreams": ["10.53.0.11"] }));
    let upstream = server.upstream("10.53.0.11");
    upstream.does(|asked| {
        let reply = crate::answers::Reply::to(&asked.message);
        let www = asked.message.name().eq_ignore_ascii_case("www.example.");
        let reply = match asked.message.kind() {
            _ if !www => reply.code(NXDOMAIN).nothing_for("example", 60, 60),
            A => reply.address(60, "192.0.2.1"),
            AAAA => reply.address(60, "2001:db8::1"),
            _ => reply.nothing_for("example", 60, 60),
        };
        crate::upstream::Does::say(&reply)
    });
    (server, upstream)
}

/// A program in the container, which Debian has in `package`.
fn program(server: &Server, program: &str, package: &str) -> Command {
    let found = ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/lib/systemd"]
        .map(|place| Path::new(place).join(program))
        .into_iter()
        .find(|path| path.exists());
    server
        .space
        .command(found.unwrap_or_else(|| panic!("{program} is missing: install Debian's package {package}")))
}

/// What it prints.
fn said(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("it can be started");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// Compiles a program that stands beside this file.
fn compiled(compiler: &str, package: &str, source: &str, more: &[&str]) -> (TempDir, PathBuf) {
    let directory = TempDir::new().expect("a temporary directory");
    let program = directory.path().join("lookup");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("dns").join(source);
    let output =
        Command::new(compiler).args(["-Wall", "-Werror", "-o"]).arg(&program).arg(source).args(more).output();
    let output =
        output.unwrap_or_else(|_| panic!("{compiler} is missing: install Debian's package {package}"));
    assert!(output.status.success(), "{compiler} (Debian's package {package}): {output:?}");
    (directory, program)
}

/// The names every resolver is asked for, and what it has to find: all of it, in any order.
const NAMES: [(&str, &[&str]); 7] = [
    ("server", &["172.18.0.2", "fd00:18::2"]),
    ("SERVER.Back", &["172.19.0.2"]),
    // Without IPv6: musl gives up on a name whose AAAA is an error.
    ("other", &["172.18.0.4"]),
    ("shared.front", &["172.18.0.3", "172.18.0.4"]),
    ("extra.alias", &["10.77.0.1"]),
    ("www.example", &["192.0.2.1", "2001:db8::1"]),
    ("db", &["172.18.0.9"]),
];

/// That a program that prints `name: address address` for each name finds them all.
fn finds_all(server: &Server, path: &Path, unknown: &str) {
    let mut command = server.space.command(path);
    command.args(NAMES.iter().map(|(name, _)| *name)).args(["nobody.example", "crowd"]);
    let text = said(command);
    let found = |name: &str| -> Vec<&str> {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        let mut found: Vec<&str> = line.unwrap_or_else(|| panic!("no {name}: {text}")).split(' ').collect();
        found.sort_unstable();
        found
    };
    for (name, addresses) in NAMES {
        assert_eq!(found(name), addresses, "{name}");
    }
    assert!(text.contains(&format!("nobody.example: error {unknown}\n")), "{text}");
    // Too long for UDP: over TCP, or as much as fits.
    assert!(found("crowd").len() >= 20, "{:?}", found("crowd"));
    assert!(found("crowd").iter().all(|address| address.starts_with("172.18.1.")));
}

#[test]
fn glibc_looks_up_both_families_at_once() {
    let (server, _upstream) = container();
    let (_directory, lookup) = compiled("cc", "gcc", "lookup.c", &[]);
    finds_all(&server, &lookup, "EAI_NONAME");
    let mut command = server.space.command(&lookup);
    command.arg("crowd");
    assert_eq!(said(command).split(' ').count(), 61, "all of them, over TCP");
}

#[test]
fn glibc_looks_up_both_families_one_after_the_other_on_one_connection() {
    let (mut server, _upstream) = container();
    let (_directory, lookup) = compiled("cc", "gcc", "lookup.c", &[]);
    for options in [["use-vc", "ndots:0"], ["single-request", "edns0"], ["single-request-reopen", "trust-ad"]]
    {
        server.again(&two_networks(), &json!({ "upstreams": ["10.53.0.11"], "options": options }));
        finds_all(&server, &lookup, "EAI_NONAME");
    }
}

#[test]
fn musl_looks_up_both_families_at_once() {
    let (server, _upstream) = container();
    let (_directory, lookup) = compiled("musl-gcc", "musl-tools", "lookup.c", &["-static"]);
    finds_all(&server, &lookup, "EAI_NONAME");
}

#[test]
fn c_ares_looks_up_everything_at_once() {
    let (server, _upstream) = container();
    let (_directory, lookup) = compiled("cc", "libc-ares-dev", "lookup_cares.c", &["-lcares"]);
    finds_all(&server, &lookup, "Domain name not found");
}

#[test]
fn gos_resolver_looks_up_both_families_at_once() {
    let (server, _upstream) = container();
    let words = server.space.etc().join("words");
    fs::write(&words, "server\nother\nnobody\ndb\n").expect("a file");
    // A program in Go that looks up every word as a name below a domain, by Go's own resolver.
    let mut gobuster = program(&server, "gobuster", "gobuster");
    gobuster
        .args(["dns", "-d", "front", "-i", "-q", "-z", "--no-error", "--timeout", "10s", "-w"])
        .arg(&words);
    gobuster.env("GODEBUG", "netdns=go").env("NO_COLOR", "1");
    let text = said(gobuster);
    // `Found: name [address,address]`, the addresses in any order.
    let lines = text.split("Found: ").skip(1).filter_map(|line| line.split_once(']')?.0.split_once(" ["));
    let mut found: Vec<(&str, Vec<&str>)> = lines
        .map(|(name, addresses)| {
            let mut addresses: Vec<&str> = addresses.split(',').collect();
            addresses.sort_unstable();
            (name, addresses)
        })
        .collect();
    found.sort_unstable();
    let expected = [
        ("db.front", vec!["172.18.0.9"]),
        ("other.front", vec!["172.18.0.4"]),
        ("server.front", vec!["172.18.0.2", "fd00:18::2"]),
    ];
    assert_eq!(found, expected);
}

#[test]
fn dig_is_content_with_every_answer() {
    let (server, _upstream) = container();
    let dig = |arguments: &str| {
        let mut command = program(&server, "dig", "bind9-dnsutils");
        command.args(["+tries=1", "+time=6"]).args(arguments.split(' '));
        said(command)
    };
    assert_eq!(dig("+short server A"), "172.18.0.2\n");
    assert_eq!(dig("+short +tcp sErVeR AAAA"), "fd00:18::2\n");
    assert_eq!(dig("+short -x fd00:18::2"), "server.\n");
    assert_eq!(dig("+short _http._tcp.server SRV").split(' ').skip(2).collect::<String>(), "80server.\n");
    let crowd = dig("+short +bufsize=512 crowd A");
    assert_eq!(crowd.lines().filter(|line| line.starts_with("172.18.1.")).count(), 60, "{crowd}");
    let cut = dig("+ignore +noedns crowd A");
    assert!(cut.contains(" tc") && !cut.contains("malformed"), "{cut}");
    for arguments in [
        "server MX",
        "+dnssec server",
        "+nsid +subnet=192.0.2.0/24 server",
        "+noedns server",
        "+cd +adflag server",
        "server ANY",
        "www.example HTTPS",
    ] {
        let text = dig(arguments);
        assert!(text.contains("status: NOERROR"), "{arguments}: {text}");
        for complaint in ["WARNING", "Warning", "malformed", "mismatch"] {
            assert!(!text.contains(complaint), "{arguments}: {text}");
        }
    }
    assert!(dig("+noednsneg +edns=1 server").contains("status: BADVERS"));
    assert!(dig("CH version.bind TXT").contains("status: REFUSED"));
    assert!(dig("+opcode=notify server").contains("status: NOTIMP"));
    assert!(dig("+header-only server").contains("status: FORMERR"));
    assert!(dig("nobody.example").contains("status: NXDOMAIN"));
}

#[test]
fn kdig_asks_many_questions_on_one_connection_that_stays_open() {
    let (server, _upstream) = container();
    let mut kdig = program(&server, "kdig", "knot-dnsutils");
    kdig.args(["@127.0.0.11", "+tcp", "+keepopen", "+noall", "+answer", "+header"]);
    kdig.args(["server", "A", "other", "AAAA", "crowd", "A", "www.example", "AAAA", "web", "AAAA"]);
    let text = said(kdig);
    assert_eq!(text.matches("NOERROR").count(), 5, "{text}");
    assert_eq!(text.matches("172.18.1.").count(), 60, "{text}");
    for address in ["172.18.0.2", "2001:db8::1", "fd00:18::2"] {
        assert!(text.contains(address), "{address}: {text}");
    }
}

#[test]
fn busybox_nslookup_finds_names_and_addresses() {
    let (server, _upstream) = container();
    let nslookup = |arguments: &[&str]| {
        let mut busybox = program(&server, "busybox", "busybox-static");
        busybox.arg("nslookup").args(arguments);
        said(busybox)
    };
    let text = nslookup(&["server"]);
    assert!(text.contains("172.18.0.2") && text.contains("fd00:18::2"), "{text}");
    // Without IPv6 it is content, and says nothing of NXDOMAIN.
    let text = nslookup(&["other"]);
    assert!(text.contains("172.18.0.4") && !text.contains("NXDOMAIN") && !text.contains("can't"), "{text}");
    let text = nslookup(&["172.18.0.2"]);
    assert!(text.contains("server"), "{text}");
}

/// systemd-resolved as a client of ours, asked at its own address. It runs without systemd and
/// without a bus, for which it waits in the background. Its user is root here: in a user namespace
/// there is nobody else it could become.
#[test]
fn systemd_resolved_asks_us_for_everything() {
    const PASSWD: &str =
        "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\nsystemd-resolve:x:0:0::/:/bin/false\n";
    const RESOLVED: &str = "[Resolve]\nDNS=127.0.0.11\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\nReadEtcHosts=no\nResolveUnicastSingleLabel=yes\n";
    let (server, _upstream) = container();
    let etc = server.space.etc();
    server.space.run("mkdir -p /etc/systemd /run/systemd");
    fs::write(etc.join("systemd/resolved.conf"), RESOLVED).expect("its configuration");
    fs::write(etc.join("passwd"), PASSWD).expect("users");
    fs::write(etc.join("group"), "root:x:0:\nsystemd-resolve:x:0:\n").expect("groups");
    // scripts/requirements unpacks it: installed, it would take the machine's resolv.conf over.
    let unpacked = target().join("systemd-resolved/lib/systemd/systemd-resolved");
    let found =
        [Path::new("/lib/systemd/systemd-resolved"), &unpacked].into_iter().find(|path| path.exists());
    let resolved =
        found.unwrap_or_else(|| panic!("{} is missing: run scripts/requirements test", unpacked.display()));
    let mut command = server.space.command(resolved);
    command.env("SYSTEMD_LOG_TARGET", "console");
    let mut resolved = Process::start(command);
    let client = wait_for("systemd-resolved", || {
        assert!(!resolved.has_ended(), "systemd-resolved has ended; what it said is above");
        let listens = server.space.run("ss -Hlnu").contains("127.0.0.53");
        listens.then(|| Client::of(&server.space, "127.0.0.53:53".parse().expect("an address")))
    });
    // It believes in the network when a link has a carrier and an address, which it hears of in
    // its own time.
    wait_for("an answer by way of systemd-resolved", || {
        (client.look_up("server", A).code() == NOERROR).then_some(())
    });
    assert_eq!(client.look_up("server", A).data(), ["172.18.0.2"]);
    assert_eq!(client.look_up("server.front", AAAA).data(), ["fd00:18::2"]);
    assert_eq!(client.look_up("www.example", AAAA).data(), ["2001:db8::1"]);
    let nothing = client.look_up("other", AAAA);
    assert_eq!((nothing.code(), nothing.answers.len()), (NOERROR, 0));
    assert_eq!(client.look_up("nobody.example", A).code(), NXDOMAIN);
    let crowd = crate::client::Connection::of(&server.space, "127.0.0.53:53".parse().expect("an address"))
        .ask(&Question::new("crowd", A));
    assert_eq!((crowd.answers.len(), crowd.has(TC)), (60, false));
    assert_eq!(client.look_up("_http._tcp.server", crate::packet::SRV).answers.len(), 1);
}
