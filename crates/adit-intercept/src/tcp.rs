//! TCP with a deferred handshake: the program's socket stays in SYN-SENT until the target has answered.
//!
//! The socket is pointed at a *sink*, a loopback listener that drops every SYN. When the network has connected,
//! the sink's address connects back to the socket: a simultaneous open (RFC 9293 §3.5) completes both ends, and
//! the end that is ours becomes the relay. When the network fails, the sink goes away, the socket is sent into
//! its absence, and the kernel itself reports a refused connection. So `EINPROGRESS`, readiness, time-outs and
//! `SO_ERROR` are the kernel's own, and no success is reported that the target did not grant.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_path::{Connect, ConnectFailure, Flow, Phase};
use rustix::net::sockopt;
use tokio::io::Interest;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::failure::connect_errno;
use crate::resolver::serve_stream;
use crate::sockaddr;
use crate::sockets::Handle;
use crate::supervisor::{Place, Supervisor};
use crate::sys::listener::Answer;
use crate::sys::socket::{self, TCP_SYN_SENT};
use crate::sys::{errno, readiness};
use crate::trapped::Trapped;

/// How long a non-blocking `connect` waits for a failure that is known at once (no route, a policy), which a
/// kernel would return synchronously. A thread that opens many connections pays it for each, so it is short.
const HOLD: Duration = Duration::from_millis(2);
/// Connections being made at the same time, two descriptors each.
const MAX_DIALS: usize = 4096;
/// Calls that wait for one connection.
const MAX_WAITING: usize = 16;
/// How long the two ends of a simultaneous open may take; it happens within the loopback interface.
const MEETING: Duration = Duration::from_secs(2);

/// The connections being made, by inode of the program's socket.
#[derive(Debug, Default)]
pub(crate) struct Dials(Mutex<HashMap<u64, Arc<Dial>>>);

impl Dials {
    pub(crate) fn inodes(&self) -> Vec<u64> {
        self.map().keys().copied().collect()
    }

    /// The program has closed the socket of a connection that is being made.
    pub(crate) fn abandon(&self, inode: u64) {
        if let Some(dial) = self.map().get(&inode) {
            dial.abandoned.notify_one();
        }
    }

