//! What travels over the control socket: JSON messages behind a length.
//!
//! Nothing here can carry a credential: no message has a field for one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use adit_path::{
    Answer, CaptureFailure, Connect, ConnectFailure, Listen, ListenFailure, PingFailure, PingKind, Pong,
    Query, ResolveFailure, Status, Udp, UdpFailure, WayFailure,
};
use adit_tunnel::Way;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The longest message in bytes, without its length: the status of a tailnet takes about 250 bytes for each peer.
pub const MAX_MESSAGE: usize = 1 << 23;

/// Bytes of the length in front of each message: big-endian, the message alone.
pub const LENGTH: usize = 4;

/// No wait that a client asks for may exceed this.
const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// What a client asks. The first message of a connection chooses its operation; those marked *follow-up*
/// belong to the conversation of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who are you, and what do you serve? Answered by [`Reply::Info`].
    Info,
    /// Follow the status. Answered by a [`Reply::Status`] now and after every change.
    Watch,
    /// [`Network::resolve`](adit_path::Network::resolve). Answered by [`Reply::Resolved`].
    Resolve(Query),
    /// [`Network::connect`](adit_path::Network::connect). Answered by [`Reply::Connected`]; then either
    /// [`Request::Attach`] follows or the connection ends, which resets the flow.
    Connect {
        /// Where to.
        to: SocketAddr,
        /// How.
        options: Connect,
    },
    /// *Follow-up* with a descriptor: the daemon moves bytes between it and the flow.
    Attach,
    /// [`Network::udp`](adit_path::Network::udp). Answered by [`Reply::Udp`] with a descriptor.
    Udp(Udp),
    /// [`Network::listen`](adit_path::Network::listen). Answered by [`Reply::Listening`], then by a
    /// [`Reply::Incoming`] per connection.
    Listen {
        /// The port; 0 chooses one.
        port: u16,
        /// How.
        options: Listen,
    },
    /// *Follow-up* of `Listen`: what to do with a pending connection.
    Decide {
        /// The number of the [`Reply::Incoming`].
        id: u64,
        /// What to do.
        decision: Decision,
    },
    /// *Follow-up* of `Listen` with a descriptor: moves bytes between it and the accepted connection.
    AttachAccepted {
        /// The number of the [`Reply::Incoming`].
        id: u64,
    },
    /// *Follow-up* of `Listen`: resets an accepted connection that nobody wants.
    Abandon {
        /// The number of the [`Reply::Incoming`].
        id: u64,
    },
    /// [`Network::ping`](adit_path::Network::ping). Answered by [`Reply::Pong`].
    Ping {
        /// Whom.
        to: IpAddr,
        /// How.
        kind: PingKind,
    },
    /// [`Network::find_way`](adit_path::Network::find_way). Answered by [`Reply::Way`].
    FindWay {
        /// To whom.
        to: IpAddr,
        /// How long to wait at most.
        timeout: Duration,
    },
    /// [`Network::capture`](adit_path::Network::capture). Answered by [`Reply::Capturing`] with a descriptor.
    Capture,
    /// Verify the daemon's own targets again. Answered by [`Reply::Verified`].
    Verify,
    /// Add a local forward, written as on the command line. Answered by [`Reply::Forwarded`].
    Forward {
        /// `[ADDR:]L:HOST:PORT[/udp]`.
        spec: String,
    },
    /// Shut down. Answered by [`Reply::Stopping`]; the connection ends when everything is removed.
    Down,
}

