//! Asking somebody else: questions that are not ours go to the upstream servers.
//!
//! hickory's UDP and TCP clients carry one question to one server (fresh random port and id,
//! reply matched by id, question and peer); which server is asked when, and what is taken for
//! an answer, is decided here. Its resolver is not used: it re-makes answers, and clients are to
//! have the upstream's rcode, authority section and flags as they are.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use hickory_net::{
    NetError,
    runtime::TokioRuntimeProvider,
    tcp::TcpClientStream,
    udp::UdpClientStream,
    xfer::{DnsHandle, DnsRequestSender, FirstAnswer},
};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, Message, ResponseCode};

use super::answer::{OUR_PAYLOAD, our_edns};

/// What a question may take in all. glibc's own patience is 5 s.
const BUDGET: Duration = Duration::from_millis(4_500);
/// What one server may take of it while others are left to ask.
const ATTEMPT: Duration = Duration::from_millis(1_500);
/// How long a server that did not answer is asked last.
const SHUNNED: Duration = Duration::from_secs(10);

/// Memory of which servers answer.
#[derive(Debug, Default)]
pub(super) struct Forwarder {
    /// Servers that did not answer, and until when they are asked last.
    silent: Mutex<HashMap<SocketAddr, Instant>>,
}

impl Forwarder {
    /// Asks `servers` in turn until one answers, and returns its answer as the reply to `query`.
    ///
    /// SERVFAIL and REFUSED are one server's trouble and not an answer while another can be
    /// asked. `None` when nobody answered within 4.5 s.
    pub(super) async fn forward(&self, servers: &[SocketAddr], query: &Message) -> Option<Message> {
        let end = Instant::now() + BUDGET;
        let servers = self.in_order(servers);
        let mut trouble = None;
        for (tried, server) in servers.iter().enumerate() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let patience = if tried + 1 == servers.len() { left } else { left.min(ATTEMPT) };
            match ask(*server, query, patience).await {
                Ok(answer) => {
                    self.heard(*server);
                    let reply = as_reply(answer, query);
                    let code = reply.metadata.response_code;
                    if !matches!(code, ResponseCode::ServFail | ResponseCode::Refused) {
                        return Some(reply);
                    }
                    trouble.get_or_insert(reply);
                }
                Err(error) => {
                    tracing::debug!(%server, %error, "upstream did not answer");
                    self.not_heard(*server);
                }
            }
        }
        trouble
    }

    /// `servers` as they are given, the silent ones last.
    fn in_order(&self, servers: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut ordered = servers.to_vec();
        if let Ok(mut silent) = self.silent.lock() {
            let now = Instant::now();
            silent.retain(|_, until| *until > now);
            ordered.sort_by_key(|server| silent.contains_key(server));
        }
        ordered
    }

    fn heard(&self, server: SocketAddr) {
        if let Ok(mut silent) = self.silent.lock() {
            silent.remove(&server);
        }
    }

    fn not_heard(&self, server: SocketAddr) {
        if let Ok(mut silent) = self.silent.lock() {
            silent.insert(server, Instant::now() + SHUNNED);
        }
    }
}

/// Asks one server over UDP, and over TCP when its answer did not fit or cannot be read.
async fn ask(server: SocketAddr, query: &Message, patience: Duration) -> Result<Message, NetError> {
    let end = Instant::now() + patience;
    let left = || end.saturating_duration_since(Instant::now());
    let over_udp = match ask_udp(server, as_request(query, true), left()).await {
        // A server from before EDNS (RFC 6891 section 7): ask it without.
        Ok(answer) if answer.metadata.response_code == ResponseCode::FormErr => {
            ask_udp(server, as_request(query, false), left()).await
        }
        other => other,
    };
    match over_udp {
        Ok(answer) if !answer.metadata.truncation => Ok(answer),
        // Cut is better than nothing: the client is told by TC.
        Ok(cut) => Ok(ask_tcp(server, query, left()).await.unwrap_or(cut)),
        // hickory reads no more than was offered; what overflows looks malformed.
        Err(NetError::Proto(_)) => ask_tcp(server, query, left()).await,
        Err(error) => Err(error),
    }
}

async fn ask_udp(server: SocketAddr, request: Message, patience: Duration) -> Result<Message, NetError> {
    let provider = TokioRuntimeProvider::new();
    let mut udp = UdpClientStream::builder(server, provider).with_timeout(Some(patience)).build();
    let request = DnsRequest::new(request, DnsRequestOptions::default());
    Ok(udp.send_message(request).first_answer().await?.into_message())
}

async fn ask_tcp(server: SocketAddr, query: &Message, patience: Duration) -> Result<Message, NetError> {
    // It owns the task that reads the connection, and ends it when dropped.
    let provider = TokioRuntimeProvider::new();
    let asking = async {
        let tcp = TcpClientStream::exchange(server, None, patience, None, provider.clone()).await?;
        let request = DnsRequest::new(as_request(query, true), DnsRequestOptions::default());
        tcp.send(request).first_answer().await
    };
    let answer = tokio::time::timeout(patience, asking).await.map_err(|_| NetError::Timeout)??;
    Ok(answer.into_message())
}

/// The client's question as we ask it: with an id of our own and room for a long answer, which
/// the client may not have offered, unless it is to be without EDNS.
fn as_request(query: &Message, with_edns: bool) -> Message {
    let mut request = Message::query();
    request.metadata.recursion_desired = query.metadata.recursion_desired;
    request.metadata.checking_disabled = query.metadata.checking_disabled;
    request.metadata.authentic_data = query.metadata.authentic_data;
    request.queries.clone_from(&query.queries);
    if with_edns {
        request.edns.insert(query.edns.clone().unwrap_or_default()).set_max_payload(OUR_PAYLOAD);
    }
    request
}

/// The upstream's answer as the client's reply: its id, its spelling of the question, our OPT.
fn as_reply(mut answer: Message, query: &Message) -> Message {
    answer.metadata.id = query.metadata.id;
    answer.queries.clone_from(&query.queries);
    answer.edns = our_edns(query);
    answer
}
