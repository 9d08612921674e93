//! Dialling through the fronts of an `adit up`, as the programs that use them do.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_path::{BoxFuture, Destination, Network, Query};
use adit_verify::{DialFailure, Dialed, Dialer, NetworkDialer};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use super::socks;
use crate::fronts::{Credentials, ForwardSpec, Protocol};

/// How long a forward has to close a connection whose target it cannot reach.
const SECOND_THOUGHT: Duration = Duration::from_millis(300);
/// How long a datagram may stay without an answer before it is sent again.
const AGAIN: Duration = Duration::from_secs(1);

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

    fn way(&self, protocol: Protocol, host: &Destination, port: u16) -> Option<Way> {
        let fronts = self.fronts();
        let meant = |forward: &&ForwardSpec| {
            forward.protocol == protocol && forward.to.host == *host && forward.to.port == port
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
        match self.open.way(Protocol::Tcp, &host, port) {
            None => self.base.dial(host, port, limit).await,
            Some(Way::Forward(at)) => {
                // A forward accepts before it knows whether it can, so the network is asked first.
                let peer = self.direct(host, port, limit).await?;
                through(&format!("the forward {at}"), limit, forward(at), peer).await
            }
            Some(Way::Proxy(at, credentials)) => {
                let peer = self.address(&host, port).await;
                let front = format!("the proxy {at}");
                let credentials = credentials.as_ref();
                let opened = through(&front, limit, socks::connect(at, credentials, &host, port), peer).await;
                match opened {
                    // A proxy speaks two protocols, and programs use either.
                    Ok(dialed) => {
                        let connect = socks::http_connect(at, credentials, &host, port);
                        through(&format!("{front} by CONNECT"), limit, connect, peer).await?;
                        Ok(dialed)
                    }
                    // A reply code says little; the network knows more.
                    Err(failure) => Err(self.direct(host, port, limit).await.err().unwrap_or(failure)),
                }
            }
        }
    }

    async fn exchange_by_front(
        &self,
        host: Destination,
        port: u16,
        payload: Vec<u8>,
        limit: Duration,
    ) -> Result<Vec<u8>, DialFailure> {
        let (front, answer) = match self.open.way(Protocol::Udp, &host, port) {
            None => return self.base.exchange(host, port, payload, limit).await,
            Some(Way::Forward(at)) => (format!("the forward {at}"), exchange(at, &payload, limit).await),
            Some(Way::Proxy(at, credentials)) => {
                let asked = socks::exchange(at, credentials.as_ref(), &host, port, &payload, limit).await;
                (format!("the proxy {at}"), asked)
            }
        };
        let why = match answer {
            Ok(Some(reply)) => return Ok(reply),
            Ok(None) => format!("no answer within {limit:?}"),
            Err(error) => error.to_string(),
        };
        // The network tells whether it is the target that is silent.
        let inside = NetworkDialer::new(Arc::clone(&self.network));
        match inside.exchange(host, port, payload, limit).await {
            Ok(_) => Err(DialFailure::Front(format!("the network reaches it, and {front} does not: {why}"))),
            Err(failure) => Err(failure),
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

/// Sends a datagram until one comes back; `None` when `limit` is over.
async fn exchange(at: SocketAddr, payload: &[u8], limit: Duration) -> io::Result<Option<Vec<u8>>> {
    let until = Instant::now() + limit;
    let socket = UdpSocket::bind(SocketAddr::new(at.ip(), 0)).await?;
    socket.connect(at).await?;
    let mut buffer = vec![0; 65_535];
    while Instant::now() < until {
        socket.send(payload).await?;
        let wait = AGAIN.min(until.saturating_duration_since(Instant::now()));
        if let Ok(received) = timeout(wait, socket.recv(&mut buffer)).await {
            return Ok(Some(buffer[..received?].to_vec()));
        }
    }
    Ok(None)
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

    fn exchange(
        &self,
        host: Destination,
        port: u16,
        payload: Vec<u8>,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, DialFailure>> {
        Box::pin(self.exchange_by_front(host, port, payload, limit))
    }
}

#[cfg(test)]
mod tests {
    use adit_sim::{Host, ScriptedNetwork, Service};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::fronts::{Forward, Proxy};

    const PATIENCE: Duration = Duration::from_secs(5);

    fn network() -> Arc<dyn Network> {
        let host = Host::new().tcp(7, Service::Say(b"hello".to_vec())).udp_echo(7);
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
            assert_eq!(dialer.exchange(host(), 7, b"echo".to_vec(), PATIENCE).await.unwrap(), b"echo");
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
        let way = |protocol, port| open.way(protocol, &host(), port).is_some();
        assert!(way(Protocol::Tcp, 7) && !way(Protocol::Tcp, 8) && !way(Protocol::Udp, 7));
        let served = tokio::spawn(forward.run(network()));
        says_hello(dialer(&open).dial(host(), 7, PATIENCE).await).await;
        served.abort();
        let _ended = served.await;
        let failure = dialer(&open).dial(host(), 7, PATIENCE).await.unwrap_err();
        assert!(matches!(&failure, DialFailure::Front(why) if why.contains("the forward")), "{failure:?}");
    }

    #[tokio::test]
    async fn datagrams_go_through_the_forward_of_their_target() {
        let forward = Forward::bind("0:db.internal:7/udp".parse().unwrap()).await.unwrap();
        let open = Arc::new(Open::default());
        open.add_forward(forward.spec().clone());
        let served = tokio::spawn(forward.run(network()));
        let answer = dialer(&open).exchange(host(), 7, b"echo".to_vec(), PATIENCE).await;
        assert_eq!(answer.unwrap(), b"echo");
        served.abort();
        let _ended = served.await;
        let limit = Duration::from_millis(200);
        let failure = dialer(&open).exchange(host(), 7, b"echo".to_vec(), limit).await.unwrap_err();
        assert!(matches!(&failure, DialFailure::Front(why) if why.contains("the forward")), "{failure:?}");
    }

    #[tokio::test]
    async fn a_proxy_that_does_not_connect_over_http_is_blamed_for_it() {
        // It speaks SOCKS5 and nothing else.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let proxy = Proxy::bind(([127, 0, 0, 1], 0).into(), None).await.unwrap();
        let behind = proxy.address().unwrap();
        let served = tokio::spawn(proxy.run(network()));
        let filter = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut first = [0];
                if client.peek(&mut first).await.is_ok_and(|len| len == 1) && first[0] == 5 {
                    let mut server = TcpStream::connect(behind).await.unwrap();
                    tokio::spawn(
                        async move { tokio::io::copy_bidirectional(&mut client, &mut server).await },
                    );
                }
            }
        });
        let open = Arc::new(Open::default());
        open.add_proxy(at, None);
        // Whatever the network says afterwards, the proxy is at fault: the network reaches the target.
        let failure = dialer(&open).dial(host(), 7, PATIENCE).await.unwrap_err();
        assert!(matches!(&failure, DialFailure::Front(why) if why.contains("by CONNECT")), "{failure:?}");
        filter.abort();
        served.abort();
    }
}
