//! What handles ask of the driver, and how they wake it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use adit_netstack::{FlowId, PendingId};
use adit_tunnel::Way;
use mio::Waker;
use tokio::sync::{mpsc, oneshot};

use crate::capture::Tap;
use crate::{
    Answer, Connect, ConnectFailure, Flow, Listen, ListenFailure, Listener, PingFailure, PingKind, Pong,
    Query, ResolveFailure, Udp, UdpFailure, UdpFlow, WayFailure,
};

/// Questions that may wait for the driver; further askers wait themselves.
pub(crate) const MAX_REQUESTS: usize = 1024;

/// Names a question, so that its asker can take it back.
pub(crate) type Ticket = u64;

/// A question. Its answer goes into the channel; an asker that is gone is noticed when it is answered, or by
/// [`Notice::Cancel`].
pub(crate) enum Request {
    Connect {
        ticket: Ticket,
        to: SocketAddr,
        options: Connect,
        asked: Instant,
        reply: oneshot::Sender<Result<Flow, ConnectFailure>>,
    },
    Resolve {
        ticket: Ticket,
        query: Query,
        reply: oneshot::Sender<Result<Answer, ResolveFailure>>,
    },
    Udp {
        options: Udp,
        reply: oneshot::Sender<Result<UdpFlow, UdpFailure>>,
    },
    Listen {
        port: u16,
        options: Listen,
        reply: oneshot::Sender<Result<Listener, ListenFailure>>,
    },
    Ping {
        to: IpAddr,
        kind: PingKind,
        reply: oneshot::Sender<Result<Pong, PingFailure>>,
    },
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect { .. } => "Connect",
            Self::Resolve { .. } => "Resolve",
            Self::Udp { .. } => "Udp",
            Self::Listen { .. } => "Listen",
            Self::Ping { .. } => "Ping",
        })
    }
}

/// What a handle says without waiting. There are at most a few per open flow, so the queue is bounded by them.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The asker is gone.
    Cancel(Ticket),
    /// Carry the flow on this socket.
    Attach(FlowId, OwnedFd),
    /// The flow's owner dropped it.
    Abort(FlowId),
    /// Complete a handshake.
    Accept(PendingId, oneshot::Sender<Result<Flow, ConnectFailure>>),
    /// Refuse a connection.
    Refuse(PendingId),
    /// Do not answer a connection.
    Ignore(PendingId),
    /// Ask the tunnel for the way to an address.
    FindWay { to: IpAddr, timeout: Duration, reply: oneshot::Sender<Result<Way, WayFailure>> },
    /// Copy packets for somebody; says whether there was room.
    Capture(Tap, oneshot::Sender<bool>),
    /// Publish the present status, then say so.
    Refresh(SyncSender<()>),
    /// End.
    Shutdown,
}

/// The way from handles to the driver.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) notices: mpsc::UnboundedSender<Notice>,
    pub(crate) bell: Bell,
}

impl Mailbox {
    /// Says something; without effect once the driver is gone.
    pub(crate) fn notify(&self, notice: Notice) {
        if self.notices.send(notice).is_ok() {
            self.bell.ring();
        }
    }
}

/// Wakes the driver. Rings that come before it listens are one.
#[derive(Clone, Debug)]
pub(crate) struct Bell {
    waker: Arc<Waker>,
    rung: Arc<AtomicBool>,
}

impl Bell {
    pub(crate) fn new(waker: Waker) -> Self {
        Self { waker: Arc::new(waker), rung: Arc::new(AtomicBool::new(false)) }
    }

    pub(crate) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // The counter of an eventfd cannot overflow here: it is read at every waking.
            let _ = self.waker.wake();
        }
    }

    /// Must be called before the queues are read, so that what comes after rings again.
    pub(crate) fn hear(&self) {
        self.rung.store(false, Ordering::Release);
    }
}
