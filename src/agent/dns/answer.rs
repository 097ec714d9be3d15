//! What to answer to a packet, as far as it can be known without asking anybody.
//!
//! A pure function of the name tables and the packet. Flags follow what Docker's users have:
//! AA=0, RA=1, RD and CD copied, the owner name spelled as in the question.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR},
    },
};
use std::net::IpAddr;

use crate::names::{Names, reverse};

/// The UDP payload size we offer: what fits an Ethernet packet without fragments (RFC 9715).
pub(super) const OUR_PAYLOAD: u16 = 1_232;

/// How a query came, and so how long its answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What becomes of a packet.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The answer.
    Local(Vec<u8>),
    /// A question for somebody else.
    Forward(Box<Message>),
    /// Not a question: no answer, so that two servers cannot keep each other busy.
    Ignore,
}

/// Decides about one packet. `turn` rotates the addresses of shared names.
pub(super) fn answer(names: &Names, packet: &[u8], transport: Transport, turn: usize) -> Outcome {
    let Some(header) = packet.first_chunk::<12>() else {
        return Outcome::Ignore;
    };
    if header[2] & 0x80 != 0 {
        return Outcome::Ignore;
    }
    let query = match Message::from_vec(packet) {
        Ok(query) if query.queries.len() == 1 => query,
        // Also for no question and for several: nobody has ever agreed on what they mean.
        _ => return Outcome::Local(bare_error(*header)),
    };
    let mut reply = reply_to(&query);
    let question = &query.queries[0];
    let code = if query.metadata.op_code != OpCode::Query {
        ResponseCode::NotImp
    } else if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        ResponseCode::BADVERS
    } else if question.query_class() != DNSClass::IN {
        ResponseCode::Refused
    } else {
        match records(names, question, turn) {
            Some(records) => reply.answers = records,
            None => return Outcome::Forward(Box::new(query)),
        }
        ResponseCode::NoError
    };
    reply.metadata.response_code = code;
    Outcome::Local(encode(&reply, &query, transport))
}

/// A reply to `query` without any records, everything else as it has to be.
pub(super) fn reply_to(query: &Message) -> Message {
    let mut reply = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.checking_disabled = query.metadata.checking_disabled;
    reply.metadata.recursion_available = true;
    reply.queries.clone_from(&query.queries);
    reply.edns = our_edns(query);
    reply
}

/// Our own OPT record, when the client sent one (RFC 6891 section 7): nothing of it is echoed
/// but the DO bit (RFC 3225).
pub(super) fn our_edns(query: &Message) -> Option<Edns> {
    query.edns.as_ref().map(|theirs| {
        let mut ours = Edns::new();
        ours.set_max_payload(OUR_PAYLOAD).set_version(0).set_dnssec_ok(theirs.flags().dnssec_ok);
        ours
    })
}

/// Encodes `reply`, cut to what the client takes: over UDP its EDNS size and never less than 512
/// bytes, over TCP all there is. A cut reply has TC and no records, as in RFC 2181 section 9.
pub(super) fn encode(reply: &Message, query: &Message, transport: Transport) -> Vec<u8> {
    let limit = match transport {
        Transport::Udp => usize::from(query.max_payload().max(512)),
        Transport::Tcp => usize::from(u16::MAX),
    };
    match reply.to_vec() {
        Ok(bytes) if bytes.len() <= limit => bytes,
        cut => {
            let mut short = reply_to(query);
            short.metadata.response_code =
                if cut.is_ok() { reply.metadata.response_code } else { ResponseCode::ServFail };
            short.metadata.truncation = cut.is_ok();
            // A reply without records has nothing that could fail to encode.
            short.to_vec().unwrap_or_default()
        }
    }
}

/// The answer to what cannot be read as one question: FORMERR, or NOTIMP for operations that
/// are no queries and so may be of another shape.
fn bare_error(query: [u8; 12]) -> Vec<u8> {
    let operation = query[2] & 0x78;
    let code = if operation == 0 { 1 } else { 4 };
    let (response, recursion_desired, recursion_available) = (0x80, query[2] & 1, 0x80);
    let flags = [response | operation | recursion_desired, recursion_available | code];
    [&query[..2], &flags[..], &[0; 8]].concat()
}

/// The records that answer `question`, none when the name exists without any of the type, `None`
/// when the name is not ours.
///
/// Every type of a name that exists gets an answer here: a client that were told NXDOMAIN or
/// SERVFAIL for AAAA would give up on the name (musl does).
fn records(names: &Names, question: &Query, turn: usize) -> Option<Vec<Record>> {
    let name = folded(question.name());
    let kind = question.query_type();
    if let Some(addresses) = names.addresses(&name) {
        let data = |address: &IpAddr| match address {
            IpAddr::V4(v4) if matches!(kind, RecordType::A | RecordType::ANY) => Some(RData::A(A(*v4))),
            IpAddr::V6(v6) if matches!(kind, RecordType::AAAA | RecordType::ANY) => {
                Some(RData::AAAA(AAAA(*v6)))
            }
            _ => None,
        };
        let mut data: Vec<RData> = addresses.iter().filter_map(data).collect();
        if !data.is_empty() {
            let first = turn % data.len();
            data.rotate_left(first);
        }
        let record = |data| Record::from_rdata(question.name().clone(), names.ttl, data);
        return Some(data.into_iter().map(record).collect());
    }
    let pointer = Name::from_ascii(names.pointer(reverse(&name)?)?).ok()?;
    let fits = matches!(kind, RecordType::PTR | RecordType::ANY);
    let record = || {
        let mut pointer = pointer;
        pointer.set_fqdn(true);
        Record::from_rdata(question.name().clone(), names.ttl, RData::PTR(PTR(pointer)))
    };
    Some(fits.then(record).into_iter().collect())
}

