//! The [`Tunnel`] contract and the values that cross it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::{HostPacket, NetConfig, Outbox, Prefix};

/// A VPN protocol as a pure state machine: no sockets, no clock, no tasks, no files.
///
/// After any `handle_*` call, drain the [`Outbox`], then call [`poll_event`](Self::poll_event) until
/// `None`, then re-arm [`poll_timeout`](Self::poll_timeout). `now` never goes backwards. Calling
/// [`handle_timeout`](Self::handle_timeout) early is harmless.
///
/// A failure of one packet is a [`Dropped`]: hostile input never panics and never allocates.
pub trait Tunnel {
    /// What enters from outside the packet path: a netmap delta, new credentials, "the network changed".
    type Command: Send + 'static;
    /// What can go wrong with the tunnel as a whole.
    type Error: TunnelError;

    /// Takes what a link received; opened packets go to `out.host`, replies to `out.net`.
    fn handle_net(&mut self, now: Instant, input: NetInput<'_>, out: &mut Outbox) -> Result<(), Dropped>;
    /// Takes an IP packet (or super-segment) from the packet end; sealed datagrams go to `out.net`.
    fn handle_packet(
        &mut self,
        now: Instant,
        packet: HostPacket<'_>,
        out: &mut Outbox,
    ) -> Result<(), Dropped>;
    /// Does what the passing of time asks for: retransmissions, rekeys, keepalives.
    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox);
    /// Takes a command from the control plane.
    fn handle_command(&mut self, now: Instant, command: Self::Command, out: &mut Outbox);
    /// Takes leave of the far ends, where the protocol has a way to: nothing but draining the outbox and the events
    /// follows. Says nothing by default.
    fn close(&mut self, _now: Instant, _out: &mut Outbox) {}
    /// When [`handle_timeout`](Self::handle_timeout) must be called at the latest, and why.
    fn poll_timeout(&self) -> Option<Deadline>;
    /// The next thing the owner must know or do.
    fn poll_event(&mut self) -> Option<Event<Self::Error>>;
    /// What is known of the far ends, for `status` and for evidence. Not called per packet.
    fn peers(&self, now: Instant) -> Vec<PeerStatus>;
    /// What people should know of a tunnel although it works, for example what a server asked for and did not get. It
    /// is looked at after an event. Nothing by default.
    fn warnings(&self) -> Vec<Fault> {
        Vec::new()
    }
    /// What the network calls this machine, where it gives names.
    fn own_name(&self) -> Option<OwnName> {
        None
    }
    /// Asks the far end behind an address for a sign of life on every way that leads there. [`Event::Way`] with this
    /// `token` follows, after `timeout` at the latest.
    ///
    /// # Errors
    /// There is nobody to ask; the protocol knows one way only unless it says otherwise.
    fn find_way(
        &mut self,
        _now: Instant,
        _to: IpAddr,
        _timeout: Duration,
        _token: u64,
        _out: &mut Outbox,
    ) -> Result<(), NoWay> {
        Err(NoWay::Unsupported)
    }
}

/// Why a far end is not asked for its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWay {
    /// The protocol has no such question.
    Unsupported,
    /// No far end has the address, or leads to it.
    NoRoute,
    /// Too many such questions wait for their answers.
    Busy,
}

/// The way to a far end, as it is found when it is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Way {
    /// The name of the far end, as in [`PeerStatus`].
    pub peer: String,
    /// Where it answered directly.
    pub endpoint: Option<SocketAddr>,
    /// The relay through which it answered, where it did not answer directly.
    pub relay: Option<String>,
    /// The round trip; `None` if nothing came back in time.
    pub rtt: Option<Duration>,
    /// Why it did not answer directly as far as that can be told, one sentence each.
    pub obstacles: Vec<String>,
}

/// An error of a tunnel as a whole, with what verification and `status` show of it.
pub trait TunnelError: std::error::Error + Send + Sync + 'static {
    /// The stable failure class, for example `wg.silent`.
    fn class(&self) -> &'static str;
    /// The observations that led to the verdict, one sentence each.
    fn evidence(&self) -> Vec<String>;
}

/// Names a link: a UDP socket or a TCP connection of the driver. The protocol chooses the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u32);

