//! Relaying datagrams: each peer of the front gets an endpoint of its own behind it.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_path::UdpSocket as InsideSocket;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// A peer that is silent for so long is forgotten. RFC 4787 REQ-5 asks for two minutes at least.
const IDLE: Duration = Duration::from_secs(120);
/// Peers at a time; the one that was silent the longest makes room.
const MAX_PEERS: usize = 512;
/// Datagrams that wait for a peer's endpoint; further ones are lost.
const QUEUE: usize = 64;
const MAX_DATAGRAM: usize = 65_535;

/// A datagram socket on either side.
#[derive(Debug)]
pub(super) enum Datagrams {
    /// A socket of this machine.
    Machine(UdpSocket),
    /// An endpoint inside the network.
    Inside(InsideSocket),
}

impl Datagrams {
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self {
            Self::Machine(socket) => socket.recv_from(buffer).await,
            Self::Inside(socket) => socket.recv_from(buffer).await,
        }
    }

    async fn send(&self, payload: &[u8], to: SocketAddr) -> io::Result<()> {
        match self {
            Self::Machine(socket) => socket.send_to(payload, to).await.map(drop),
            Self::Inside(socket) => socket.send_to(payload, to).await,
        }
    }
}

/// Relays until the front is closed. `open` makes a peer's endpoint and names its destination.
pub(super) async fn relay<F, O>(front: Datagrams, open: O)
where
    F: Future<Output = io::Result<(Datagrams, SocketAddr)>> + Send + 'static,
    O: Fn() -> F,
{
    let front = Arc::new(front);
    let mut peers: HashMap<SocketAddr, (Instant, mpsc::Sender<Vec<u8>>)> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        while tasks.try_join_next().is_some() {}
        let (len, from) = match front.receive(&mut buffer).await {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
            // An ICMP error for an earlier datagram.
            Err(_) => continue,
        };
        peers.retain(|_, (_, sender)| !sender.is_closed());
        if !peers.contains_key(&from) && peers.len() >= MAX_PEERS {
            forget_one(&mut peers);
        }
        let (last, sender) = peers.entry(from).or_insert_with(|| {
            let (sender, queue) = mpsc::channel(QUEUE);
            tasks.spawn(serve(Arc::clone(&front), from, queue, open()));
            (Instant::now(), sender)
        });
        *last = Instant::now();
        // A full queue loses datagrams, as every network does.
        let _lost = sender.try_send(buffer[..len].to_vec());
    }
}

fn forget_one(peers: &mut HashMap<SocketAddr, (Instant, mpsc::Sender<Vec<u8>>)>) {
    if let Some(oldest) = peers.iter().min_by_key(|(_, (last, _))| *last).map(|(peer, _)| *peer) {
        peers.remove(&oldest);
    }
}

/// Serves one peer until it is idle or forgotten.
async fn serve(
    front: Arc<Datagrams>,
    peer: SocketAddr,
    mut queue: mpsc::Receiver<Vec<u8>>,
    open: impl Future<Output = io::Result<(Datagrams, SocketAddr)>>,
) {
    let (back, to) = match open.await {
        Ok(opened) => opened,
        Err(error) => return tracing::debug!(%peer, %error, "datagrams of a peer were dropped"),
    };
    let mut buffer = vec![0; MAX_DATAGRAM];
    let mut until = Instant::now() + IDLE;
    loop {
        tokio::select! {
            datagram = queue.recv() => {
                let Some(datagram) = datagram else { return };
                let _lost = back.send(&datagram, to).await;
            }
            received = back.receive(&mut buffer) => match received {
                Ok((len, from)) if from == to => {
                    let _lost = front.send(&buffer[..len], peer).await;
                }
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
                Err(_) => continue,
            },
            () = sleep_until(until) => return,
        }
        until = Instant::now() + IDLE;
    }
}
