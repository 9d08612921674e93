//! The live engine: a tunnel, a packet end and a thread, as a [`Network`].

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use adit_netstack::Budget;
use adit_tunnel::{NetConfig, Prefix, PrefixTable, Tunnel, Way};
use tokio::sync::{mpsc, oneshot, watch};

use crate::capture::Tap;
use crate::driver::{Driver, Gone, Mailbox, Notice, Request, Ticket};
use crate::{
    Answer, BoxFuture, Capture, CaptureFailure, Connect, ConnectFailure, Destination, Flow, Listen,
    ListenFailure, Listener, Network, Ownership, Phase, PingFailure, PingKind, Pong, Query, ResolveFailure,
    Status, TunOptions, Udp, UdpFailure, UdpFlow, WayFailure, system,
};

/// How long [`Network::status`] waits for fresh counters before it hands out what it has.
const REFRESH: Duration = Duration::from_millis(100);

/// What an engine is made with.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Where packets of the private network go.
    pub end: End,
    /// The destinations that may be reached at all; `None` allows whatever the network routes. Not with a TUN device.
    pub allow: Option<Vec<Prefix>>,
}

/// The packet end.
#[derive(Clone, Debug)]
pub enum End {
    /// The netstack of this process.
    Stack(StackOptions),
    /// A TUN device: programs use it without knowing. Needs `CAP_NET_ADMIN`.
    Tun(TunOptions),
}

impl Default for End {
    fn default() -> Self {
        Self::Stack(StackOptions::default())
    }
}

/// Options of the netstack.
#[derive(Clone, Debug, Default)]
pub struct StackOptions {
    /// Memory for flows.
    pub budget: Budget,
}

/// A running tunnel with its packet end, on a thread of its own. Dropping it shuts it down.
///
/// Its flows, endpoints and listeners belong to it: they end when it does.
pub struct Engine<T: Tunnel> {
    mailbox: Mailbox,
    commands: mpsc::Sender<T::Command>,
    status: watch::Receiver<Status>,
    ownership: watch::Receiver<Ownership>,
    tickets: AtomicU64,
    /// Questions are for the kernel, which a TUN device serves, and not for the driver.
    system: bool,
    allowed: Option<PrefixTable<()>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Why a command did not reach the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Too many commands wait.
    #[error("too many commands wait for the tunnel")]
    Full,
    /// The engine was shut down.
    #[error("the network was closed")]
    Closed,
}

impl<T: Tunnel + Send + 'static> Engine<T> {
    /// Starts the tunnel. It connects by itself; [`Network::status`] tells how far it is.
    ///
    /// # Errors
    /// Of the system: no more descriptors, no thread, no randomness.
    pub fn start(tunnel: T, options: EngineOptions) -> io::Result<Self> {
        let seed = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        let allowed = options.allow.map(|prefixes| {
            let mut table = PrefixTable::default();
            for prefix in prefixes {
                table.insert(prefix.network(), ());
            }
            table
        });
        let system = matches!(options.end, End::Tun(_));
        if system && allowed.is_some() {
            // Programs send through a device without asking; a list that binds only those who ask is none.
            let why = "a TUN device cannot keep a list of allowed destinations";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let (driver, parts) = Driver::new(tunnel, seed, options.end, allowed.clone())?;
        let thread = thread::Builder::new().name("adit-driver".to_owned()).spawn(move || driver.run())?;
        Ok(Self {
            mailbox: parts.mailbox,
            commands: parts.commands,
            status: parts.status,
            ownership: parts.ownership,
            tickets: AtomicU64::new(0),
            system,
            allowed,
            thread: Mutex::new(Some(thread)),
        })
    }
}