/// What a link must be. The driver knows only UDP and TCP; everything above is a codec of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkSpec {
    /// A UDP socket that serves both address families where the machine has them.
    Udp {
        /// The local port; `None` lets the system choose.
        port: Option<u16>,
    },
    /// A TCP connection.
    Tcp {
        /// Where to.
        to: SocketAddr,
    },
}

/// A host name (or address literal) and a port, not yet resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HostPort {
    /// A DNS name or an address literal without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why the network below says that a datagram cannot arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// ICMP port unreachable: nothing listens there (`ECONNREFUSED`).
    Port,
    /// ICMP host unreachable, or the system has no neighbour (`EHOSTUNREACH`).
    Host,
    /// No route (`ENETUNREACH`), including a missing address family.
    Network,
    /// The system forbids it (`EPERM`, `EACCES`): a firewall or sandbox.
    Prohibited,
}

/// What a link hands to the protocol. `data` is mutable so that a codec may decrypt in place.
#[derive(Debug)]
pub enum NetInput<'a> {
    /// A datagram on a UDP link.
    Datagram {
        /// The link.
        link: LinkId,
        /// Who sent it.
        from: SocketAddr,
        /// The payload.
        data: &'a mut [u8],
    },
    /// A piece of the byte stream of a TCP link; its length carries no meaning.
    Stream {
        /// The link.
        link: LinkId,
        /// The bytes.
        data: &'a mut [u8],
    },
    /// The link is open.
    Opened {
        /// The link.
        link: LinkId,
        /// The local address.
        local: SocketAddr,
    },
    /// The link ended, or could not be opened.
    Closed {
        /// The link.
        link: LinkId,
        /// Why, where the system said so.
        error: Option<std::io::ErrorKind>,
    },
    /// A TCP link that refused bytes takes them again.
    Writable {
        /// The link.
        link: LinkId,
    },
    /// The network below reported that datagrams to `to` do not arrive.
    Unreachable {
        /// The link.
        link: LinkId,
        /// The destination of the lost datagram.
        to: SocketAddr,
        /// Why.
        why: Unreachable,
    },
    /// The answer to [`Event::Resolve`]; no addresses means that the name does not resolve.
    Resolved {
        /// The question.
        host: &'a HostPort,
        /// The addresses, in the order in which to try them.
        addresses: &'a [SocketAddr],
    },
    /// The machine's own network changed (an interface, a route, a resume from suspend).
    NetworkChanged,
}

/// What a tunnel tells its owner.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<E> {
    /// Open a link.
    OpenLink(LinkId, LinkSpec),
    /// Close a link.
    CloseLink(LinkId),
    /// Resolve a name outside the tunnel and answer with [`NetInput::Resolved`].
    Resolve(HostPort),
    /// Addresses, routes and DNS of the private network are known, or changed.
    Configured(NetConfig),
    /// The way to these destinations has changed: what is known of its narrowest queue, in packets, or that nothing is
    /// known any more. A relay drops what finds its queue full.
    Queue(Vec<Prefix>, Option<u16>),
    /// The tunnel waits for something that only a person can do, until the next event that says otherwise.
    Prompt(Prompt),
    /// The answer to [`Tunnel::find_way`].
    Way {
        /// The question's.
        token: u64,
        /// What was found.
        way: Way,
    },
    /// Packets pass.
    Up,
    /// Packets do not pass for now; the tunnel goes on trying.
    Down(E),
    /// The tunnel has given up; nothing but a new one helps.
    Failed(E),
}

/// What a tunnel waits for that only a person can do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Prompt {
    /// Someone must open a page and sign in or approve there. The tunnel goes on by itself then.
    Open {
        /// The page, as the far end named it: data, not to be trusted.
        url: String,
        /// How long the far end waits, where it says.
        timeout: Option<Duration>,
    },
    /// Someone must answer a question; the answer enters as a command.
    Answer {
        /// Names the question, for the answer.
        id: u64,
        /// The question, as the far end put it.
        text: String,
        /// Whether the answer may be shown while it is typed.
        echo: bool,
    },
}

/// When a machine wants to be called again, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The time.
    pub at: Instant,
    /// The reason, for logs and for tests.
    pub why: &'static str,
}

