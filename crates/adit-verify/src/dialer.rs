//! How a target is reached: through the access mode that the user's program will use.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_path::{
    BoxFuture, Connect, ConnectFailure, Destination, Network, PingFailure, PingKind, Pong, Query,
    ResolveFailure, Udp, UdpFailure,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use crate::provider::{MISSING_EXIT, MISSING_PEER, Provider};
use crate::{Context, Failure, Stage};

/// A connection as bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that a target has accepted.
pub struct Dialed {
    /// The connection.
    pub stream: Box<dyn Stream>,
    /// The address that accepted.
    pub peer: SocketAddr,
}

impl fmt::Debug for Dialed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialed").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Why a target was not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialFailure {
    /// Its name does not resolve.
    #[error(transparent)]
    Resolve(#[from] ResolveFailure),
    /// Its name exists and has no address.
    #[error("{0} has no address")]
    NoAddress(String),
    /// It does not accept a connection.
    #[error(transparent)]
    Connect(#[from] ConnectFailure),
    /// No datagram can be sent.
    #[error(transparent)]
    Udp(#[from] UdpFailure),
    /// It does not answer a ping.
    #[error(transparent)]
    Ping(#[from] PingFailure),
    /// Datagrams were sent, and none came back.
    #[error("no answer to a datagram within {0:?}")]
    NoReply(Duration),
    /// The network reaches it, and the access mode does not.
    #[error("{0}")]
    Front(String),
    /// A command did not run, or did not end with 0.
    #[error("{0}")]
    Command(String),
    /// The access mode cannot ask this.
    #[error("{0}")]
    Unsupported(String),
}

impl DialFailure {
    /// The failure with the catalogue's words.
    pub fn describe(&self, context: &Context) -> Failure {
        match self {
            Self::Resolve(failure) => context.resolve(failure),
            Self::NoAddress(name) => Failure::of("dns.empty", &context.words.clone().with("name", name))
                .at(Stage::Dns)
                .seen(self.to_string()),
            Self::Connect(failure) => context.connect(failure),
            Self::Udp(failure) => context.udp(failure),
            Self::Ping(failure) => context.ping(failure),
            Self::NoReply(_) => {
                Failure::of("target.silent", &context.words).at(Stage::Target).seen(self.to_string())
            }
            Self::Front(why) => Failure::of("env.front", &context.words).at(Stage::Target).seen(why),
            Self::Command(outcome) => {
                Failure::of("app.command", &context.words.clone().with("code", outcome))
                    .at(Stage::App)
                    .seen(outcome)
            }
            Self::Unsupported(why) => Failure::of("env.mode", &context.words).at(Stage::Env).seen(why),
        }
    }

    /// Of the failures of two addresses of a target, `later` unless it only says that nothing was heard.
    #[must_use]
    pub fn or_telling(self, later: Self) -> Self {
        if later.is_timeout() && !self.is_timeout() { self } else { later }
    }

    /// Whether the target said no itself, so that asking once more soon tells whether it means it.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Connect(ConnectFailure::Refused | ConnectFailure::Reset))
    }

    /// Whether nothing is known but that no answer came.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(
            self,
            Self::Connect(ConnectFailure::TimedOut(_))
                | Self::Ping(PingFailure::TimedOut(_))
                | Self::NoReply(_)
        )
    }

    /// Whether a name, a route or a permission is missing that a coordination server may still be spreading.
    pub(crate) fn may_settle(&self, own: &Provider) -> bool {
        let Some(denied) = own.denied else { return false };
        match self {
            Self::Resolve(ResolveFailure::Failed { server, code, .. }) => own.knows_no_way(*server, code),
            Self::Resolve(failure) => matches!(
                failure,
                ResolveFailure::NoSuchName { .. }
                    | ResolveFailure::ServerUnrouted { .. }
                    | ResolveFailure::AnswerUnrouted { .. }
            ),
            Self::Connect(ConnectFailure::NoRoute(_)) | Self::Ping(PingFailure::NoRoute(_)) => true,
            Self::Udp(failure) => matches!(failure, UdpFailure::NoRoute(_)),
            Self::Connect(ConnectFailure::Unreachable { from, kind, code })
            | Self::Ping(PingFailure::Unreachable { from, kind, code }) => {
                let class = (own.icmp)(*from, *kind, *code);
                class.is_some_and(|class| [denied, MISSING_EXIT, MISSING_PEER].contains(&class))
            }
            _ => false,
        }
    }

    /// Whether asking again cannot change the answer within one verification.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Connect(failure) => matches!(
                failure,
                ConnectFailure::NoRoute(_) | ConnectFailure::Denied(_) | ConnectFailure::Closed
            ),
            Self::Resolve(failure) => matches!(
                failure,
                ResolveFailure::NoSuchName { .. }
                    | ResolveFailure::NoServer { .. }
                    | ResolveFailure::ServerUnrouted { .. }
                    | ResolveFailure::AnswerUnrouted { .. }
                    | ResolveFailure::BadName { .. }
                    | ResolveFailure::Closed
            ),
            Self::Udp(failure) => !matches!(failure, UdpFailure::Exhausted(_)),
            Self::Ping(failure) => matches!(failure, PingFailure::NoRoute(_) | PingFailure::Closed),
            Self::NoAddress(_) | Self::Command(_) | Self::Unsupported(_) => true,
            Self::NoReply(_) | Self::Front(_) => false,
        }
    }
}

