//! Whether machines can run on KVM here.
//!
//! A `/dev/kvm` that opens proves nothing: nested ones that hang or abort exist. So a machine is
//! booted on it once, under a time limit, and the outcome is kept beside the image for as long
//! as this host is up.

use std::{fs, path::Path, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use crate::machine::{Image, base_arguments};

/// How long a machine on a good KVM may take to show its first sign of life. Firecracker's
/// promise is 125 ms; the kernel's decompression and a slow disk are forgiven.
const LIMIT: Duration = Duration::from_secs(5);

/// How machines are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// By the processor.
    Kvm,
    /// By QEMU's translator: slow, and everywhere.
    Tcg,
}

impl Accelerator {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// Finds out, by booting `image` on KVM unless that was done since this host started.
    pub async fn find(image: &Image) -> Self {
        let note = image.directory.join("accelerator");
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let noted = fs::read_to_string(&note).unwrap_or_default();
        for known in [Self::Kvm, Self::Tcg] {
            if noted == format!("{}{}", boot_id, known.name()) {
                return known;
            }
        }
        let found = if probe(image).await { Self::Kvm } else { Self::Tcg };
        // An image nobody may write beside is probed each time.
        let _ = fs::write(note, format!("{}{}", boot_id, found.name()));
        found
    }
}

/// Whether a machine on KVM comes as far as process 1.
async fn probe(image: &Image) -> bool {
    if fs::OpenOptions::new().read(true).write(true).open(Path::new("/dev/kvm")).is_err() {
        return false;
    }
    let machine = Command::new("qemu-system-x86_64")
        .args(base_arguments(image, Accelerator::Kvm, 128))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut machine) = machine else { return false };
    let Some(console) = machine.stdout.take() else { return false };
    let mut lines = BufReader::new(console).split(b'\n');
    let alive = timeout(LIMIT, async {
        while let Ok(Some(line)) = lines.next_segment().await {
            if String::from_utf8_lossy(&line).contains(": process 1") {
                return true;
            }
        }
        false
    });
    let alive = alive.await.unwrap_or(false);
    // It has shown what it can; kill waits until it is gone.
    let _ = machine.kill().await;
    alive
}