impl Deadline {
    /// The earlier of two optional deadlines.
    pub fn earlier(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if b.at < a.at { b } else { a }),
            (a, b) => a.or(b),
        }
    }
}

/// Why a packet was dropped. `Copy`, so that a flood allocates nothing; counted per reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Dropped {
    /// A queue is full.
    #[error("a queue is full")]
    Backpressure,
    /// The bytes do not parse.
    #[error("the packet does not parse")]
    Malformed,
    /// No peer or link leads to the destination.
    #[error("no route to the destination")]
    NoRoute,
    /// The session is not established yet.
    #[error("the session is not established yet")]
    NotReady,
    /// A packet number was seen before, or is too old.
    #[error("the packet is a replay")]
    Replayed,
    /// The inner source address does not belong to the peer.
    #[error("the source address does not belong to the peer")]
    SourceNotAllowed,
    /// The packet is larger than the path takes.
    #[error("the packet is larger than the path takes")]
    TooBig,
    /// The packet does not authenticate.
    #[error("the packet does not authenticate")]
    Unauthentic,
    /// A budget (memory, flows) is used up.
    #[error("a budget is used up")]
    OverBudget,
    /// A packet for a link, flow or index that does not exist.
    #[error("nobody here expects the packet")]
    Unexpected,
}

impl Dropped {
    /// Every reason, in the order of their counters.
    pub const ALL: [Self; 10] = [
        Self::Backpressure,
        Self::Malformed,
        Self::NoRoute,
        Self::NotReady,
        Self::Replayed,
        Self::SourceNotAllowed,
        Self::TooBig,
        Self::Unauthentic,
        Self::OverBudget,
        Self::Unexpected,
    ];

    /// A position for counters, below `Self::ALL.len()`.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// A tunnel-level failure as data: what [`TunnelError`] says, able to cross threads and processes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Fault {
    /// The stable failure class.
    pub class: String,
    /// One sentence.
    pub summary: String,
    /// The observations, one sentence each.
    pub evidence: Vec<String>,
}

impl<E: TunnelError> From<&E> for Fault {
    fn from(error: &E) -> Self {
        Self { class: error.class().to_owned(), summary: error.to_string(), evidence: error.evidence() }
    }
}

/// What is known of one far end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PeerStatus {
    /// A public name: for WireGuard the base64 of the public key.
    pub name: String,
    /// Where packets go at present.
    pub endpoint: Option<SocketAddr>,
    /// The prefixes that belong to the peer.
    pub prefixes: Vec<Prefix>,
    /// Time since the last completed handshake.
    pub handshake_age: Option<Duration>,
    /// Bytes received and sent on the outside.
    pub received: u64,
    /// Bytes sent on the outside.
    pub sent: u64,
    /// Inner addresses that belong to the far end itself, where the protocol tells.
    pub addresses: Vec<IpAddr>,
    /// What the connection seems to suffer from although packets pass.
    #[cfg_attr(feature = "serde", serde(default))]
    pub symptom: Option<Fault>,
    /// Whether the far end is reachable as far as a coordination server says, where the protocol has one.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub online: Option<bool>,
    /// Whether nobody takes its packets any more, because its key has expired.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "std::ops::Not::not"))]
    pub expired: bool,
    /// Whether it may carry packets to everywhere: an exit node.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "std::ops::Not::not"))]
    pub offers_exit: bool,
    /// The relay that packets go through, while there is traffic and no [`endpoint`](Self::endpoint) carries it.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub relay: Option<String>,
    /// The last round trip that was measured on the present way, the endpoint or the relay.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub rtt: Option<Duration>,
    /// Whose machine it is, where the protocol tells.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub user: Option<String>,
    /// Tags that policies refer to, where the protocol has them.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Vec::is_empty"))]
    pub tags: Vec<String>,
}

/// What a network calls this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct OwnName {
    /// The full DNS name, without trailing dot.
    pub name: String,
    /// Tags that policies refer to.
    pub tags: Vec<String>,
    /// When the key by which the network knows this machine expires, in seconds since 1970; `None` if it does not.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub key_expires: Option<u64>,
    /// The exit node that was asked for, in the words of whoever did.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub exit_node: Option<String>,
}
