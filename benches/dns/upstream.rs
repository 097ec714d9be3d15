//! The server all contenders forward to: fast, next door, and every name has one address.

use std::net::UdpSocket;

use crate::{batch::ROOM, cores, echo::Echo};

/// The address every name has.
pub(crate) const ADDRESS: [u8; 4] = [203, 0, 113, 7];
/// Longer than the benchmark runs.
const TTL: u32 = 3_600;
const HEADER: usize = 12;
const A: u16 = 1;

pub(crate) fn start(socket: UdpSocket) -> Echo {
    Echo::in_batches(socket, cores::LOAD, answer)
}

/// Makes an answer of a question. An OPT record is left out, as by a server that has never heard
/// of it.
fn answer(packet: &mut [u8; ROOM], length: usize) -> usize {
    let Some(end) = question_end(&packet[..length]) else {
        return length;
    };
    let is_a = packet[end - 4..end - 2] == A.to_be_bytes();
    // An answer, recursion available, no error; the id, the opcode and RD are the question's.
    packet[2] |= 0x80;
    packet[3] = 0x80;
    packet[6..HEADER].fill(0);
    if !is_a {
        return end;
    }
    packet[7] = 1;
    let record = [&[0xc0, 12, 0, 1, 0, 1][..], &TTL.to_be_bytes(), &[0, 4], &ADDRESS].concat();
    packet[end..end + record.len()].copy_from_slice(&record);
    end + record.len()
}

/// Where the only question ends.
fn question_end(packet: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match usize::from(*packet.get(at)?) {
            0 => break,
            label => at += 1 + label,
        }
    }
    let end = at + 5;
    (end <= packet.len()).then_some(end)
}
