use hickory_proto::{
    op::{Edns, Message, MessageType, Query as Question, ResponseCode},
    rr::{
        Name, RData, Record as Rr, RecordType,
        rdata::{A, AAAA, CNAME, NULL, SOA, opt::EdnsOption},
    },
};
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn question(text: &str) -> Message {
    let mut query = Message::query();
    query.metadata.id = 7;
    query.metadata.recursion_desired = true;
    query.queries.push(Question::query(name(text), RecordType::A));
    query
}

fn with_edns(mut query: Message, payload: u16) -> Message {
    query.edns.insert(Edns::new()).set_max_payload(payload);
    query
}

/// An upstream's answer to `request`, with `change` made to it.
fn upstream(request: &[u8], change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let request = Message::from_vec(request).unwrap();
    let mut answer = Message::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
    answer.queries.clone_from(&request.queries);
    answer.edns = request.edns.is_some().then(Edns::new);
    change(&mut answer);
    answer.to_vec().unwrap()
}

fn address(owner: &str, ttl: u32) -> Rr {
    Rr::from_rdata(name(owner), ttl, RData::A(A::new(93, 184, 216, 34)))
}

fn soa(ttl: u32, minimum: u32) -> Rr {
    let soa = SOA::new(name("ns.example."), name("root.example."), 1, 2, 3, 4, minimum);
    Rr::from_rdata(name("example."), ttl, RData::SOA(soa))
}

/// Asks on for `query`, takes what `change` makes of an answer, and replies.
fn relayed(query: &Message, udp: bool, age: Age, change: impl FnOnce(&mut Message)) -> Message {
    let packet = query.to_vec().unwrap();
    let query = Query::read(&packet).unwrap();
    let request = as_request(&query, 4711, true);
    let answer = Answer::read(&upstream(&request, change), &request).unwrap();
    let mut out = vec![0xee; 65_535];
    let length = answer.reply(&query, udp, age, &mut out);
    Message::from_vec(&out[..length]).unwrap()
}

#[test]
fn code_authority_and_flags_are_relayed() {
    let reply = relayed(&question("Nobody.Example."), true, Age::New, |answer| {
        answer.metadata.response_code = ResponseCode::NXDomain;
        answer.metadata.authentic_data = true;
        answer.authorities.push(soa(300, 60));
    });
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert!(reply.metadata.authentic_data && reply.metadata.recursion_available);
    assert_eq!(reply.metadata.id, 7);
    assert_eq!(reply.authorities, [soa(300, 60)]);
    // The client has not said that it knows EDNS.
    assert!(reply.edns.is_none());
}

#[test]
fn the_clients_spelling_comes_back() {
    let reply = relayed(&question("wWw.Example."), true, Age::New, |answer| {
        answer.queries[0].name = name("www.example.");
        answer.answers.push(address("www.example.", 60));
    });
    assert_eq!(reply.queries[0].name().to_ascii(), "wWw.Example.");
    assert_eq!(reply.answers[0].name.to_ascii(), "wWw.Example.");
}

#[test]
fn a_request_has_what_belongs_to_both_ends_only() {
    let mut query = with_edns(question("www.example."), 4_096);
    query.metadata.checking_disabled = true;
    let edns = query.edns.as_mut().unwrap();
    edns.set_dnssec_ok(true);
    edns.options_mut().insert(EdnsOption::Unknown(10, vec![1; 8]));
    edns.options_mut().insert(EdnsOption::Unknown(65_001, vec![2, 3]));
    let packet = query.to_vec().unwrap();
    let query = Query::read(&packet).unwrap();
    assert!(has_options(&query));
    let request = Message::from_vec(&as_request(&query, 4711, true)).unwrap();
    assert_eq!(request.metadata.id, 4711);
    assert!(request.metadata.recursion_desired && request.metadata.checking_disabled);
    let edns = request.edns.unwrap();
    assert!(edns.flags().dnssec_ok);
    assert_eq!(edns.max_payload(), 1_232);
    let options: Vec<_> = edns.options().as_ref().iter().map(|(code, _)| u16::from(*code)).collect();
    assert_eq!(options, [65_001]);
    let plain = as_request(&query, 1, false);
    assert!(Message::from_vec(&plain).unwrap().edns.is_none());
}

