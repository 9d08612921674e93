//! A running `adit up` as a [`Network`], through its control socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use adit_path::{
    Answer, BoxFuture, Capture, CaptureFailure, Connect, ConnectFailure, Destination, Flow, FlowHandle,
    Listen, ListenFailure, Listener, Network, Ownership, Phase, PingFailure, PingKind, Pong, Query,
    ResolveFailure, Status, Udp, UdpFailure, UdpFlow, WayFailure,
};
use adit_tunnel::{Fault, Way};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use super::listening;
use super::message::{self, Ends, Info, Reply, Request};
use super::server::may_control;
use super::wire::{Connection, WireError};

/// How long the daemon may take beyond what an operation itself may.
const GRACE: Duration = Duration::from_secs(5);
/// How long the daemon may take to shut down.
const SHUTDOWN: Duration = Duration::from_secs(30);
/// How often a daemon that is gone is looked for.
const RETURN: Duration = Duration::from_secs(1);
/// How long a verification may take.
const VERIFICATION: Duration = Duration::from_secs(300);

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing serves the socket.
    #[error("no `adit up` is running at {}", .0.display())]
    NotRunning(PathBuf),
    /// The socket is served by somebody else.
    #[error("the control socket {} is served by uid {uid}, not by this user", .path.display())]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// Who serves it.
        uid: u32,
    },
    /// The socket is not ours to use.
    #[error("the control socket {} belongs to another user", .0.display())]
    Forbidden(PathBuf),
    /// The daemon did not answer in time.
    #[error("the running `adit up` does not answer")]
    Silent,
    /// The daemon refused: its own words.
    #[error("{0}")]
    Refused(String),
    /// The daemon said something that does not answer the question: most likely it is of another version.
    #[error("the running `adit up` gave an answer that this version does not understand")]
    Unexpected,
    /// The conversation broke off.
    #[error("the conversation with the running `adit up` broke off: {0}")]
    Broken(WireError),
}

impl From<WireError> for ClientError {
    fn from(error: WireError) -> Self {
        Self::Broken(error)
    }
}

/// A daemon's network. Cheap to ask: `owns` and `status` are answered from what the daemon publishes.
///
/// Works from any thread and any executor; its own input and output run on the tokio runtime that made it.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    follow: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// The profile and the file that the daemon serves.
    served: (String, Option<PathBuf>),
    /// Whether it is there. Whoever else serves the path meanwhile is asked nothing.
    attached: AtomicBool,
    runtime: Handle,
    status: watch::Sender<Status>,
    ownership: RwLock<Ownership>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.follow.abort();
    }
}

impl Client {
    /// Attaches to the daemon at `path`. Must be called within a tokio runtime with I/O and time enabled.
    ///
    /// When the daemon ends the network is [`Closed`](Phase::Closed): what belongs to it stays unreachable. When one
    /// for the same profile comes back at the same place, the client attaches to it again.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        Self::connect_within(path, GRACE).await
    }

    pub(super) async fn connect_within(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        let mut connection = dial(path).await?;
        connection.send(&Request::Watch).await?;
        let first =
            timeout(patience, next_status(&mut connection)).await.map_err(|_| ClientError::Silent)??;
        let info = match ask(path, &Request::Info, patience).await? {
            Reply::Info(info) => info,
            other => return Err(unexpected(other)),
        };
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            served: (info.profile, info.file),
            attached: AtomicBool::new(true),
            runtime: Handle::current(),
            status: watch::Sender::new(Status::default()),
            ownership: RwLock::default(),
        });
        shared.publish(first);
        let follower = Arc::clone(&shared);
        let follow = tokio::spawn(async move {
            loop {
                while let Ok(status) = next_status(&mut connection).await {
                    follower.publish(status);
                }
                follower.gone();
                connection = follower.come_back().await;
            }
        });
        Ok(Self { shared, follow: follow.abort_handle() })
    }

    /// The daemon's control socket.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The file that the daemon's profile comes from.
    pub fn file(&self) -> Option<&Path> {
        self.shared.served.1.as_deref()
    }

    /// What the daemon says about itself.
    pub async fn info(&self) -> Result<Info, ClientError> {
        info(&self.shared.path).await
    }

    /// Lets the daemon verify its targets; returns the report.
    pub async fn verify(&self) -> Result<serde_json::Value, ClientError> {
        match ask(&self.shared.path, &Request::Verify, VERIFICATION).await? {
            Reply::Verified(outcome) => outcome.map_err(ClientError::Refused),
            other => Err(unexpected(other)),
        }
    }

    /// Adds a local forward; returns where it listens.
    pub async fn forward(&self, spec: &str) -> Result<String, ClientError> {
        let request = Request::Forward { spec: spec.to_owned() };
        match ask(&self.shared.path, &request, GRACE).await? {
            Reply::Forwarded(outcome) => outcome.map_err(ClientError::Refused),
            other => Err(unexpected(other)),
        }
    }
}

