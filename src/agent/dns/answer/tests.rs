use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode},
    rr::{
        DNSClass, Name, RData, RecordType,
        rdata::{A, PTR},
    },
};
use proptest::prelude::*;
use tether_wire::names::{EndpointNames, NameTables, NetworkNames, Port, Protocol};

use super::*;

fn names() -> Names {
    let endpoint = |name: &str, addresses: Vec<String>| EndpointNames {
        names: vec![name.into()],
        addresses,
        ports: vec![Port { number: 80, protocol: Protocol::Tcp, name: None }],
    };
    let network = NetworkNames {
        network: "net".into(),
        endpoints: vec![
            endpoint("Server", vec!["172.18.0.2".into(), "fd00::2".into()]),
            endpoint("four", vec!["172.18.0.3".into()]),
            endpoint("crowd", (1..=60).map(|n| format!("172.18.1.{n}")).collect()),
        ],
        ..NetworkNames::default()
    };
    Names::new(&NameTables { networks: vec![network], ..NameTables::default() }.check().unwrap())
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.queries.push(Question::query(Name::from_ascii(name).unwrap(), kind));
    query
}

/// The answer to a packet, as somebody else's decoder reads it.
fn answered(packet: &[u8], udp: bool, turn: u32) -> Option<Message> {
    let mut out = vec![0xee; 65_535];
    match answer(&names(), packet, udp, turn, true, &mut out) {
        Outcome::Reply(length) => Some(Message::from_vec(&out[..length]).unwrap()),
        _ => None,
    }
}

fn asked(query: &Message) -> Message {
    answered(&query.to_vec().unwrap(), true, 0).unwrap()
}

fn with_edns(mut query: Message, payload: u16) -> Message {
    query.edns.insert(Edns::new()).set_max_payload(payload).set_dnssec_ok(true);
    query
}

#[test]
fn a_name_is_found_in_any_case_and_spelled_as_asked() {
    let mut query = question("SerVer.", RecordType::A);
    query.metadata.checking_disabled = true;
    query.metadata.authentic_data = true;
    let reply = asked(&query);
    assert_eq!(reply.metadata.id, query.metadata.id);
    let flags = &reply.metadata;
    assert!(flags.recursion_available && flags.recursion_desired && flags.checking_disabled);
    assert!(!flags.authoritative && !flags.authentic_data);
    assert_eq!(reply.queries, query.queries);
    assert_eq!(reply.answers.len(), 1);
    assert_eq!(reply.answers[0].name.to_ascii(), "SerVer.");
    assert_eq!(reply.answers[0].data, RData::A(A::new(172, 18, 0, 2)));
    assert_eq!(reply.answers[0].ttl, 5);
    assert!(reply.edns.is_none());
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
    assert_eq!(asked(&question("server.", RecordType::ANY)).answers.len(), 2);
}

#[test]
fn pointers_lead_to_the_bare_name() {
    let reply = asked(&question("2.0.18.172.in-addr.arpa.", RecordType::PTR));
    assert_eq!(reply.answers[0].data, RData::PTR(PTR(Name::from_ascii("Server.").unwrap())));
    assert_eq!(asked(&question("2.0.18.172.in-addr.arpa.", RecordType::A)).answers, []);
}

#[test]
fn services_are_answered_with_their_hosts_addresses() {
    let reply = asked(&question("_80._TCP.server.net.", RecordType::SRV));
    let RData::SRV(service) = &reply.answers[0].data else { panic!("{reply}") };
    assert_eq!((service.port, service.target.to_ascii()), (80, "server.net.".to_owned()));
    let addresses: Vec<_> = reply.additionals.iter().map(|r| (r.name.to_ascii(), r.record_type())).collect();
    let host = "server.net.".to_owned();
    assert_eq!(addresses, [(host.clone(), RecordType::A), (host, RecordType::AAAA)]);
    assert_eq!(asked(&question("_80._tcp.server.", RecordType::A)).answers, []);
}

#[test]
fn what_is_not_ours_is_forwarded() {
    for name in ["example.com.", "nobody.", "9.9.9.9.in-addr.arpa.", "."] {
        let packet = question(name, RecordType::A).to_vec().unwrap();
        let mut out = [0; 512];
        let outcome = answer(&names(), &packet, true, 0, true, &mut out);
        assert!(matches!(outcome, Outcome::Forward(_)), "{name}");
    }
    // An answer of many messages is nothing to relay.
    let reply = asked(&question("example.com.", RecordType::AXFR));
    assert_eq!(reply.metadata.response_code, ResponseCode::NotImp);
}

