//! Somebody between a guest and its host, who passes on what they say, keeps it, changes it, or says
//! it again.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use tether_tests::Space;

use crate::{place::within, speaker::listen};

/// What becomes of a guest's next connection.
#[derive(Clone, Debug, Default)]
pub(crate) enum Plan {
    /// It is passed on, and kept.
    #[default]
    Pass,
    /// The same, but of what the host says one bit is changed, so many bytes from the beginning.
    Change(usize),
    /// The guest is told these bytes, and the host nothing.
    Play(Vec<u8>),
}

/// What was said on one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) by_guest: Vec<u8>,
    pub(crate) by_host: Vec<u8>,
}

type Shared<T> = Arc<Mutex<T>>;

/// The one between.
pub(crate) struct Relay {
    plan: Shared<Plan>,
    kept: Shared<Vec<Shared<Kept>>>,
}

impl Relay {
    /// One in `space` that listens for guests at `port`, the host being at `host` of the same address.
    pub(crate) fn start(space: &Space, address: &str, port: u16, host: u16) -> Self {
        let listener = listen(space, address, port);
        let host: SocketAddr = format!("{address}:{host}").parse().expect("an address");
        let (plan, kept) = (Shared::<Plan>::default(), Shared::<Vec<_>>::default());
        let relay = Self { plan: Arc::clone(&plan), kept: Arc::clone(&kept) };
        // It ends with the test program; its port goes with the space.
        within(space, move || serve(&listener, host, &plan, &kept));
        relay
    }

    /// This is what becomes of guests' connections from now on.
    pub(crate) fn plans(&self, plan: Plan) {
        *self.plan.lock().expect("no panic") = plan;
    }

    /// How many connections it has passed on.
    pub(crate) fn connections(&self) -> usize {
        self.kept.lock().expect("no panic").len()
    }

    /// What was said on the connection of this number, the first being 0.
    pub(crate) fn kept(&self, number: usize) -> Kept {
        self.kept.lock().expect("no panic")[number].lock().expect("no panic").clone()
    }
}

fn serve(listener: &TcpListener, host: SocketAddr, plan: &Shared<Plan>, all: &Shared<Vec<Shared<Kept>>>) {
    for guest in listener.incoming() {
        let Ok(mut guest) = guest else { return };
        let plan = plan.lock().expect("no panic").clone();
        if let Plan::Play(bytes) = plan {
            // It says something first, as it would to its host.
            let mut said = [0; 1 << 12];
            let _ = guest.read(&mut said).and_then(|_| guest.write_all(&bytes));
            while matches!(guest.read(&mut said), Ok(1..)) {}
            continue;
        }
        let Ok(mut host) = TcpStream::connect(host) else { continue };
        let kept = Shared::<Kept>::default();
        all.lock().expect("no panic").push(Arc::clone(&kept));
        let mut ends = (guest.try_clone().expect("a socket"), host.try_clone().expect("a socket"));
        let also = Arc::clone(&kept);
        thread::spawn(move || {
            pass(&mut ends.0, &mut ends.1, |bytes| {
                also.lock().expect("no panic").by_guest.extend_from_slice(bytes);
            });
        });
        thread::spawn(move || {
            pass(&mut host, &mut guest, |bytes| {
                let said = &mut kept.lock().expect("no panic").by_host;
                if let Plan::Change(at) = plan
                    && let Some(byte) = at.checked_sub(said.len()).and_then(|at| bytes.get_mut(at))
                {
                    *byte ^= 1;
                }
                said.extend_from_slice(bytes);
            });
        });
    }
}

/// Passes on what one says to the other, until one of them ends.
fn pass(from: &mut TcpStream, to: &mut TcpStream, mut seen: impl FnMut(&mut [u8])) {
    let mut bytes = [0; 1 << 14];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        seen(&mut bytes[..length]);
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    for end in [from, to] {
        // It may be gone.
        let _ = end.shutdown(Shutdown::Both);
    }
}