/// What the daemon at `path` says about itself.
pub async fn info(path: &Path) -> Result<Info, ClientError> {
    match ask(path, &Request::Info, GRACE).await? {
        Reply::Info(info) => Ok(*info),
        other => Err(unexpected(other)),
    }
}

/// Shuts the daemon at `path` down; returns when it has removed what it made.
pub async fn down(path: &Path) -> Result<(), ClientError> {
    let mut connection = dial(path).await?;
    connection.send(&Request::Down).await?;
    let gone = async {
        loop {
            match connection.receive().await {
                Ok(_) => {}
                Err(WireError::Closed) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    };
    timeout(SHUTDOWN, gone).await.map_err(|_| ClientError::Silent)?
}

impl Shared {
    fn gone(&self) {
        self.attached.store(false, Ordering::Release);
        tracing::warn!("the running `adit up` is gone; its network is unreachable until it is back");
        self.status.send_modify(|status| {
            status.phase = Phase::Closed;
            status.fault = Some(Fault {
                class: "env.daemon_gone".to_owned(),
                summary: "the running `adit up` is gone".to_owned(),
                evidence: Vec::new(),
            });
        });
    }

    /// Waits for a daemon that serves the same profile.
    async fn come_back(&self) -> Connection {
        loop {
            tokio::time::sleep(RETURN).await;
            match self.again().await {
                Ok(connection) => {
                    tracing::warn!("`adit up` is back");
                    return connection;
                }
                Err(error) => tracing::debug!(%error, "no `adit up` is back"),
            }
        }
    }

    async fn again(&self) -> Result<Connection, ClientError> {
        let info = info(&self.path).await?;
        if (info.profile, info.file) != self.served {
            return Err(ClientError::NotRunning(self.path.clone()));
        }
        let connection = dial(&self.path).await?;
        connection.send(&Request::Watch).await?;
        self.attached.store(true, Ordering::Release);
        Ok(connection)
    }

    fn publish(&self, status: Status) {
        if status.config != self.status.borrow().config
            && let Some(config) = &status.config
        {
            *self.ownership.write().unwrap_or_else(PoisonError::into_inner) = Ownership::new(config);
        }
        self.status.send_replace(status);
    }
}

async fn next_status(connection: &mut Connection) -> Result<Status, ClientError> {
    match message::decode(&connection.receive().await?).map_err(WireError::from)? {
        Reply::Status(status) => Ok(*status),
        other => Err(unexpected(other)),
    }
}

fn unexpected(reply: Reply) -> ClientError {
    match reply {
        Reply::Refused(why) => ClientError::Refused(why),
        _ => ClientError::Unexpected,
    }
}

async fn dial(path: &Path) -> Result<Connection, ClientError> {
    let stream = UnixStream::connect(path).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning(path.to_owned())
        }
        io::ErrorKind::PermissionDenied => ClientError::Forbidden(path.to_owned()),
        _ => ClientError::Broken(WireError::Io(error)),
    })?;
    let peer = stream.peer_cred().map_err(WireError::Io)?;
    if !may_control(peer.uid(), rustix::process::geteuid().as_raw()) {
        return Err(ClientError::Foreign { path: path.to_owned(), uid: peer.uid() });
    }
    Ok(Connection::new(stream))
}

/// Asks one question of the daemon.
async fn ask(path: &Path, request: &Request, patience: Duration) -> Result<Reply, ClientError> {
    converse(path, request, patience).await.map(|(reply, _)| reply)
}

/// Asks the first question of a conversation.
async fn converse(
    path: &Path,
    request: &Request,
    patience: Duration,
) -> Result<(Reply, Connection), ClientError> {
    let conversation = async {
        let mut connection = dial(path).await?;
        connection.send(request).await?;
        let reply = message::decode(&connection.receive().await?).map_err(WireError::from)?;
        Ok((reply, connection))
    };
    timeout(patience, conversation).await.map_err(|_| ClientError::Silent)?
}

/// A task that ends when nobody waits for it any more.
struct Wanted<T>(JoinHandle<T>);

impl<T> Drop for Wanted<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// Begins a conversation on the client's own runtime.
    async fn begin(&self, request: Request, patience: Duration) -> Result<(Reply, Connection), ClientError> {
        let path = self.shared.path.clone();
        if !self.shared.attached.load(Ordering::Acquire) {
            return Err(ClientError::NotRunning(path));
        }
        let patience = patience.saturating_add(GRACE);
        let task = async move { converse(&path, &request, patience).await };
        let mut wanted = Wanted(self.shared.runtime.spawn(task));
        (&mut wanted.0).await.unwrap_or(Err(ClientError::Broken(WireError::Closed)))
    }
}

