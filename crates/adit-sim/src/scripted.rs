//! A [`Network`] whose hosts do what a script says: the fake for tests of everything above packets.
//!
//! It moves real bytes over real descriptors, so that fronts and interception can be tested against it without
//! a tunnel, and it times with tokio, so that a test may pause the clock.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_path::{
    Answer, BoxFuture, Connect, ConnectFailure, Destination, Flow, FlowHandle, FlowStream, Incoming,
    IncomingHandle, Listen, ListenFailure, Listener, Network, Phase, PingFailure, PingKind, Pong, Query,
    RecordType, ResolveFailure, Status, Udp, UdpFailure, UdpFlow,
};
use adit_tunnel::{DnsConfig, Fault, NetConfig, Prefix};
use rustix::net::sockopt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

/// What serves an accepted connection.
pub type Serve = Arc<dyn Fn(FlowStream) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What a port of a scripted host does with a connection.
#[derive(Clone)]
pub enum Service {
    /// Accepts, and sends back what it receives until the end of the stream.
    Echo,
    /// Accepts, sends these bytes, and then discards what it receives.
    Say(Vec<u8>),
    /// Accepts, and hands the stream to a server.
    Serve(Serve),
    /// Accepts, and resets at once.
    ResetAfterAccept,
    /// Answers with RST.
    Refuse,
    /// Answers nothing.
    Silent,
    /// Answers with an ICMP error of this type and code.
    Unreachable(u8, u8),
}

impl Service {
    /// A server as a service.
    pub fn serve<F, S>(server: S) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(FlowStream) -> F + Send + Sync + 'static,
    {
        Self::Serve(Arc::new(move |stream| Box::pin(server(stream))))
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Echo => "Echo",
            Self::Say(_) => "Say",
            Self::Serve(_) => "Serve",
            Self::ResetAfterAccept => "ResetAfterAccept",
            Self::Refuse => "Refuse",
            Self::Silent => "Silent",
            Self::Unreachable(..) => "Unreachable",
        })
    }
}

/// A scripted host. Ports without a service refuse; UDP ports without an echo stay silent.
#[derive(Clone, Debug, Default)]
pub struct Host {
    tcp: BTreeMap<u16, Service>,
    udp_echo: Vec<u16>,
    delay: Duration,
    silent: bool,
    largest: Option<u16>,
}

impl Host {
    /// A host that answers pings and refuses every port.
    pub fn new() -> Self {
        Self::default()
    }

    /// A host that answers nothing at all.
    pub fn silent() -> Self {
        Self { silent: true, ..Self::default() }
    }

    /// What a TCP port does.
    pub fn tcp(mut self, port: u16, service: Service) -> Self {
        self.tcp.insert(port, service);
        self
    }

    /// A UDP port that sends back what it receives.
    pub fn udp_echo(mut self, port: u16) -> Self {
        self.udp_echo.push(port);
        self
    }

    /// Larger packets, in bytes with all headers, are lost on the way to the host. Only pings notice.
    pub fn largest_packet(mut self, bytes: u16) -> Self {
        self.largest = Some(bytes);
        self
    }

    /// The time before the host answers anything.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

#[derive(Debug, Default)]
struct Script {
    hosts: BTreeMap<IpAddr, Host>,
    names: BTreeMap<String, Vec<IpAddr>>,
    silent_names: Vec<String>,
    listeners: BTreeMap<u16, mpsc::Sender<Incoming>>,
    connects: Vec<SocketAddr>,
}

/// A network made of [`Host`]s and names. Clones share the script.
#[derive(Clone, Debug)]
pub struct ScriptedNetwork {
    script: Arc<Mutex<Script>>,
    status: watch::Sender<Status>,
    next_port: Arc<AtomicU16>,
}

const SELF: Ipv4Addr = Ipv4Addr::new(10, 77, 255, 254);
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 53));

impl Default for ScriptedNetwork {
    fn default() -> Self {
        Self::new()
    }
}

