//! Questions for others: who is asked, in which order, for how long, and who waits for the answer.
//!
//! Equal questions in flight are one. There is always an answer: SERVFAIL at worst, within 4.5 s
//! (glibc's own patience is 5 s). It must not read packets from clients, or know local names.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::Semaphore,
    time::{timeout, timeout_at},
};

use super::{
    answer::without_records,
    asking::{ask, is_trouble},
    cache::{Cache, Kept, Key, KeyBuffer},
    client::{self, Client},
    counters::Counters,
    packet::{Code, MAX_NAME, Query, flag},
    relayed::{Age, Answer, has_options},
    settings::{Route, ServerAddress, Settings},
    upstream::Server,
};
use crate::names::{fold, is_at_or_below};

/// What a question may take in all.
const BUDGET: Duration = Duration::from_millis(4_500);
/// What it may take when there is a stale answer (RFC 8767 section 5: 1.8 s).
const STALE_BUDGET: Duration = Duration::from_millis(1_800);
/// Clients that may wait for answers at one time. Each keeps a question of some 100 bytes.
const WAITING: usize = 4_096;

/// The relay.
#[derive(Debug)]
pub(super) struct Relay {
    table: RwLock<Arc<Table>>,
    cache: Mutex<Cache>,
    waiting: AtomicUsize,
    turn: AtomicU32,
    counters: Arc<Counters>,
}

/// Who is asked for what, and what is being asked of them.
#[derive(Debug)]
struct Table {
    /// The longest domains first.
    routes: Vec<Below>,
    /// What they were made of.
    asked: Vec<Route>,
    refuse_private_answers: bool,
    in_flight: usize,
    /// One for each question that is at upstreams.
    permits: Semaphore,
    /// Questions that wait for one.
    queue: AtomicUsize,
    /// Who waits for an answer that is being asked for.
    flights: Mutex<HashMap<Key, Vec<Waiting>>>,
}

/// Servers that are asked for what is at or below a domain.
#[derive(Debug)]
struct Below {
    domain: Box<[u8]>,
    servers: Vec<Arc<Server>>,
}

/// A question and who asked it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) packet: Box<[u8]>,
    pub(super) client: Client,
}