    fn map(&self) -> MutexGuard<'_, HashMap<u64, Arc<Dial>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection being made.
#[derive(Debug)]
pub(crate) struct Dial {
    handle: Handle,
    /// The calls that wait for it; `None` when the result is known.
    waiting: Mutex<Option<Vec<Waiter>>>,
    abandoned: Notify,
}

#[derive(Debug)]
struct Waiter {
    trapped: Trapped,
    blocking: bool,
}

impl Dial {
    fn waiting(&self) -> MutexGuard<'_, Option<Vec<Waiter>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the calls for which `choose` holds with `EINPROGRESS`: the connection goes on without them.
    fn let_go(&self, choose: impl Fn(&Waiter) -> bool) {
        let mut waiting = self.waiting();
        let Some(waiters) = waiting.as_mut() else { return };
        let mut index = 0;
        while index < waiters.len() {
            if choose(&waiters[index]) {
                waiters.swap_remove(index).trapped.answer(Answer::Errno(libc::EINPROGRESS)).ok();
            } else {
                index += 1;
            }
        }
    }
}

/// Carries out `connect(2)` on a stream socket.
pub(crate) fn connect(
    supervisor: &Arc<Supervisor>,
    trapped: Trapped,
    handle: Handle,
    place: Place,
    six: bool,
) {
    let blocking = socket::is_blocking(&handle).unwrap_or(true);
    let trapped = match join(supervisor, trapped, &handle, blocking) {
        Ok(()) => return,
        Err(trapped) => trapped,
    };
    match start(supervisor, &handle, place, six) {
        Ok((sink, client)) => {
            let dial =
                Arc::new(Dial { handle, waiting: Mutex::new(Some(Vec::new())), abandoned: Notify::new() });
            supervisor.dials.map().insert(dial.handle.inode, dial.clone());
            wait_for(supervisor, &dial, Waiter { trapped, blocking });
            supervisor.runtime.spawn(run(supervisor.clone(), dial, sink, client, place, six));
        }
        Err(error) => {
            let errno = supervisor.errors.take(handle.inode).unwrap_or(errno(&error));
            let answer = if errno == 0 {
                // The kernel's answer to the first call after the handshake. Later calls may come when the socket
                // is no longer held, and must know of it.
                supervisor.peers.tell(handle.inode);
                Answer::Value(0)
            } else {
                Answer::Errno(errno)
            };
            supervisor.finish(trapped, Ok(answer));
        }
    }
}

/// Joins a connection that is being made already: a call that was interrupted comes back, or another thread
/// tries the same.
fn join(
    supervisor: &Arc<Supervisor>,
    trapped: Trapped,
    handle: &Handle,
    blocking: bool,
) -> Result<(), Trapped> {
    let Some(dial) = supervisor.dials.map().get(&handle.inode).cloned() else { return Err(trapped) };
    // Once the socket has left SYN-SENT, it shows the result itself.
    let connecting = socket::tcp_state(handle).is_ok_and(|state| state == TCP_SYN_SENT);
    let room = match dial.waiting().as_ref() {
        Some(waiters) if blocking || connecting => Some(waiters.len() < MAX_WAITING),
        _ => None,
    };
    match room {
        Some(true) if blocking => {
            wait_for(supervisor, &dial, Waiter { trapped, blocking });
            Ok(())
        }
        Some(_) => {
            supervisor.finish(trapped, Ok(Answer::Errno(libc::EALREADY)));
            Ok(())
        }
        None => Err(trapped),
    }
}

fn wait_for(supervisor: &Arc<Supervisor>, dial: &Arc<Dial>, waiter: Waiter) {
    // connect(2) gives up waiting after SO_SNDTIMEO, with the connection still being made.
    let patience = sockopt::socket_timeout(&dial.handle, sockopt::Timeout::Send).ok().flatten();
    let id = waiter.trapped.id();
    {
        let mut waiting = dial.waiting();
        match waiting.as_mut() {
            Some(waiters) => waiters.push(waiter),
            // The result came in between: the socket itself shows it.
            None => return supervisor.finish(waiter.trapped, Ok(Answer::Errno(libc::EINPROGRESS))),
        }
    }
    if let Some(patience) = patience.filter(|_| socket::is_blocking(&dial.handle).unwrap_or(true)) {
        let dial = dial.clone();
        supervisor.runtime.spawn(async move {
            tokio::time::sleep(patience).await;
            dial.let_go(|waiter| waiter.trapped.id() == id);
        });
    }
}

/// Puts the socket into SYN-SENT towards a new sink; returns the sink and the socket's address.
fn start(
    supervisor: &Supervisor,
    handle: &Handle,
    place: Place,
    six: bool,
) -> io::Result<(Sink, SocketAddr)> {
    let (Place::Private(to) | Place::Resolver(to)) = place else {
        return Err(io::Error::from_raw_os_error(libc::ENETUNREACH));
    };
    if supervisor.dials.map().len() >= MAX_DIALS {
        return Err(io::Error::from_raw_os_error(libc::EAGAIN));
    }
    let sink = Sink::open(to, six)?;
    // A socket that is connected, listening or connecting elsewhere gets the kernel's own answer here.
    match socket::connect_now(handle, &sink.target(six)) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
        Ok(()) => return Err(io::Error::from_raw_os_error(0)),
    }
    if socket::tcp_state(handle)? != TCP_SYN_SENT {
        // A time-to-live of 255 (RFC 5082) passes the sink.
        tracing::warn!("a connection with a time-to-live of 255 cannot be carried to {to}");
        socket::disconnect(handle).ok();
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    supervisor.peers.remove(handle.inode);
    supervisor.errors.take(handle.inode);
    Ok((sink, socket::local(handle)?))
}

/// Connects in the network, and lets the program know.
async fn run(
    supervisor: Arc<Supervisor>,
    dial: Arc<Dial>,
    sink: Sink,
    client: SocketAddr,
    place: Place,
    six: bool,
) {
    let inode = dial.handle.inode;
    let keepalive = keepalive(&dial.handle);
    let outcome = {
        let mut reach = std::pin::pin!(reach(&supervisor, place, keepalive));
        let hold = async {
            tokio::time::sleep(HOLD).await;
            dial.let_go(|waiter| !waiter.blocking);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            outcome = &mut reach => Some(outcome),
            () = dial.abandoned.notified() => None,
            () = hold => None,
        }
    };
    let result = match outcome {
        // Nobody holds the socket any more.
        None => Err(libc::ECONNABORTED),
        Some(Err(errno)) => Err(errno),
        Some(Ok(end)) => {
            // The program may ask as soon as the two ends have met.
            supervisor.peers.insert(inode, end.peer(), six);
            match sink.meet(client).await {
                Ok(relay) => Ok((end, relay)),
                Err(error) => {
                    tracing::debug!(%error, "the program's socket is gone");
                    supervisor.peers.remove(inode);
                    Err(libc::ECONNABORTED)
                }
            }
        }
    };
    match result {
        Ok((end, relay)) => succeed(&supervisor, &dial, end, relay, &sink, six),
        Err(errno) => fail(&supervisor, &dial, sink, errno, six),
    }
    let mut dials = supervisor.dials.map();
    if dials.get(&inode).is_some_and(|other| Arc::ptr_eq(other, &dial)) {
        dials.remove(&inode);
    }
}

/// What a connected socket leads to.
enum End {
    /// A connection of the network.
    Flow(Flow),
    /// The answers to DNS questions, in the place of this server.
    Resolver(SocketAddr),
}

impl End {
    fn peer(&self) -> SocketAddr {
        match self {
            Self::Flow(flow) => flow.peer(),
            Self::Resolver(server) => *server,
        }
    }
}

async fn reach(supervisor: &Supervisor, place: Place, keepalive: Option<Duration>) -> Result<End, i32> {
    match place {
        Place::Private(to) => dial_network(supervisor, to, keepalive).await.map(End::Flow),
        Place::Resolver(server) => Ok(End::Resolver(server)),
        Place::Public => Err(libc::ENETUNREACH),
    }
}

/// Connects in the network. One that is not up may come up within the options' patience; meanwhile the attempt
/// runs, because a packet may be what wakes the tunnel.
pub(crate) async fn dial_network(
    supervisor: &Supervisor,
    to: SocketAddr,
    keepalive: Option<Duration>,
) -> Result<Flow, i32> {
    let deadline = Instant::now() + supervisor.options.wait;
    loop {
        let options = Connect { keepalive, ..Connect::default() };
        let failure = tokio::select! {
            result = supervisor.network.connect(to, options) => match result {
                Ok(flow) => return Ok(flow),
                Err(failure) => failure,
            },
            errno = given_up(supervisor, deadline) => return Err(errno),
        };
        tracing::debug!(%to, %failure, "connect");
        if !matches!(failure, ConnectFailure::Down(_)) {
            return Err(connect_errno(&failure));
        }
        let mut status = supervisor.network.status();
        let up = status.wait_for(|status| matches!(status.phase, Phase::Up | Phase::Failed | Phase::Closed));
        match tokio::time::timeout_at(deadline, up).await {
            Ok(Ok(status)) if status.phase == Phase::Up => {}
            _ => return Err(libc::ENETUNREACH),
        }
        if Instant::now() >= deadline {
            return Err(libc::ENETUNREACH);
        }
    }
}

/// Ends when the network is not up by `deadline`, or has ended for good; never once it is up.
pub(crate) async fn given_up(supervisor: &Supervisor, deadline: Instant) -> i32 {
    let mut status = supervisor.network.status();
    let decided = status.wait_for(|status| matches!(status.phase, Phase::Up | Phase::Failed | Phase::Closed));
    match tokio::time::timeout_at(deadline, decided).await {
        Ok(Ok(status)) if status.phase == Phase::Up => {}
        _ => return libc::ENETUNREACH,
    }
    std::future::pending().await
}

/// The keepalive that the program asked for before connecting (`SO_KEEPALIVE`, `TCP_KEEPIDLE`).
fn keepalive(handle: &Handle) -> Option<Duration> {
    let wanted = sockopt::socket_keepalive(handle).unwrap_or(false);
    wanted.then(|| sockopt::tcp_keepidle(handle).ok()).flatten()
}

fn succeed(supervisor: &Arc<Supervisor>, dial: &Dial, end: End, relay: OwnedFd, sink: &Sink, six: bool) {
    let inode = dial.handle.inode;
    supervisor.sockets.release(inode);
    match end {
        End::Flow(flow) => {
            if let Err(error) = flow.attach(relay) {
                tracing::warn!(%error, "a connection could not be attached");
            }
        }
        End::Resolver(server) => {
            supervisor.runtime.spawn(serve_stream(supervisor.clone(), relay, server));
        }
    }
    for waiter in dial.waiting().take().unwrap_or_default() {
        let answer = if waiter.blocking {
            // The kernel's own bookkeeping: a further connect(2) is answered EISCONN from now on.
            socket::connect_now(&dial.handle, &sink.target(six)).ok();
            supervisor.peers.tell(inode);
            Answer::Value(0)
        } else {
            Answer::Errno(libc::EINPROGRESS)
        };
        waiter.trapped.answer(answer).ok();
    }
}

fn fail(supervisor: &Supervisor, dial: &Dial, sink: Sink, errno: i32, six: bool) {
    let handle = &dial.handle;
    let target = sink.target(six);
    let mut waiting = dial.waiting();
    let waiters = waiting.take().unwrap_or_default();
    // Dissolving the attempt wakes whoever polls the socket; the reason must stand before.
    supervisor.errors.insert(handle.inode, errno);
    socket::disconnect(handle).ok();
    drop(sink);
    let mut told = false;
    if !waiters.is_empty() {
        // A synchronous failure leaves no error behind.
        sockopt::socket_error(handle).ok();
        supervisor.errors.take(handle.inode);
        for waiter in waiters {
            told |= waiter.trapped.answer(Answer::Errno(errno)).is_ok();
        }
    }
    if !told {
        supervisor.errors.insert(handle.inode, errno);
        let refused = socket::connect_now(handle, &target);
        let pending = matches!(&refused, Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS));
        if pending && errno == libc::ECONNREFUSED {
            // The kernel itself holds the reason now.
            supervisor.errors.take(handle.inode);
        }
    }
}

