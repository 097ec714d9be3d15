//! Many datagrams in one system call.
//!
//! nix's `recvmmsg` and `sendmmsg` want lists of slices that are made anew for every call; what is
//! to be a limit has nothing of the kind.

use std::{io, net::UdpSocket, os::fd::AsRawFd as _, ptr::null_mut};

use nix::libc::{
    MSG_DONTWAIT, MSG_WAITFORONE, c_int, iovec, mmsghdr, msghdr, recvmmsg, sendmmsg, sockaddr_in,
};

/// More than any packet here has.
pub(crate) const ROOM: usize = 1_232;

/// Packets, each with the address it came from.
pub(crate) struct Batch {
    packets: Vec<[u8; ROOM]>,
    lengths: Vec<usize>,
    peers: Vec<sockaddr_in>,
    vectors: Vec<iovec>,
    headers: Vec<mmsghdr>,
}

/// What a receiver does where nothing has come.
#[derive(Clone, Copy)]
pub(crate) enum Patience {
    /// Waits for the first packet, as long as the socket's time limit says.
    UntilOne,
    Never,
}

impl Batch {
    pub(crate) fn new(size: usize) -> Self {
        let nobody = sockaddr_in {
            sin_family: 0,
            sin_port: 0,
            sin_addr: nix::libc::in_addr { s_addr: 0 },
            sin_zero: [0; 8],
        };
        let header = msghdr {
            msg_name: null_mut(),
            msg_namelen: 0,
            msg_iov: null_mut(),
            msg_iovlen: 0,
            msg_control: null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        };
        Self {
            packets: vec![[0; ROOM]; size],
            lengths: vec![0; size],
            peers: vec![nobody; size],
            vectors: vec![iovec { iov_base: null_mut(), iov_len: 0 }; size],
            headers: vec![mmsghdr { msg_hdr: header, msg_len: 0 }; size],
        }
    }

    pub(crate) fn packet(&self, n: usize) -> &[u8] {
        &self.packets[n][..self.lengths[n]]
    }

    /// Changes a packet: `write` gets all of its room and its length, and returns the new one.
    pub(crate) fn write(&mut self, n: usize, write: impl FnOnce(&mut [u8; ROOM], usize) -> usize) {
        let length = write(&mut self.packets[n], self.lengths[n]);
        assert!(length <= ROOM, "a packet fits its room");
        self.lengths[n] = length;
    }

    /// Receives as many as there are and fit, and returns how many these were.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, patience: Patience) -> io::Result<usize> {
        let flags = match patience {
            Patience::UntilOne => MSG_WAITFORONE,
            Patience::Never => MSG_DONTWAIT,
        };
        self.lengths.fill(ROOM);
        let size = self.packets.len();
        self.point(size, true);
        let count = u32::try_from(size).expect("they are few");
        // SAFETY: the first `size` headers point at buffers, lists of one buffer and addresses
        // that live in `self`, which is borrowed for as long as the call takes, and say how long
        // those are.
        let done =
            unsafe { recvmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count, flags, null_mut()) };
        let done = outcome(done)?;
        for (length, header) in self.lengths.iter_mut().zip(&self.headers[..done]) {
            *length = header.msg_len as usize;
        }
        Ok(done)
    }

    /// Sends the first `count`, to the peer they are from where the socket is `connected` to none,
    /// and returns how many of them went.
    pub(crate) fn send(&mut self, socket: &UdpSocket, count: usize, connected: bool) -> io::Result<usize> {
        self.point(count, !connected);
        let count = u32::try_from(count).expect("they are few");
        // SAFETY: as above, for `count` of them; nothing of it is written to but the headers.
        let done = unsafe { sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count, 0) };
        outcome(done)
    }

    /// Makes the first `count` headers point at what they are headers of.
    fn point(&mut self, count: usize, named: bool) {
        let peer_length = u32::try_from(size_of::<sockaddr_in>()).expect("16");
        for n in 0..count {
            let vector = &mut self.vectors[n];
            vector.iov_base = self.packets[n].as_mut_ptr().cast();
            vector.iov_len = self.lengths[n];
            let header = &mut self.headers[n].msg_hdr;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_name = if named { (&raw mut self.peers[n]).cast() } else { null_mut() };
            header.msg_namelen = if named { peer_length } else { 0 };
        }
    }
}

fn outcome(done: c_int) -> io::Result<usize> {
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}