impl ScriptedNetwork {
    /// A network that is up, owns `10.77.0.0/16`, `fd77::/16` and names under `internal`, and has no host yet.
    /// Its own address is `10.77.255.254`, its DNS server `10.77.0.53`.
    pub fn new() -> Self {
        let prefix =
            |address: IpAddr, length| Prefix::new(address, length).expect("a constant prefix is valid");
        let v6 = IpAddr::V6("fd77::".parse().expect("a constant address is valid"));
        let config = NetConfig {
            addresses: vec![prefix(IpAddr::V4(SELF), 16)],
            routes: vec![prefix(IpAddr::V4(Ipv4Addr::new(10, 77, 0, 0)), 16), prefix(v6, 16)],
            excluded: Vec::new(),
            dns: DnsConfig { servers: vec![SERVER], search: vec!["internal".to_owned()], routes: Vec::new() },
            mtu: 1420,
        };
        let status = Status { phase: Phase::Up, config: Some(config), ups: 1, ..Status::default() };
        Self {
            script: Arc::default(),
            status: watch::Sender::new(status),
            next_port: Arc::new(AtomicU16::new(40_000)),
        }
    }

    /// Adds or replaces a host.
    pub fn host(self, address: impl Into<IpAddr>, host: Host) -> Self {
        self.script().hosts.insert(address.into(), host);
        self
    }

    /// Adds a name with its addresses, in lower case and without trailing dot.
    pub fn name(self, name: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.script().names.insert(name.to_owned(), addresses.into_iter().collect());
        self
    }

    /// A name for which the DNS server stays silent.
    pub fn silent_name(self, name: &str) -> Self {
        self.script().silent_names.push(name.to_owned());
        self
    }

    /// Changes the published status, for example to take the network down.
    pub fn set_status(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }

    /// Takes the network down with a fault of this class; connections get [`ConnectFailure::Down`].
    pub fn take_down(&self, class: &str) {
        let fault = Fault {
            class: class.to_owned(),
            summary: "taken down by the script".to_owned(),
            evidence: Vec::new(),
        };
        self.set_status(|status| {
            status.phase = Phase::Reconnecting;
            status.fault = Some(fault);
        });
    }

    /// Every destination that was dialled, in order.
    pub fn connects(&self) -> Vec<SocketAddr> {
        self.script().connects.clone()
    }

    /// Makes a peer at `from` connect to a port that something listens on; returns the peer's end.
    pub async fn connect_from(&self, from: SocketAddr, port: u16) -> Result<FlowStream, ConnectFailure> {
        let listener = self.script().listeners.get(&port).cloned().ok_or(ConnectFailure::Refused)?;
        let (decide, decision) = oneshot::channel();
        let local = SocketAddr::from((SELF, port));
        let pending = Pending { local, peer: from, decide: Some(decide) };
        listener
            .send(Incoming::new(local, from, Box::new(pending)))
            .await
            .map_err(|_| ConnectFailure::Refused)?;
        match decision.await {
            Ok(Decision::Accept(stream)) => stream.into_stream().map_err(|_| ConnectFailure::Closed),
            Ok(Decision::Ignore) => Err(ConnectFailure::TimedOut(Duration::ZERO)),
            Ok(Decision::Refuse) | Err(_) => Err(ConnectFailure::Refused),
        }
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> Option<Fault> {
        let status = self.status.borrow();
        (status.phase != Phase::Up).then(|| {
            status.fault.clone().unwrap_or(Fault {
                class: "session.lost".to_owned(),
                summary: "the tunnel is down".to_owned(),
                evidence: Vec::new(),
            })
        })
    }

    fn routed(&self, address: IpAddr) -> bool {
        let status = self.status.borrow();
        status.config.as_ref().is_some_and(|config| config.routes_to(address))
    }

    fn lookup(&self, query: &Query) -> Result<Answer, ResolveFailure> {
        let script = self.script();
        let bare = query.name.trim_end_matches('.').to_ascii_lowercase();
        let searched = format!("{bare}.internal");
        let (name, addresses, rule) = match (script.names.get(&bare), script.names.get(&searched)) {
            (Some(found), _) => (bare, found, "default"),
            (None, Some(found)) if !query.name.ends_with('.') => (searched, found, "search:internal"),
            _ => return Err(ResolveFailure::NoSuchName { name: bare, server: SERVER }),
        };
        let wanted = |address: &&IpAddr| match query.record {
            None => true,
            Some(RecordType::A) => address.is_ipv4(),
            Some(RecordType::AAAA) => address.is_ipv6(),
            Some(_) => false,
        };
        Ok(Answer {
            name,
            addresses: addresses.iter().filter(wanted).copied().collect(),
            ttl: Duration::from_secs(60),
            server: Some(SocketAddr::new(SERVER, 53)),
            rule: rule.to_owned(),
            ..Answer::default()
        })
    }
}

impl Network for ScriptedNetwork {
    fn owns(&self, destination: &Destination) -> bool {
        match destination {
            Destination::Address(address) => self.routed(*address),
            Destination::Name(name) => {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                name.ends_with(".internal") || self.script().names.contains_key(&format!("{name}.internal"))
            }
        }
    }

