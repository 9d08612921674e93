//! The daemon's side of the control socket.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use adit_path::{BoxFuture, Connect, Flow, Incoming, Listen, Network, Udp};
use rustix::fd::AsFd;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::message::{Decision, Ends, Info, Reply, Request};
use super::wire::{Connection, WireError};

/// How long a client may take to say what it wants.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Status updates of one watcher keep at least this distance.
const STATUS_PACE: Duration = Duration::from_millis(50);
/// Pause after the system refused to accept a connection, for example for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections kept for `info` and `down` when all others are taken.
const RESERVE: usize = 16;

/// What a daemon serves besides its network.
pub trait Service: Send + Sync + 'static {
    /// Who we are, and how we are.
    fn info(&self) -> Info;
    /// Verifies the daemon's own targets; the report, or why there is none.
    fn verify(&self) -> BoxFuture<'_, Result<serde_json::Value, String>>;
    /// Adds a local forward; where it listens, or why not.
    fn forward(&self, spec: String) -> BoxFuture<'_, Result<String, String>>;
    /// Begins the shutdown.
    fn stop(&self);
}

/// The control socket's server.
pub struct Server {
    listener: UnixListener,
    shared: Arc<Shared>,
    clients: usize,
}

struct Shared {
    network: Arc<dyn Network>,
    service: Arc<dyn Service>,
    operations: Arc<Semaphore>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Server {
    /// Serves `network` for at most `clients` operations at a time. Must be called within a tokio runtime.
    pub fn new(
        listener: StdUnixListener,
        network: Arc<dyn Network>,
        service: Arc<dyn Service>,
        clients: usize,
    ) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let operations = Arc::new(Semaphore::new(clients));
        Ok(Self {
            listener: UnixListener::from_std(listener)?,
            shared: Arc::new(Shared { network, service, operations }),
            clients,
        })
    }

    /// Serves until the future is dropped, which ends every conversation.
    pub async fn run(self) {
        let connections = Arc::new(Semaphore::new(self.clients + RESERVE));
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the control socket accepts no connection for now");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if !is_allowed(&stream) {
                continue;
            }
            let shared = Arc::clone(&self.shared);
            tasks.spawn(async move {
                if let Err(error) = converse(&shared, Connection::new(stream)).await {
                    tracing::debug!(%error, "a conversation on the control socket ended early");
                }
                drop(permit);
            });
        }
    }
}

/// Whether the peer runs as this user or as root.
fn is_allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if may_control(peer.uid(), own) => true,
        Ok(peer) => {
            tracing::warn!(
                uid = peer.uid(),
                pid = peer.pid(),
                "another user was refused at the control socket"
            );
            false
        }
        Err(error) => {
            tracing::warn!(%error, "a client of the control socket has no credentials");
            false
        }
    }
}

