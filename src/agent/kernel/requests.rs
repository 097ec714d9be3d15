//! Requests and their answers: batches of changes, and dumps.

use std::io;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkHeader,
};

use tokio::task::yield_now;

use super::{KernelError, socket::Socket};

/// How often an interrupted dump is begun anew before it is an error.
const DUMP_ATTEMPTS: u32 = 8;

/// A batch is sent when it has this many requests: their answers have to fit into the socket's
/// receive buffer.
const BATCH_REQUESTS: u32 = 128;

/// Or this many bytes: the kernel takes about 200 KiB at once.
const BATCH_BYTES: usize = 32 << 10;

/// How long a netlink message's header is, `struct nlmsghdr`.
const HEADER: usize = 16;

/// The socket, and the number of the next request.
///
/// Numbers are not used again, and the socket is put back only when everything asked of it was
/// answered. When a call failed or was dropped half way, it is closed with all that is still to
/// come, and the next call opens another: no answer is taken for one to another question.
#[derive(Debug)]
pub(super) struct Requests {
    socket: Option<Socket>,
    next: u32,
}

impl Requests {
    /// Opens the socket.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: Some(Socket::open()?), next: 1 })
    }

    /// Sends all requests of a batch and waits for their answers. `refused` is told those that
    /// are no success, by the request's place in the batch. Leaves the batch empty.
    pub(super) async fn send(
        &mut self,
        batch: &mut Batch,
        mut refused: impl FnMut(usize, KernelError),
    ) -> Result<(), KernelError> {
        if batch.count == 0 {
            return Ok(());
        }
        let mut socket = self.take_socket()?;
        let first = self.next;
        self.next = self.next.wrapping_add(batch.count);
        batch.number_from(first);
        socket.send(&batch.bytes)?;
        // The answers are there already: without this, nobody else had a turn until the end.
        yield_now().await;
        let mut done = false;
        while !done {
            socket.receive().await?;
            for message in socket.messages() {
                let place = message.sequence_number().wrapping_sub(first);
                if message.message_type() != NLMSG_ERROR || place >= batch.count {
                    continue;
                }
                done |= place == batch.count - 1;
                if let Err(error) = KernelError::from_answer(message.payload()) {
                    refused(place as usize, error);
                }
            }
        }
        batch.clear();
        self.socket = Some(socket);
        Ok(())
    }

    /// Sends one request and waits for its answer.
    pub(super) async fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &impl Emitable,
    ) -> Result<(), KernelError> {
        let mut batch = Batch::default();
        batch.push(kind, flags, body);
        let mut refused = None;
        self.send(&mut batch, |_, error| refused = Some(error)).await?;
        refused.map_or(Ok(()), Err)
    }

    /// Reads a whole table: `read` makes something of an entry's payload, or nothing. A dump that
    /// the kernel marks as interrupted is read again: it may have entries twice, or not at all.
    pub(super) async fn dump<T>(
        &mut self,
        kind: u16,
        body: &(impl Emitable + Sync),
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(table) = self.dump_once(kind, body, &read).await? {
                return Ok(table);
            }
        }
        Err(KernelError::Interrupted)
    }

    /// One try at [`Self::dump`]: `None` when it was interrupted.
    async fn dump_once<T>(
        &mut self,
        kind: u16,
        body: &(impl Emitable + Sync),
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, KernelError> {
        let mut socket = self.take_socket()?;
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let mut request = Vec::new();
        append(&mut request, kind, NLM_F_DUMP, body);
        set_number(&mut request, number);
        socket.send(&request)?;
        let (mut table, mut interrupted, mut done) = (Vec::new(), false, false);
        while !done {
            yield_now().await;
            socket.receive().await?;
            for message in socket.messages().filter(|message| message.sequence_number() == number) {
                interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                match message.message_type() {
                    NLMSG_DONE | NLMSG_ERROR => {
                        KernelError::from_answer(message.payload())?;
                        done = true;
                    }
                    // After an interruption it is only read to its end.
                    _ if interrupted => {}
                    _ => table.extend(read(message.payload())),
                }
            }
        }
        self.socket = Some(socket);
        Ok((!interrupted).then_some(table))
    }

    /// The socket, to be put back when everything asked of it was answered.
    fn take_socket(&mut self) -> Result<Socket, KernelError> {
        match self.socket.take() {
            Some(socket) => Ok(socket),
            None => Socket::open().map_err(|error| KernelError::from_socket(&error)),
        }
    }
}

/// Requests that go out in one datagram.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

impl Batch {
    /// Adds a request.
    pub(super) fn push(&mut self, kind: u16, flags: u16, body: &impl Emitable) {
        append(&mut self.bytes, kind, flags, body);
        self.count += 1;
    }

    /// Whether it is to be sent before anything is added.
    pub(super) fn is_full(&self) -> bool {
        self.count >= BATCH_REQUESTS || self.bytes.len() >= BATCH_BYTES
    }

    /// How many requests are in it.
    pub(super) fn count(&self) -> usize {
        self.count as usize
    }

    /// What it would send.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Numbers the requests. The last one is to be acknowledged: the kernel works a batch off in
    /// its order and answers refusals in any case, so then all that were not refused are done.
    fn number_from(&mut self, first: u32) {
        let (mut rest, mut number) = (&mut self.bytes[..], first);
        while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
            set_number(rest, number);
            number = number.wrapping_add(1);
            if number == first.wrapping_add(self.count) {
                demand_answer(rest);
            }
            rest = rest.get_mut(length.max(HEADER)..).unwrap_or_default();
        }
    }

    /// Forgets the requests, and gives back what an exceptionally long one took.
    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(2 * BATCH_BYTES);
        self.count = 0;
    }
}

/// Appends a request without a number.
fn append(bytes: &mut Vec<u8>, kind: u16, flags: u16, body: &impl Emitable) {
    let start = bytes.len();
    let length = HEADER + body.buffer_len();
    // The bodies leave the padding as it is, so it has to be zero.
    bytes.resize(start + length, 0);
    let mut header = NetlinkHeader::default();
    header.length = u32::try_from(length).unwrap_or(u32::MAX);
    header.message_type = kind;
    header.flags = NLM_F_REQUEST | flags;
    let (head, tail) = bytes[start..].split_at_mut(HEADER);
    header.emit(head);
    body.emit(tail);
}

/// Asks for an acknowledgement of the request that `bytes` begin with.
fn demand_answer(bytes: &mut [u8]) {
    if let Some(flags) = bytes.get_mut(6..8) {
        let given = flags.first_chunk().map_or(0, |flags| u16::from_ne_bytes(*flags));
        flags.copy_from_slice(&(given | NLM_F_ACK).to_ne_bytes());
    }
}

/// Gives the request that `bytes` begin with its number.
fn set_number(bytes: &mut [u8], number: u32) {
    if let Some(place) = bytes.get_mut(8..12) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
}
