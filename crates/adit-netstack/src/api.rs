//! The words of the stack's interface.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What a [`Stack`](crate::Stack) is made with.
#[derive(Clone, Copy, Debug)]
pub struct StackConfig {
    /// Decides ports, sequence numbers and hash keys. Must be secret and different every time.
    pub seed: u64,
    /// How much memory flows may take.
    pub budget: Budget,
}

/// How much memory flows may take.
///
/// A flow's buffers are sized when it opens: a mebibyte while there is room, smaller the less of it is left. While half of
/// the budget is free, those of a flow that needs more on a long path grow. Memory is taken as data fills it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Buffer space of all flows together, in bytes.
    pub bytes: usize,
    /// Buffer space of one flow at the most, both directions together, in bytes.
    pub max_flow: usize,
}

impl Default for Budget {
    /// 256 MiB for all and 32 MiB for one: room for about 4,700 flows.
    fn default() -> Self {
        Self { bytes: 256 << 20, max_flow: 32 << 20 }
    }
}

macro_rules! slot_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name {
            pub(crate) index: u32,
            pub(crate) generation: u32,
        }
    };
}

slot_id! {
    /// Names a TCP connection. Never reused.
    FlowId
}
slot_id! {
    /// Names a UDP endpoint. Never reused.
    UdpId
}

/// Names a port on which connections are awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub(crate) u64);

/// Names a connection that a peer asks for and that nobody has decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PendingId(pub(crate) u64);

/// Names an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PingId(pub(crate) u64);

/// What decides how much of a TCP connection is in the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CongestionControl {
    /// CUBIC (RFC 9438): every loss cuts the window.
    #[default]
    Cubic,
    /// BBR version 3 (draft-ietf-ccwg-bbr): a model of bandwidth and round trip. Losses count when they are more
    /// than 2 % of what is in flight.
    Bbr,
}

/// Options of a TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Sends a probe when the peer was silent for this long. None by default: a tunnel's outage must not end flows.
    pub keepalive: Option<Duration>,
    /// Gives up when the peer does not acknowledge for this long, during the handshake too. None by default:
    /// the owner decides how long to wait for a connection.
    pub timeout: Option<Duration>,
    /// How what this side sends shares the path with others.
    pub congestion: CongestionControl,
}

/// Why something could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The address is not reached through the tunnel, or the tunnel gave us no address of its family.
    #[error("the tunnel has no route to {0}, or gave us no address of that family")]
    NoRoute(IpAddr),
    /// All ephemeral ports towards the destination are taken.
    #[error("no local port is free; close connections first")]
    NoPort,
    /// The local port is taken.
    #[error("local port {0} is already in use inside the network")]
    PortInUse(u16),
    /// The memory budget, or the bound on endpoints, is used up.
    #[error("the memory budget of the network stack is used up; close connections or raise the budget")]
    OverBudget,
    /// The pending connection is gone: its peer gave up, or the listener was closed.
    #[error("the peer has given up on the connection")]
    Gone,
}

/// What happened in the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackEvent {
    /// Something happened to a TCP connection.
    Tcp(FlowId, FlowEvent),
    /// A peer asks for a connection; its SYN is held until `tcp_accept`, `tcp_refuse` or `tcp_ignore`.
    Incoming {
        /// Which listener.
        listener: ListenerId,
        /// What to decide on.
        pending: PendingId,
        /// The address asked for.
        local: SocketAddr,
        /// Who asks.
        peer: SocketAddr,
    },
    /// Datagrams wait at an endpoint that had none.
    UdpReadable(UdpId),
    /// A datagram did not arrive.
    UdpUnreachable {
        /// The endpoint that sent it.
        id: UdpId,
        /// Where it was sent.
        to: SocketAddr,
        /// Who says so.
        from: IpAddr,
        /// The type of the ICMP message, of the family of `to`.
        kind: u8,
        /// The code of the ICMP message.
        code: u8,
    },
    /// An echo request was answered, or will not be.
    Pong(PingId, Result<Pong, PingError>),
}

/// What happened to a TCP connection. Each kind is reported once until the owner has polled it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowEvent {
    /// The handshake is complete; data may be written.
    Connected,
    /// More data can be read.
    Readable,
    /// A send buffer that was nearly full has room again.
    Writable,
    /// The peer has ended its direction; all data before the end is readable.
    PeerShut,
    /// The connection is over; what was received before can still be read, until `tcp_release`.
    Closed(CloseReason),
}

/// How a TCP connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Both directions ended in order.
    Finished,
    /// The peer answered the SYN with RST.
    Refused,
    /// The peer sent RST.
    Reset,
    /// The peer was silent for longer than [`TcpOptions::timeout`].
    TimedOut,
    /// An ICMP error answered the SYN.
    Unreachable {
        /// Who says so.
        from: IpAddr,
        /// The type of the ICMP message, of the family of the peer.
        kind: u8,
        /// The code of the ICMP message.
        code: u8,
    },
    /// The owner aborted it.
    Aborted,
}

/// The reply to an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// Who answered.
    pub from: IpAddr,
    /// Between request and reply.
    pub rtt: Duration,
    /// Payload bytes of the reply.
    pub size: u16,
    /// Time To Live or Hop Limit of the reply.
    pub hop_limit: u8,
}

/// Why an echo request has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PingError {
    /// Nothing came back in time.
    #[error("no reply came in time")]
    TimedOut,
    /// A router or the target says that the request cannot arrive.
    #[error("{from} says that the request cannot arrive (ICMP type {kind}, code {code})")]
    Unreachable {
        /// Who says so.
        from: IpAddr,
        /// The type of the ICMP message, of the family of the target.
        kind: u8,
        /// The code of the ICMP message.
        code: u8,
    },
}
