//! Dialling through the fronts of an `adit up`, as the programs that use them do.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_path::{BoxFuture, Destination, Network, Query};
use adit_verify::{DialFailure, Dialed, Dialer, NetworkDialer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::fronts::{Credentials, ForwardSpec, Protocol};

/// How long a forward has to close a connection whose target it cannot reach.
const SECOND_THOUGHT: Duration = Duration::from_millis(300);

/// The fronts that are open.
#[derive(Debug, Default)]
pub(crate) struct Open(Mutex<Fronts>);

#[derive(Debug, Default)]
struct Fronts {
    proxy: Option<(SocketAddr, Option<Credentials>)>,
    forwards: Vec<ForwardSpec>,
}

impl Open {
    /// A proxy listens there. Targets go through the first one.
    pub(crate) fn add_proxy(&self, at: SocketAddr, credentials: Option<Credentials>) {
        self.fronts().proxy.get_or_insert((at, credentials));
    }

    /// A forward is open, with the port that was chosen. Its target goes through it.
    pub(crate) fn add_forward(&self, spec: ForwardSpec) {
        self.fronts().forwards.push(spec);
    }

    fn fronts(&self) -> MutexGuard<'_, Fronts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn way(&self, host: &Destination, port: u16) -> Option<Way> {
        let fronts = self.fronts();
        let meant = |forward: &&ForwardSpec| {
            forward.protocol == Protocol::Tcp && forward.to.host == *host && forward.to.port == port
        };
        if let Some(forward) = fronts.forwards.iter().find(meant) {
            return Some(Way::Forward(forward.listen));
        }
        let (at, credentials) = fronts.proxy.as_ref()?;
        Some(Way::Proxy(*at, credentials.clone()))
    }
}

/// How one target is reached.
enum Way {
    Forward(SocketAddr),
    Proxy(SocketAddr, Option<Credentials>),
}

/// Dials through the fronts where a target has one, and as `base` does elsewhere.
pub(crate) struct FrontDialer {
    open: Arc<Open>,
    network: Arc<dyn Network>,
    base: Box<dyn Dialer>,
}

impl FrontDialer {
    pub(crate) fn new(open: Arc<Open>, network: Arc<dyn Network>, base: Box<dyn Dialer>) -> Self {
        Self { open, network, base }
    }

    async fn dial_by_front(
        &self,
        host: Destination,
        port: u16,
        limit: Duration,
    ) -> Result<Dialed, DialFailure> {
        match self.open.way(&host, port) {
            None => self.base.dial(host, port, limit).await,
            Some(Way::Forward(at)) => {
                // A forward accepts before it knows whether it can, so the network is asked first.
                let peer = self.direct(host, port, limit).await?;
                through(&format!("the forward {at}"), limit, forward(at), peer).await
            }
            Some(Way::Proxy(at, credentials)) => {
                let peer = self.address(&host, port).await;
                let front = format!("the proxy {at}");
                let opened = through(&front, limit, socks(at, credentials.as_ref(), &host, port), peer).await;
                match opened {
                    Ok(dialed) => Ok(dialed),
                    // A reply code says little; the network knows more.
                    Err(failure) => Err(self.direct(host, port, limit).await.err().unwrap_or(failure)),
                }
            }
        }
    }

    /// The target accepts a connection of the network itself; its address.
    async fn direct(&self, host: Destination, port: u16, limit: Duration) -> Result<SocketAddr, DialFailure> {
        let inside = NetworkDialer::new(Arc::clone(&self.network));
        inside.dial(host, port, limit).await.map(|dialed| dialed.peer)
    }

    /// The target's address, for the report: a proxy does not tell it.
    async fn address(&self, host: &Destination, port: u16) -> SocketAddr {
        let unknown = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let address = match host {
            Destination::Address(address) => *address,
            Destination::Name(name) => {
                let answer = self.network.resolve(Query::addresses(name)).await;
                answer.ok().and_then(|answer| answer.addresses.first().copied()).unwrap_or(unknown)
            }
        };
        SocketAddr::new(address, port)
    }
}

/// A connection that a front opens.
async fn through(
    front: &str,
    limit: Duration,
    opening: impl Future<Output = io::Result<TcpStream>>,
    peer: SocketAddr,
) -> Result<Dialed, DialFailure> {
    let why = match timeout(limit, opening).await {
        Ok(Ok(stream)) => return Ok(Dialed { stream: Box::new(stream), peer }),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {limit:?}"),
    };
    Err(DialFailure::Front(format!("the network reaches it, and {front} does not: {why}")))
}

/// A connection through a forward that has not been closed again at once.
async fn forward(at: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(at).await?;
    let mut first = [0];
    match timeout(SECOND_THOUGHT, stream.peek(&mut first)).await {
        Ok(Ok(0)) => Err(io::ErrorKind::ConnectionAborted.into()),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(stream),
    }
}