    fn resolve(&self, query: Query) -> BoxFuture<'_, Result<Answer, ResolveFailure>> {
        Box::pin(async move {
            if let Some(fault) = self.fault() {
                return Err(ResolveFailure::Down(fault));
            }
            if self.script().silent_names.iter().any(|name| *name == query.name.trim_end_matches('.')) {
                tokio::time::sleep(query.timeout).await;
                return Err(ResolveFailure::Silent {
                    name: query.name,
                    servers: vec![SERVER],
                    after: query.timeout,
                });
            }
            self.lookup(&query)
        })
    }

    fn connect(&self, to: SocketAddr, options: Connect) -> BoxFuture<'_, Result<Flow, ConnectFailure>> {
        Box::pin(async move {
            self.script().connects.push(to);
            if let Some(fault) = self.fault() {
                return Err(ConnectFailure::Down(fault));
            }
            if !self.routed(to.ip()) {
                return Err(ConnectFailure::NoRoute(to.ip()));
            }
            let host = self.script().hosts.get(&to.ip()).cloned().unwrap_or_else(Host::silent);
            let service = host.tcp.get(&to.port()).cloned().unwrap_or(Service::Refuse);
            let answer = async {
                tokio::time::sleep(host.delay).await;
                match service {
                    _ if host.silent => pending().await,
                    Service::Silent => pending().await,
                    Service::Refuse => Err(ConnectFailure::Refused),
                    Service::Unreachable(kind, code) => {
                        Err(ConnectFailure::Unreachable { from: SERVER, kind, code })
                    }
                    service => Ok(service),
                }
            };
            let service = match tokio::time::timeout(options.timeout, answer).await {
                Ok(service) => service?,
                Err(_) => return Err(ConnectFailure::TimedOut(options.timeout)),
            };
            let local = SocketAddr::from((SELF, self.next_port.fetch_add(1, Ordering::Relaxed)));
            let runtime = Handle::current();
            Ok(Flow::new(local, to, Box::new(Served { local, peer: to, service, runtime })))
        })
    }

    fn udp(&self, options: Udp) -> BoxFuture<'_, Result<UdpFlow, UdpFailure>> {
        Box::pin(async move {
            let port = match options.port {
                0 => self.next_port.fetch_add(1, Ordering::Relaxed),
                port => port,
            };
            let local = SocketAddr::from((SELF, port));
            let system = |error: io::Error| UdpFailure::System(error.to_string());
            let (ours, theirs) = UdpFlow::pair(local).map_err(system)?;
            let served = UdpFlow::from_fd(local, theirs).into_socket().map_err(system)?;
            let network = self.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 65_535];
                while let Ok((len, to)) = served.recv_from(&mut buffer).await {
                    let host = network.script().hosts.get(&to.ip()).cloned().unwrap_or_default();
                    if host.udp_echo.contains(&to.port()) && network.fault().is_none() {
                        tokio::time::sleep(host.delay).await;
                        if served.send_to(&buffer[..len], to).await.is_err() {
                            return;
                        }
                    }
                }
            });
            Ok(ours)
        })
    }

    fn listen(&self, port: u16, options: Listen) -> BoxFuture<'_, Result<Listener, ListenFailure>> {
        Box::pin(async move {
            let port = match port {
                0 => self.next_port.fetch_add(1, Ordering::Relaxed),
                port => port,
            };
            let mut script = self.script();
            if script.listeners.get(&port).is_some_and(|listener| !listener.is_closed()) {
                return Err(ListenFailure::PortInUse(port));
            }
            let (sender, receiver) = mpsc::channel(usize::from(options.backlog.max(1)));
            script.listeners.insert(port, sender);
            Ok(Listener::new(port, receiver))
        })
    }

    fn ping(&self, to: IpAddr, kind: PingKind) -> BoxFuture<'_, Result<Pong, PingFailure>> {
        Box::pin(async move {
            let PingKind::Icmp { timeout, size } = kind;
            if let Some(fault) = self.fault() {
                return Err(PingFailure::Down(fault));
            }
            if !self.routed(to) {
                return Err(PingFailure::NoRoute(to));
            }
            let host = self.script().hosts.get(&to).cloned().unwrap_or_else(Host::silent);
            let packet = size.saturating_add(if to.is_ipv4() { 28 } else { 48 });
            let lost = host.largest.is_some_and(|largest| packet > largest);
            if host.silent || lost || host.delay > timeout {
                tokio::time::sleep(timeout).await;
                return Err(PingFailure::TimedOut(timeout));
            }
            tokio::time::sleep(host.delay).await;
            Ok(Pong { from: to, rtt: host.delay })
        })
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }
}

