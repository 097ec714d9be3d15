//! Clients over TCP (RFC 7766): many questions on a connection, answered as the answers come.
//!
//! Bounded: so many connections, so many answers that wait on each, so long idle. A client that is
//! idle, broken or does not read costs the others nothing.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::Shared;

/// Connections that may be open at one time; more wait to be accepted.
const CONNECTIONS: usize = 64;
/// How long a connection may be idle (RFC 7766 section 6.2.3 leaves the number to us).
const IDLE: Duration = Duration::from_secs(10);
/// Questions of one connection that may wait for their answers.
const PIPELINED: usize = 64;

/// Serves the connections of a listener, for ever.
pub(super) async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    // They end with the listener.
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                open.spawn(async move {
                    serve_connection(stream, &shared).await;
                    drop(permit);
                });
            }
            // Out of file descriptors, most likely: give others time to close theirs.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Serves the questions of one connection as they come, until it is closed, idle or broken.
async fn serve_connection(stream: TcpStream, shared: &Arc<Shared>) {
    // Answers are written whole.
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.into_split();
    let (answers, mut to_write) = mpsc::channel::<Vec<u8>>(PIPELINED);
    let writing = async move {
        while let Some(answer) = to_write.recv().await {
            let length = u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes();
            let bytes = [&length[..], &answer].concat();
            if !matches!(timeout(IDLE, writer.write_all(&bytes)).await, Ok(Ok(()))) {
                break;
            }
        }
    };
    let reading = async move {
        while let Ok(Ok(length)) = timeout(IDLE, reader.read_u16()).await {
            let mut packet = vec![0; usize::from(length)];
            if !matches!(timeout(IDLE, reader.read_exact(&mut packet)).await, Ok(Ok(_))) {
                break;
            }
            // Its place is there before the question is: the answer cannot be in anybody's way.
            let Ok(place) = answers.clone().reserve_owned().await else { break };
            if !shared.answer_on_stream(packet, place) {
                break;
            }
        }
    };
    tokio::join!(reading, writing);
}