#[test]
fn options_of_the_upstream_reach_a_client_that_knows_them() {
    let error = |answer: &mut Message| {
        let edns = answer.edns.as_mut().unwrap();
        edns.options_mut().insert(EdnsOption::Unknown(15, vec![0, 3]));
        edns.options_mut().insert(EdnsOption::Unknown(12, vec![0; 9]));
    };
    let reply = relayed(&with_edns(question("www.example."), 1_232), true, Age::New, error);
    let options: Vec<_> =
        reply.edns.unwrap().options().as_ref().iter().map(|(code, _)| u16::from(*code)).collect();
    assert_eq!(options, [15]);
    assert!(relayed(&question("www.example."), true, Age::New, error).edns.is_none());
}

#[test]
fn what_is_too_long_is_cut_between_records() {
    let many = |answer: &mut Message| {
        answer.answers.extend((0..60).map(|_| address("www.example.", 60)));
        answer.additionals.push(address("ns.example.", 60));
    };
    let reply = relayed(&question("www.example."), true, Age::New, many);
    assert!(reply.metadata.truncation && reply.answers.len() == 30 && reply.additionals.is_empty());
    let reply = relayed(&with_edns(question("www.example."), 1_232), true, Age::New, many);
    assert!(!reply.metadata.truncation && reply.answers.len() == 60 && reply.additionals.len() == 1);
    let reply = relayed(&question("www.example."), false, Age::New, many);
    assert!(!reply.metadata.truncation && reply.answers.len() == 60);
    // Of what nobody has asked for TC says nothing.
    let extra = |answer: &mut Message| {
        answer.answers.push(address("www.example.", 60));
        answer.additionals.extend((0..60).map(|_| address("www.example.", 60)));
    };
    let reply = relayed(&question("www.example."), true, Age::New, extra);
    assert!(!reply.metadata.truncation && reply.answers.len() == 1 && reply.additionals.len() > 20);
}

#[test]
fn times_to_live_grow_shorter() {
    let answered = |answer: &mut Message| answer.answers.push(address("www.example.", 60));
    let ttl = |age| relayed(&question("www.example."), true, age, answered).answers[0].ttl;
    let kept = |age, left| ttl(Age::Kept { age, left });
    assert_eq!([ttl(Age::New), ttl(Age::Stale)], [60, 30]);
    assert_eq!([kept(25, 100), kept(25, 10), kept(100, 100)], [35, 10, 0]);
}

fn read(change: impl FnOnce(&mut Message)) -> Result<Answer, NotAnswer> {
    let packet = question("www.example.").to_vec().unwrap();
    let request = as_request(&Query::read(&packet).unwrap(), 4711, true);
    Answer::read(&upstream(&request, change), &request)
}

