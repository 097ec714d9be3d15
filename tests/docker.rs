//! The real docker client against the real `vch serve`, with containers that are real machines.
//!
//! They need QEMU, the image of `vmimage/build` and a docker client; `scripts/test` provides them.

#![allow(clippy::expect_used, reason = "a test fails by panicking, and says what it expected")]

mod docker_confinement;

use std::{net::TcpStream, time::Duration};

use serde_json::{Value, json};
use tether_tests::{
    docker::{Docker, Shell, connect, echoed, fetch},
    wait_for,
};

/// How often a container is run and removed to see what is left. Issue 3 asks for 50, which takes
/// minutes; nothing may be left of one any more than of fifty.
const RUNS: usize = 10;
/// The host's own address on `default-external`.
const VCH: &str = "10.2.0.5";
const HELLO: &str = "Hello world!\n";

/// The address of `container` on the only network it is on.
fn address(docker: &Docker, container: &str) -> String {
    let format = "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    docker.ok(&["inspect", format, container])
}

/// What a line of `ping` on busybox says when everything came back.
fn pinged(answer: &str, name: &str, address: &str) {
    assert!(answer.contains(&format!("PING {name} ({address})")), "{answer}");
    assert!(answer.contains("2 packets transmitted, 2 packets received, 0% packet loss"), "{answer}");
}

