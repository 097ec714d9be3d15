//! Name tables the tests share.

use serde_json::{Value, json};

/// An endpoint.
pub(crate) fn endpoint(names: &[&str], addresses: &[&str]) -> Value {
    json!({ "names": names, "addresses": addresses })
}

/// A network with these endpoints.
pub(crate) fn network(name: &str, endpoints: &[Value]) -> Value {
    json!({ "network": name, "endpoints": endpoints })
}

/// What most tests have: two networks, somebody on both, somebody without IPv6, a shared alias, a
/// link, an extra host, and more addresses than fit in 512 bytes.
pub(crate) fn two_networks() -> Value {
    let crowd: Vec<String> = (1..=60).map(|n| format!("172.18.1.{n}")).collect();
    let crowd: Vec<&str> = crowd.iter().map(String::as_str).collect();
    let mut web = endpoint(&["server", "web", "0123456789ab"], &["172.18.0.2", "fd00:18::2"]);
    web["ports"] = json!([{ "number": 80, "protocol": "tcp", "name": "http" },
                          { "number": 53, "protocol": "udp" }]);
    let mut front = network(
        "front",
        &[
            web,
            endpoint(&["four", "shared"], &["172.18.0.3"]),
            endpoint(&["other", "Shared"], &["172.18.0.4"]),
            endpoint(&["crowd"], &crowd),
            endpoint(&["v2.api"], &["172.18.0.5"]),
        ],
    );
    front["links"] = json!([endpoint(&["db", "four"], &["172.18.0.9"])]);
    let back = network(
        "back",
        &[
            endpoint(&["server"], &["172.19.0.2"]),
            endpoint(&["db"], &["172.19.0.7"]),
            endpoint(&["extra"], &["172.19.0.8"]),
        ],
    );
    json!({ "hosts": [{ "address": "10.77.0.1", "names": ["extra", "extra.alias"] },
                      { "address": "fd77::1", "names": ["extra"] }],
            "networks": [front, back] })
}
