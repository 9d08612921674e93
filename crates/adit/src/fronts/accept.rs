//! Accepting connections: bounded, and unimpressed by a want of descriptors.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Pause after the system refused to accept a connection, for example for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a refused client may take to read why.
const LINGER: Duration = Duration::from_secs(2);

/// Serves at most `limit` connections at a time; further ones wait in the kernel. Ends when it is dropped, and
/// takes the tasks with it.
pub(super) async fn run<F, S>(listener: TcpListener, limit: usize, serve: S)
where
    F: Future<Output = ()> + Send + 'static,
    S: Fn(TcpStream, SocketAddr) -> F,
{
    let permits = Arc::new(Semaphore::new(limit));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, from)) => {
                let served = serve(client, from);
                tasks.spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted for now");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Closes so that the client can read what it was told last: a close with unread bytes would reset the
/// connection and take the answer with it (RFC 9112 §9.6).
pub(super) async fn linger(mut client: TcpStream) -> io::Result<()> {
    client.shutdown().await?;
    let mut sink = vec![0; 4096];
    let drain = async { while client.read(&mut sink).await.is_ok_and(|read| read > 0) {} };
    // Who still sends after that has had the time to read.
    let _late = timeout(LINGER, drain).await;
    Ok(())
}
