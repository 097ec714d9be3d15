//! Servers that know nothing: what comes goes back. No server on this machine can be faster.

use std::{
    fs,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::channel,
    },
    thread::{JoinHandle, spawn},
    time::Duration,
};

use nix::unistd::{Pid, gettid};

use crate::{
    batch::{Batch, Patience, ROOM},
    cores::pin,
};

/// How many packets are received at once.
const BATCH: usize = 64;
/// How often a server without work looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// A thread that serves a socket, until this is dropped.
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    id: Pid,
}

impl Echo {
    /// One packet at a time: recvfrom, sendto.
    pub(crate) fn one_by_one(socket: UdpSocket, core: usize) -> Self {
        Self::start(core, move |stop| {
            socket.set_read_timeout(Some(LOOK)).expect("a time limit");
            let mut packet = [0; ROOM];
            while !stop.load(Relaxed) {
                if let Ok((length, peer)) = socket.recv_from(&mut packet) {
                    // A client that is gone does not matter.
                    let _ = socket.send_to(&packet[..length], peer);
                }
            }
        })
    }

    /// As many packets at a time as there are: recvmmsg, sendmmsg. Each goes through `turn`, which
    /// gets its room and its length and returns the new one.
    pub(crate) fn in_batches(
        socket: UdpSocket,
        core: usize,
        turn: impl Fn(&mut [u8; ROOM], usize) -> usize + Send + 'static,
    ) -> Self {
        Self::start(core, move |stop| {
            socket.set_read_timeout(Some(LOOK)).expect("a time limit");
            let mut batch = Batch::new(BATCH);
            while !stop.load(Relaxed) {
                let Ok(count) = batch.receive(&socket, Patience::UntilOne) else { continue };
                for n in 0..count {
                    batch.write(n, &turn);
                }
                let _ = batch.send(&socket, count, false);
            }
        })
    }

    fn start(core: usize, serve: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (to_stop, (tell, told)) = (Arc::clone(&stop), channel());
        let thread = spawn(move || {
            pin(core);
            let _ = tell.send(gettid());
            serve(&to_stop);
        });
        let id = told.recv().expect("it says so at once");
        Self { stop, thread: Some(thread), id }
    }

    /// What the kernel says about the thread: the file `/proc/PID/stat` of a process.
    pub(crate) fn stat(&self) -> String {
        fs::read_to_string(format!("/proc/self/task/{}/stat", self.id)).expect("it runs")
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it has panicked, that has been told.
            let _ = thread.join();
        }
    }
}