impl Network for Client {
    fn owns(&self, destination: &Destination) -> bool {
        self.shared.ownership.read().unwrap_or_else(PoisonError::into_inner).owns(destination)
    }

    fn resolve(&self, query: Query) -> BoxFuture<'_, Result<Answer, ResolveFailure>> {
        Box::pin(async move {
            let patience = query.timeout;
            match self.begin(Request::Resolve(query), patience).await {
                Ok((Reply::Resolved(outcome), _)) => outcome,
                _ => Err(ResolveFailure::Closed),
            }
        })
    }

    fn connect(&self, to: SocketAddr, options: Connect) -> BoxFuture<'_, Result<Flow, ConnectFailure>> {
        Box::pin(async move {
            let patience = options.timeout;
            match self.begin(Request::Connect { to, options }, patience).await {
                Ok((Reply::Connected(outcome), connection)) => outcome
                    .map(|Ends { local, peer }| Flow::new(local, peer, Box::new(RemoteFlow { connection }))),
                Ok((Reply::Refused(why), _)) => Err(ConnectFailure::Exhausted(why)),
                Err(ClientError::Silent) => Err(ConnectFailure::TimedOut(patience)),
                _ => Err(ConnectFailure::Closed),
            }
        })
    }

    fn udp(&self, options: Udp) -> BoxFuture<'_, Result<UdpFlow, UdpFailure>> {
        Box::pin(async move {
            match self.begin(Request::Udp(options), Duration::ZERO).await {
                Ok((Reply::Udp(outcome), mut connection)) => {
                    let local = outcome?;
                    let socket = connection.descriptor().map_err(|_| UdpFailure::Closed)?;
                    Ok(UdpFlow::from_fd(local, socket))
                }
                Ok((Reply::Refused(why), _)) => Err(UdpFailure::Exhausted(why)),
                _ => Err(UdpFailure::Closed),
            }
        })
    }

    fn listen(&self, port: u16, options: Listen) -> BoxFuture<'_, Result<Listener, ListenFailure>> {
        Box::pin(async move {
            let backlog = options.backlog;
            match self.begin(Request::Listen { port, options }, Duration::ZERO).await {
                Ok((Reply::Listening(outcome), connection)) => {
                    outcome.map(|port| listening::start(&self.shared.runtime, connection, port, backlog))
                }
                Ok((Reply::Refused(why), _)) => Err(ListenFailure::Exhausted(why)),
                _ => Err(ListenFailure::Closed),
            }
        })
    }

    fn ping(&self, to: IpAddr, kind: PingKind) -> BoxFuture<'_, Result<Pong, PingFailure>> {
        Box::pin(async move {
            let PingKind::Icmp { timeout: patience, .. } = kind;
            match self.begin(Request::Ping { to, kind }, patience).await {
                Ok((Reply::Pong(outcome), _)) => outcome,
                Ok((Reply::Refused(why), _)) => Err(PingFailure::Exhausted(why)),
                Err(ClientError::Silent) => Err(PingFailure::TimedOut(patience)),
                _ => Err(PingFailure::Closed),
            }
        })
    }

    fn find_way(&self, to: IpAddr, timeout: Duration) -> BoxFuture<'_, Result<Way, WayFailure>> {
        Box::pin(async move {
            match self.begin(Request::FindWay { to, timeout }, timeout).await {
                Ok((Reply::Way(outcome), _)) => outcome,
                Ok((Reply::Refused(why), _)) => Err(WayFailure::Exhausted(why)),
                _ => Err(WayFailure::Closed),
            }
        })
    }

    fn capture(&self) -> BoxFuture<'_, Result<Capture, CaptureFailure>> {
        Box::pin(async move {
            match self.begin(Request::Capture, Duration::ZERO).await {
                Ok((Reply::Capturing(outcome), mut connection)) => {
                    outcome?;
                    connection.descriptor().map(Capture::from_fd).map_err(|_| CaptureFailure::Closed)
                }
                Ok((Reply::Refused(why), _)) => Err(CaptureFailure::Exhausted(why)),
                _ => Err(CaptureFailure::Closed),
            }
        })
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }
}

/// A connected flow of the daemon: the conversation is open until the descriptor is sent. Dropping it ends the
/// conversation, and the daemon resets the flow.
struct RemoteFlow {
    connection: Connection,
}

impl FlowHandle for RemoteFlow {
    fn attach(self: Box<Self>, socket: OwnedFd) -> io::Result<()> {
        self.connection.send_now(&Request::Attach, Some(socket.as_fd()))
    }
}
