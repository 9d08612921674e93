//! An embedded private network: the far end of a tunnel in this process, on ports of this machine, with its own network
//! stack and services behind it. What `adit demo` connects to.

mod openvpn;
mod tailscale;
mod wireguard;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use adit_path::{Flow, Listen, Network, Udp};
use adit_sim::services::{self, Database, Zone};
use adit_sim::tailnet::Tailnet;
use adit_tunnel::HostPort;
use tokio::sync::{Semaphore, oneshot};

use crate::config::Provider;
use crate::session::{Session, TunnelConfig};
use crate::{Failure, failure};

/// The gateway, which is the DNS server too.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 77, 1);
/// The member's own address.
const MEMBER: Ipv4Addr = Ipv4Addr::new(10, 213, 77, 2);
/// `staging-db.internal`
const DATABASE: Ipv4Addr = Ipv4Addr::new(10, 213, 77, 12);
/// `api.internal`
const API: Ipv4Addr = Ipv4Addr::new(10, 213, 77, 80);

/// The domain of the embedded network.
pub const DOMAIN: &str = "internal";
/// The database server.
pub const DATABASE_NAME: &str = "staging-db.internal";
/// The HTTP server.
pub const API_NAME: &str = "api.internal";

/// Connections that the services serve at the same time; further ones are refused.
const MAX_CONNECTIONS: usize = 64;

/// Where the services are inside the network.
#[derive(Clone, Copy, Debug)]
struct Hosts {
    gateway: Ipv4Addr,
    database: Ipv4Addr,
    api: Ipv4Addr,
}

impl Hosts {
    /// Behind a server that leads to several hosts.
    const BEHIND_GATEWAY: Self = Self { gateway: GATEWAY, database: DATABASE, api: API };

    /// All on one node.
    fn on(node: Ipv4Addr) -> Self {
        Self { gateway: node, database: node, api: node }
    }
}

/// A running private network. Dropping it ends it.
pub struct Embedded {
    server: Session,
    /// The control server and the relay, where there are such; they outlive the nodes, which say goodbye to them.
    tailnet: Option<Tailnet>,
    member: TunnelConfig,
    endpoint: HostPort,
    services: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Embedded {
    /// Starts the server's side: fresh keys, ports of this machine, a network stack, a DNS server for `internal`, a
    /// PostgreSQL server at `staging-db.internal:5432` and an HTTP server at `api.internal:80`. A tailnet consists of
    /// a control server, a relay and a STUN server on loopback, and of a node with these services.
    ///
    /// # Errors
    /// Of the system: no sockets, threads or randomness; or a node of the tailnet that does not get in.
    pub fn start(provider: Provider) -> Result<Self, Failure> {
        let mut hosts = Hosts::BEHIND_GATEWAY;
        let mut tailnet = None;
        let (server, member, endpoint) = match provider {
            Provider::WireGuard => {
                let (server, member, endpoint) = wireguard::start()?;
                (server, TunnelConfig::WireGuard(member), endpoint)
            }
            Provider::OpenVpn => {
                let (server, member, endpoint) = openvpn::start()?;
                (server, TunnelConfig::OpenVpn(Box::new(member)), endpoint)
            }
            Provider::Tailscale => {
                let started = tailscale::start()?;
                hosts = Hosts::on(started.address);
                tailnet = Some(started.tailnet);
                (started.server, TunnelConfig::Tailscale(Box::new(started.member)), started.endpoint)
            }
        };
        let services = serve(server.network(), hosts).map_err(|error| failed(&error))?;
        Ok(Self { server, tailnet, member, endpoint, services: Some(services) })
    }

    /// The configuration of a member, as it would stand in a file.
    pub fn member(&self) -> TunnelConfig {
        self.member.clone()
    }

    /// Where the server listens; of a tailnet, the control server.
    pub fn endpoint(&self) -> &HostPort {
        &self.endpoint
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.services.take() {
            drop(stop);
            // A panic there was printed by its thread; there is nothing left to do about it.
            let _ended = thread.join();
        }
        self.server.shutdown();
        drop(self.tailnet.take());
    }
}

/// A UDP port that is free on all addresses.
fn free_port() -> io::Result<u16> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr().map(|address| address.port())
}

/// Fresh randomness of the system.
fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

fn failed(error: &io::Error) -> Failure {
    failure::of("env.socket", "the embedded network cannot be started").seen(error.to_string())
}

/// Runs the services on a thread of their own until the sender is dropped.
fn serve(network: Arc<dyn Network>, hosts: Hosts) -> io::Result<(oneshot::Sender<()>, JoinHandle<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    // The listeners must be there before the first question comes.
    let zone = Arc::new(
        Zone::new(DOMAIN)
            .name("gateway.internal", [IpAddr::V4(hosts.gateway)])
            .name(DATABASE_NAME, [IpAddr::V4(hosts.database)])
            .name(API_NAME, [IpAddr::V4(hosts.api)]),
    );
    let database = Arc::new(Database::default());
    runtime.block_on(async {
        let socket =
            network.udp(Udp { port: 53, peer: None }).await.map_err(io::Error::other)?.into_socket()?;
        let names = zone.clone();
        tokio::spawn(async move { services::dns_udp(&socket, &names).await });
        listen(&*network, 53, hosts.gateway, move |flow| {
            let zone = zone.clone();
            async move { services::dns_tcp(flow.into_stream()?, &zone).await }
        })
        .await?;
        listen(&*network, 5432, hosts.database, move |flow| {
            let database = database.clone();
            async move { services::postgres(flow.into_stream()?, &database).await }
        })
        .await?;
        listen(
            &*network,
            80,
            hosts.api,
            |flow| async move { services::http(flow.into_stream()?, API_NAME).await },
        )
        .await
    })?;
    let thread = thread::Builder::new().name("adit-demo".to_owned()).spawn(move || {
        runtime.block_on(async {
            let _dropped = stopped.await;
        });
    })?;
    Ok((stop, thread))
}

