//! Connections that have not said who they are: so many at one time at one listener, and so many from
//! one place, so that one machine cannot keep the others out.
//!
//! Where all places are taken, nobody is accepted: who comes then waits in the kernel's queue and
//! not in its own back-off. After a restart of the host, thousands of guests come at one moment;
//! when they were hung up on, 10,000 of them needed 86,000 connections and a minute.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::sync::Notify;

use crate::lock;

/// The most at one time. Those that say nothing are there for 10 s: it takes so many places as
/// this has [`FROM_ONE`]s to fill it, and then there is room for 100 a second still.
const ALL: usize = 1_024;
/// The most from one place.
const FROM_ONE: usize = 16;
/// How long a place is taken at least, so that from one place there come 64 in a second at most: each
/// costs the host 0.3 ms for its handshake, whoever it is, and a guest that comes and goes as fast as it
/// can would have a processor to itself.
pub(crate) const HELD: Duration = Duration::from_millis(250);
/// How many wait in the kernel. With every place taken by one that says nothing, the last of them
/// is accepted in 5 s, when a guest waits still.
pub(crate) const BACKLOG: u32 = 512;

/// Those that are there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Strangers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    counts: Mutex<Counts>,
    /// Somebody has left.
    left: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    from: HashMap<Origin, usize>,
}

/// Where a connection is from, as far as that tells machines apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    /// An IP address.
    Ip(IpAddr),
    /// The context id of a machine.
    Vsock(u32),
    /// Whoever may connect to a Unix socket: one machine, or its owner's own programs.
    Unix,
}

/// A place among them, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    strangers: Strangers,
    from: Origin,
}

impl Strangers {
    /// Waits until there is room for somebody. Cancel-safe.
    pub(crate) async fn room(&self) {
        while self.counts().all >= ALL {
            self.0.left.notified().await;
        }
    }

    /// A place for one more, if there is one.
    pub(crate) fn enter(&self, from: Origin) -> Option<Place> {
        let mut counts = self.counts();
        let its = counts.from.get(&from).copied().unwrap_or_default();
        if counts.all >= ALL || its >= FROM_ONE {
            return None;
        }
        counts.all += 1;
        counts.from.insert(from, its + 1);
        Some(Place { strangers: self.clone(), from })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        lock(&self.0.counts)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.strangers.counts();
        counts.all -= 1;
        if let Some(count) = counts.from.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                counts.from.remove(&self.from);
            }
        }
        drop(counts);
        self.strangers.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> Origin {
        Origin::Ip([10, 0, 0, last].into())
    }

    #[test]
    fn one_address_never_has_all_the_places() {
        let strangers = Strangers::default();
        let mut greedy: Vec<_> = (0..100).map_while(|_| strangers.enter(from(1))).collect();
        assert_eq!(greedy.len(), FROM_ONE);
        assert!(strangers.enter(from(2)).is_some());
        greedy.pop();
        assert!(strangers.enter(from(1)).is_some(), "a place is given back");
        drop(greedy);
        let many: Vec<_> =
            (0..=255).flat_map(|last| [last; 5]).filter_map(|last| strangers.enter(from(last))).collect();
        assert_eq!((many.len(), strangers.enter(from(0)).is_none()), (ALL, true));
        drop(many);
        let counts = strangers.counts();
        assert_eq!((counts.all, counts.from.len()), (0, 0));
    }

    #[tokio::test]
    async fn who_comes_when_all_places_are_taken_waits_for_one() {
        let strangers = Strangers::default();
        strangers.room().await;
        let places = (0..=u8::MAX).flat_map(|last| [last; FROM_ONE]);
        let mut many: Vec<_> = places.map_while(|last| strangers.enter(from(last))).collect();
        assert_eq!(many.len(), ALL);
        let waiting = tokio::spawn({
            let strangers = strangers.clone();
            async move { strangers.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        many.pop();
        waiting.await.unwrap();
        assert!(strangers.enter(from(0)).is_none(), "from there are enough");
        assert!(strangers.enter(Origin::Vsock(3)).is_some());
    }
}
