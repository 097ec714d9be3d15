//! What a container can and cannot see of its machine, asked from inside.

use tether_tests::docker::Docker;

/// What Docker lets a container's root do, `CapBnd` of `/proc/self/status` in a container of it.
const DOCKERS_CAPABILITIES: &str = "CapBnd:\t00000000a80425fb";

/// What a script says in a container of its own, on the network `inner`.
fn inside(docker: &Docker, options: &[&str], script: &str) -> String {
    let script = format!("exec 2>&1\n{script}");
    let all = [&["run", "--rm", "--net=inner"], options, &["busybox", "sh", "-c", &script]].concat();
    docker.ok(&all)
}

#[test]
fn a_container_sees_nothing_of_the_tether_and_a_privileged_one_no_way_to_it() {
    let docker = Docker::new(&["busybox"]);
    docker.ok(&["network", "create", "inner"]);
    docker.ok(&["run", "-d", "--net=inner", "--name=neighbour", "busybox", "sleep", "1000"]);
    // The host's numbers say that it is there.
    let request = "GET /metrics HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n";
    let (status, numbers) = docker.raw(request.as_bytes());
    assert_eq!(status, 200, "{numbers}");
    for line in ["tether_guests{state=\"in_force\"} 1\n", "tether_apply_seconds_count 1\n", "# EOF\n"] {
        assert!(numbers.contains(line), "no {line:?}: {numbers}");
    }
    // Where the neighbour and the host are on the management network.
    let neighbours = docker.host.run("ip -6 neighbour show dev vch-management");
    let neighbour = neighbours.split_whitespace().next().expect("the neighbour has spoken").to_owned();
    assert!(neighbour.starts_with("fe80::"), "{neighbours}");
    let output =
        docker.host.command("bash").args(["-c", "exec 3<>/dev/tcp/fe80::1%vch-management/7373"]).output();
    assert!(output.is_ok_and(|output| output.status.success()), "the port is there, for others");
    // An address that is being checked can be spoken from by nobody.
    let reach = format!(
        "while grep -q ' c0 *eth0' /proc/net/if_inet6; do sleep 0.1; done; \
         for at in fe80::1%eth0 172.18.0.1 {neighbour}%eth0; do nc -w 1 $at 7373 </dev/null && echo reached $at; done; \
         ping -6 -c 1 -W 1 {neighbour}%eth0 | grep '1 packets received'"
    );
    let network = "ip -o link; ip -o address; ip route show table all; ip -6 route show table all; ip neigh; \
                   cat /proc/net/dev /proc/net/if_inet6 /proc/net/ipv6_route; ls /sys/class/net";

    // Its network, and no other.
    let said = inside(&docker, &[], &format!("{network}; {reach}; echo end"));
    assert!(said.contains("172.18.0.3/16") && said.ends_with("end"), "{said}");
    for hidden in ["tether0", "eth1", "reached", "1 packets received"] {
        assert!(!said.contains(hidden), "{hidden}: {said}");
    }

    // Its processes, and no others. It is the first of them, and has Docker's capabilities, and open files
    // and precedence as everybody.
    let said = inside(
        &docker,
        &[],
        "echo $$; ls -d /proc/[0-9]*; grep CapBnd /proc/self/status; ls /proc/1/ns; ulimit -n; ulimit -Hn; cut -d' ' -f19 /proc/1/stat",
    );
    assert!(said.starts_with("1\n/proc/1\n") && said.contains(DOCKERS_CAPABILITIES), "{said}");
    assert!(said.ends_with("\n1024\n524288\n0"), "{said}");
    assert!(said.matches("/proc/").count() <= 2, "{said}");

    // Neither the boot document nor the key, nor a way into other namespaces, devices or the machine's
    // settings. Each line that says "broken" is a way out.
    let said = inside(
        &docker,
        &[],
        "find / -xdev \\( -name boot.json -o -name 'qemu_fw_cfg' -o -path '*tether*' \\) 2>/dev/null | sed 's/^/broken: /'; \
         ls -A /sys/firmware | sed 's/^/broken: /'; \
         mount -t tmpfs none /tmp 2>/dev/null && echo broken: mount; \
         umount /sys/firmware 2>/dev/null && echo broken: umount; \
         unshare -n true 2>/dev/null && echo broken: unshare; \
         unshare -U true 2>/dev/null && echo broken: user namespace; \
         ip link set eth0 down 2>/dev/null && echo broken: link; \
         echo 1 2>/dev/null > /proc/sys/net/ipv4/ip_forward && echo broken: sysctl; \
         echo b 2>/dev/null > /proc/sysrq-trigger && echo broken: sysrq; \
         echo 2>/dev/null > /proc/dynamic_debug/control && echo broken: the log of the kernel; \
         for disk in vda vdb; do \
           for at in /tmp /dev /dev/shm; do \
             mknod $at/$disk b $(sed 's/:/ /' /sys/class/block/$disk/dev) && head -c 1 $at/$disk > /dev/null && echo broken: $disk in $at; \
           done; \
         done 2>/dev/null; \
         mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem >/dev/null 2>&1 && echo broken: memory; \
         dd if=/proc/kcore of=/dev/null bs=1 count=1 2>&1 | grep -q '^1+0' && echo broken: kcore; \
         head -c 1 /dev/zero | wc -c; head -c 8 /dev/urandom | wc -c; : > /dev/null; echo end",
    );
    assert_eq!(said, "1\n8\nend");

    // What it does to the files that it is shown is its own affair: it is on the networks that it is to be
    // on all the same, and what was blown up is made anew.
    docker.ok(&["network", "create", "other"]);
    let mut shell = docker.shell(&["run", "-i", "--net=inner", "--name=filler", "busybox", "sh"]);
    shell.ok("truncate -s 1099511627776 /etc/hostname; cat /dev/zero 2>/dev/null > /etc/hosts; test $(wc -c < /etc/hosts) -gt 4194304");
    docker.ok(&["network", "connect", "other", "filler"]);
    shell.ok("ip -o address | grep -q 172.19.0.2/ && grep -q ^172.19.0.2 /etc/hosts && test $(hostname) = $(cat /etc/hostname)");
    assert_eq!(shell.exit(0), Some(0));

    // Asked for more, it has all of the machine but its NIC on the management network and the agent.
    let said = inside(
        &docker,
        &["--privileged"],
        &format!(
            "{network}; {reach}; echo $$; ls -d /proc/[0-9]*; grep CapBnd /proc/self/status; \
             mount -t tmpfs none /tmp && echo mounted; ip link set eth0 down && echo down; \
             head -c 4 /dev/vda; echo; echo end"
        ),
    );
    for shown in ["172.18.0.", "\n1\n/proc/1\n", "mounted", "down", "hsqs", "end"] {
        assert!(said.contains(shown), "{shown}: {said}");
    }
    for hidden in ["tether0", "eth1", "reached", "1 packets received", "/proc/2\n", DOCKERS_CAPABILITIES] {
        assert!(!said.contains(hidden), "{hidden}: {said}");
    }
}