impl<T: Tunnel> Engine<T> {
    /// Hands the tunnel a command of its control plane.
    ///
    /// # Errors
    /// If the engine was shut down, or 64 commands wait already.
    pub fn command(&self, command: T::Command) -> Result<(), CommandError> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CommandError::Full,
            mpsc::error::TrySendError::Closed(_) => CommandError::Closed,
        })?;
        self.mailbox.bell.ring();
        Ok(())
    }

    /// Like [`command`](Self::command), waiting for room. False if the engine was shut down.
    pub async fn deliver(&self, command: T::Command) -> bool {
        let delivered = self.commands.send(command).await.is_ok();
        self.mailbox.bell.ring();
        delivered
    }

    /// Ends in order: resets flows, sends what that makes, closes sockets, answers whoever waits with `Closed`,
    /// and joins the thread. Further calls do nothing.
    pub fn shutdown(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            self.mailbox.notify(Notice::Shutdown);
            if thread.join().is_err() {
                tracing::error!("the packet path ended by a panic");
            }
        }
    }

    /// What the kernel must know to answer in the driver's place: the configuration, once it is there.
    async fn configured(&self) -> Result<NetConfig, Gone> {
        let mut status = self.status.clone();
        let known = status.wait_for(|status| {
            status.config.is_some() || matches!(status.phase, Phase::Failed | Phase::Closed)
        });
        let Ok(status) = known.await else { return Err(Gone::Closed) };
        match (status.phase, &status.fault, &status.config) {
            (Phase::Failed, Some(fault), _) => Err(Gone::Down(fault.clone())),
            (Phase::Failed | Phase::Closed, _, _) | (_, _, None) => Err(Gone::Closed),
            (_, _, Some(config)) => Ok(config.clone()),
        }
    }

    /// Whether a destination may be reached, by the routes and by the allow list.
    fn admit(&self, to: IpAddr) -> Result<(), ConnectFailure> {
        if !self.ownership.borrow().owns_address(to) {
            return Err(ConnectFailure::NoRoute(to));
        }
        match &self.allowed {
            Some(allowed) if allowed.lookup(to.to_canonical()).is_none() => Err(ConnectFailure::Denied(
                format!("the profile's allow list has no prefix that covers {to}"),
            )),
            _ => Ok(()),
        }
    }

    async fn system_connect(&self, to: SocketAddr, options: Connect) -> Result<Flow, ConnectFailure> {
        self.configured().await?;
        self.admit(to.ip())?;
        system::connect(to, options).await
    }

    async fn system_udp(&self, options: Udp) -> Result<UdpFlow, UdpFailure> {
        let config = self.configured().await.map_err(|_| UdpFailure::Closed)?;
        if let Some(peer) = options.peer {
            self.admit(peer.ip()).map_err(|failure| match failure {
                ConnectFailure::Denied(why) => UdpFailure::Denied(why),
                _ => UdpFailure::NoRoute(peer.ip()),
            })?;
        }
        system::open(&addresses(&config), &options)
    }

    async fn system_ping(&self, to: IpAddr, kind: PingKind) -> Result<Pong, PingFailure> {
        self.configured().await?;
        self.admit(to).map_err(|_| PingFailure::NoRoute(to))?;
        system::ping(to, kind).await
    }

    /// Asks the driver; `None` if it is gone.
    async fn ask<A>(&self, make: impl FnOnce(Ticket, oneshot::Sender<A>) -> Request) -> Option<A> {
        let (reply, answer) = oneshot::channel();
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        self.mailbox.requests.send(make(ticket, reply)).await.ok()?;
        self.mailbox.bell.ring();
        let mut asker = Asker { ticket: Some(ticket), mailbox: &self.mailbox };
        let answer = answer.await.ok();
        asker.ticket = None;
        answer
    }
}

fn addresses(config: &NetConfig) -> Vec<IpAddr> {
    config.addresses.iter().map(Prefix::address).collect()
}

/// Takes a question back when whoever asked it no longer waits.
struct Asker<'a> {
    ticket: Option<Ticket>,
    mailbox: &'a Mailbox,
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.mailbox.notify(Notice::Cancel(ticket));
        }
    }
}