impl Relay {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self {
            table: RwLock::new(Arc::new(Table::new(&Settings::default(), &[]))),
            cache: Mutex::default(),
            waiting: AtomicUsize::new(0),
            turn: AtomicU32::new(0),
            counters,
        }
    }

    /// Asks these servers from now on. What is known of a server that was there before stays; what
    /// others have said is forgotten.
    pub(super) fn configure(&self, settings: &Settings) {
        let before = self.table();
        let known: Vec<_> = before.routes.iter().flat_map(|below| below.servers.iter().cloned()).collect();
        let table = Table::new(settings, &known);
        let (asked, refuses) = (&table.asked, table.refuse_private_answers);
        let others = (&before.asked, before.refuse_private_answers) != (asked, refuses);
        // First the table: what is kept after the cache was emptied is these servers' word.
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        let mut cache = self.cache();
        cache.bound(settings.cache_bytes, settings.stale);
        if others {
            cache.flush();
        }
    }

    /// Forgets what upstreams have answered.
    pub(super) fn flush(&self) {
        self.cache().flush();
    }

    /// Answers from the cache, if it can: how long the answer in `out` is.
    pub(super) fn find_in_cache(
        &self,
        query: &Query<'_>,
        udp: bool,
        now: Instant,
        out: &mut [u8],
    ) -> Option<usize> {
        if has_options(query) {
            return None;
        }
        let key = KeyBuffer::of(query);
        match self.cache().find(key.as_slice(), now)? {
            Kept::Fresh(answer, age) => Some(answer.reply(query, udp, age, out)),
            Kept::Stale(_) => None,
        }
    }

    /// Takes a question. It is answered later.
    pub(super) fn take(self: &Arc<Self>, asked: Waiting) {
        let Ok(query) = Query::read(&asked.packet) else { return };
        if self.waiting.fetch_add(1, Relaxed) >= WAITING {
            self.counters.dropped.add();
            return self.answer(asked, None);
        }
        let table = self.table();
        // Its options may have been meant for it alone.
        let key = (!has_options(&query)).then(|| KeyBuffer::of(&query).to_key());
        if let Some(key) = &key {
            let mut flights = table.flights();
            if let Some(others) = flights.get_mut(key) {
                self.counters.coalesced.add();
                others.push(asked);
                return;
            }
            flights.insert(key.clone(), Vec::new());
        }
        let relay = Arc::clone(self);
        tokio::spawn(async move { relay.fly(table, asked, key).await });
    }

    /// Asks, and answers everybody who waits.
    async fn fly(&self, table: Arc<Table>, first: Waiting, key: Option<Key>) {
        let packet = first.packet.clone();
        let Ok(query) = Query::read(&packet) else { return };
        let now = Instant::now();
        let stale = key.as_ref().and_then(|key| self.stale(key, now));
        let mut resolving = pin!(self.resolve(&table, &query, key.as_ref(), now));
        let mut waiting = vec![first];
        let answer = match &stale {
            None => resolving.await,
            Some(_) if table.is_silent(&query, now) => None,
            Some(_) => {
                if let Ok(answer) = timeout(STALE_BUDGET, &mut resolving).await {
                    answer
                } else {
                    // They have waited long enough; what is asked for is for those who come later.
                    waiting.extend(table.joined(key.as_ref()));
                    waiting.drain(..).for_each(|waiting| self.answer(waiting, stale.as_ref()));
                    resolving.await
                }
            }
        };
        // Somebody's trouble is not better than what was known.
        let answer = answer.filter(|(answer, _)| stale.is_none() || !is_trouble(answer)).or(stale);
        waiting.extend(table.landed(key.as_ref()));
        for waiting in waiting {
            self.answer(waiting, answer.as_ref());
        }
    }

    /// What upstreams say, within the budget from `now` on.
    async fn resolve(
        &self,
        table: &Table,
        query: &Query<'_>,
        key: Option<&Key>,
        now: Instant,
    ) -> Option<(Answer, Age)> {
        let generation = self.cache().generation();
        let (domain, servers) = table.servers(query);
        let end = now + BUDGET;
        let _permit = table.permit(end, &self.counters).await?;
        let answer = ask(servers, query, self.turn.fetch_add(1, Relaxed), end).await?;
        if table.refuse_private_answers && domain.is_empty() && answer.leads_inside() {
            return Some((answer.refused(), Age::New));
        }
        if let Some(key) = key {
            self.cache().insert(key.clone(), &answer, generation, Instant::now());
        }
        Some((answer, Age::New))
    }

    fn stale(&self, key: &Key, now: Instant) -> Option<(Answer, Age)> {
        match self.cache().find(key.as_slice(), now)? {
            Kept::Stale(answer) => Some((answer.clone(), Age::Stale)),
            Kept::Fresh(..) => None,
        }
    }

    /// Answers one who waited: by SERVFAIL where there is no answer.
    fn answer(&self, asked: Waiting, answer: Option<&(Answer, Age)>) {
        self.waiting.fetch_sub(1, Relaxed);
        let Ok(query) = Query::read(&asked.packet) else { return };
        client::write(|reply| {
            let udp = asked.client.is_udp();
            let length = match answer {
                Some((answer, age)) => answer.reply(&query, udp, *age, reply),
                None => without_records(&query, udp, Code::ServFail, reply),
            };
            if matches!(answer, Some((_, Age::Stale))) {
                self.counters.stale.add();
            }
            if reply[3] & flag::RCODE == Code::ServFail as u8 {
                self.counters.failed.add();
            }
            asked.client.send(&reply[..length]);
        });
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // Nothing panics while it is held; the same for the others.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// A table of these settings, with those servers of `known` that are in it.
    fn new(settings: &Settings, known: &[Arc<Server>]) -> Self {
        let mut known = known.to_vec();
        let mut server = |at: &ServerAddress| {
            if let Some(known) = known.iter().find(|known| known.at() == at) {
                return Arc::clone(known);
            }
            let new = Arc::new(Server::new(at.clone()));
            known.push(Arc::clone(&new));
            new
        };
        let mut routes: Vec<Below> = Vec::new();
        for Route { domain, servers } in &settings.routes {
            let servers = servers.iter().map(&mut server);
            match routes.iter_mut().find(|known| known.domain == *domain) {
                Some(known) => known.servers.extend(servers),
                None => routes.push(Below { domain: domain.clone(), servers: servers.collect() }),
            }
        }
        routes.sort_by_key(|below| std::cmp::Reverse(below.domain.len()));
        Self {
            routes,
            asked: settings.routes.clone(),
            refuse_private_answers: settings.refuse_private_answers,
            in_flight: settings.in_flight,
            permits: Semaphore::new(settings.in_flight),
            queue: AtomicUsize::new(0),
            flights: Mutex::default(),
        }
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Key, Vec<Waiting>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who have joined a question so far, which goes on.
    fn joined(&self, key: Option<&Key>) -> Vec<Waiting> {
        key.and_then(|key| self.flights().get_mut(key).map(std::mem::take)).unwrap_or_default()
    }

    /// Those who have joined a question, which is over.
    fn landed(&self, key: Option<&Key>) -> Vec<Waiting> {
        key.and_then(|key| self.flights().remove(key)).unwrap_or_default()
    }

    /// Whether none of those who would be asked is expected to answer.
    fn is_silent(&self, query: &Query<'_>, now: Instant) -> bool {
        let (_, servers) = self.servers(query);
        servers.iter().all(|server| server.health().is_shunned(now))
    }

    /// Who is asked for a name, and below which domain.
    fn servers(&self, query: &Query<'_>) -> (&[u8], &[Arc<Server>]) {
        let mut folded = [0; MAX_NAME];
        let name = fold(query.name(), &mut folded);
        let route = self.routes.iter().find(|below| is_at_or_below(name, &below.domain));
        route.map(|below| (&*below.domain, &*below.servers)).unwrap_or_default()
    }

    /// Waits for a place among the questions in flight. `None` when as many wait already, or the
    /// time is over.
    async fn permit(&self, end: Instant, counters: &Counters) -> Option<tokio::sync::SemaphorePermit<'_>> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Some(permit);
        }
        let place = self.queue.fetch_add(1, Relaxed);
        let permit = if place < self.in_flight {
            timeout_at(end.into(), self.permits.acquire()).await.ok().and_then(Result::ok)
        } else {
            None
        };
        self.queue.fetch_sub(1, Relaxed);
        if permit.is_none() {
            counters.dropped.add();
        }
        permit
    }
}
