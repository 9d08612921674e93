//! How every front reaches a target: private destinations inside, public ones by the machine itself.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_path::{Connect, ConnectFailure, Destination, Flow, Network, Query, ResolveFailure};
use adit_tunnel::NameScope;
use adit_verify::Context as Words;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::target::Target;
use crate::{Failure, failure};

/// The next address is tried after this much silence of the one before (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried at most.
const MAX_ADDRESSES: usize = 16;
/// How long the network may take over a name that is perhaps its own.
const EITHER: Duration = Duration::from_secs(2);

/// Why a target was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialFailure {
    /// The private resolver failed.
    #[error(transparent)]
    Resolve(#[from] ResolveFailure),
    /// The connection inside failed.
    #[error(transparent)]
    Connect(#[from] ConnectFailure),
    /// The name exists and has no address.
    #[error("{0} has no address")]
    NoAddress(String),
    /// The public resolver or connection of the machine failed.
    #[error("{0}")]
    Outside(io::Error),
    /// The network has no configuration yet, so nobody knows what is private.
    #[error("the private network is not configured yet")]
    NotReady,
}

/// Reaches targets, within a budget of time each.
#[derive(Clone)]
pub struct Dialer {
    network: Arc<dyn Network>,
    budget: Duration,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("budget", &self.budget).finish_non_exhaustive()
    }
}

/// A connection to a target.
#[derive(Debug)]
pub enum Dialled {
    /// Through the private network.
    Inside(Flow),
    /// By the machine itself.
    Outside(TcpStream),
}

/// Both kinds of connection as a stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Dialled {
    /// Our address on the connection.
    pub fn local(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Inside(flow) => Ok(flow.local()),
            Self::Outside(stream) => stream.local_addr(),
        }
    }

    /// Relays between a client's socket and the target. Inside the network's engine takes the socket and this
    /// returns at once; outside it returns when both directions have ended.
    pub async fn relay(self, mut client: TcpStream) -> io::Result<()> {
        match self {
            Self::Inside(flow) => flow.attach(client.into_std()?.into()),
            Self::Outside(mut target) => copy_bidirectional(&mut client, &mut target).await.map(drop),
        }
    }

    /// The connection as a stream.
    pub fn into_stream(self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Inside(flow) => Box::new(flow.into_stream()?),
            Self::Outside(stream) => Box::new(stream),
        })
    }
}

impl Dialer {
    /// Dials through `network`, for at most `budget` per target.
    pub fn new(network: Arc<dyn Network>, budget: Duration) -> Self {
        Self { network, budget }
    }

    /// The network.
    pub fn network(&self) -> &Arc<dyn Network> {
        &self.network
    }

    /// Connects to a target.
    pub async fn dial(&self, target: &Target) -> Result<Dialled, DialFailure> {
        let deadline = Instant::now() + self.budget;
        let addresses = self.in_time(self.resolve(&target.host)).await?;
        self.race(addresses, target.port, |to| self.clone().attempt(to, deadline)).await
    }

    /// Connects to a target inside the network, whatever its address and name look like.
    pub async fn dial_inside(&self, target: &Target) -> Result<Flow, DialFailure> {
        let deadline = Instant::now() + self.budget;
        let addresses = match &target.host {
            Destination::Address(address) => vec![*address],
            Destination::Name(name) => self.in_time(self.ask(name, self.budget)).await?,
        };
        if addresses.is_empty() {
            return Err(DialFailure::NoAddress(target.host.to_string()));
        }
        self.race(addresses, target.port, |to| self.clone().attempt_inside(to, deadline)).await
    }

    async fn in_time<T, E: Into<DialFailure>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, DialFailure> {
        match timeout(self.budget, work).await {
            Ok(outcome) => outcome.map_err(E::into),
            Err(_) => Err(ConnectFailure::TimedOut(self.budget).into()),
        }
    }

    /// Tries addresses one after the other, without waiting for a silent one (RFC 8305).
    async fn race<T, F>(
        &self,
        addresses: Vec<IpAddr>,
        port: u16,
        attempt: impl Fn(SocketAddr) -> F,
    ) -> Result<T, DialFailure>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, DialFailure>> + Send + 'static,
    {
        let mut candidates = addresses.into_iter().map(|address| SocketAddr::new(address, port));
        let mut attempts = JoinSet::new();
        let mut worst = None;
        loop {
            let next = candidates.next();
            let more = next.is_some();
            if let Some(to) = next {
                attempts.spawn(attempt(to));
            }
            let outcome = tokio::select! {
                outcome = attempts.join_next() => outcome,
                () = sleep(STAGGER), if more && candidates.len() > 0 => continue,
            };
            match outcome {
                Some(Ok(Ok(dialled))) => return Ok(dialled),
                Some(Ok(Err(failure))) => worst = Some(telling(worst, failure)),
                // A panic in an attempt has been reported where it happened.
                Some(Err(_)) => {}
                None => return Err(worst.unwrap_or(DialFailure::Connect(ConnectFailure::Closed))),
            }
        }
    }