/// Serves the connections to one address and port; other addresses of the network refuse the port.
async fn listen<F>(
    network: &dyn Network,
    port: u16,
    address: Ipv4Addr,
    serve: impl Fn(Flow) -> F + Send + 'static,
) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut listener = network.listen(port, Listen::default()).await.map_err(io::Error::other)?;
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::spawn(async move {
        while let Some(incoming) = listener.next().await {
            let place = free.clone().try_acquire_owned();
            let (true, Ok(place)) = (incoming.local().ip() == IpAddr::V4(address), place) else {
                incoming.refuse();
                continue;
            };
            let Ok(flow) = incoming.accept().await else { continue };
            let served = serve(flow);
            tokio::spawn(async move {
                if let Err(error) = served.await {
                    tracing::debug!(%error, port, "a connection ended");
                }
                drop(place);
            });
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use adit_path::{ConnectFailure, EngineOptions, Query, ResolveFailure};
    use adit_verify::{NetworkDialer, Plan, Verified, verify};
    use adit_wireguard::PrivateKey;

    use super::*;
    use crate::session::runtime;

    #[test]
    fn a_member_of_the_embedded_network_reaches_its_services_and_nothing_else() {
        for (provider, ping, port) in [
            // The database's host is another one than that of the port.
            (Provider::WireGuard, "icmp://10.213.77.1", 80),
            (Provider::OpenVpn, "icmp://10.213.77.1", 80),
            (Provider::Tailscale, "icmp://gateway.internal", 81),
        ] {
            a_member_reaches_the_services(provider, ping, port);
        }
    }

    fn a_member_reaches_the_services(provider: Provider, ping: &str, closed: u16) {
        let embedded = Embedded::start(provider).unwrap();
        let session = Session::start(embedded.member(), EngineOptions::default()).unwrap();
        let network = session.network();
        runtime().unwrap().block_on(async {
            let targets = ["tcp://staging-db.internal:5432,postgres", "http://api.internal/healthz", ping];
            let targets = targets.iter().map(|text| text.parse().unwrap()).collect();
            let plan = Plan {
                provider: Some(provider.word().to_owned()),
                ..Plan::new(targets, "2026-01-01T00:00:00Z")
            };
            let dialer = NetworkDialer::new(network.clone());
            let report = verify(&*network, &dialer, &plan, &|_| {}).await;
            assert_eq!((report.ok, report.verified), (true, Verified::Targets), "{report:#?}");

            let database = network.resolve(Query::addresses(DATABASE_NAME)).await.unwrap().addresses[0];
            let refused = network.connect((database, closed).into(), adit_path::Connect::default()).await;
            assert_eq!(refused.unwrap_err(), ConnectFailure::Refused);
            let missing = network.resolve(Query::addresses("nowhere.internal")).await;
            assert!(matches!(missing, Err(ResolveFailure::NoSuchName { .. })), "{missing:?}");
        });
        session.shutdown();
        let port = embedded.endpoint().port;
        let bound = || match provider {
            Provider::Tailscale => TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop),
            Provider::WireGuard | Provider::OpenVpn => {
                UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).map(drop)
            }
        };
        bound().expect_err("the port is taken");
        drop(embedded);
        bound().expect("the port is free again");
    }

    #[test]
    fn the_member_of_the_embedded_tailnet_leaves_it_with_its_session() {
        let embedded = Embedded::start(Provider::Tailscale).unwrap();
        let tailnet = embedded.tailnet.as_ref().unwrap();
        let session = Session::start(embedded.member(), EngineOptions::default()).unwrap();
        let names = |tailnet: &Tailnet| tailnet.nodes().into_iter().map(|node| node.name).collect::<Vec<_>>();
        assert!(tailnet.wait(Duration::from_secs(60), |tailnet| names(tailnet) == ["services", "demo"]));
        session.shutdown();
        assert_eq!(
            (names(tailnet), tailnet.deleted()),
            (vec!["services".to_owned()], vec!["demo".to_owned()])
        );
    }

    #[test]
    fn a_key_that_the_embedded_server_does_not_know_gets_no_answer() {
        let embedded = Embedded::start(Provider::WireGuard).unwrap();
        let TunnelConfig::WireGuard(mut stranger) = embedded.member() else { panic!("it is WireGuard") };
        stranger.private_key = PrivateKey::from_bytes([7; 32]);
        let session = Session::start(stranger, EngineOptions::default()).unwrap();
        let network = session.network();
        let report = runtime().unwrap().block_on(async {
            let plan = Plan {
                provider: Some("wireguard".to_owned()),
                ..Plan::new(Vec::new(), "2026-01-01T00:00:00Z")
            };
            let dialer = NetworkDialer::new(network.clone());
            verify(&*network, &dialer, &plan, &|_| {}).await
        });
        assert_eq!((report.exit_code, report.failure.unwrap().class.as_str()), (22, "wg.silent"));
    }
}
