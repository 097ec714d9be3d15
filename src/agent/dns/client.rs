//! Who asked, and how an answer gets there.

use std::{cell::RefCell, net::SocketAddr, sync::Weak};

use nix::libc;
use socket2::Socket;

use super::stream::Place;

/// The longest answer.
const LONGEST: usize = 64 << 10;

thread_local! {
    static ANSWER: RefCell<Box<[u8]>> = RefCell::new(vec![0; LONGEST].into());
}

/// Has an answer of any length written, one at a time in each thread.
pub(super) fn write<T>(write: impl FnOnce(&mut [u8]) -> T) -> T {
    ANSWER.with_borrow_mut(|answer| write(answer))
}

/// Somebody who waits for an answer.
#[derive(Debug)]
pub(super) enum Client {
    /// By a datagram of this socket's, if that is still listened on.
    Udp(Weak<Socket>, SocketAddr),
    /// On a TCP connection.
    Tcp(Place),
}

impl Client {
    pub(super) fn is_udp(&self) -> bool {
        matches!(self, Self::Udp(..))
    }

    /// Sends an answer. A client that is gone, or does not read what it has asked for, does not
    /// matter to anybody else.
    pub(super) fn send(self, answer: &[u8]) {
        match self {
            Self::Udp(socket, address) => {
                if let Some(socket) = socket.upgrade() {
                    let _ = socket.send_to_with_flags(answer, &address.into(), libc::MSG_DONTWAIT);
                }
            }
            Self::Tcp(place) => place.send(answer),
        }
    }
}