/// The rule: the same user, or root.
pub(super) fn may_control(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

async fn converse(shared: &Shared, mut connection: Connection) -> Result<(), WireError> {
    let Ok(body) = timeout(FIRST_REQUEST, connection.receive()).await else { return Ok(()) };
    let request = match Request::parse(&body?) {
        Ok(request) => request,
        Err(malformed) => {
            connection.send(&Reply::Refused(malformed.to_string())).await?;
            return Err(malformed.into());
        }
    };
    match request {
        Request::Info => return connection.send(&Reply::Info(Box::new(shared.service.info()))).await,
        Request::Down => return down(shared, &mut connection).await,
        _ => {}
    }
    let Ok(_permit) = shared.operations.try_acquire() else {
        return connection
            .send(&Reply::Refused("too many operations at the control socket".to_owned()))
            .await;
    };
    let network = &*shared.network;
    match request {
        Request::Watch => watch(network, &mut connection).await,
        Request::Resolve(query) => {
            let answer = while_connected(&mut connection, network.resolve(query)).await?;
            connection.send(&Reply::Resolved(answer)).await
        }
        Request::Connect { to, options } => connect(network, &mut connection, to, options).await,
        Request::Udp(options) => udp(network, &mut connection, options).await,
        Request::Listen { port, options } => listen(network, &mut connection, port, options).await,
        Request::Ping { to, kind } => {
            let pong = while_connected(&mut connection, network.ping(to, kind)).await?;
            connection.send(&Reply::Pong(pong)).await
        }
        Request::FindWay { to, timeout } => {
            let way = while_connected(&mut connection, network.find_way(to, timeout)).await?;
            connection.send(&Reply::Way(way)).await
        }
        Request::Capture => capture(network, &mut connection).await,
        Request::Verify => {
            let report = while_connected(&mut connection, shared.service.verify()).await?;
            connection.send(&Reply::Verified(report)).await
        }
        Request::Forward { spec } => {
            let listening = shared.service.forward(spec).await;
            connection.send(&Reply::Forwarded(listening)).await
        }
        Request::Attach
        | Request::Decide { .. }
        | Request::AttachAccepted { .. }
        | Request::Abandon { .. } => {
            connection.send(&Reply::Refused("a follow-up cannot begin a conversation".to_owned())).await
        }
        Request::Info | Request::Down => Ok(()),
    }
}

/// Runs an operation, and gives it up when the client goes away or says something out of turn.
async fn while_connected<T>(
    connection: &mut Connection,
    operation: impl Future<Output = T>,
) -> Result<T, WireError> {
    tokio::select! {
        outcome = operation => Ok(outcome),
        interruption = connection.receive() => Err(interruption.err().unwrap_or(WireError::OutOfTurn)),
    }
}

async fn down(shared: &Shared, connection: &mut Connection) -> Result<(), WireError> {
    connection.send(&Reply::Stopping).await?;
    shared.service.stop();
    // The end of this connection tells the client that everything is removed.
    connection.receive().await.map(drop)
}

async fn watch(network: &dyn Network, connection: &mut Connection) -> Result<(), WireError> {
    let mut status = network.status();
    loop {
        let current = status.borrow_and_update().clone();
        connection.send(&Reply::Status(Box::new(current))).await?;
        while_connected(connection, sleep(STATUS_PACE)).await?;
        if while_connected(connection, status.changed()).await?.is_err() {
            return Ok(());
        }
    }
}

async fn connect(
    network: &dyn Network,
    connection: &mut Connection,
    to: std::net::SocketAddr,
    options: Connect,
) -> Result<(), WireError> {
    let flow = match while_connected(connection, network.connect(to, options)).await? {
        Ok(flow) => flow,
        Err(failure) => return connection.send(&Reply::Connected(Err(failure))).await,
    };
    connection.send(&Reply::Connected(Ok(ends(&flow)))).await?;
    match Request::parse(&connection.receive().await?)? {
        Request::Attach => Ok(flow.attach(connection.descriptor()?)?),
        _ => Err(WireError::OutOfTurn),
    }
}

fn ends(flow: &Flow) -> Ends {
    Ends { local: flow.local(), peer: flow.peer() }
}

async fn udp(network: &dyn Network, connection: &mut Connection, options: Udp) -> Result<(), WireError> {
    match while_connected(connection, network.udp(options)).await? {
        Ok(flow) => {
            let reply = Reply::Udp(Ok(flow.local()));
            let descriptor = flow.into_fd();
            connection.send_with(&reply, descriptor.as_fd()).await
        }
        Err(failure) => connection.send(&Reply::Udp(Err(failure))).await,
    }
}

async fn capture(network: &dyn Network, connection: &mut Connection) -> Result<(), WireError> {
    match while_connected(connection, network.capture()).await? {
        Ok(capture) => connection.send_with(&Reply::Capturing(Ok(())), capture.into_fd().as_fd()).await,
        Err(failure) => connection.send(&Reply::Capturing(Err(failure))).await,
    }
}

enum Peer {
    Waiting(Incoming),
    Accepted(Flow),
}

async fn listen(
    network: &dyn Network,
    connection: &mut Connection,
    port: u16,
    options: Listen,
) -> Result<(), WireError> {
    let backlog = usize::from(options.backlog.max(1));
    let mut listener = match while_connected(connection, network.listen(port, options)).await? {
        Ok(listener) => listener,
        Err(failure) => return connection.send(&Reply::Listening(Err(failure))).await,
    };
    connection.send(&Reply::Listening(Ok(listener.port()))).await?;
    let mut next = 0;
    let mut peers = BTreeMap::new();
    let mut accepting = JoinSet::new();
    loop {
        tokio::select! {
            incoming = listener.next(), if peers.len() + accepting.len() < backlog => {
                let Some(incoming) = incoming else { return Ok(()) };
                let ends = Ends { local: incoming.local(), peer: incoming.peer() };
                peers.insert(next, Peer::Waiting(incoming));
                connection.send(&Reply::Incoming { id: next, ends }).await?;
                next += 1;
            }
            Some(Ok((id, outcome))) = accepting.join_next() => {
                let outcome: Result<Flow, _> = outcome;
                let reply = Reply::Accepted { id, outcome: outcome.as_ref().map(ends).map_err(Clone::clone) };
                if let Ok(flow) = outcome {
                    peers.insert(id, Peer::Accepted(flow));
                }
                connection.send(&reply).await?;
            }
            body = connection.receive() => match Request::parse(&body?)? {
                Request::Decide { id, decision } => {
                    let Some(Peer::Waiting(incoming)) = peers.remove(&id) else {
                        return Err(WireError::OutOfTurn);
                    };
                    match decision {
                        Decision::Accept => {
                            accepting.spawn(async move { (id, incoming.accept().await) });
                        }
                        Decision::Refuse => incoming.refuse(),
                        Decision::Ignore => incoming.ignore(),
                    }
                }
                Request::AttachAccepted { id } => {
                    let descriptor = connection.descriptor()?;
                    let Some(Peer::Accepted(flow)) = peers.remove(&id) else {
                        return Err(WireError::OutOfTurn);
                    };
                    if let Err(error) = flow.attach(descriptor) {
                        tracing::debug!(%error, "an accepted connection could not be attached");
                    }
                }
                Request::Abandon { id } => {
                    peers.remove(&id);
                }
                _ => return Err(WireError::OutOfTurn),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_user_and_root_may_control() {
        assert!(may_control(1000, 1000) && may_control(0, 1000) && may_control(0, 0));
        assert!(!may_control(1000, 1001) && !may_control(1000, 0));
    }
}
