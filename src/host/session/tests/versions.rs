//! Guests of other versions than the host's. There is one version so far, so the other is made up:
//! version 2 has another layout of Status and a message type that version 1 has not.

use tether_wire::{codec, status::Status};

use super::*;

const BOTH: Protocols = Protocols { min: 1, max: 2 };

/// A guest that speaks both versions: what it says goes by what was agreed on.
struct Next {
    fake: Fake,
    protocol: u16,
}

impl Next {
    async fn dial(host: &Host, guest: &GuestId) -> Self {
        let mut fake = Fake::open(host, KEY);
        fake.hello(guest, token(7), BOTH).await;
        let FromHost::Welcome(welcome) = fake.hear().await else { panic!("no welcome") };
        Self { fake, protocol: welcome.protocol }
    }

    /// Reports that so many KiB are used, in the newest layout that the host knows.
    async fn report(&mut self, rss_kib: u64) {
        let status = Status { rss_kib, ..Status::default() };
        match self.protocol {
            1 => self.fake.say(status).await,
            _ => self.send(48, 2, codec::encode(&(status, "and more"))).await,
        }
    }

    async fn send(&mut self, kind: u16, version: u8, payload: Vec<u8>) {
        self.fake.stream.send(Frame { kind, version, payload: payload.into() }).await.unwrap();
    }

    /// Waits until the host has heard everything so far.
    async fn is_heard(&mut self) {
        self.fake.say(Ping { nonce: 77 }).await;
        loop {
            let frame = self.fake.stream.next().await.unwrap().unwrap();
            if FromHost::from_frame(&frame).unwrap() == Some(Pong { nonce: 77 }.into()) {
                return;
            }
        }
    }
}

#[tokio::test]
async fn a_guest_of_the_next_version_is_driven_in_ours() {
    let (host, guest) = host().await;
    let mut next = Next::dial(&host, &guest).await;
    assert_eq!(next.protocol, 1);
    next.report(1).await;
    // New types may be sent at any time; a layout that was not agreed on is no reason to hang up.
    next.send(70, 1, vec![0xff; 9]).await;
    next.send(48, 2, vec![0xff; 9]).await;
    next.is_heard().await;
    assert_eq!(host.status(&guest).unwrap().rss_kib, 1);
    let (answer, kind) = tokio::join!(host.update_names(&guest, tables(1)), next.fake.take_names());
    assert_eq!((answer.unwrap().stamp, kind), (stamp(1, &tables(1)), "names"));
}

#[tokio::test]
async fn a_guest_of_the_version_before_is_driven_by_a_host_of_both() {
    let (host, guest) = host_speaking(BOTH).await;
    let mut before = Fake::open(&host, KEY);
    before.hello(&guest, token(7), Protocols { min: 1, max: 1 }).await;
    let FromHost::Welcome(welcome) = before.hear().await else { panic!("no welcome") };
    assert_eq!(welcome.protocol, 1);
    let (answer, kind) = tokio::join!(host.update_names(&guest, tables(1)), before.take_names());
    assert_eq!((answer.unwrap().stamp, kind), (stamp(1, &tables(1)), "names"));
    // Two that speak both speak the newer one.
    let mut next = Next::dial(&host, &guest).await;
    assert_eq!(next.protocol, 2);
    next.report(2).await;
    next.is_heard().await;
}

#[tokio::test]
async fn a_guest_with_no_version_in_common_is_refused_and_both_sides_say_which() {
    for (spoken, offered) in
        [(Protocols::SPOKEN, Protocols { min: 2, max: 3 }), (Protocols { min: 2, max: 3 }, Protocols::SPOKEN)]
    {
        let (host, guest) = host_speaking(spoken).await;
        let mut events = host.events();
        let mut fake = Fake::open(&host, KEY);
        fake.hello(&guest, token(7), offered).await;
        let reason = refused(fake).await;
        assert_eq!(reason, format!("no protocol in common: the guest speaks {offered}, this host {spoken}"));
        assert_eq!(told(&mut events), [format!(r#"{{"refused":{{"reason":"{reason}"}}}}"#)]);
        // Its token was not redeemed: another agent of the same guest may have better luck.
        assert_eq!(host.key(&guest), None);
    }
}