#[test]
fn only_the_answer_to_this_question_is_one() {
    assert!(read(|_| {}).is_ok());
    assert_eq!(read(|answer| answer.metadata.id = 4712), Err(NotAnswer::Stray));
    assert_eq!(read(|answer| answer.metadata.message_type = MessageType::Query), Err(NotAnswer::Stray));
    assert_eq!(read(|answer| answer.queries[0].name = name("wwx.example.")), Err(NotAnswer::Stray));
    let other_type = |answer: &mut Message| {
        answer.queries[0].set_query_type(RecordType::AAAA);
    };
    assert_eq!(read(other_type), Err(NotAnswer::Stray));
    assert_eq!(read(|answer| answer.queries.clear()), Err(NotAnswer::Stray));
    // A server that could not read it.
    let packet = question("www.example.").to_vec().unwrap();
    let request = as_request(&Query::read(&packet).unwrap(), 4711, true);
    let bare = [request[0], request[1], 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    for bare in [&bare[..12], &bare] {
        let answer = Answer::read(bare, &request).unwrap();
        assert_eq!((answer.code(), answer.records().count()), (1, 0));
    }
    let mut damaged = upstream(&request, |answer| answer.answers.push(address("www.example.", 1)));
    damaged.truncate(damaged.len() - 1);
    assert_eq!(Answer::read(&damaged, &request), Err(NotAnswer::Malformed));
}

#[test]
fn answers_are_kept_as_long_as_they_say() {
    let lifetime = |change: fn(&mut Message)| read(change).unwrap().lifetime();
    let two = |answer: &mut Message| answer.answers.extend([address("www.example.", 60), address("x.", 40)]);
    assert_eq!(lifetime(two), Some(40));
    assert_eq!(lifetime(|_| {}), None);
    assert_eq!(lifetime(|answer| answer.authorities.push(soa(300, 60))), Some(60));
    assert_eq!(lifetime(|answer| answer.authorities.push(soa(20, 60))), Some(20));
    let failure = |answer: &mut Message| {
        answer.metadata.response_code = ResponseCode::ServFail;
        answer.authorities.push(soa(300, 60));
    };
    assert_eq!(lifetime(failure), None);
    let alias = |answer: &mut Message| {
        let alias = RData::CNAME(CNAME(name("other.")));
        answer.answers.push(Rr::from_rdata(name("www.example."), 30, alias));
        answer.authorities.push(soa(300, 10));
    };
    // It leads to nothing of the type (RFC 2308 section 2.2), and without SOA nobody knows for how long.
    assert_eq!(lifetime(alias), Some(10));
    let alias = |answer: &mut Message| {
        let alias = RData::CNAME(CNAME(name("other.")));
        answer.answers.push(Rr::from_rdata(name("www.example."), 30, alias));
    };
    assert_eq!(lifetime(alias), None);
}

#[test]
fn names_that_lead_inside_are_seen() {
    let leads = |data: RData| {
        read(|answer| answer.answers.push(Rr::from_rdata(name("www.example."), 1, data)))
            .unwrap()
            .leads_inside()
    };
    for inside in
        ["10.0.0.1", "127.0.0.1", "169.254.1.1", "172.31.0.1", "192.168.0.1", "100.64.0.1", "0.0.0.0"]
    {
        assert!(leads(RData::A(A(inside.parse().unwrap()))), "{inside}");
    }
    for inside in ["::1", "fe80::1", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:a00:1::1"] {
        assert!(leads(RData::AAAA(AAAA(inside.parse().unwrap()))), "{inside}");
    }
    assert!(!leads(RData::A(A::new(93, 184, 216, 34))));
    assert!(!leads(RData::AAAA(AAAA("2001:db8::1".parse().unwrap()))));
    let hint = |key: u8, address: &[u8]| {
        let length = u8::try_from(address.len()).unwrap();
        let data = [&[0, 1, 0, 0, 1, 0, 3, 2, b'h', b'2', 0, key, 0, length], address].concat();
        RData::Unknown { code: RecordType::Unknown(65), rdata: NULL::with(data) }
    };
    assert!(leads(hint(4, &[93, 184, 216, 34, 127, 0, 0, 1])));
    assert!(leads(hint(6, &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])));
    assert!(!leads(hint(4, &[93, 184, 216, 34])));
    let refused = read(|answer| answer.answers.push(address("www.example.", 1))).unwrap().refused();
    assert_eq!((refused.code(), refused.records().count()), (5, 0));
}

proptest! {
    #[test]
    fn damaged_answers_never_panic(bites in prop::collection::vec((2_usize..300, any::<u8>()), 0..6), cut in 0_usize..300) {
        let packet = with_edns(question("www.example."), 600).to_vec().unwrap();
        let query = Query::read(&packet).unwrap();
        let request = as_request(&query, 4711, true);
        let mut bytes = upstream(&request, |answer| {
            answer.answers.extend((0..9).map(|_| address("www.example.", 60)));
            answer.authorities.push(soa(300, 60));
        });
        for (at, byte) in bites {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut % bytes.len());
        if let Ok(answer) = Answer::read(&bytes, &request) {
            let _ = (answer.lifetime(), answer.leads_inside());
            let length = answer.reply(&query, true, Age::Kept { age: 1, left: 9 }, &mut vec![0; 65_535]);
            prop_assert!(length <= 600);
        }
    }
}