#[test]
fn our_own_names_stay_here_when_they_are_to() {
    for (name, code) in [("nobody.net.", ResponseCode::NXDomain), ("net.", ResponseCode::NoError)] {
        let packet = question(name, RecordType::A).to_vec().unwrap();
        let mut out = [0; 512];
        assert!(matches!(answer(&names(), &packet, true, 0, false, &mut out), Outcome::Forward(_)), "{name}");
        assert_eq!(answered(&packet, true, 0).unwrap().metadata.response_code, code, "{name}");
    }
}

#[test]
fn a_long_answer_has_what_fits_and_tc_and_is_whole_over_tcp() {
    let query = question("crowd.", RecordType::A);
    let reply = asked(&query);
    // 512 bytes: header and question 23, 16 for each record.
    assert!(reply.metadata.truncation);
    assert_eq!(reply.answers.len(), 30);
    let whole = answered(&query.to_vec().unwrap(), false, 0).unwrap();
    assert!(!whole.metadata.truncation && whole.answers.len() == 60);
    let reply = asked(&with_edns(query.clone(), 1_232));
    assert!(!reply.metadata.truncation && reply.answers.len() == 60);
    let edns = reply.edns.unwrap();
    assert_eq!((edns.max_payload(), edns.flags().dnssec_ok), (1_232, true));
    // Less than 512 means 512 (RFC 6891 section 6.2.3), OPT included.
    let reply = asked(&with_edns(query, 100));
    assert!(reply.metadata.truncation && reply.answers.len() == 29);
}

#[test]
fn every_address_of_a_shared_name_is_first_as_often() {
    let packet = question("crowd.", RecordType::A).to_vec().unwrap();
    let first = |turn| answered(&packet, false, turn).unwrap().answers[0].data.clone();
    assert_ne!(first(0), first(1));
    // A client that asks for A and AAAA has every other turn.
    for (count, step) in [(2, 1), (2, 2), (3, 2), (4, 2), (5, 1)] {
        let all: Vec<usize> = (0..count).collect();
        let mut times = vec![0; count];
        for turn in (0..1_000).step_by(step) {
            times[*rotated(&all, turn).next().unwrap()] += 1;
        }
        let fair = 1_000 / step / count;
        assert!(times.iter().all(|n| (fair * 3 / 4..fair * 5 / 4).contains(n)), "{count} {step} {times:?}");
    }
}

#[test]
fn strange_questions_get_their_codes() {
    let code = |query: &Message| asked(query).metadata.response_code;
    let mut query = question("server.", RecordType::A);
    query.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&query), ResponseCode::Refused);
    let mut query = question("server.", RecordType::A);
    query.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&query), ResponseCode::NotImp);
    let mut query = question("server.", RecordType::A);
    query.queries.clear();
    assert_eq!(code(&query), ResponseCode::FormErr);
    let mut query = with_edns(question("server.", RecordType::A), 1_232);
    query.edns.as_mut().unwrap().set_version(1);
    let reply = asked(&query);
    assert_eq!((u16::from(reply.metadata.response_code), reply.edns.unwrap().version()), (16, 0));
    let mut query = question("server.", RecordType::A);
    query.metadata.message_type = MessageType::Response;
    assert_eq!(answered(&query.to_vec().unwrap(), true, 0), None);
    let mut trailing = question("server.", RecordType::A).to_vec().unwrap();
    trailing.push(0);
    assert_eq!(answered(&trailing, true, 0).unwrap().metadata.response_code, ResponseCode::FormErr);
}

proptest! {
    #[test]
    fn garbage_never_panics(packet in prop::collection::vec(any::<u8>(), 0..300), udp: bool) {
        let _ = answer(&names(), &packet, udp, 0, true, &mut [0; 512]);
    }

    #[test]
    fn bitten_questions_get_their_id_back(at in 0_usize..80, byte: u8) {
        let mut packet = with_edns(question("_80._tcp.server.net.", RecordType::SRV), 600).to_vec().unwrap();
        let at = at % packet.len();
        packet[at] = byte;
        if let Some(reply) = answered(&packet, true, 0) {
            prop_assert_eq!(reply.metadata.id.to_be_bytes(), [packet[0], packet[1]]);
        }
    }

    /// What hickory makes of a question, this reads; and the answer is one that hickory reads.
    #[test]
    fn another_encoders_questions_are_read(
        labels in prop::collection::vec("[a-zA-Z_][a-zA-Z0-9_]{0,11}", 0..6),
        kind: u16,
        payload: Option<u16>,
    ) {
        let name = format!("{}.", labels.join("."));
        let mut query = question(&name, RecordType::from(kind));
        if let Some(payload) = payload {
            query = with_edns(query, payload);
        }
        let packet = query.to_vec().unwrap();
        let read = Query::read(&packet).unwrap();
        prop_assert_eq!(read.kind(), kind);
        prop_assert_eq!(read.edns.map(|edns| (edns.payload, edns.dnssec_ok)), payload.map(|payload| (payload.max(512), true)));
        let _ = answered(&packet, true, 0);
    }
}
