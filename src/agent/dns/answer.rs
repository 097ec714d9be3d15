//! What to answer to a packet, as far as the name tables know: written into a buffer, byte by
//! byte, and but for services nothing is allocated.
//!
//! Pure functions of the tables and the packet. Flags follow what Docker's users have: AA=0,
//! RA=1, RD and CD copied, the owner name spelled as in the question. It must not know sockets,
//! upstreams or the cache.

use super::{
    packet::{Code, HEADER, IN, MAX_NAME, Query, Unfit, flag, kind},
    writer::{Owner, Section, Writer},
};
use crate::names::{Addresses, Found, Names, fold};

/// What becomes of a packet.
#[derive(Debug)]
pub(crate) enum Outcome<'p> {
    /// So many bytes of the buffer are the answer.
    Reply(usize),
    /// A question for somebody else.
    Forward(Query<'p>),
    /// Not a question: no answer, so that two servers cannot keep each other busy.
    Ignore,
}

/// Decides about one packet, which came over UDP or not, and writes an answer to `out`, which has
/// room for 512 bytes at least.
///
/// `turn` rotates the addresses of shared names. With `keep_own_names`, what nobody has at or
/// below a network's own name is not asked for.
pub(crate) fn answer<'p>(
    names: &Names,
    packet: &'p [u8],
    udp: bool,
    turn: u32,
    keep_own_names: bool,
    out: &mut [u8],
) -> Outcome<'p> {
    let query = match Query::read(packet) {
        Ok(query) => query,
        Err(Unfit::Ignore) => return Outcome::Ignore,
        Err(Unfit::Refuse(code)) => return Outcome::Reply(bare_error(packet, code, out)),
    };
    if query.edns.is_some_and(|edns| edns.version > 0) {
        return Outcome::Reply(without_records(&query, udp, Code::BadVers, out));
    }
    if query.class() != IN {
        return Outcome::Reply(without_records(&query, udp, Code::Refused, out));
    }
    let mut folded = [0; MAX_NAME];
    let name = fold(query.name(), &mut folded);
    let mut reply = Writer::new(&query, udp, out);
    let code = match names.find(name) {
        Found::Name(addresses) => {
            write_addresses(
                &mut reply,
                Section::Answer,
                Owner(0),
                query.kind(),
                addresses,
                names.ttl(),
                turn,
            );
            Code::NoError
        }
        Found::Pointer(host) => {
            if matches!(query.kind(), kind::PTR | kind::ANY) {
                reply.record(Section::Answer, Owner(0), kind::PTR, names.ttl(), &[host, &[0]]);
            }
            Code::NoError
        }
        Found::Service { ports, host_at, addresses } => {
            if matches!(query.kind(), kind::SRV | kind::ANY) {
                let host = query.name().get(usize::from(host_at)..).unwrap_or_default();
                for port in ports {
                    // Priority and weight 0: all are alike (RFC 2782). The target is not compressed.
                    let data: [&[u8]; 3] = [&[0; 4], &port.to_be_bytes(), host];
                    reply.record(Section::Answer, Owner(0), kind::SRV, names.ttl(), &data);
                }
                let owner = Owner(host_at);
                write_addresses(
                    &mut reply,
                    Section::Additional,
                    owner,
                    kind::ANY,
                    addresses,
                    names.ttl(),
                    turn,
                );
            }
            Code::NoError
        }
        Found::Network if keep_own_names => Code::NoError,
        Found::BelowNetwork if keep_own_names => Code::NxDomain,
        // An answer of many messages, which nobody here could relay.
        _ if matches!(query.kind(), kind::AXFR | kind::IXFR) => Code::NotImp,
        Found::Network | Found::BelowNetwork | Found::Foreign => return Outcome::Forward(query),
    };
    Outcome::Reply(reply.finish(code))
}

/// An answer without any records: how long it is.
pub(crate) fn without_records(query: &Query<'_>, udp: bool, code: Code, out: &mut [u8]) -> usize {
    Writer::new(query, udp, out).finish(code)
}

/// The addresses that answer a question of this type: none for any other than A, AAAA and ANY, and
/// that is an answer too. A client that were told NXDOMAIN or SERVFAIL for AAAA would give up on
/// the name (musl does).
fn write_addresses(
    reply: &mut Writer<'_, '_>,
    section: Section,
    owner: Owner,
    asked: u16,
    addresses: &Addresses,
    ttl: u32,
    turn: u32,
) {
    if matches!(asked, kind::A | kind::ANY) {
        for address in rotated(&addresses.v4, turn) {
            reply.record(section, owner, kind::A, ttl, &[&address.octets()]);
        }
    }
    if matches!(asked, kind::AAAA | kind::ANY) {
        for address in rotated(&addresses.v6, turn) {
            reply.record(section, owner, kind::AAAA, ttl, &[&address.octets()]);
        }
    }
}

fn rotated<T>(all: &[T], turn: u32) -> impl Iterator<Item = &T> {
    // Clients ask for A and AAAA in turns: counted one by one, every other place would be first.
    let first = (turn.wrapping_mul(0x9e37_79b9) >> 8) as usize % all.len().max(1);
    all[first..].iter().chain(&all[..first])
}

/// The answer to what cannot be read as one question: nothing of it but id, operation, RD and CD.
fn bare_error(packet: &[u8], code: Code, out: &mut [u8]) -> usize {
    let kept = packet[2] & (flag::OPCODE | flag::RD);
    out[..HEADER].copy_from_slice(&[
        packet[0],
        packet[1],
        flag::QR | kept,
        flag::RA | packet[3] & flag::CD | code as u8,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ]);
    HEADER
}

#[cfg(test)]
mod tests;
