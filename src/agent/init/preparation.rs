//! What a workload needs before it can start, made while the network comes up.

use tether_wire::boot::Root;
use tokio::task::spawn_blocking;

use super::{
    is_process_1,
    root::{self, Container},
};
use crate::streams::Streams;

/// Everything a workload needs, or why it cannot have it.
#[derive(Debug)]
pub struct Preparation {
    /// The container's file system: `None` where this is not process 1.
    pub(super) container: Result<Option<Container>, String>,
    /// The port for its streams, where the machine has one.
    pub(super) streams: Option<Streams>,
}

impl Preparation {
    /// Mounts the container's file system and opens the streams' port. Only process 1 has either.
    pub async fn make(root: Option<Root>, privileged: bool) -> Self {
        if !is_process_1() {
            return Self { container: Ok(None), streams: None };
        }
        // Mounting waits for disks; the network has other things to do meanwhile.
        let mounting = spawn_blocking(move || root::mount_all(root.as_ref(), privileged));
        let streams = Streams::open().await;
        let container = match mounting.await {
            Ok(mounted) => mounted.map(Some).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        Self { container, streams }
    }

    /// Makes the files that the container's file system is to show, so that they can be written
    /// before that is mounted.
    pub fn files() -> std::io::Result<()> {
        root::prepare_files()
    }
}