/// A name as the tables have it: lower case, no final dot. A dot inside a label comes out
/// escaped, and so is nobody's name.
fn folded(name: &Name) -> String {
    let mut text = name.to_ascii();
    text.make_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tether_wire::names::{EndpointNames, NameTables, NetworkNames};

    use super::*;

    fn names() -> Names {
        let endpoint = |name: &str, addresses: Vec<String>| EndpointNames {
            names: vec![name.into()],
            addresses,
            ports: vec![],
        };
        let tables = NameTables {
            networks: vec![NetworkNames {
                network: "net".into(),
                endpoints: vec![
                    endpoint("server", vec!["172.18.0.2".into(), "fd00::2".into()]),
                    endpoint("four", vec!["172.18.0.3".into()]),
                    endpoint("crowd", (1..=60).map(|n| format!("172.18.1.{n}")).collect()),
                ],
                links: vec![],
            }],
            ..NameTables::default()
        };
        Names::new(&tables.check().unwrap())
    }

    fn question(name: &str, kind: RecordType) -> Message {
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        query.queries.push(Query::query(Name::from_ascii(name).unwrap(), kind));
        query
    }

    fn asked(query: &Message) -> Message {
        match answer(&names(), &query.to_vec().unwrap(), Transport::Udp, 0) {
            Outcome::Local(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_is_found_in_any_case_and_spelled_as_asked() {
        let query = question("SerVer.", RecordType::A);
        let reply = asked(&query);
        assert_eq!(reply.metadata.id, query.metadata.id);
        assert!(reply.metadata.recursion_available && reply.metadata.recursion_desired);
        assert!(!reply.metadata.authoritative);
        assert_eq!(reply.answers.len(), 1);
        assert_eq!(reply.answers[0].name.to_ascii(), "SerVer.");
        assert_eq!(reply.answers[0].data, RData::A(A::new(172, 18, 0, 2)));
        assert_eq!(reply.answers[0].ttl, 5);
    }

    #[test]
    fn every_type_of_an_existing_name_is_no_error() {
        for kind in
            [RecordType::AAAA, RecordType::MX, RecordType::TXT, RecordType::HTTPS, RecordType::Unknown(4711)]
        {
            let reply = asked(&question("four.", kind));
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{kind}");
            assert_eq!(reply.answers, [], "{kind}");
        }
    }

    #[test]
    fn pointers_lead_to_the_bare_name() {
        let reply = asked(&question("2.0.18.172.in-addr.arpa.", RecordType::PTR));
        assert_eq!(reply.answers[0].data, RData::PTR(PTR(Name::from_ascii("server.").unwrap())));
    }

    #[test]
    fn what_is_not_ours_is_forwarded() {
        for name in ["example.com.", "nobody.", "9.9.9.9.in-addr.arpa.", "."] {
            let packet = question(name, RecordType::A).to_vec().unwrap();
            assert!(matches!(answer(&names(), &packet, Transport::Udp, 0), Outcome::Forward(_)), "{name}");
        }
    }

    #[test]
    fn a_long_answer_is_cut_with_tc_and_whole_over_tcp() {
        let mut query = question("crowd.", RecordType::A);
        let reply = asked(&query);
        assert!(reply.metadata.truncation && reply.answers.is_empty());
        let Outcome::Local(bytes) = answer(&names(), &query.to_vec().unwrap(), Transport::Tcp, 0) else {
            panic!("not local")
        };
        let whole = Message::from_vec(&bytes).unwrap();
        assert!(!whole.metadata.truncation && whole.answers.len() == 60);
        query.edns = Some(Edns::new());
        query.edns.as_mut().unwrap().set_max_payload(4_096);
        let reply = asked(&query);
        assert_eq!(reply.answers.len(), 60);
        assert_eq!(reply.edns.unwrap().max_payload(), OUR_PAYLOAD);
    }

    #[test]
    fn addresses_of_a_shared_name_take_turns() {
        let packet = question("crowd.", RecordType::A).to_vec().unwrap();
        let first = |turn| match answer(&names(), &packet, Transport::Tcp, turn) {
            Outcome::Local(bytes) => Message::from_vec(&bytes).unwrap().answers[0].data.clone(),
            other => panic!("{other:?}"),
        };
        assert_ne!(first(0), first(1));
        assert_eq!(first(0), first(60));
    }

    #[test]
    fn strange_questions_get_their_codes() {
        let mut query = question("server.", RecordType::A);
        query.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(asked(&query).metadata.response_code, ResponseCode::Refused);
        let mut query = question("server.", RecordType::A);
        query.metadata.op_code = OpCode::Notify;
        assert_eq!(asked(&query).metadata.response_code, ResponseCode::NotImp);
        let mut query = question("server.", RecordType::A);
        query.queries.clear();
        assert_eq!(asked(&query).metadata.response_code, ResponseCode::FormErr);
        let mut query = question("server.", RecordType::A);
        query.metadata.message_type = MessageType::Response;
        let packet = query.to_vec().unwrap();
        assert!(matches!(answer(&names(), &packet, Transport::Udp, 0), Outcome::Ignore));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(packet in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = answer(&names(), &packet, Transport::Udp, 0);
        }

        #[test]
        fn bitten_questions_never_panic(at in 0_usize..40, byte in any::<u8>()) {
            let mut packet = question("server.net.", RecordType::A).to_vec().unwrap();
            let at = at % packet.len();
            packet[at] = byte;
            if let Outcome::Local(reply) = answer(&names(), &packet, Transport::Udp, 0) {
                prop_assert!(reply.len() >= 12);
                prop_assert_eq!(&reply[..2], &packet[..2]);
            }
        }
    }
}
