//! Many datagrams in one system call: recvmmsg(2) and sendmmsg(2).
//!
//! When one waits it is received at once and alone (`MSG_WAITFORONE`): a batch is what has come in
//! the meantime, and never adds latency. It must not look into packets.

use std::{
    io, mem,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use nix::libc;
use socket2::{SockAddr, SockAddrStorage};

use super::{packet::LONGEST_QUESTION, writer::MAX_UDP};

/// Datagrams in one call: with so many, the call itself is a small part of each. Each has buffers.
const SIZE: usize = 32;
/// The same, as the kernel is told.
#[expect(clippy::cast_possible_truncation, reason = "32")]
const IN_A_CALL: libc::c_uint = SIZE as libc::c_uint;
/// How long an address may be.
#[expect(clippy::cast_possible_truncation, reason = "128 bytes")]
const ADDRESS: libc::socklen_t = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
/// Buffers for datagrams and their answers, which lie in the same places.
pub(super) struct Batch {
    questions: Vec<[u8; LONGEST_QUESTION]>,
    answers: Vec<[u8; MAX_UDP]>,
    /// How long the questions are, and then the answers; 0: none.
    lengths: [usize; SIZE],
    clients: [libc::sockaddr_storage; SIZE],
    client_lengths: [libc::socklen_t; SIZE],
    /// How many were received: at most SIZE.
    received: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        // Zeroed pages that are not touched take no memory.
        Self {
            questions: vec![[0; LONGEST_QUESTION]; SIZE],
            answers: vec![[0; MAX_UDP]; SIZE],
            lengths: [0; SIZE],
            // SAFETY: numbers, of which zero is a value.
            clients: [unsafe { mem::zeroed() }; SIZE],
            client_lengths: [0; SIZE],
            received: 0,
        }
    }

    /// Waits for a datagram, and takes it with those behind it. How many there are.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.received = 0;
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; SIZE];
        let mut headers = [empty_header(); SIZE];
        for (n, (part, header)) in parts.iter_mut().zip(&mut headers).enumerate() {
            part.iov_base = self.questions[n].as_mut_ptr().cast();
            part.iov_len = LONGEST_QUESTION;
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = (&raw mut self.clients[n]).cast();
            header.msg_hdr.msg_namelen = ADDRESS;
        }
        // SAFETY: SIZE headers, each with one part and a name whose memory is ours, as long as said,
        // and borrowed by nobody else for the duration of the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                IN_A_CALL,
                libc::MSG_WAITFORONE,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (n, header) in headers[..received].iter().enumerate() {
            self.lengths[n] = header.msg_len as usize;
            self.client_lengths[n] = header.msg_hdr.msg_namelen;
            if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                // What is left of it may look whole: nobody sends so long a question.
                self.lengths[n] = 0;
            }
        }
        self.received = received;
        Ok(received)
    }

    /// Has every datagram received answered: `answer` gets it and a buffer, and returns how long the
    /// answer is that it has written there, 0 for none.
    pub(super) fn answer(&mut self, mut answer: impl FnMut(&[u8], &Asker<'_>, &mut [u8]) -> usize) {
        for n in 0..self.received {
            let asker = Asker { address: &self.clients[n], length: self.client_lengths[n] };
            let question = &self.questions[n][..self.lengths[n].min(LONGEST_QUESTION)];
            self.lengths[n] = answer(question, &asker, &mut self.answers[n]).min(MAX_UDP);
        }
    }

    /// Sends the answers. One that cannot be sent is lost, as datagrams are.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) {
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; SIZE];
        let mut headers = [empty_header(); SIZE];
        let mut count = 0;
        for n in (0..self.received).filter(|n| self.lengths[*n] > 0) {
            parts[count].iov_base = self.answers[n].as_mut_ptr().cast();
            parts[count].iov_len = self.lengths[n];
            headers[count].msg_hdr.msg_iov = &raw mut parts[count];
            headers[count].msg_hdr.msg_iovlen = 1;
            headers[count].msg_hdr.msg_name = (&raw mut self.clients[n]).cast();
            headers[count].msg_hdr.msg_namelen = self.client_lengths[n];
            count += 1;
        }
        let mut sent = 0;
        while sent < count {
            // SAFETY: `count` headers from 0 on are filled in, each with one part and a name whose
            // memory is ours and as long as said.
            let more = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    headers[sent..].as_mut_ptr(),
                    libc::c_uint::try_from(count - sent).unwrap_or(0),
                    libc::MSG_DONTWAIT,
                )
            };
            // An error is about the first of them.
            sent += usize::try_from(more).unwrap_or(0).max(1);
        }
    }
}

/// Who sent a datagram.
pub(super) struct Asker<'b> {
    address: &'b libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl Asker<'_> {
    /// Its address and port.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: it is one, and the kernel has written an address of this length there.
        unsafe {
            *storage.view_as() = *self.address;
            SockAddr::new(storage, self.length)
        }
        .as_socket()
    }
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: numbers and pointers, of which zero is a value.
    unsafe { mem::zeroed() }
}