/// Reaches targets through one access mode.
///
/// Implemented here over [`Network`] itself, and above for `exec` (a child whose system calls are
/// intercepted), proxies and a TUN device, so that what was verified is what the program will use.
pub trait Dialer: Send + Sync {
    /// The access mode, for the report.
    fn mode(&self) -> String;

    /// Opens a TCP connection.
    fn dial(
        &self,
        host: Destination,
        port: u16,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Dialed, DialFailure>>;

    /// Who does what this access mode does not do in a way of its own; `None` where nobody does.
    fn beneath(&self) -> Option<&dyn Dialer>;

    /// Resolves a name as programs of this mode do.
    fn resolve(&self, name: String, limit: Duration) -> BoxFuture<'_, Result<Vec<IpAddr>, DialFailure>> {
        match self.beneath() {
            Some(dialer) => dialer.resolve(name, limit),
            None => unsupported(&self.mode(), "resolve names"),
        }
    }

    /// Sends a datagram until one comes back, and returns that.
    fn exchange(
        &self,
        host: Destination,
        port: u16,
        payload: Vec<u8>,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, DialFailure>> {
        match self.beneath() {
            Some(dialer) => dialer.exchange(host, port, payload, limit),
            None => unsupported(&self.mode(), "send datagrams"),
        }
    }

    /// Sends one ICMP echo with a payload of `size` bytes.
    fn ping(
        &self,
        host: Destination,
        size: u16,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Pong, DialFailure>> {
        match self.beneath() {
            Some(dialer) => dialer.ping(host, size, limit),
            None => unsupported(&self.mode(), "send an echo"),
        }
    }

    /// Runs a command inside the network; `Ok` means that it ended with 0.
    fn command(&self, command: String, limit: Duration) -> BoxFuture<'_, Result<(), DialFailure>> {
        match self.beneath() {
            Some(dialer) => dialer.command(command, limit),
            None => unsupported(&self.mode(), "run a command"),
        }
    }
}

fn unsupported<T: Send + 'static>(mode: &str, what: &str) -> BoxFuture<'static, Result<T, DialFailure>> {
    let failure = DialFailure::Unsupported(format!("the mode {mode} cannot {what}"));
    Box::pin(std::future::ready(Err(failure)))
}

/// Reaches targets by asking the network itself: what the library, proxies and forwards do.
#[derive(Clone)]
pub struct NetworkDialer {
    network: Arc<dyn Network>,
}

impl fmt::Debug for NetworkDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkDialer").finish_non_exhaustive()
    }
}

impl NetworkDialer {
    /// Dials in `network`.
    pub fn new(network: Arc<dyn Network>) -> Self {
        Self { network }
    }