/// A connection through a SOCKS5 proxy (RFC 1928 §4), which resolves names.
async fn socks(
    at: SocketAddr,
    credentials: Option<&Credentials>,
    host: &Destination,
    port: u16,
) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(at).await?;
    let method = if credentials.is_some() { 2 } else { 0 };
    stream.write_all(&[5, 1, method]).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    if chosen != [5, method] {
        return Err(io::Error::other("it wants another way of authentication"));
    }
    if let Some(credentials) = credentials {
        stream.write_all(&credentials.login()).await?;
        let mut admitted = [0; 2];
        stream.read_exact(&mut admitted).await?;
        if admitted[1] != 0 {
            return Err(io::Error::other("it does not admit its own credentials"));
        }
    }
    let mut request = vec![5, 1, 0];
    match host {
        Destination::Address(IpAddr::V4(address)) => {
            request.push(1);
            request.extend(address.octets());
        }
        Destination::Address(IpAddr::V6(address)) => {
            request.push(4);
            request.extend(address.octets());
        }
        Destination::Name(name) => {
            let length = u8::try_from(name.len()).map_err(io::Error::other)?;
            request.extend([3, length]);
            request.extend(name.as_bytes());
        }
    }
    request.extend(port.to_be_bytes());
    stream.write_all(&request).await?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await?;
    if reply[1] != 0 {
        return Err(io::Error::other(format!("reply code {}", reply[1])));
    }
    let bound = match reply[3] {
        1 => 4,
        4 => 16,
        _ => usize::from(stream.read_u8().await?),
    };
    stream.read_exact(&mut vec![0; bound + 2]).await?;
    Ok(stream)
}

impl Dialer for FrontDialer {
    fn mode(&self) -> String {
        let fronts = self.open.fronts();
        let forwards = (!fronts.forwards.is_empty()).then_some("+forward");
        let proxy = fronts.proxy.is_some().then_some("+proxy");
        self.base.mode() + forwards.unwrap_or_default() + proxy.unwrap_or_default()
    }

    fn dial(
        &self,
        host: Destination,
        port: u16,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Dialed, DialFailure>> {
        Box::pin(self.dial_by_front(host, port, limit))
    }

    fn beneath(&self) -> Option<&dyn Dialer> {
        Some(&*self.base)
    }
}

#[cfg(test)]
mod tests {
    use adit_sim::{Host, ScriptedNetwork, Service};
    use tokio::net::TcpListener;

    use super::*;
    use crate::fronts::{Forward, Proxy};

    const PATIENCE: Duration = Duration::from_secs(5);

    fn network() -> Arc<dyn Network> {
        let host = Host::new().tcp(7, Service::Say(b"hello".to_vec()));
        Arc::new(
            ScriptedNetwork::new().host([10, 77, 0, 5], host).name("db.internal", [[10, 77, 0, 5].into()]),
        )
    }

    fn dialer(open: &Arc<Open>) -> FrontDialer {
        let network = network();
        FrontDialer::new(Arc::clone(open), Arc::clone(&network), Box::new(NetworkDialer::new(network)))
    }

    fn host() -> Destination {
        Destination::Name("db.internal".to_owned())
    }

    async fn says_hello(dialed: Result<Dialed, DialFailure>) {
        let mut dialed = dialed.unwrap();
        assert_eq!(dialed.peer, SocketAddr::from(([10, 77, 0, 5], 7)));
        let mut said = [0; 5];
        dialed.stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hello");
    }

    #[tokio::test]
    async fn a_proxy_is_used_with_its_credentials() {
        for credentials in [None, Credentials::parse("user:secret")] {
            let proxy = Proxy::bind(([127, 0, 0, 1], 0).into(), credentials.clone()).await.unwrap();
            let open = Arc::new(Open::default());
            open.add_proxy(proxy.address().unwrap(), credentials);
            let served = tokio::spawn(proxy.run(network()));
            let dialer = dialer(&open);
            says_hello(dialer.dial(host(), 7, PATIENCE).await).await;
            // What the proxy cannot reach is named by the network.
            let refused = dialer.dial(host(), 8, PATIENCE).await.unwrap_err();
            assert_eq!(refused, adit_path::ConnectFailure::Refused.into());
            assert_eq!(dialer.mode(), "userspace+proxy");
            served.abort();
        }
    }

    #[tokio::test]
    async fn a_proxy_that_is_broken_is_blamed_for_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        drop(listener);
        let open = Arc::new(Open::default());
        open.add_proxy(at, None);
        let failure = dialer(&open).dial(host(), 7, PATIENCE).await.unwrap_err();
        assert!(matches!(&failure, DialFailure::Front(why) if why.contains(&at.to_string())), "{failure:?}");
        let described = failure.describe(&adit_verify::Context::default());
        assert_eq!((described.class.as_str(), described.exit), ("env.front", adit_verify::Exit::Environment));
    }

    #[tokio::test]
    async fn the_target_of_a_forward_goes_through_it_and_others_do_not() {
        let forward = Forward::bind("0:db.internal:7".parse().unwrap()).await.unwrap();
        let spec = forward.spec().clone();
        let open = Arc::new(Open::default());
        open.add_forward(spec.clone());
        assert!(open.way(&host(), 7).is_some() && open.way(&host(), 8).is_none());
        let served = tokio::spawn(forward.run(network()));
        says_hello(dialer(&open).dial(host(), 7, PATIENCE).await).await;
        served.abort();
        let _ended = served.await;
        let failure = dialer(&open).dial(host(), 7, PATIENCE).await.unwrap_err();
        assert!(matches!(&failure, DialFailure::Front(why) if why.contains("the forward")), "{failure:?}");
    }
}
