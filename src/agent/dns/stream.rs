//! Clients over TCP (RFC 7766): many questions on a connection, answered as the answers come.
//!
//! Bounded: so many connections, so many answers that wait on each, so long idle. A client that is
//! idle, broken or does not read costs the others nothing.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Shared, packet::LONGEST_QUESTION};

/// Connections that may be open at one time; more wait to be accepted.
const CONNECTIONS: usize = 64;
/// How long a connection may be idle (RFC 7766 section 6.2.3 leaves the number to us).
const IDLE: Duration = Duration::from_secs(10);
/// Questions of one connection that may wait for their answers.
const PIPELINED: usize = 64;
/// Bytes of answers that may wait to be written, on all connections of a listener. A client that
/// asks for more and does not read it is hung up on.
const UNWRITTEN: usize = 4 << 20;

/// A place for an answer on a connection.
#[derive(Debug)]
pub(super) struct Place {
    answers: mpsc::OwnedPermit<Answer>,
    unwritten: Arc<Semaphore>,
}

/// An answer that waits to be written, `None` when there are too many.
type Answer = Option<(Vec<u8>, OwnedSemaphorePermit)>;

impl Place {
    /// Takes an answer.
    pub(super) fn send(self, answer: &[u8]) {
        let bytes = u32::try_from(answer.len()).unwrap_or(u32::MAX);
        let permit = self.unwritten.try_acquire_many_owned(bytes).ok();
        self.answers.send(permit.map(|permit| (answer.to_vec(), permit)));
    }
}

/// Serves the connections of a listener, for ever.
pub(super) async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let unwritten = Arc::new(Semaphore::new(UNWRITTEN));
    // They end with the listener.
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (shared, unwritten) = (Arc::clone(&shared), Arc::clone(&unwritten));
                open.spawn(async move {
                    serve_connection(stream, &shared, &unwritten).await;
                    drop(permit);
                });
            }
            // Out of file descriptors, most likely: give others time to close theirs.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Serves the questions of one connection as they come, until it is closed, idle or broken.
async fn serve_connection(stream: TcpStream, shared: &Arc<Shared>, unwritten: &Arc<Semaphore>) {
    // Answers are written whole.
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.into_split();
    let (answers, mut to_write) = mpsc::channel::<Answer>(PIPELINED);
    let writing = async move {
        while let Some(Some((answer, _permit))) = to_write.recv().await {
            let length = u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes();
            let bytes = [&length[..], &answer].concat();
            if !matches!(timeout(IDLE, writer.write_all(&bytes)).await, Ok(Ok(()))) {
                break;
            }
        }
    };
    let reading = async move {
        while let Ok(Ok(length)) = timeout(IDLE, reader.read_u16()).await {
            if usize::from(length) > LONGEST_QUESTION {
                break;
            }
            let mut packet = vec![0; usize::from(length)];
            if !matches!(timeout(IDLE, reader.read_exact(&mut packet)).await, Ok(Ok(_))) {
                break;
            }
            // Its place is there before the question is: the answer cannot be in anybody's way.
            let Ok(place) = answers.clone().reserve_owned().await else { break };
            let place = Place { answers: place, unwritten: Arc::clone(unwritten) };
            if !shared.answer_on_stream(packet, place) {
                break;
            }
        }
    };
    tokio::join!(reading, writing);
}