    async fn addresses(&self, host: Destination, limit: Duration) -> Result<Vec<IpAddr>, DialFailure> {
        let name = match host {
            Destination::Address(address) => return Ok(vec![address]),
            Destination::Name(name) => name,
        };
        let query = Query { timeout: limit, ..Query::addresses(name.clone()) };
        let answer = self.network.resolve(query).await?;
        if answer.addresses.is_empty() {
            return Err(DialFailure::NoAddress(name));
        }
        Ok(answer.addresses)
    }

    async fn dial_any(&self, host: Destination, port: u16, limit: Duration) -> Result<Dialed, DialFailure> {
        let until = Instant::now() + limit;
        let addresses = self.addresses(host, limit).await?;
        let mut failure = DialFailure::Connect(ConnectFailure::TimedOut(limit));
        for (tried, address) in addresses.iter().enumerate() {
            // The time that is left is shared by the addresses that are left.
            let share = until.saturating_duration_since(Instant::now())
                / u32::try_from(addresses.len() - tried).unwrap_or(1);
            let options = Connect { timeout: share, ..Connect::default() };
            match self.network.connect(SocketAddr::new(*address, port), options).await {
                Ok(flow) => {
                    let peer = flow.peer();
                    let stream = flow.into_stream().map_err(|error| UdpFailure::System(error.to_string()))?;
                    return Ok(Dialed { stream: Box::new(stream), peer });
                }
                Err(found) => failure = failure.or_telling(found.into()),
            }
        }
        Err(failure)
    }

    async fn exchange_with(
        &self,
        host: Destination,
        port: u16,
        payload: &[u8],
        limit: Duration,
    ) -> Result<Vec<u8>, DialFailure> {
        let address = self.addresses(host, limit).await?.into_iter().next();
        let Some(address) = address else { return Err(DialFailure::NoReply(limit)) };
        let to = SocketAddr::new(address, port);
        let socket = self.network.udp(Udp { port: 0, peer: Some(to) }).await?;
        let socket = socket.into_socket().map_err(|error| UdpFailure::System(error.to_string()))?;
        let mut buffer = vec![0; 65_535];
        let until = Instant::now() + limit;
        while Instant::now() < until {
            // Datagrams get lost; a second one is asked for before the target is called silent.
            if socket.send_to(payload, to).await.is_err() {
                return Err(UdpFailure::Closed.into());
            }
            let wait = Duration::from_secs(1).min(until.saturating_duration_since(Instant::now()));
            match timeout(wait, socket.recv_from(&mut buffer)).await {
                Ok(Ok((len, from))) if from == to => return Ok(buffer[..len].to_vec()),
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(_)) => return Err(ConnectFailure::Refused.into()),
            }
        }
        Err(DialFailure::NoReply(limit))
    }
}

impl Dialer for NetworkDialer {
    fn mode(&self) -> String {
        "userspace".to_owned()
    }

    fn dial(
        &self,
        host: Destination,
        port: u16,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Dialed, DialFailure>> {
        Box::pin(self.dial_any(host, port, limit))
    }

    fn beneath(&self) -> Option<&dyn Dialer> {
        None
    }

    fn resolve(&self, name: String, limit: Duration) -> BoxFuture<'_, Result<Vec<IpAddr>, DialFailure>> {
        Box::pin(self.addresses(Destination::Name(name), limit))
    }

    fn exchange(
        &self,
        host: Destination,
        port: u16,
        payload: Vec<u8>,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, DialFailure>> {
        Box::pin(async move { self.exchange_with(host, port, &payload, limit).await })
    }

    fn ping(
        &self,
        host: Destination,
        size: u16,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Pong, DialFailure>> {
        Box::pin(async move {
            let address = self.addresses(host.clone(), limit).await?.into_iter().next();
            let Some(address) = address else { return Err(DialFailure::NoAddress(host.to_string())) };
            Ok(self.network.ping(address, PingKind::Icmp { size, timeout: limit }).await?)
        })
    }

    fn command(&self, _command: String, _limit: Duration) -> BoxFuture<'_, Result<(), DialFailure>> {
        let why = "a command can only be checked in a mode that runs programs: use `adit exec` or `adit up`";
        Box::pin(async move { Err(DialFailure::Unsupported(why.to_owned())) })
    }
}
