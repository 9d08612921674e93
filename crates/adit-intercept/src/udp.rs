//! UDP: one loopback socket for each peer of a socket of the program.
//!
//! The program's socket sends to a *relay*, whose loopback address stands for the true peer, and receives from
//! it. Relays are connected to the program's socket: the kernel drops what any other socket of the machine sends
//! to them. All relays of a socket share one endpoint in the network, so that the peers see one source port.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_path::{Phase, Udp, UdpSocket as Endpoint};
use tokio::net::UdpSocket;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::AbortHandle;

use crate::failure::udp_errno;
use crate::resolver;
use crate::sockaddr;
use crate::sockets::Handle;
use crate::supervisor::{Place, Supervisor};
use crate::sys::{errno, socket};
use crate::tcp::next_address;
use crate::trapped::Trouble;

/// Sockets of the program with private peers.
const MAX_ASSOCIATIONS: usize = 1024;
/// Peers of one socket.
const MAX_RELAYS: usize = 256;
/// Questions to name servers that are being answered at the same time.
const MAX_QUESTIONS: usize = 512;
/// The largest datagram.
pub(crate) const MAX_DATAGRAM: usize = 65_535;

/// The sockets of the program that have private peers, by inode.
#[derive(Debug)]
pub(crate) struct Associations {
    map: Mutex<HashMap<u64, Arc<Association>>>,
    questions: Arc<Semaphore>,
}

impl Default for Associations {
    fn default() -> Self {
        Self { map: Mutex::default(), questions: Arc::new(Semaphore::new(MAX_QUESTIONS)) }
    }
}

impl Associations {
    pub(crate) fn is_empty(&self) -> bool {
        self.map().is_empty()
    }

    pub(crate) fn get(&self, inode: u64) -> Option<Arc<Association>> {
        self.map().get(&inode).cloned()
    }

    pub(crate) fn inodes(&self) -> Vec<u64> {
        self.map().keys().copied().collect()
    }

    pub(crate) fn remove(&self, inode: u64) {
        self.map().remove(&inode);
    }

    fn map(&self) -> MutexGuard<'_, HashMap<u64, Arc<Association>>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket of the program and its peers.
#[derive(Debug)]
pub(crate) struct Association {
    /// Where the program's socket receives.
    client: SocketAddr,
    /// The endpoint in the network, once a private peer needs it.
    endpoint: OnceCell<Endpoint>,
    relays: Mutex<Relays>,
}

#[derive(Debug, Default)]
struct Relays {
    by_place: HashMap<Place, Relay>,
    by_address: HashMap<SocketAddr, SocketAddr>,
    tasks: Vec<AbortHandle>,
}

#[derive(Clone, Debug)]
struct Relay {
    address: SocketAddr,
    socket: Arc<UdpSocket>,
}

impl Drop for Association {
    fn drop(&mut self) {
        for task in &self.relays().tasks {
            task.abort();
        }
    }
}

/// Carries out `connect(2)` on a UDP socket.
pub(crate) fn connect(
    supervisor: &Arc<Supervisor>,
    handle: &Handle,
    place: Place,
    six: bool,
) -> Result<(), Trouble> {
    let relay = relay(supervisor, handle, place)?;
    socket::connect_now(handle, &sockaddr::write(relay, six)).map_err(kernel)?;
    if let Place::Private(to) | Place::Resolver(to) = place {
        supervisor.peers.insert(handle.inode, to, six);
    }
    Ok(())
}

/// The loopback address that stands for a peer.
pub(crate) fn relay(
    supervisor: &Arc<Supervisor>,
    handle: &Handle,
    place: Place,
) -> Result<SocketAddr, Trouble> {
    if matches!(place, Place::Private(_)) {
        let phase = supervisor.network.status().borrow().phase;
        if matches!(phase, Phase::Failed | Phase::Closed) {
            return Err(Trouble::Errno(libc::ENETUNREACH));
        }
    }
    let association = associate(supervisor, handle)?;
    let relay = association.relay(supervisor, place).map_err(kernel)?;
    Ok(relay.address)
}

/// The association of a socket, which is bound if it was not.
fn associate(supervisor: &Arc<Supervisor>, handle: &Handle) -> Result<Arc<Association>, Trouble> {
    let client = client(handle).map_err(kernel)?;
    let mut map = supervisor.associations.map();
    if let Some(association) = map.get(&handle.inode)
        && association.client == client
    {
        return Ok(association.clone());
    }
    if map.len() >= MAX_ASSOCIATIONS {
        return Err(Trouble::Errno(libc::ENOBUFS));
    }
    let association = Arc::new(Association { client, endpoint: OnceCell::new(), relays: Mutex::default() });
    map.insert(handle.inode, association.clone());
    Ok(association)
}

/// Where a socket receives what comes over loopback.
fn client(handle: &Handle) -> io::Result<SocketAddr> {
    let mut local = socket::local(handle)?;
    if local.port() == 0 {
        let any = match local {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        socket::bind(handle, any)?;
        local = socket::local(handle)?;
    }
    Ok(local)
}

impl Association {
    /// The true address of what came from a relay.
    pub(crate) fn peer(&self, relay: SocketAddr) -> Option<SocketAddr> {
        self.relays().by_address.get(&relay).copied()
    }

    fn relays(&self) -> MutexGuard<'_, Relays> {
        self.relays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn relay(self: &Arc<Self>, supervisor: &Arc<Supervisor>, place: Place) -> io::Result<Relay> {
        let (Place::Private(peer) | Place::Resolver(peer)) = place else {
            return Err(io::Error::from_raw_os_error(libc::ENETUNREACH));
        };
        let mut relays = self.relays();
        if let Some(relay) = relays.by_place.get(&place) {
            return Ok(relay.clone());
        }
        if relays.by_place.len() >= MAX_RELAYS {
            return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
        }
        let socket = open(peer, self.client)?;
        let address = socket::local(&socket)?;
        let _runtime = supervisor.runtime.enter();
        let socket = Arc::new(UdpSocket::from_std(socket.into())?);
        let relay = Relay { address, socket: socket.clone() };
        relays.by_place.insert(place, relay.clone());
        relays.by_address.insert(address, peer);
        let task = match place {
            Place::Resolver(server) => {
                supervisor.runtime.spawn(answer_questions(supervisor.clone(), socket, server))
            }
            _ => supervisor.runtime.spawn(outward(supervisor.clone(), Arc::downgrade(self), socket, peer)),
        };
        relays.tasks.push(task.abort_handle());
        Ok(relay)
    }
}

/// A relay for `peer`, connected to the program's socket.
fn open(peer: SocketAddr, client: SocketAddr) -> io::Result<OwnedFd> {
    let client_ip = match client.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        // A socket of both families sees IPv4 peers from its IPv4 side.
        IpAddr::V6(ip) if ip.is_unspecified() && peer.is_ipv4() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let relay = |ip: IpAddr, port| {
        let domain = if ip.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
        let socket = socket::socket(domain, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)?;
        socket::bind(&socket, SocketAddr::new(ip, port))?;
        Ok::<_, io::Error>(socket)
    };
    let socket = if client_ip.is_ipv6() {
        relay(Ipv6Addr::LOCALHOST.into(), 0)?
    } else {
        let address = next_address();
        relay(address, peer.port()).or_else(|_| relay(address, 0))?
    };
    let client = SocketAddr::new(client_ip, client.port());
    socket::connect_now(&socket, &sockaddr::write(client, client.is_ipv6()))?;
    Ok(socket)
}

/// Moves what the program sends to one peer into the network.
async fn outward(
    supervisor: Arc<Supervisor>,
    association: std::sync::Weak<Association>,
    relay: Arc<UdpSocket>,
    peer: SocketAddr,
) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        // The kernel reports here that the program's socket is gone; the census ends the association.
        let Ok(len) = relay.recv(&mut buffer).await else { continue };
        let Some(association) = association.upgrade() else { return };
        let endpoint =
            association.endpoint.get_or_try_init(|| open_endpoint(&supervisor, &association)).await;
        let sent = match endpoint {
            Ok(endpoint) => endpoint.send_to(&buffer[..len], peer).await,
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            tracing::debug!(%peer, %error, "a datagram was not sent");
        }
    }
}

