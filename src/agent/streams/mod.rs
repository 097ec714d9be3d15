//! The workload's standard streams between its pipes or terminal and the host's port.
//!
//! A task of its own does it: the network being configured never holds a byte up. What the
//! protocol wants is `tether_wire::streams`' affair, here is only the carrying.

mod pump;

use tether_wire::streams::PORT;
use tokio::sync::{mpsc, watch};

use crate::{
    init::Ends,
    port::{self, Port},
};

/// How to tell the task. Two things are told in its life.
const QUEUE: usize = 4;

/// The task that carries the streams.
#[derive(Clone, Debug)]
pub struct Streams {
    commands: mpsc::Sender<Command>,
    over: watch::Receiver<bool>,
}

#[derive(Debug)]
enum Command {
    /// The workload runs; these are its streams.
    Carry(Ends),
    /// The workload has ended, or will never start.
    Finish,
}

impl Streams {
    /// Opens the port and starts the task, on the current tokio runtime. `None` where the machine
    /// has no such port, or it cannot be opened, which the log tells.
    pub(crate) async fn open() -> Option<Self> {
        let path = port::find(PORT).await?;
        match Port::at(path) {
            Ok(port) => Some(Self::start(port)),
            Err(error) => {
                tracing::error!("the port of the standard streams: {error}");
                None
            }
        }
    }

    fn start(port: Port) -> Self {
        let (commands, receiver) = mpsc::channel(QUEUE);
        let (told, over) = watch::channel(false);
        tokio::spawn(async move {
            if let Err(error) = pump::Pump::new(port).run(receiver, &told).await {
                tracing::error!("the port of the standard streams: {error}");
            }
            // Nobody is to wait for what cannot be told any more.
            told.send_replace(true);
        });
        Self { commands, over }
    }

    /// Carries these from now on.
    pub(crate) fn carry(&self, ends: Ends) {
        let _ = self.commands.try_send(Command::Carry(ends));
    }

    /// Nothing more will be written: what is in the pipes still goes to the host, then the word
    /// that this was all.
    pub(crate) fn finish(&self) {
        let _ = self.commands.try_send(Command::Finish);
    }

    /// Waits until the host has everything there will ever be.
    pub async fn over(&mut self) {
        // An error is the end of the task.
        let _ = self.over.wait_for(|over| *over).await;
    }
}
