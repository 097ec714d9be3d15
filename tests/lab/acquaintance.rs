//! What the hosts and guests of one test program know each other by: one key for every host, one
//! join token for every guest. Tests of just that have their own.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tether_host::{Admission, Identity, JoinToken};

static HOST: LazyLock<Identity> = LazyLock::new(|| Identity::generate().expect("a key"));

/// What guests know the host by.
pub fn host_identity() -> Identity {
    HOST.clone()
}

/// What the host knows a guest by.
pub fn admission() -> Admission {
    let token = JoinToken::from_bytes([7; 32]);
    Admission { token, expires: SystemTime::now() + Duration::from_hours(1), key: None }
}

/// The boot document of the guest `id`, with the NIC and the host that are given in its own words.
pub fn boot_document(id: &str, management: &Value, host: Value) -> Value {
    let mut host = host;
    host["pins"] = json!([HOST.pin()]);
    json!({ "guest": id, "management": management, "host": host, "token": admission().token.to_secret() })
}
