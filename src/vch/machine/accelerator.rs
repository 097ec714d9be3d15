//! Whether machines can run on KVM here.
//!
//! A `/dev/kvm` that opens proves nothing: nested ones that hang or abort exist. So a machine is
//! booted on it once, under a time limit, and the outcome is kept beside the image for as long
//! as this host is up.

use std::{fs, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

use super::{
    Image,
    qemu::{Accelerator, Invocation},
};

/// How long a machine on a good KVM may take to show its first sign of life. Firecracker's
/// promise is 125 ms; the kernel's decompression and a slow disk are forgiven.
const LIMIT: Duration = Duration::from_secs(5);

/// Finds out, by booting `image` on KVM unless that was done since this host started.
pub async fn find(image: &Image) -> Accelerator {
    // Who may not open it cannot use it, whatever was found out for somebody else. Opened
    // elsewhere, because a broken driver may keep whoever opens it.
    let opens = tokio::task::spawn_blocking(|| {
        fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
    });
    if !matches!(timeout(LIMIT, opens).await, Ok(Ok(true))) {
        return Accelerator::Tcg;
    }
    let note = image.directory.join("accelerator");
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let noted = fs::read_to_string(&note).unwrap_or_default();
    for known in [Accelerator::Kvm, Accelerator::Tcg] {
        if noted == format!("{}{}", boot_id, known.name()) {
            return known;
        }
    }
    // Only what a machine has shown is worth noting.
    let Some(boots) = probe(image).await else { return Accelerator::Tcg };
    let found = if boots { Accelerator::Kvm } else { Accelerator::Tcg };
    // An image nobody may write beside is probed each time.
    let _ = fs::write(note, format!("{}{}", boot_id, found.name()));
    found
}

/// Whether a machine on KVM comes as far as process 1, `None` when there is no machine.
async fn probe(image: &Image) -> Option<bool> {
    let mut invocation = Invocation::new(image, Accelerator::Kvm, 128, 1);
    invocation.console_on_stdout();
    let mut command = invocation.command();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut machine = invocation.spawn(&mut command).ok()?;
    let mut lines = BufReader::new(machine.stdout.take()?).split(b'\n');
    let alive = timeout(LIMIT, async {
        while let Ok(Some(line)) = lines.next_segment().await {
            if String::from_utf8_lossy(&line).contains(": process 1") {
                return true;
            }
        }
        false
    });
    let alive = alive.await.unwrap_or(false);
    // One that hangs in the kernel may not even die; it is left to the kernel then.
    let _ = timeout(LIMIT, machine.kill()).await;
    Some(alive)
}
