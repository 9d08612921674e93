//! A relay with a STUN server on sockets of this machine.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use adit_tailscale::derp::frame::server::put_health;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::net::{Relay, Served, Server as _};

/// Frames that wait for a client.
const QUEUE: usize = 64;

/// A relay that serves as long as its runtime runs.
pub(super) struct Relayed {
    /// Where it listens with TCP; the STUN server has a port of its own.
    pub(super) derp: SocketAddr,
    pub(super) stun: SocketAddr,
    pub(super) handle: Handle,
}

/// What an administrator of the relay may do.
pub(super) struct Handle(Arc<Mutex<Clients>>);

impl Handle {
    /// Sends every client this text about its connection.
    pub(super) fn say(&self, text: &str) {
        let mut frame = Vec::new();
        put_health(&mut frame, text);
        for reply in self.0.lock().unwrap_or_else(PoisonError::into_inner).replies.values() {
            // A client that does not keep up misses it.
            let _ = reply.try_send(frame.clone());
        }
    }
}

#[derive(Default)]
struct Clients {
    relay: Relay,
    next: u64,
    replies: std::collections::BTreeMap<u64, Sender<Vec<u8>>>,
}

impl Clients {
    fn serve(&mut self, served: Served<'_>) {
        let Self { relay, replies, .. } = self;
        relay.handle(Instant::now(), served, &mut |stream, _, bytes| {
            if let Some(reply) = replies.get(&stream) {
                // A client that does not keep up loses packets, as with every relay.
                let _ = reply.try_send(bytes);
            }
        });
    }
}

pub(super) async fn start() -> io::Result<Relayed> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (derp, stun) = (listener.local_addr()?, socket.local_addr()?);
    let clients = Arc::new(Mutex::new(Clients::default()));
    let (answering, handle) = (Arc::clone(&clients), Handle(Arc::clone(&clients)));
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let answer = {
                let mut clients = answering.lock().unwrap_or_else(PoisonError::into_inner);
                clients.relay.handle_datagram(from, buffer.get(..length).unwrap_or_default())
            };
            if let Some(answer) = answer {
                // A datagram may be lost anywhere.
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (reply, replies) = channel(QUEUE);
            let id = {
                let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
                clients.next += 1;
                let id = clients.next;
                clients.replies.insert(id, reply);
                clients.serve(Served::Opened { stream: id, at: derp });
                id
            };
            tokio::spawn(connection(stream, id, replies, Arc::clone(&clients)));
        }
    });
    Ok(Relayed { derp, stun, handle })
}

async fn connection(
    mut stream: TcpStream,
    id: u64,
    mut replies: Receiver<Vec<u8>>,
    clients: Arc<Mutex<Clients>>,
) {
    let _ = stream.set_nodelay(true);
    let (mut incoming, mut outgoing) = stream.split();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        tokio::select! {
            read = incoming.read(&mut buffer) => match read {
                Ok(length) if length > 0 => {
                    let data = buffer.get(..length).unwrap_or_default();
                    let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
                    clients.serve(Served::Data { stream: id, data });
                }
                _ => break,
            },
            reply = replies.recv() => match reply {
                Some(bytes) => if outgoing.write_all(&bytes).await.is_err() { break },
                None => break,
            },
        }
    }
    let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
    clients.replies.remove(&id);
    clients.serve(Served::Closed { stream: id });
}