    /// The addresses of a host. A private name is asked inside only, whatever state the network is in. A name
    /// that may be of either side is asked inside first; it is the outside's when the network has no address
    /// of its own for it.
    pub async fn resolve(&self, host: &Destination) -> Result<Vec<IpAddr>, DialFailure> {
        let name = match host {
            Destination::Address(address) => return Ok(vec![*address]),
            Destination::Name(name) => name,
        };
        let scope = self.network.status().borrow().config.as_ref().map(|config| config.name_scope(name));
        if self.network.owns(host) || scope == Some(NameScope::Private) {
            let addresses = self.ask(name, self.budget).await?;
            return if addresses.is_empty() {
                Err(DialFailure::NoAddress(name.clone()))
            } else {
                Ok(addresses)
            };
        }
        match scope {
            None => Err(DialFailure::NotReady),
            Some(NameScope::Public | NameScope::Private) => outside(name).await,
            Some(NameScope::Either) => {
                let mut addresses = self.ask(name, self.budget.min(EITHER)).await.unwrap_or_default();
                addresses.retain(|address| self.network.owns(&Destination::Address(*address)));
                if addresses.is_empty() { outside(name).await } else { Ok(addresses) }
            }
        }
    }

    async fn ask(&self, name: &str, limit: Duration) -> Result<Vec<IpAddr>, ResolveFailure> {
        let answer = self.network.resolve(Query { timeout: limit, ..Query::addresses(name) }).await?;
        Ok(answer.addresses.into_iter().take(MAX_ADDRESSES).collect())
    }

    async fn attempt(self, to: SocketAddr, deadline: Instant) -> Result<Dialled, DialFailure> {
        if self.network.owns(&Destination::Address(to.ip())) {
            return self.attempt_inside(to, deadline).await.map(Dialled::Inside);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if self.network.status().borrow().config.is_none() {
            return Err(DialFailure::NotReady);
        }
        match timeout(left, TcpStream::connect(to)).await {
            Ok(connected) => connected.map(Dialled::Outside).map_err(DialFailure::Outside),
            Err(_) => Err(ConnectFailure::TimedOut(self.budget).into()),
        }
    }
}

impl Dialer {
    async fn attempt_inside(self, to: SocketAddr, deadline: Instant) -> Result<Flow, DialFailure> {
        let left = deadline.saturating_duration_since(Instant::now());
        let options = Connect { timeout: left, ..Connect::default() };
        Ok(self.network.connect(to, options).await?)
    }
}

impl DialFailure {
    /// The failure in front of a person, with the catalogue's advice.
    pub fn describe(&self, target: &Target) -> Failure {
        let host = target.host.to_string();
        let words = Words::default().with("target", target).with("host", &host).with("port", target.port);
        match self {
            Self::Resolve(failure) => words.with("name", host).resolve(failure),
            Self::Connect(failure) => words.connect(failure),
            Self::NoAddress(_) => failure::of("dns.empty", self.to_string()),
            Self::NotReady => failure::of("tunnel.down", self.to_string()),
            Self::Outside(error) => {
                let summary = format!("{target} cannot be reached outside the network");
                failure::of("target.unreachable", summary).seen(error.to_string())
            }
        }
    }
}

/// Asks the machine's own resolver.
async fn outside(name: &str) -> Result<Vec<IpAddr>, DialFailure> {
    let found = lookup_host((name, 0)).await.map_err(DialFailure::Outside)?;
    let mut addresses: Vec<_> = found.map(|address| address.ip()).take(MAX_ADDRESSES).collect();
    addresses.dedup();
    if addresses.is_empty() { Err(DialFailure::NoAddress(name.to_owned())) } else { Ok(addresses) }
}

/// Of two failures the one that says more about the target.
fn telling(one: Option<DialFailure>, other: DialFailure) -> DialFailure {
    let weight = |failure: &DialFailure| match failure {
        DialFailure::Connect(ConnectFailure::Refused) => 3,
        DialFailure::Connect(ConnectFailure::Reset | ConnectFailure::Denied(_)) => 2,
        DialFailure::Connect(ConnectFailure::Unreachable { .. } | ConnectFailure::TimedOut(_)) => 1,
        _ => 0,
    };
    match one {
        Some(one) if weight(&one) >= weight(&other) => one,
        _ => other,
    }
}

#[cfg(test)]
mod tests {
    use adit_sim::{Host, ScriptedNetwork, Service};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    fn network() -> ScriptedNetwork {
        ScriptedNetwork::new()
            .host(
                [10, 77, 0, 5],
                Host::new().tcp(7, Service::Say(b"inside".to_vec())).tcp(9, Service::Silent),
            )
            .host([10, 77, 0, 6], Host::silent())
            .name("db.internal", [[10, 77, 0, 6], [10, 77, 0, 5]].map(IpAddr::from))
            .name("empty.internal", [])
    }