/// What to do with a connection that a peer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Complete the handshake. Answered by [`Reply::Accepted`].
    Accept,
    /// Answer with RST.
    Refuse,
    /// Answer nothing.
    Ignore,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Info`].
    Info(Box<Info>),
    /// To [`Request::Watch`].
    Status(Box<Status>),
    /// To [`Request::Resolve`].
    Resolved(Result<Answer, ResolveFailure>),
    /// To [`Request::Connect`].
    Connected(Result<Ends, ConnectFailure>),
    /// To [`Request::Udp`]: our address inside the network. A descriptor comes with success.
    Udp(Result<SocketAddr, UdpFailure>),
    /// To [`Request::Listen`]: the port.
    Listening(Result<u16, ListenFailure>),
    /// A peer asks for a connection.
    Incoming {
        /// Names it within this connection.
        id: u64,
        /// Who asks whom.
        ends: Ends,
    },
    /// To [`Decision::Accept`].
    Accepted {
        /// The number of the [`Reply::Incoming`].
        id: u64,
        /// The connection, or why there is none.
        outcome: Result<Ends, ConnectFailure>,
    },
    /// To [`Request::Ping`].
    Pong(Result<Pong, PingFailure>),
    /// To [`Request::FindWay`].
    Way(Result<Way, WayFailure>),
    /// To [`Request::Capture`]. A descriptor comes with success.
    Capturing(Result<(), CaptureFailure>),
    /// To [`Request::Verify`]: the report (`adit.verify/1`).
    Verified(Result<serde_json::Value, String>),
    /// To [`Request::Forward`]: where it listens.
    Forwarded(Result<String, String>),
    /// To [`Request::Down`].
    Stopping,
    /// The request cannot be served: a sentence.
    Refused(String),
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// Our address inside the network.
    pub local: SocketAddr,
    /// The other end's address.
    pub peer: SocketAddr,
}

/// What a daemon says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The version of the binary.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The profile that it serves; with a suffix where another daemon has the name already.
    pub profile: String,
    /// The file that the profile comes from, as one absolute path; `None` for a pipe.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// The protocol, for example `wireguard`.
    pub provider: String,
    /// The access mode: `userspace` or `tun`.
    pub mode: String,
    /// The TUN device, where there is one.
    pub device: Option<String>,
    /// How long it has been running.
    pub uptime: Duration,
    /// Where fronts listen, by kind: `proxy`, `forward`, `expose`.
    pub fronts: BTreeMap<String, Vec<String>>,
    /// The outcome of verification.
    pub verification: Verification,
}

/// What is known about the targets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// The last report (`adit.verify/1`).
    pub report: Option<serde_json::Value>,
    /// Whether that report is a success.
    pub ok: bool,
    /// How long ago it was made.
    pub age: Option<Duration>,
    /// How many checks failed in a row since the last success.
    pub failures: u32,
    /// Whether the network came up and was configured at least once.
    pub started: bool,
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The length exceeds [`MAX_MESSAGE`].
    #[error("a message of {0} bytes exceeds the limit of {MAX_MESSAGE}")]
    TooLong(usize),
    /// The JSON is not a message of this protocol.
    #[error("not a message of the control protocol: {0}")]
    Json(String),
}

/// Finds the first message in `buffer`: its body and how many bytes it takes with its length. `None` if more
/// bytes are needed. A length over the limit is refused before its body arrives.
pub fn split(buffer: &[u8]) -> Result<Option<(&[u8], usize)>, Malformed> {
    let Some((length, rest)) = buffer.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_MESSAGE {
        return Err(Malformed::TooLong(length));
    }
    Ok(rest.get(..length).map(|body| (body, LENGTH + length)))
}

/// Writes a message with its length.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, Malformed> {
    let mut bytes = vec![0; LENGTH];
    serde_json::to_writer(&mut bytes, message).map_err(|error| Malformed::Json(error.to_string()))?;
    let length = bytes.len() - LENGTH;
    if length > MAX_MESSAGE {
        return Err(Malformed::TooLong(length));
    }
    bytes[..LENGTH].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(bytes)
}

/// Reads a message from its body.
pub fn decode<M: DeserializeOwned>(body: &[u8]) -> Result<M, Malformed> {
    serde_json::from_slice(body).map_err(|error| Malformed::Json(error.to_string()))
}

impl Request {
    /// Reads a request and limits what it may ask for, so that no clock arithmetic behind it overflows.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let mut request = decode(body)?;
        match &mut request {
            Self::Resolve(query) => query.timeout = query.timeout.min(MAX_WAIT),
            Self::Connect { options, .. } => {
                options.timeout = options.timeout.min(MAX_WAIT);
                options.keepalive = options.keepalive.map(|keepalive| keepalive.min(MAX_WAIT));
            }
            Self::Ping { kind: PingKind::Icmp { timeout, .. }, .. } => *timeout = (*timeout).min(MAX_WAIT),
            Self::FindWay { timeout, .. } => *timeout = (*timeout).min(MAX_WAIT),
            Self::Info
            | Self::Watch
            | Self::Capture
            | Self::Attach
            | Self::Udp(_)
            | Self::Listen { .. }
            | Self::Decide { .. }
            | Self::AttachAccepted { .. }
            | Self::Abandon { .. }
            | Self::Verify
            | Self::Forward { .. }
            | Self::Down => {}
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_way_and_tells_its_length() {
        let request = Request::Connect { to: "10.0.0.1:80".parse().unwrap(), options: Connect::default() };
        let mut bytes = encode(&request).unwrap();
        let whole = bytes.len();
        bytes.extend(b"next");
        let (body, used) = split(&bytes).unwrap().unwrap();
        assert_eq!(used, whole);
        assert_eq!(Request::parse(body).unwrap(), request);
        for cut in 0..whole {
            assert_eq!(split(&bytes[..cut]).unwrap(), None);
        }
    }

    #[test]
    fn an_oversized_length_is_refused_before_its_body_comes() {
        assert_eq!(split(&[0xff; 4]), Err(Malformed::TooLong(0xffff_ffff)));
        assert_eq!(split(&[0, 0x80, 0, 1]), Err(Malformed::TooLong(MAX_MESSAGE + 1)));
        assert_eq!(split(&[0, 0x80, 0, 0]), Ok(None));
    }

    #[test]
    fn the_status_of_a_tailnet_with_five_thousand_peers_is_a_message() {
        let peer = |number: u16| {
            let [high, low] = number.to_be_bytes();
            let v4 = IpAddr::from([100, 64, high, low]);
            let v6: IpAddr = format!("fd7a:115c:a1e0::{number:x}").parse().unwrap();
            adit_tunnel::PeerStatus {
                name: format!("workstation-{number}.engineering.tail01234.ts.net"),
                prefixes: [v4, v6].map(adit_tunnel::Prefix::host).to_vec(),
                addresses: vec![v4, v6],
                online: Some(true),
                ..Default::default()
            }
        };
        let status = Status { peers: (0..5000).map(peer).collect(), ..Status::default() };
        let bytes = encode(&status).unwrap();
        let (body, _) = split(&bytes).unwrap().unwrap();
        assert_eq!(decode::<Status>(body).unwrap(), status);
    }

    #[test]
    fn hostile_bodies_are_typed_errors() {
        for body in [
            &b""[..],
            b"{",
            b"null",
            b"\"unknown\"",
            b"{\"connect\":{}}",
            b"{\"info\":null,\"down\":null}",
            b"{\"connect\":{\"to\":\"1.2.3.4:80\",\"options\":{\"timeout\":{\"secs\":1,\"nanos\":0},\"keepalive\":null},\"extra\":1}}",
            b"{\"resolve\":{\"name\":\"x\",\"record\":null,\"timeout\":{\"secs\":18446744073709551615,\"nanos\":4294967295}}}",
            &[b'['; 100_000],
            &[0xff, 0xfe],
        ] {
            assert!(matches!(Request::parse(body), Err(Malformed::Json(_))), "{:?}", String::from_utf8_lossy(&body[..body.len().min(60)]));
        }
    }

    #[test]
    fn waits_are_limited() {
        let body = b"{\"resolve\":{\"name\":\"x\",\"record\":null,\"timeout\":{\"secs\":18446744073709551615,\"nanos\":0}}}";
        let Request::Resolve(query) = Request::parse(body).unwrap() else { panic!("another request") };
        assert_eq!(query.timeout, MAX_WAIT);
    }

    #[test]
    fn failures_survive_the_way() {
        let reply = Reply::Connected(Err(ConnectFailure::Unreachable {
            from: "10.0.0.1".parse().unwrap(),
            kind: 3,
            code: 1,
        }));
        let bytes = encode(&reply).unwrap();
        assert_eq!(decode::<Reply>(&bytes[LENGTH..]).unwrap(), reply);
    }
}