async fn open_endpoint(supervisor: &Arc<Supervisor>, association: &Arc<Association>) -> io::Result<Endpoint> {
    let flow = supervisor
        .network
        .udp(Udp::default())
        .await
        .map_err(|failure| io::Error::from_raw_os_error(udp_errno(&failure)))?;
    let local = flow.local();
    let fd = flow.into_fd();
    let receiver = adit_path::UdpFlow::from_fd(local, fd.try_clone()?).into_socket()?;
    let task = supervisor.runtime.spawn(inward(supervisor.clone(), Arc::downgrade(association), receiver));
    association.relays().tasks.push(task.abort_handle());
    adit_path::UdpFlow::from_fd(local, fd).into_socket()
}

/// Moves what comes from the network to the program, through the relay of its source.
async fn inward(supervisor: Arc<Supervisor>, association: std::sync::Weak<Association>, endpoint: Endpoint) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    while let Ok((len, from)) = endpoint.recv_from(&mut buffer).await {
        let Some(association) = association.upgrade() else { return };
        match association.relay(&supervisor, Place::Private(from)) {
            // A full buffer loses a datagram, as on any network.
            Ok(relay) => drop(relay.socket.try_send(&buffer[..len])),
            Err(error) => tracing::debug!(%from, %error, "a datagram was dropped"),
        }
    }
}

/// Answers the questions that the program sends to a name server.
async fn answer_questions(supervisor: Arc<Supervisor>, relay: Arc<UdpSocket>, server: SocketAddr) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let Ok(len) = relay.recv(&mut buffer).await else { continue };
        // Programs ask again.
        let Ok(permit) = supervisor.associations.questions.clone().try_acquire_owned() else { continue };
        let (supervisor, relay, message) = (supervisor.clone(), relay.clone(), buffer[..len].to_vec());
        tokio::spawn(async move {
            if let Some(reply) = resolver::answer(&supervisor, &message, server, false).await {
                relay.send(&reply).await.ok();
            }
            drop(permit);
        });
    }
}

fn kernel(error: io::Error) -> Trouble {
    Trouble::Errno(errno(&error))
}