    fn dialer(network: &ScriptedNetwork) -> Dialer {
        Dialer::new(Arc::new(network.clone()), Duration::from_secs(2))
    }

    fn target(text: &str) -> Target {
        Target::parse(text, None).unwrap()
    }

    #[tokio::test]
    async fn a_silent_first_address_does_not_hide_the_second() {
        let dialled = dialer(&network()).dial(&target("db.internal:7")).await.unwrap();
        let mut text = [0; 6];
        dialled.into_stream().unwrap().read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"inside");
    }

    #[tokio::test]
    async fn of_several_failures_the_most_telling_one_is_given() {
        let dialer = Dialer::new(Arc::new(network()), Duration::from_millis(400));
        let failure = dialer.dial(&target("db.internal:8")).await.unwrap_err();
        assert!(matches!(failure, DialFailure::Connect(ConnectFailure::Refused)), "{failure:?}");
        let failure = dialer.dial(&target("db.internal:9")).await.unwrap_err();
        assert!(matches!(failure, DialFailure::Connect(ConnectFailure::TimedOut(_))), "{failure:?}");
    }

    #[tokio::test]
    async fn public_destinations_are_dialled_by_the_machine() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let network = network();
        for host in ["127.0.0.1", "localhost"] {
            let dialled = dialer(&network).dial(&target(&format!("{host}:{port}"))).await.unwrap();
            assert!(matches!(dialled, Dialled::Outside(_)));
        }
        assert!(network.connects().is_empty());
    }

    #[tokio::test]
    async fn private_names_fail_closed_whatever_happens_to_the_network() {
        let network = network();
        let missing = dialer(&network).dial(&target("localhost.internal:80")).await.unwrap_err();
        assert!(matches!(missing, DialFailure::Resolve(ResolveFailure::NoSuchName { .. })), "{missing:?}");
        let empty = dialer(&network).dial(&target("empty.internal:80")).await.unwrap_err();
        assert!(matches!(empty, DialFailure::NoAddress(_)), "{empty:?}");
        network.take_down("wg.silent");
        let down = dialer(&network).dial(&target("db.internal:7")).await.unwrap_err();
        assert!(matches!(down, DialFailure::Resolve(ResolveFailure::Down(_))), "{down:?}");
        let down = dialer(&network).dial(&target("10.77.0.5:7")).await.unwrap_err();
        assert!(matches!(down, DialFailure::Connect(ConnectFailure::Down(_))), "{down:?}");
    }

    #[tokio::test]
    async fn nothing_is_dialled_before_it_is_known_what_is_private() {
        let network = ScriptedNetwork::new();
        network.set_status(|status| status.config = None);
        for text in ["localhost:1", "192.0.2.1:1", "db.corp:1"] {
            let failure = dialer(&network).dial(&target(text)).await.unwrap_err();
            assert!(matches!(failure, DialFailure::NotReady), "{failure:?}");
        }
    }

    #[tokio::test]
    async fn a_name_of_either_side_goes_outside_when_the_network_has_no_address_for_it() {
        let network = network().name("both.example.com", [IpAddr::from([10, 77, 0, 5])]);
        network.set_status(|status| {
            status.config.as_mut().unwrap().dns.search.clear();
        });
        let dialer = dialer(&network);
        let both = Destination::Name("both.example.com".to_owned());
        assert_eq!(dialer.resolve(&both).await.unwrap(), [IpAddr::from([10, 77, 0, 5])]);
        let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let plain = |name: &&str| !name.contains("localhost") && !name.starts_with("ip6-");
        let mut names = hosts
            .lines()
            .filter(|line| !line.starts_with('#'))
            .flat_map(|line| line.split_whitespace().skip(1).filter(plain));
        match names.next().map(|name| Destination::Name(name.to_owned())) {
            Some(name) if !dialer.network.owns(&name) => {
                assert!(!dialer.resolve(&name).await.unwrap().is_empty(), "{name}");
            }
            _ => eprintln!("SKIPPED: /etc/hosts has no public name"),
        }
    }
}