impl<T: Tunnel + 'static> Network for Engine<T> {
    fn owns(&self, destination: &Destination) -> bool {
        self.ownership.borrow().owns(destination)
    }

    fn resolve(&self, query: Query) -> BoxFuture<'_, Result<Answer, ResolveFailure>> {
        Box::pin(async move {
            if self.system {
                return system::resolve(self.configured().await?, query).await;
            }
            let answer = self.ask(|ticket, reply| Request::Resolve { ticket, query, reply }).await;
            answer.unwrap_or(Err(ResolveFailure::Closed))
        })
    }

    fn connect(&self, to: SocketAddr, options: Connect) -> BoxFuture<'_, Result<Flow, ConnectFailure>> {
        let asked = Instant::now();
        Box::pin(async move {
            if self.system {
                return self.system_connect(to, options).await;
            }
            let answer =
                self.ask(|ticket, reply| Request::Connect { ticket, to, options, asked, reply }).await;
            answer.unwrap_or(Err(ConnectFailure::Closed))
        })
    }

    fn udp(&self, options: Udp) -> BoxFuture<'_, Result<UdpFlow, UdpFailure>> {
        Box::pin(async move {
            if self.system {
                return self.system_udp(options).await;
            }
            let answer = self.ask(|_, reply| Request::Udp { options, reply }).await;
            answer.unwrap_or(Err(UdpFailure::Closed))
        })
    }

    fn listen(&self, port: u16, options: Listen) -> BoxFuture<'_, Result<Listener, ListenFailure>> {
        Box::pin(async move {
            if self.system {
                let config = self.configured().await.map_err(|_| ListenFailure::Closed)?;
                return system::listen(&addresses(&config), port, options);
            }
            let answer = self.ask(|_, reply| Request::Listen { port, options, reply }).await;
            answer.unwrap_or(Err(ListenFailure::Closed))
        })
    }

    fn ping(&self, to: IpAddr, kind: PingKind) -> BoxFuture<'_, Result<Pong, PingFailure>> {
        Box::pin(async move {
            if self.system {
                return self.system_ping(to, kind).await;
            }
            let answer = self.ask(|_, reply| Request::Ping { to, kind, reply }).await;
            answer.unwrap_or(Err(PingFailure::Closed))
        })
    }

    fn find_way(&self, to: IpAddr, timeout: Duration) -> BoxFuture<'_, Result<Way, WayFailure>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            self.mailbox.notify(Notice::FindWay { to: to.to_canonical(), timeout, reply });
            answer.await.unwrap_or(Err(WayFailure::Closed))
        })
    }

    fn capture(&self) -> BoxFuture<'_, Result<Capture, CaptureFailure>> {
        Box::pin(async move {
            let (tap, capture) = Tap::pair().map_err(|error| CaptureFailure::Exhausted(error.to_string()))?;
            let (reply, room) = oneshot::channel();
            self.mailbox.notify(Notice::Capture(tap, reply));
            match room.await {
                Ok(true) => Ok(capture),
                Ok(false) => Err(CaptureFailure::Exhausted("places to look on".to_owned())),
                Err(_) => Err(CaptureFailure::Closed),
            }
        })
    }

    /// The receiver's first value has fresh counters, unless the driver is busy for longer than 100 ms.
    fn status(&self) -> watch::Receiver<Status> {
        let (done, fresh) = sync_channel(1);
        self.mailbox.notify(Notice::Refresh(done));
        // Whether it came in time or not: the last published state is the answer.
        let _ = fresh.recv_timeout(REFRESH);
        self.status.clone()
    }
}

impl<T: Tunnel> fmt::Debug for Engine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("phase", &self.status.borrow().phase).finish_non_exhaustive()
    }
}

impl<T: Tunnel> Drop for Engine<T> {
    fn drop(&mut self) {
        self.shutdown();
    }
}
