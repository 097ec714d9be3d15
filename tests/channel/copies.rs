//! A machine that was started from a snapshot is a copy, and has its origin's key in its memory.

use tether_host::EventKind;

use crate::place::{HostProgram, Place, admission, identity};

/// What `drivers/virt/vmgenid.c` has the kernel say. This machine has no such device: root may ask the
/// kernel to say it (`lib/kobject_uevent.c`, `uevent_net_rcv_skb`), and it says it as its own.
const UEVENT: &str = r#"
import socket, struct
words = b"change@/devices/platform/vmgenid\0ACTION=change\0NEW_VMGENID=1\0"
uevents = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
uevents.sendto(struct.pack("=IHHII", 16 + len(words), 16, 1, 0, 0) + words, (0, 0))
"#;
/// The same from a program to whoever listens, which is not the kernel's word.
const FORGED: &str = r#"
import socket
words = b"change@/devices/platform/vmgenid\0ACTION=change\0NEW_VMGENID=1\0"
uevents = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
uevents.sendto(words, (0, 1))
"#;

fn python(place: &Place, script: &str) {
    let output = place.inside.command("python3").args(["-c", script]).output().expect("python3");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_copy_of_a_machine_is_another_guest_that_is_enrolled_by_a_token_of_its_own() {
    let (place, first) = (Place::new(), admission());
    let host = HostProgram::start(&place, identity(), first.clone());
    let pins = host.host.pins();
    let tether = place.agent(&pins, &first.token);
    let key = host.enrols();
    host.drives("origin");
    python(&place, FORGED);
    host.drives("origin-still");
    assert!(!tether.lines().iter().any(|line| line.contains("copy")), "{:#?}", tether.lines());
    // With its origin's boot document: whoever is bound to that token stays the only one.
    python(&place, UEVENT);
    tether.wait_for_line("this machine is a copy of another: its key is a new one");
    let (bound, shown) = host.hears("an alarm", |kind| match kind {
        EventKind::IdentityReuse { bound, shown, .. } => Some((*bound, *shown)),
        _ => None,
    });
    assert_eq!(bound, key);
    assert_ne!(shown, key);
    // With one of its own.
    let next = admission();
    host.host.admit(&"guest".parse().expect("an id"), next.clone());
    place.has_document(&pins, &next.token);
    python(&place, UEVENT);
    host.drives("copy");
    let last = host.host.key(&"guest".parse().expect("an id")).expect("it is enrolled");
    assert!(last != key && last != shown, "the key is made anew each time");
}