/// A loopback listener that drops every SYN.
#[derive(Debug)]
pub(crate) struct Sink {
    /// Drops SYNs for as long as it is open.
    _socket: OwnedFd,
    address: SocketAddr,
}

/// The last address that was given out, counted from [`POOL`].
static LAST_ADDRESS: AtomicU32 = AtomicU32::new(0);
/// `127.64.0.0/10`: no resolver stub, container or sandbox is known to use it.
const POOL: u32 = 0x7f40_0000;
const POOL_SIZE: u32 = 1 << 22;
/// The hop limit of the loopback interface is 64, so nothing passes.
const DROP_ALL: i32 = 255;

impl Sink {
    pub(crate) fn open(to: SocketAddr, six: bool) -> io::Result<Self> {
        if six
            && to.is_ipv6()
            && let Ok(sink) = Self::open_at((Ipv6Addr::LOCALHOST, 0).into())
        {
            return Ok(sink);
        }
        let address = next_address();
        // The true port where it may be had, for programs that look at the peer without asking us.
        Self::open_at(SocketAddr::new(address, to.port()))
            .or_else(|_| Self::open_at(SocketAddr::new(address, 0)))
    }

    fn open_at(address: SocketAddr) -> io::Result<Self> {
        let socket = stream_socket(address)?;
        let (level, name) = match address {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MINTTL),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT),
        };
        socket::set_option(&socket, level, name, DROP_ALL)?;
        socket::bind(&socket, address)?;
        // Only after the port is chosen, or the kernel would give the same one to two sinks.
        share_address(&socket)?;
        socket::listen(&socket, 8)?;
        let address = socket::local(&socket)?;
        Ok(Self { _socket: socket, address })
    }

    /// The address for the program's socket.
    pub(crate) fn target(&self, six: bool) -> Vec<u8> {
        sockaddr::write(self.address, six)
    }

    /// Completes the program's handshake from the sink's address; returns our end.
    pub(crate) async fn meet(&self, client: SocketAddr) -> io::Result<OwnedFd> {
        let relay = stream_socket(self.address)?;
        share_address(&relay)?;
        socket::bind(&relay, self.address)?;
        socket::set_option(&relay, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        match socket::connect_now(&relay, &sockaddr::write(client, client.is_ipv6())) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        if socket::has_connected(&relay)? {
            return Ok(relay);
        }
        let relay = readiness::watch(relay, Interest::WRITABLE)?;
        let ready = tokio::time::timeout(MEETING, relay.writable()).await;
        drop(ready.map_err(|_| io::ErrorKind::TimedOut)??);
        let relay = relay.into_inner();
        sockopt::socket_error(&relay)?.map_err(io::Error::from)?;
        if socket::has_connected(&relay)? { Ok(relay) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let domain = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    socket::socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
}

fn share_address(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    Ok(())
}

/// The next address of the pool.
pub(crate) fn next_address() -> IpAddr {
    let last = LAST_ADDRESS.load(Ordering::Relaxed);
    if last == 0 {
        // Several supervisors on one machine begin at different places.
        let start = std::process::id().wrapping_mul(0x9e37_79b1) % POOL_SIZE;
        LAST_ADDRESS.compare_exchange(0, start.max(1), Ordering::Relaxed, Ordering::Relaxed).ok();
    }
    let next = LAST_ADDRESS.fetch_add(1, Ordering::Relaxed) % (POOL_SIZE - 2);
    IpAddr::V4(Ipv4Addr::from(POOL + 1 + next))
}
