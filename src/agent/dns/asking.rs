//! Asking several servers until one answers: the next when one is late, silent or in trouble.
//!
//! A server that is late is still listened to while the next is asked. It must not know who waits
//! for the answer, or what was known before.

use std::{sync::Arc, time::Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::sleep_until;

use super::{
    health::{self, Turn},
    packet::{Code, Query},
    relayed::Answer,
    upstream::Server,
};

/// The most servers that are asked one question: each has a socket until the question's end.
const SERVERS: usize = 4;

/// Asks until one of the servers answers, or `end`. When none does, what one of them said that has
/// trouble of its own.
pub(super) async fn ask(
    servers: &[Arc<Server>],
    query: &Query<'_>,
    turn: u32,
    end: Instant,
) -> Option<Answer> {
    let healths: Vec<_> = servers.iter().map(|server| *server.health()).collect();
    let Turn { order, probe } = health::turn(&healths, turn, Instant::now());
    if let Some(probed) = probe {
        Arc::clone(&servers[probed]).probe(query);
    }
    let mut to_ask = order.into_iter().take(SERVERS);
    let mut asked = FuturesUnordered::new();
    // Those that were asked and have not answered, and since when.
    let mut open: Vec<(usize, Instant)> = Vec::new();
    let mut trouble = None;
    loop {
        let mut next_at = end;
        if let Some(n) = to_ask.next() {
            let (server, began) = (&servers[n], Instant::now());
            open.push((n, began));
            next_at = (began + server.health().patience()).min(end);
            asked.push(async move { (n, server.ask(query).await) });
        } else if asked.is_empty() {
            break;
        }
        tokio::select! {
            Some((n, result)) = asked.next() => {
                open.retain(|(open, _)| *open != n);
                match result {
                    Ok(answer) if !is_trouble(&answer) => {
                        missed(servers, &open);
                        return Some(answer);
                    }
                    Ok(answer) => drop(trouble.get_or_insert(answer)),
                    Err(error) => {
                        let server = servers[n].at().address;
                        tracing::debug!(%server, %error, "upstream did not answer");
                    }
                }
            }
            () = sleep_until(next_at.into()) => {
                if Instant::now() >= end {
                    break;
                }
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

/// Notes who has not answered.
fn missed(servers: &[Arc<Server>], open: &[(usize, Instant)]) {
    let now = Instant::now();
    for (n, began) in open {
        servers[*n].health().missed(now.saturating_duration_since(*began), now);
    }
}