/// The names on the lines of a list that docker printed, in order.
fn sorted(list: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn use_cases_1_to_3_ports_names_output_and_exit_codes() {
    let docker = Docker::new(&["busybox", "my_container", "my_server_image"]);

    // 1. A port on the host's external address.
    let test1 = docker.shell(&["run", "-p", "8080:80", "--name", "test1", "my_container", "my_app"]);
    let page = fetch(&docker.outside, &format!("{VCH}:8080"), "GET / HTTP/1.0\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("\r\n\r\nmy_app\n"), "{page}");
    // From the host itself, too.
    let page = fetch(&docker.host, &format!("{VCH}:8080"), "GET / HTTP/1.0\r\n\r\n");
    assert!(page.ends_with("my_app\n"), "{page}");
    assert_eq!(docker.ok(&["port", "test1"]), "80/tcp -> 0.0.0.0:8080");
    let shown = docker.ok(&["ps", "--format", "{{.Names}} {{.Ports}} {{.Image}} {{.Command}}"]);
    assert_eq!(shown, "test1 0.0.0.0:8080->80/tcp my_container \"my_app\"");
    // A second one cannot have it, and leaves nothing.
    let taken = docker.fails(125, &["run", "--rm", "-p", "8080:80", "--name", "test2", "my_container"]);
    assert!(taken.contains("Bind for 0.0.0.0:8080 failed: port is already allocated"), "{taken}");
    assert_eq!(docker.ok(&["ps", "-a", "--format", "{{.Names}}"]), "test1");
    assert_eq!(docker.ok(&["rm", "-f", "test1"]), "test1");
    assert!(connect(&docker.outside, &format!("{VCH}:8080")).is_err(), "the port is still there");
    drop(test1);

    // 2. A network, and names both ways.
    let id = docker.ok(&["network", "create", "-d", "bridge", "my-bridge-network"]);
    assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    let list = docker.ok(&["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"]);
    let expected = [
        "bridge bridge local",
        "default-external bridge external",
        "my-bridge-network bridge local",
        "none null local",
        "vic-production bridge external",
    ];
    assert_eq!(sorted(&list), expected);
    docker.ok(&["run", "-d", "--net=my-bridge-network", "--name=server", "my_server_image", "server_app"]);
    assert_eq!(address(&docker, "server"), "172.18.0.2");
    let mut client = docker.terminal("run -it --name=client --net=my-bridge-network busybox");
    wait_for("a prompt", || client.heard().contains("# ").then_some(()));
    pinged(&client.ok("ping -c 2 server"), "server", "172.18.0.2");

    // 3. The same with a published port. The server is one that can be asked things.
    docker.ok(&["rm", "-f", "server"]);
    assert!(client.fails("ping -c 1 server").contains("bad address 'server'"), "the name is still there");
    let net = "--net=my-bridge-network";
    let app = "server_app & exec sh";
    let run = ["run", "-i", "-p", "5000:5000", net, "--name=server", "my_server_image", "sh", "-c", app];
    let mut server = docker.shell(&run);
    pinged(&server.ok("ping -c 2 client"), "client", "172.18.0.3");
    // Not the address the first had: a neighbour may still hold its old entry.
    assert_eq!(address(&docker, "server"), "172.18.0.4");
    pinged(&client.ok("ping -c 2 server"), "server", "172.18.0.4");
    let (told, _) = client.ask("(echo GET /; sleep 2) | telnet server 5000");
    assert!(told.contains("Hello world!\r\n"), "{told}");
    assert_eq!(fetch(&docker.outside, &format!("{VCH}:5000"), "GET /\r\n"), HELLO);
    // Hairpin: by the host's address from within.
    let (told, _) = client.ask(&format!("(echo GET /; sleep 2) | telnet {VCH} 5000"));
    assert!(told.contains("Hello world!\r\n"), "{told}");

    // Another name, at once.
    docker.ok(&["rename", "server", "renamed"]);
    pinged(&client.ok("ping -c 2 renamed"), "renamed", "172.18.0.4");
    assert!(client.fails("ping -c 1 server").contains("bad address 'server'"), "the old name is still there");
    assert_eq!(client.exit(5), Some(5));
    assert_eq!(server.exit(0), Some(0));
    assert!(connect(&docker.outside, &format!("{VCH}:5000")).is_err(), "the port is still there");

    // Output apart, exit code passed on, and both kept.
    let seven = "echo out; echo err >&2; exit 7";
    let output = docker.run(&["run", "--name", "seven", "busybox", "sh", "-c", seven]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    let logs = docker.run(&["logs", "seven"]);
    assert_eq!((logs.stdout.as_slice(), logs.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    let state = &docker.inspect("seven")["State"];
    assert_eq!(
        (&state["Status"], &state["ExitCode"], &state["Pid"]),
        (&json!("exited"), &json!(7), &json!(0))
    );

    // Standard input to its end, every byte of it.
    let bytes: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let output = docker.fed(&["run", "--rm", "-i", "busybox", "cat"], &bytes);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout.len(), bytes.len());
    assert!(output.stdout == bytes, "the bytes differ");
}

#[test]
fn use_case_4_external_networks() {
    let docker = Docker::new(&["my_webapp"]);
    let list = docker.ok(&["network", "ls", "--format", "{{.Name}}"]);
    assert_eq!(sorted(&list), ["bridge", "default-external", "none", "vic-production"]);
    for (name, subnet, gateway) in
        [("default-external", "10.2.0.0/16", "10.2.0.1"), ("vic-production", "208.91.3.0/24", "208.91.3.1")]
    {
        let text = docker.ok(&["network", "inspect", name]);
        let shown: Value = serde_json::from_str(&text).expect("it is JSON");
        let shown = &shown[0];
        assert_eq!(shown["Name"], name);
        let id = shown["Id"].as_str().unwrap_or_default();
        assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{shown}");
        assert_eq!((&shown["Scope"], &shown["Driver"]), (&json!("external"), &json!("bridge")));
        let config = &shown["IPAM"]["Config"];
        assert_eq!(config.as_array().map(Vec::len), Some(1), "{shown}");
        assert_eq!((&config[0]["Subnet"], &config[0]["Gateway"]), (&json!(subnet), &json!(gateway)));
        assert_eq!(shown["Containers"], json!({}));
        assert!(shown["Options"].is_object(), "{shown}");
    }

    let run = |more: &[&str], name: &str| {
        let words = [&["run", "-d"], more, &["--net=vic-production", "--name", name, "my_webapp"]].concat();
        docker.ok(&words)
    };
    let answers = |address: &str| {
        let page = fetch(&docker.outside, &format!("{address}:80"), "GET / HTTP/1.0\r\n\r\n");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("my_webapp\n"), "{page}");
    };
    let id = run(&["--expose=80"], "server");
    assert_eq!(address(&docker, "server"), "208.91.3.2");
    answers("208.91.3.2");
    // Not through the host: the neighbour is the container itself, and the host has no address.
    let settings = &docker.inspect("server")["NetworkSettings"]["Networks"]["vic-production"];
    let mac = settings["MacAddress"].as_str().expect("an address");
    let neighbour = docker.outside.run("ip neigh show 208.91.3.2");
    assert!(neighbour.contains(&format!("lladdr {mac}")), "{neighbour}, not {mac}");
    assert_eq!(settings["Gateway"], "208.91.3.1");
    let addresses = docker.host.run("ip -o -4 addr");
    assert!(!addresses.contains("208.91.3."), "{addresses}");
    let text = docker.ok(&["network", "inspect", "vic-production"]);
    let shown: Value = serde_json::from_str(&text).expect("it is JSON");
    let on_it = &shown[0]["Containers"][&id];
    assert_eq!((&on_it["Name"], &on_it["IPv4Address"]), (&json!("server"), &json!("208.91.3.2/24")));

    // -p 80 and -p 80:80 are the same.
    run(&["-p", "80"], "published");
    assert_eq!(address(&docker, "published"), "208.91.3.3");
    answers("208.91.3.3");
    run(&["-p", "80:80"], "mapped");
    assert_eq!(address(&docker, "mapped"), "208.91.3.4");
    answers("208.91.3.4");

    // Any other port cannot be.
    let before = docker.ok(&["ps", "-aq"]);
    let told = docker.fails(125, &["run", "-d", "-p", "8080:80", "--net=vic-production", "my_webapp"]);
    assert!(told.contains("port 80 cannot be published as 8080 on vic-production"), "{told}");
    assert!(told.contains("Write -p 80 or -p 80:80"), "{told}");
    assert_eq!(docker.ok(&["ps", "-aq"]), before);

    // It is the administrator's.
    docker.ok(&["rm", "-f", "server", "published", "mapped"]);
    let told = docker.fails(1, &["network", "rm", "vic-production"]);
    let expected =
        "vic-production is an external network, the administrator's: use vch network rm vic-production";
    assert!(told.contains(expected), "{told}");
    let list = docker.ok(&["network", "ls", "--format", "{{.Name}}"]);
    assert_eq!(sorted(&list), ["bridge", "default-external", "none", "vic-production"]);
}

#[test]
fn a_running_container_is_connected_and_disconnected_and_networks_are_apart() {
    let docker = Docker::new(&["busybox"]);
    docker.ok(&["network", "create", "--subnet", "172.28.1.0/24", "one"]);
    docker.ok(&["network", "create", "--subnet", "172.28.2.0/24", "two"]);
    let mut walker = docker.shell(&["run", "-i", "--net=one", "--name=walker", "busybox"]);
    let mut peer = docker.shell(&["run", "-i", "--net=two", "--name=peer", "busybox"]);
    let own = walker.ok("ip -4 -o addr show eth0");
    assert!(own.contains("inet 172.28.1.2/24 "), "{own}");
    let own = peer.ok("ip -4 -o addr show eth0");
    assert!(own.contains("inet 172.28.2.2/24 "), "{own}");

    let apart = |walker: &mut Shell, peer: &mut Shell| {
        for (shell, name, address) in [(walker, "peer", "172.28.2.2"), (peer, "walker", "172.28.1.2")] {
            let answer = shell.fails(&format!("ping -c 1 {name} 2>&1"));
            assert!(answer.contains(&format!("bad address '{name}'")), "{answer}");
            let answer = shell.fails(&format!("ping -c 2 -W 1 {address}"));
            assert!(answer.contains("100% packet loss"), "{answer}");
        }
    };
    apart(&mut walker, &mut peer);
    // Nobody sees the management network.
    let answer = walker.fails("ip link show eth1 2>&1");
    assert!(answer.contains("eth1"), "{answer}");

    docker.ok(&["network", "connect", "--alias", "roamer", "--ip", "172.28.2.77", "two", "walker"]);
    wait_for("the new interface's address", || {
        walker.ask("ip -4 -o addr show eth1 2>&1").0.contains("inet 172.28.2.77/24 ").then_some(())
    });
    pinged(&peer.ok("ping -c 2 roamer"), "roamer", "172.28.2.77");
    pinged(&peer.ok("ping -c 2 walker"), "walker", "172.28.2.77");
    pinged(&walker.ok("ping -c 2 peer"), "peer", "172.28.2.2");
    let networks = docker.inspect("walker")["NetworkSettings"]["Networks"].clone();
    assert_eq!(networks["one"]["IPAddress"], "172.28.1.2");
    assert_eq!(networks["two"]["IPAddress"], "172.28.2.77");
    assert_eq!(networks["two"]["Aliases"], json!(["roamer"]));
    let told = docker.fails(1, &["network", "connect", "two", "walker"]);
    assert!(told.contains("endpoint with name walker already exists in network two"), "{told}");
    let told = docker.fails(1, &["network", "rm", "two"]);
    assert!(told.contains("network two has active endpoints"), "{told}");

    docker.ok(&["network", "disconnect", "two", "walker"]);
    wait_for("the interface to go", || {
        (walker.ask("ip link show eth1 >/dev/null 2>&1").1 != 0).then_some(())
    });
    let answer = peer.fails("ping -c 1 roamer 2>&1");
    assert!(answer.contains("bad address 'roamer'"), "{answer}");
    apart(&mut walker, &mut peer);
    let networks = docker.inspect("walker")["NetworkSettings"]["Networks"].clone();
    let names: Vec<&String> = networks.as_object().into_iter().flat_map(|networks| networks.keys()).collect();
    assert_eq!(names, ["one"]);
    let text =
        docker.ok(&["network", "inspect", "two", "--format", "{{range .Containers}}{{.Name}} {{end}}"]);
    assert_eq!(text, "peer");
    let told = docker.fails(1, &["network", "disconnect", "two", "walker"]);
    assert!(told.contains("walker") && told.contains("is not connected to"), "{told}");
    // What it had before it still has.
    let own = walker.ok("ip -4 -o addr show eth0");
    assert!(own.contains("inet 172.28.1.2/24 "), "{own}");
    assert_eq!((walker.exit(0), peer.exit(0)), (Some(0), Some(0)));
}

#[test]
fn everything_lives_through_a_host_that_is_killed() {
    let mut docker = Docker::new(&["busybox"]);
    docker.ok(&["network", "create", "lasting"]);
    let serving = "nc -ll -p 7000 -e cat & exec nc -ll -p 80 -e cat";
    let run = ["run", "-d", "--net=lasting", "--name=server", "--network-alias=other", "-p", "8080:80"];
    docker.ok(&[&run[..], &["busybox", "sh", "-c", serving]].concat());
    // Every line goes to the server and comes back on the one connection, or the counting ends.
    let counting = "n=0; while sleep 0.3; do n=$((n+1)); echo line $n; done | nc server 7000";
    docker.ok(&["run", "-d", "--net=lasting", "--name=client", "busybox", "sh", "-c", counting]);
    let count = |docker: &Docker| docker.ok(&["logs", "client"]).lines().count();
    wait_for("the first lines", || (count(&docker) >= 2).then_some(()));
    let mut published: TcpStream =
        connect(&docker.outside, &format!("{VCH}:8080")).expect("the published port answers");
    echoed(&mut published, "before\n");

    let told = |docker: &Docker| {
        let ps =
            docker.ok(&["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Ports}} {{.State}}"]);
        let networks = docker.ok(&["network", "ls", "--no-trunc"]);
        let network: Value =
            serde_json::from_str(&docker.ok(&["network", "inspect", "lasting"])).expect("it is JSON");
        let ports = docker.ok(&["port", "server"]);
        let rules = docker.host.run("nft list table inet vch");
        let containers = ["server", "client"].map(|name| docker.inspect(name));
        (ps, networks, network, ports, rules, containers)
    };
    let before = told(&docker);
    let machines = docker.machines();
    assert_eq!(machines.len(), 2);
    let lines_before = count(&docker);

    docker.crash();
    // What goes on without it: machines, addresses, rules, connections; output that nobody takes.
    echoed(&mut published, "while it was away\n");
    let mut new = connect(&docker.outside, &format!("{VCH}:8080")).expect("the published port answers");
    echoed(&mut new, "a connection of now\n");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(docker.machines(), machines);
    docker.restart();

    let after = told(&docker);
    assert_eq!(after.0, before.0);
    assert_eq!(after.1, before.1);
    assert_eq!(after.2, before.2);
    assert_eq!(after.3, "80/tcp -> 0.0.0.0:8080");
    assert_eq!(after.4, before.4);
    for (after, before) in after.5.iter().zip(&before.5) {
        assert_eq!(after["State"], before["State"]);
        assert_eq!(after["NetworkSettings"], before["NetworkSettings"]);
        assert_eq!(after, before);
        let pid = after["State"]["Pid"].as_u64().expect("a number");
        assert!(machines.iter().any(|id| u64::from(*id) == pid), "{pid} of {machines:?}");
    }
    assert_eq!(docker.machines(), machines);
    echoed(&mut published, "after\n");
    echoed(&mut new, "after, too\n");

    // The counting has gone on all the time, and every line is there once.
    wait_for("lines of now", || (count(&docker) >= lines_before + 15).then_some(()));
    let logs = docker.ok(&["logs", "client"]);
    for (n, line) in logs.lines().enumerate() {
        assert_eq!(line, format!("line {}", n + 1), "{logs}");
    }

    // It is a host like any other: addresses go on, names are found, containers can be ended.
    let ping = "ping -c 2 server && ping -c 2 other && hostname -i";
    let said = docker.ok(&["run", "--rm", "--net=lasting", "busybox", "sh", "-c", ping]);
    assert!(said.contains("PING server (172.18.0.2)") && said.contains("PING other (172.18.0.2)"), "{said}");
    assert_eq!(said.lines().last().map(str::trim), Some("172.18.0.4"));
    let taken = docker.fails(125, &["run", "--rm", "-p", "8080:80", "busybox"]);
    assert!(taken.contains("Bind for 0.0.0.0:8080 failed: port is already allocated"), "{taken}");
    docker.ok(&["kill", "server"]);
    assert_eq!(docker.ok(&["wait", "server"]), "137");
    docker.ok(&["rm", "-f", "client"]);
    wait_for("the machines' end", || docker.machines().is_empty().then_some(()));
    assert!(connect(&docker.outside, &format!("{VCH}:8080")).is_err(), "the port is still there");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of wrong requests and their answers")]
fn bad_input_is_told_in_dockers_words_and_leaves_nothing() {
    let docker = Docker::new(&["busybox"]);
    docker.ok(&["network", "create", "--subnet", "172.30.0.0/29", "small"]);
    let hostile = "a\";id>/tmp/owned;#";
    let label = format!("{hostile}=$(touch /tmp/owned)\n`id`");
    docker.ok(&["create", "--name", "here", "--net=small", "--ip", "172.30.0.3", "-l", &label, "busybox"]);
    assert_eq!(docker.inspect("here")["Config"]["Labels"][hostile], "$(touch /tmp/owned)\n`id`");
    let found = docker.ok(&["ps", "-a", "--filter", &format!("label={hostile}"), "--format", "{{.Names}}"]);
    assert_eq!(found, "here");

    let there = |docker: &Docker| {
        (
            docker.ok(&["ps", "-aq", "--no-trunc"]),
            docker.ok(&["network", "ls", "--no-trunc"]),
            docker.host.run("nft list ruleset"),
            docker.links(),
            docker.entries("state/containers"),
            docker.entries("run/machines"),
        )
    };
    let before = there(&docker);
    let long = "n".repeat(300);
    let overlap = "invalid pool request: Pool overlaps with other one on this address space";
    let only = "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed";
    let outside = "invalid address 10.9.9.9: It does not belong to any of this network's subnets";
    let cases: &[(i32, &[&str], &str)] = &[
        // What is not there.
        (1, &["start", "nobody"], "No such container: nobody"),
        (1, &["logs", "nobody"], "No such container: nobody"),
        (1, &["stop", "nobody"], "No such container: nobody"),
        (1, &["rename", "nobody", "somebody"], "No such container: nobody"),
        (1, &["rm", "nobody"], "No such container: nobody"),
        (1, &["network", "rm", "nowhere"], "network nowhere not found"),
        (1, &["network", "inspect", "nowhere"], "network nowhere not found"),
        (1, &["network", "connect", "nowhere", "here"], "network nowhere not found"),
        (1, &["network", "connect", "small", "nobody"], "No such container: nobody"),
        (1, &["network", "disconnect", "nowhere", "here"], "network nowhere not found"),
        (125, &["run", "--rm", "no-such-image"], "no-such-image is not here"),
        (125, &["run", "--rm", "--net=nowhere", "busybox"], "network nowhere not found"),
        (1, &["image", "inspect", "no-such-image"], "No such image: no-such-image"),
        (1, &["rmi", "no-such-image"], "No such image: no-such-image"),
        // What is there already.
        (
            125,
            &["run", "--rm", "--name", "here", "busybox"],
            "The container name \"/here\" is already in use by container",
        ),
        (1, &["network", "create", "small"], "network with name small already exists"),
        (1, &["network", "create", "bridge"], "network with name bridge already exists"),
        (1, &["network", "create", "--subnet", "172.30.0.0/24", "other"], overlap),
        (1, &["network", "create", "--subnet", "10.2.7.0/24", "other"], overlap),
        (1, &["network", "rm", "bridge"], "bridge is a pre-defined network and cannot be removed"),
        // Addresses.
        (
            1,
            &["network", "create", "--subnet", "172.31.0.1/24", "other"],
            "invalid subnet 172.31.0.1/24: it should be 172.31.0.0/24",
        ),
        (1, &["network", "create", "--subnet", "nonsense", "other"], "invalid subnet"),
        (
            1,
            &["network", "create", "--subnet", "172.31.0.0/24", "--gateway", "10.9.9.9", "other"],
            "no matching subnet for gateway 10.9.9.9",
        ),
        (125, &["run", "--rm", "--net=small", "--ip", "10.9.9.9", "busybox"], outside),
        (125, &["run", "--rm", "--net=small", "--ip", "172.30.0.1", "busybox"], "Address already in use"),
        (125, &["run", "--rm", "--mac-address", "nonsense", "busybox"], "nonsense"),
        (125, &["run", "--rm", "--mac-address", "01:00:00:00:00:01", "busybox"], "01:00:00:00:00:01"),
        // What nobody has built, by name.
        (
            125,
            &["run", "--rm", "--read-only", "busybox"],
            "not supported by vch: HostConfig.ReadonlyRootfs=true",
        ),
        (
            125,
            &["run", "--rm", "-v", "/etc:/etc", "busybox"],
            "not supported by vch: HostConfig.Binds=[\"/etc:/etc\"]",
        ),
        (125, &["run", "--restart", "always", "busybox"], "not supported by vch: HostConfig.RestartPolicy"),
        (
            125,
            &["run", "--rm", "--cap-add", "NET_ADMIN", "busybox"],
            "not supported by vch: HostConfig.CapAdd",
        ),
        (
            125,
            &["run", "--rm", "--pid", "host", "busybox"],
            "not supported by vch: HostConfig.PidMode=\"host\"",
        ),
        (125, &["run", "--rm", "--log-driver", "syslog", "busybox"], "HostConfig.LogConfig"),
        (125, &["run", "--rm", "--health-cmd", "true", "busybox"], "not supported by vch: Healthcheck"),
        (1, &["exec", "here", "true"], "docker exec: not supported by vch"),
        (1, &["pause", "here"], "docker pause: not supported by vch"),
        (1, &["cp", "here:/etc", "/nonexistent/x"], ""),
        (1, &["volume", "ls"], "volumes: not supported by vch"),
        (1, &["network", "create", "-d", "overlay", "other"], "plugin \"overlay\" not found"),
        (
            1,
            &["network", "create", "-o", "nonsense=1", "other"],
            "driver option \"nonsense\" is not supported",
        ),
        // More than one external network.
        (
            125,
            &["run", "--rm", "--net=vic-production", "--net=default-external", "busybox"],
            "are both external networks",
        ),
        // Strangers' names.
        (125, &["run", "--rm", "--name", "../../etc/x", "busybox"], only),
        (125, &["run", "--rm", "--name", "x;id", "busybox"], only),
        (125, &["run", "--rm", "--name", "x\ny", "busybox"], only),
        (125, &["run", "--rm", "--name", &long, "busybox"], "is too long to be found by"),
        (1, &["rename", "here", "$(id)"], only),
        (1, &["network", "create", "../x"], only),
        (1, &["network", "create", "x\" accept; #"], only),
        (1, &["network", "create", &long], only),
        (125, &["run", "--rm", "--net=small", "--network-alias", "x y", "busybox"], "alias \"x y\""),
        (125, &["run", "--rm", "--hostname", "x\ny", "busybox"], "hostname"),
    ];
    let mut wrong = Vec::new();
    for (code, arguments, expected) in cases {
        let output = docker.run(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        // A client that asks for an image has been told that something else is missing.
        let misled = told.contains("Unable to find image 'busybox") && !arguments.contains(&"no-such-image");
        if output.status.code() != Some(*code) || !told.contains(expected) || misled {
            wrong.push(format!("docker {arguments:?}: not {code} with {expected:?} but {output:?}"));
        }
        if there(&docker) != before {
            wrong.push(format!("docker {arguments:?} left something: {:?}, not {before:?}", there(&docker)));
            break;
        }
    }

    // Not what a docker client would say.
    let post = |path: &str, body: &[u8]| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        let (status, answer) = docker.raw(&[head.as_bytes(), body].concat());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        let value: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
        (status, value["message"].as_str().unwrap_or_else(|| panic!("no message: {answer}")).to_owned())
    };
    let (create, network) = ("/v1.45/containers/create", "/v1.45/networks/create");
    for path in [create, network, "/v1.45/networks/small/connect"] {
        for body in ["{", "", "[]", "7", "{\"Image\": \"busybox\"", "\u{0}"] {
            let (status, message) = post(path, body.as_bytes());
            assert_eq!(status, 400, "{path} {body:?}: {message}");
            assert!(!message.is_empty(), "{path} {body:?}");
        }
        let oversized = format!("{{\"Name\": \"{}\"}}", "x".repeat(2 << 20));
        let (status, message) = post(path, oversized.as_bytes());
        assert_eq!(
            (status, message.as_str()),
            (413, "the body is too large: 1048576 bytes at most"),
            "{path}"
        );
    }
    let deep = "[".repeat(100_000);
    assert_eq!(post(create, deep.as_bytes()).0, 400);
    for (status, path, body, expected) in [
        (400, create, json!({ "Image": 7 }), "Image"),
        (400, create, json!({ "Image": "busybox", "Colour": "red" }), "not supported by vch: Colour=\"red\""),
        (
            400,
            create,
            json!({ "Image": "busybox", "HostConfig": { "NewThing": 1 } }),
            "HostConfig.NewThing=1",
        ),
        (404, create, json!({ "Image": "no-such-image" }), "No such image: no-such-image"),
        (
            409,
            "/v1.45/containers/create?name=here",
            json!({ "Image": "busybox" }),
            "is already in use by container",
        ),
        (409, network, json!({ "Name": "small" }), "network with name small already exists"),
        (
            403,
            network,
            json!({ "Name": "x", "IPAM": { "Config": [{ "Subnet": "172.30.0.0/16" }] } }),
            overlap,
        ),
        (
            400,
            network,
            json!({ "Name": "x", "IPAM": { "Config": [{ "Subnet": "172.31.0.0/24", "Gateway": "10.9.9.9" }] } }),
            "invalid gateway 10.9.9.9",
        ),
        (404, "/v1.45/containers/nobody/start", json!({}), "No such container: nobody"),
        (404, "/v1.45/networks/nowhere/connect", json!({ "Container": "here" }), "network nowhere not found"),
        (400, "/v1.99/containers/create", json!({ "Image": "busybox" }), "client version 1.99 is too new"),
        (400, "/v1.12/containers/create", json!({ "Image": "busybox" }), "client version 1.12 is too old"),
        (404, "/v1.45/nonsense", json!({}), "page not found"),
        (404, "/v1.45/containers/..%2f..%2fetc/start", json!({}), "No such container"),
        (501, "/v1.45/containers/here/exec", json!({ "Cmd": ["true"] }), "docker exec: not supported by vch"),
    ] {
        let (got, message) = post(path, body.to_string().as_bytes());
        assert_eq!(got, status, "{path} {body}: {message}");
        assert!(message.contains(expected), "{path} {body}: {message}");
    }
    assert_eq!(there(&docker), before);
    assert!(!std::path::Path::new("/tmp/owned").exists(), "somebody's name has been run");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_of_containers_that_were_removed_nor_of_a_host_that_was_shut_down() {
    let mut docker = Docker::new(&["busybox"]);
    docker.ok(&["run", "--rm", "busybox", "true"]);
    let there = |docker: &Docker| {
        let bridge = docker.ok(&["network", "inspect", "bridge", "--format", "{{json .Containers}}"]);
        (
            docker.ok(&["ps", "-aq"]),
            bridge,
            docker.host.run("nft list ruleset"),
            docker.host.run("ip -4 -o addr"),
            docker.links(),
            docker.entries("state/containers"),
            docker.entries("run/machines"),
        )
    };
    let before = there(&docker);
    assert_eq!((before.0.as_str(), before.1.as_str()), ("", "{}"));
    assert_eq!((before.5.len(), before.6.len()), (0, 0), "{before:?}");
    assert!(!before.4.iter().any(|link| link.starts_with("vch0")), "{before:?}");
    for run in 0..RUNS {
        let port = format!("{}:80", 9_000 + run);
        let said = docker.ok(&["run", "--rm", "-p", &port, "busybox", "echo", &port]);
        assert_eq!(said, port);
        assert_eq!(there(&docker), before, "after {run}");
        wait_for("the machine's end", || docker.machines().is_empty().then_some(()));
    }

    // A host that is shut down with everything it can have.
    docker.ok(&["network", "create", "mine"]);
    docker.ok(&["run", "-d", "--net=mine", "-p", "8080:80", "--name", "last", "busybox", "sleep", "1000"]);
    assert_eq!(docker.machines().len(), 1);
    let taps =
        docker.links().iter().filter(|link| link.starts_with("vch") && *link != "vch-management").count();
    assert_eq!(taps, 2, "{:?}", docker.links());
    assert!(docker.host.run("nft list tables").contains("table inet vch"), "the table is not there");
    docker.shut_down();
    assert_eq!(docker.machines(), Vec::<u32>::new());
    // The administrator's links are as they were: nobody's ports.
    assert_eq!(docker.links(), ["lo", "eth1", "eth2"]);
    let links = docker.host.run("ip -o link");
    assert!(!links.contains("master"), "{links}");
    assert_eq!(docker.host.run("nft list tables"), "");
    assert_eq!(docker.entries("run/machines"), Vec::<String>::new());
    assert_eq!(docker.entries("run"), ["machines"]);
    // And starts again with what it had, stopped.
    docker.restart();
    let shown = docker.ok(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
    assert_eq!(shown, "last exited");
    let names = docker.ok(&["network", "ls", "--format", "{{.Name}}"]);
    assert_eq!(sorted(&names), ["bridge", "default-external", "mine", "none", "vic-production"]);
}

#[test]
fn a_missing_program_is_127_and_a_terminal_is_one() {
    let docker = Docker::new(&["busybox"]);
    let told = docker.fails(127, &["run", "--rm", "busybox", "no-such-program"]);
    assert!(told.contains("exec: \"no-such-program\": executable file not found in $PATH"), "{told}");
    let told = docker.fails(126, &["run", "--rm", "busybox", "/etc"]);
    assert!(told.contains("/etc") && told.to_lowercase().contains("permission denied"), "{told}");
    assert_eq!(docker.ok(&["ps", "-aq"]), "");

    let mut terminal = docker.terminal("run --rm -it busybox");
    wait_for("a prompt", || terminal.heard().contains("# ").then_some(()));
    let name = terminal.ok("tty");
    assert!(name.lines().any(|line| line.starts_with("/dev/pts/")), "{name}");
    wait_for("the terminal's size", || {
        terminal.ok("stty size").lines().any(|line| line.trim() == "31 97").then_some(())
    });
    assert_eq!(terminal.exit(3), Some(3));
    wait_for("the container to go", || docker.ok(&["ps", "-aq"]).is_empty().then_some(()));

    // Without one there is none.
    let output = docker.fed(&["run", "--rm", "-i", "busybox", "tty"], b"");
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(1), &b"not a tty\n"[..]),
        "{output:?}"
    );
}
