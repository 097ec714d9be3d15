//! As many names as a guest may have.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    client::Client,
    hosted::Hosted,
    packet::{A, PTR, SERVFAIL, reverse},
    tables::endpoint,
};

const MANY: u32 = 100_000;

fn address(n: u32) -> String {
    let [_, b, c, d] = n.to_be_bytes();
    format!("10.{b}.{c}.{d}")
}

#[test]
fn a_hundred_thousand_names_are_all_found_and_can_be_replaced() {
    let tables = |word: &str| -> Value {
        let endpoints: Vec<Value> =
            (1..=MANY).map(|n| endpoint(&[&format!("{word}-{n}")], &[&address(n)])).collect();
        json!({ "networks": [{ "network": "front", "endpoints": endpoints }] })
    };
    // From a host: the file that stands in for one may not be as long.
    let hosted = Hosted::prepare().start();
    hosted.names(&tables("name"));
    let client = Client::new(&hosted.space);
    let check = |word: &str| {
        let mut missed = String::new();
        // A step that has nothing in common with their number comes by the ends and the middle.
        for n in (1..=MANY).step_by(97).chain([MANY]) {
            let name = format!("{word}-{n}");
            let found = client.look_up(&name, A);
            if found.data() != [address(n)] {
                let _ = writeln!(missed, "{name}: {found:?}");
            }
            let pointer = client.look_up(&reverse(&address(n)), PTR);
            if pointer.data() != [format!("{name}.")] {
                let _ = writeln!(missed, "{}: {pointer:?}", address(n));
            }
        }
        assert_eq!(missed, "");
    };
    check("name");
    assert_eq!(client.look_up("NAME-77777.Front", A).data(), [address(77_777)]);
    assert_eq!(client.look_up("name-100001", A).code(), SERVFAIL);
    hosted.names(&tables("other"));
    check("other");
    assert_eq!(client.look_up("name-1", A).code(), SERVFAIL);
}
