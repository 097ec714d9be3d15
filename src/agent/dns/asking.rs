//! Asking several servers until one answers: the next when one is late, silent or in trouble.
//!
//! A server that is late is still listened to while the next is asked. It must not know who waits
//! for the answer, or what was known before.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::sleep_until;

use super::{
    health,
    packet::{Code, Query},
    relayed::Answer,
    upstream::Server,
};

/// How often each server is asked: a datagram may be lost.
const ROUNDS: usize = 3;

/// Asks until one of the servers answers, or `end`. When none does, what one of them said that has
/// trouble of its own.
pub(super) async fn ask(
    servers: &[Arc<Server>],
    query: &Query<'_>,
    turn: u32,
    end: Instant,
) -> Option<Answer> {
    let healths: Vec<_> = servers.iter().map(|server| *server.health()).collect();
    let (order, at_once) = health::order(&healths, turn, Instant::now());
    let mut to_ask: VecDeque<usize> = (0..ROUNDS).flat_map(|_| order.iter().copied()).collect();
    let mut asked = FuturesUnordered::new();
    // Those that were asked and have not answered, and since when.
    let mut open: Vec<(usize, Instant)> = Vec::new();
    let mut trouble = None;
    let mut next_at = end;
    let mut wanted = at_once.max(1);
    loop {
        while wanted > 0 {
            wanted -= 1;
            let Some(n) = to_ask.pop_front() else { break };
            let began = Instant::now();
            let round = open.iter().filter(|(open, _)| *open == n).count();
            open.push((n, began));
            next_at = began + servers[n].health().patience() * (1 << round);
            let server = &servers[n];
            asked.push(async move { (n, began, server.ask(query).await) });
        }
        if asked.is_empty() {
            break;
        }
        if to_ask.is_empty() {
            next_at = end;
        }
        tokio::select! {
            Some((n, began, result)) = asked.next() => match result {
                Ok(answer) => {
                    servers[n].health().answered(began.elapsed());
                    open.retain(|(open, _)| *open != n);
                    if !is_trouble(&answer) {
                        missed(servers, &open);
                        return Some(answer);
                    }
                    trouble.get_or_insert(answer);
                    to_ask.retain(|other| *other != n);
                    wanted = others(&to_ask, &open);
                }
                Err(error) => {
                    tracing::debug!(server = %servers[n].at().address, %error, "upstream did not answer");
                    servers[n].health().failed(Instant::now());
                    open.retain(|(open, _)| *open != n);
                    to_ask.retain(|other| *other != n);
                    wanted = others(&to_ask, &open);
                }
            },
            () = sleep_until(next_at.min(end).into()) => {
                if Instant::now() >= end {
                    break;
                }
                wanted = 1;
            }
        }
    }
    missed(servers, &open);
    trouble
}

/// One server's trouble, which is not an answer while another can be asked.
pub(super) fn is_trouble(answer: &Answer) -> bool {
    matches!(Code::of(answer.code()), Some(Code::ServFail | Code::Refused | Code::NotImp | Code::FormErr))
}

/// One, if the next to be asked has not been asked yet: who has is given its time.
fn others(to_ask: &VecDeque<usize>, open: &[(usize, Instant)]) -> usize {
    to_ask.front().is_some_and(|next| open.iter().all(|(open, _)| open != next)).into()
}

/// Notes who has not answered.
fn missed(servers: &[Arc<Server>], open: &[(usize, Instant)]) {
    let now = Instant::now();
    for (n, server) in servers.iter().enumerate() {
        if let Some((_, began)) = open.iter().find(|(open, _)| *open == n) {
            server.health().missed(now.saturating_duration_since(*began), now);
        }
    }
}