/// An accepted connection that waits for the descriptor of its user.
struct Served {
    local: SocketAddr,
    peer: SocketAddr,
    service: Service,
    runtime: Handle,
}

impl FlowHandle for Served {
    fn attach(self: Box<Self>, socket: OwnedFd) -> io::Result<()> {
        let Self { local, peer, service, runtime } = *self;
        if matches!(service, Service::ResetAfterAccept) {
            return sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).map_err(io::Error::from);
        }
        let _entered = runtime.enter();
        let bridge = Bridge { user: socket, runtime: runtime.clone() };
        let stream = Flow::new(local, peer, Box::new(bridge)).into_stream()?;
        runtime.spawn(run(service, stream));
        Ok(())
    }
}

/// Copies between the user's descriptor and the one that it is handed.
struct Bridge {
    user: OwnedFd,
    runtime: Handle,
}

impl FlowHandle for Bridge {
    fn attach(self: Box<Self>, socket: OwnedFd) -> io::Result<()> {
        let _entered = self.runtime.enter();
        let (mut user, mut server) = (any_stream(self.user)?, any_stream(socket)?);
        self.runtime.spawn(async move {
            let _ended = tokio::io::copy_bidirectional(&mut user, &mut server).await;
        });
        Ok(())
    }
}

/// Any connected stream socket as a tokio stream: the system calls are the same for every family.
fn any_stream(socket: OwnedFd) -> io::Result<UnixStream> {
    let stream = StdUnixStream::from(socket);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

enum Decision {
    Accept(Flow),
    Refuse,
    Ignore,
}

/// A scripted peer's connection that waits for a decision.
struct Pending {
    local: SocketAddr,
    peer: SocketAddr,
    decide: Option<oneshot::Sender<Decision>>,
}

impl Pending {
    fn decide(mut self, decision: Decision) {
        if let Some(decide) = self.decide.take() {
            // The peer may have gone; then there is nobody to tell.
            let _gone = decide.send(decision);
        }
    }
}

impl IncomingHandle for Pending {
    fn accept(self: Box<Self>) -> BoxFuture<'static, Result<Flow, ConnectFailure>> {
        Box::pin(async move {
            let (local, peer) = (self.local, self.peer);
            let runtime = Handle::current();
            let (ours, theirs) =
                StdUnixStream::pair().map_err(|error| ConnectFailure::Exhausted(error.to_string()))?;
            let end =
                |socket: StdUnixStream| Box::new(Bridge { user: socket.into(), runtime: runtime.clone() });
            self.decide(Decision::Accept(Flow::new(peer, local, end(theirs))));
            Ok(Flow::new(local, peer, end(ours)))
        })
    }

    fn refuse(self: Box<Self>) {
        self.decide(Decision::Refuse);
    }

    fn ignore(self: Box<Self>) {
        self.decide(Decision::Ignore);
    }
}

async fn run(service: Service, mut stream: FlowStream) {
    match service {
        Service::Serve(serve) => serve(stream).await,
        Service::Say(bytes) => {
            if stream.write_all(&bytes).await.is_ok() {
                let _ignored = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            }
        }
        Service::Echo
        | Service::ResetAfterAccept
        | Service::Refuse
        | Service::Silent
        | Service::Unreachable(..) => {
            let (mut reader, mut writer) = tokio::io::split(stream);
            if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
                let _ignored = writer.shutdown().await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
