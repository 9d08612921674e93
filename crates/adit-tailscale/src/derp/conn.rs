//! One connection with a relay: proxy, TLS, HTTP upgrade, login, frames.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use adit_tunnel::{LinkId, NetQueue};
use rustls::ClientConnection;

use super::frame::{self, Frame, Reader};
use super::tls::Tls;
use crate::netmap::DerpNode;
use crate::seal::{Random, Shared};
use crate::{Keys, NodeKey, Proxy};

/// From the first packet to the login a connection may take this long.
const SETUP: Duration = Duration::from_secs(5);
/// A server says something every 60 to 65 s.
const SILENCE: Duration = Duration::from_secs(120);
/// The head of an HTTP answer may be this long.
const MAX_HEAD: usize = 8 * 1024;
/// Bytes that wait for the link; what comes then is dropped, as a relay would drop it.
const MAX_WAITING: usize = 128 * 1024;
/// TLS bytes that are handed to the link at a time.
const CHUNK: usize = 32 * 1024;

/// Why there is no connection with a relay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DerpError {
    /// The host name has no address.
    #[error("the name does not resolve")]
    Unresolved,
    /// TCP does not connect, or the connection broke.
    #[error("{}", .0.map_or_else(|| "the relay closed the connection".to_owned(), |kind| kind.to_string()))]
    Link(Option<std::io::ErrorKind>),
    /// It took too long.
    #[error("no answer in time while {0}")]
    Timeout(&'static str),
    /// TLS failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// The proxy refused.
    #[error("the proxy answered: {0}")]
    Proxy(String),
    /// The answer to the upgrade was another.
    #[error("in place of a relay's `101 Switching Protocols` came: {0}")]
    NoUpgrade(String),
    /// What came is no DERP.
    #[error("what came is no DERP")]
    Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Proxy,
    Http,
    Greeting,
    Ready,
}

/// What a connection has for its owner.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    /// The login is done.
    Ready,
    /// A packet from a node.
    Packet(NodeKey, &'a mut [u8]),
    /// The node is not at this relay.
    PeerGone(NodeKey),
    /// What is wrong with the connection.
    Health(String),
    /// The relay restarts; it wants us back after this time.
    Restarting(Duration),
}

/// How many bytes a second the relay takes from us.
#[derive(Debug)]
struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant, bytes: usize) -> bool {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + earned).min(self.burst);
        self.at = now;
        let wanted = bytes as f64;
        let fits = self.tokens >= wanted;
        if fits {
            self.tokens -= wanted;
        }
        fits
    }
}

/// A connection.
pub(crate) struct Conn {
    pub(crate) link: LinkId,
    /// `Host` of the request.
    authority: String,
    stage: Stage,
    proxy: Option<Proxy>,
    tls: Option<Box<ClientConnection>>,
    head: Vec<u8>,
    frames: Reader,
    /// What waits for the link, not encrypted yet.
    waiting: Vec<u8>,
    shared: Option<Shared>,
    bucket: Option<Bucket>,
    preferred: bool,
    opened: Instant,
    heard: Instant,
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn")
            .field("link", &self.link)
            .field("authority", &self.authority)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

impl Conn {
    /// A connection with `node` over `link`, which is being opened.
    pub(crate) fn new(
        link: LinkId,
        node: &DerpNode,
        tls: Option<&Tls>,
        proxy: Option<&Proxy>,
        now: Instant,
    ) -> Result<Self, DerpError> {
        let authority = match (node.derp_port, node.host.contains(':')) {
            (443, false) => node.host.clone(),
            (port, false) => format!("{}:{port}", node.host),
            (port, true) => format!("[{}]:{port}", node.host),
        };
        let tls = tls
            .map(|tls| tls.connect(&node.host, &node.certificate))
            .transpose()
            .map_err(|error| DerpError::Tls(error.to_string()))?
            .map(Box::new);
        Ok(Self {
            link,
            authority,
            stage: Stage::Connecting,
            proxy: proxy.cloned(),
            tls,
            head: Vec::new(),
            frames: Reader::default(),
            waiting: Vec::new(),
            shared: None,
            bucket: None,
            preferred: false,
            opened: now,
            heard: now,
        })
    }

    /// Whether packets can be sent.
    pub(crate) fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// The link is open.
    pub(crate) fn handle_opened(&mut self, now: Instant, net: &mut NetQueue) {
        self.heard = now;
        match &self.proxy {
            Some(proxy) => {
                self.stage = Stage::Proxy;
                let target = match self.authority.rsplit_once(':') {
                    Some(_) => self.authority.clone(),
                    None => format!("{}:443", self.authority),
                };
                let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
                if let Some(authorization) = &proxy.authorization {
                    request += &format!("Proxy-Authorization: {authorization}\r\n");
                }
                request += "\r\n";
                self.send_clear(request.as_bytes(), net);
            }
            None => self.ask_for_upgrade(net),
        }
    }

    /// What goes to the proxy goes past TLS.
    fn send_clear(&self, bytes: &[u8], net: &mut NetQueue) {
        if let Some(mut slot) = net.reserve(self.link, None, bytes.len()) {
            slot.copy_from_slice(bytes);
            slot.commit(bytes.len());
        }
    }

    fn ask_for_upgrade(&mut self, net: &mut NetQueue) {
        self.stage = Stage::Http;
        let host = &self.authority;
        let request =
            format!("GET /derp HTTP/1.1\r\nHost: {host}\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n");
        self.waiting.extend_from_slice(request.as_bytes());
        self.flush(net);
    }

    /// Takes bytes from the link; frames are in [`next`](Self::next) then.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        mut data: &[u8],
        net: &mut NetQueue,
    ) -> Result<(), DerpError> {
        self.heard = now;
        if self.stage == Stage::Proxy {
            match self.read_head(data)? {
                Some((200..=299, _, rest)) => {
                    self.ask_for_upgrade(net);
                    let rest = std::mem::take(&mut self.head).split_off(rest);
                    return if rest.is_empty() { Ok(()) } else { self.receive(now, &rest, net) };
                }
                Some((code, reason, _)) => return Err(DerpError::Proxy(format!("{code} {reason}"))),
                None => return Ok(()),
            }
        }
        let Some(mut tls) = self.tls.take() else { return self.clear(data) };
        let mut result = Ok(());
        while !data.is_empty() && result.is_ok() {
            result = match tls.read_tls(&mut data) {
                Ok(0) => break,
                Ok(_) => {
                    tls.process_new_packets().map(drop).map_err(|error| DerpError::Tls(error.to_string()))
                }
                Err(error) => Err(DerpError::Tls(error.to_string())),
            };
            if result.is_ok() {
                result = self.drain(&mut tls);
            }
        }
        self.tls = Some(tls);
        // An alert about what was wrong still goes out.
        self.flush(net);
        result
    }

    fn drain(&mut self, tls: &mut ClientConnection) -> Result<(), DerpError> {
        loop {
            let mut reader = tls.reader();
            let len = match reader.fill_buf() {
                Ok([]) | Err(_) => return Ok(()),
                Ok(bytes) => {
                    self.clear(bytes)?;
                    bytes.len()
                }
            };
            reader.consume(len);
        }
    }

    /// Takes bytes that are not, or not any more, encrypted.
    fn clear(&mut self, bytes: &[u8]) -> Result<(), DerpError> {
        match self.stage {
            Stage::Http => match self.read_head(bytes)? {
                Some((101, _, rest)) => {
                    self.stage = Stage::Greeting;
                    let rest = std::mem::take(&mut self.head).split_off(rest);
                    self.frames.push(&rest);
                    Ok(())
                }
                Some((code, reason, _)) => Err(DerpError::NoUpgrade(format!("{code} {reason}"))),
                None => Ok(()),
            },
            Stage::Greeting | Stage::Ready => {
                self.frames.push(bytes);
                Ok(())
            }
            Stage::Connecting | Stage::Proxy => Err(DerpError::Protocol),
        }
    }

    /// Collects the head of an HTTP answer: status, reason, and its length once it is whole.
    fn read_head(&mut self, bytes: &[u8]) -> Result<Option<(u16, String, usize)>, DerpError> {
        self.head.extend_from_slice(bytes);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&self.head) {
            Ok(httparse::Status::Complete(len)) => {
                let reason: String = response
                    .reason
                    .unwrap_or_default()
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(80)
                    .collect();
                Ok(Some((response.code.unwrap_or_default(), reason, len)))
            }
            Ok(httparse::Status::Partial) if self.head.len() <= MAX_HEAD => Ok(None),
            Ok(_) | Err(_) => Err(DerpError::NoUpgrade("something that is no HTTP".to_owned())),
        }
    }

    /// The next thing that the relay said, as far as its owner must hear of it.
    pub(crate) fn next(
        &mut self,
        now: Instant,
        keys: &Keys,
        random: &mut Random,
    ) -> Result<Option<Incoming<'_>>, DerpError> {
        let Self { frames, stage, waiting, shared, bucket, .. } = self;
        // A loop that may return what it borrowed; the borrow checker wants the returning frame read apart.
        loop {
            match frames.peek().map_err(|_| DerpError::Protocol)? {
                None => return Ok(None),
                Some(frame::Kind::Ours) => break,
                Some(frame::Kind::Internal) => {}
            }
            match frames.next().map_err(|_| DerpError::Protocol)? {
                Some(Frame::ServerKey(key)) if *stage == Stage::Greeting => {
                    let theirs = Shared::new(&keys.node, &key);
                    frame::put_client_info(waiting, &keys.node_key(), &theirs, random);
                    *shared = Some(theirs);
                    *stage = Stage::Ready;
                    if self.preferred {
                        frame::put_preferred(waiting, true);
                    }
                    return Ok(Some(Incoming::Ready));
                }
                Some(Frame::ServerKey(_)) => return Err(DerpError::Protocol),
                Some(Frame::ServerInfo(sealed)) => {
                    let text = shared.as_ref().and_then(|shared| shared.open(sealed));
                    *bucket = text.and_then(|text| limits(now, text));
                }
                Some(Frame::Ping(data)) => frame::put_pong(waiting, &data),
                _ => {}
            }
        }
        Ok(match frames.next().map_err(|_| DerpError::Protocol)? {
            Some(Frame::Packet { from, data }) => Some(Incoming::Packet(from, data)),
            Some(Frame::PeerGone(key)) => Some(Incoming::PeerGone(key)),
            Some(Frame::Health(text)) => {
                Some(Incoming::Health(String::from_utf8_lossy(text).chars().take(300).collect()))
            }
            Some(Frame::Restarting(ms)) => Some(Incoming::Restarting(Duration::from_millis(ms.into()))),
            _ => None,
        })
    }

    /// Tells the relay whether others look for us there.
    pub(crate) fn set_preferred(&mut self, preferred: bool) {
        if self.preferred != preferred && self.is_ready() {
            frame::put_preferred(&mut self.waiting, preferred);
        }
        self.preferred = preferred;
    }

    /// Queues a packet for a node. Returns whether there was room.
    pub(crate) fn queue(&mut self, now: Instant, to: &NodeKey, packet: &[u8]) -> bool {
        if !self.has_room(packet.len()) || packet.len() > frame::MAX_PACKET {
            return false;
        }
        if self.bucket.as_mut().is_some_and(|bucket| !bucket.take(now, packet.len() + 37)) {
            return false;
        }
        frame::put_packet_header(&mut self.waiting, to, packet.len());
        self.waiting.extend_from_slice(packet);
        true
    }

    fn has_room(&self, len: usize) -> bool {
        self.waiting.len() + len + 64 <= MAX_WAITING
    }

    /// Appends whole frames that waited for the connection.
    pub(crate) fn queue_frames(&mut self, frames: &[u8]) {
        self.waiting.extend_from_slice(frames);
    }

    /// Hands on what waits, as far as the link takes it.
    pub(crate) fn flush(&mut self, net: &mut NetQueue) {
        // TLS has its first message from the beginning; a link that is not open yet, or leads to a proxy, must not see it.
        if matches!(self.stage, Stage::Connecting | Stage::Proxy) {
            return;
        }
        let Some(tls) = &mut self.tls else { return self.flush_plain(net) };
        loop {
            while tls.wants_write() {
                let len = CHUNK.min(net.free());
                let Some(mut slot) = net.reserve(self.link, None, len) else { return };
                let mut space: &mut [u8] = &mut slot;
                match tls.write_tls(&mut space) {
                    Ok(written) if written > 0 => slot.commit(written),
                    _ => return,
                }
            }
            if self.waiting.is_empty() || net.is_blocked(self.link) {
                return;
            }
            // Before the handshake is over TLS keeps a limited number of bytes; the request is shorter.
            let piece = self.waiting.len().min(16 * 1024);
            let Ok(taken) = tls.writer().write(self.waiting.get(..piece).unwrap_or_default()) else { return };
            self.waiting.drain(..taken);
            if taken == 0 || !tls.wants_write() {
                return;
            }
        }
    }

    fn flush_plain(&mut self, net: &mut NetQueue) {
        while !self.waiting.is_empty() {
            let len = CHUNK.min(self.waiting.len()).min(net.free());
            let Some(mut slot) = net.reserve(self.link, None, len).filter(|_| len > 0) else { return };
            slot.copy_from_slice(self.waiting.get(..len).unwrap_or_default());
            slot.commit(len);
            self.waiting.drain(..len);
        }
    }

    /// When the connection counts as dead, unless something comes.
    pub(crate) fn deadline(&self) -> Instant {
        if self.is_ready() { self.heard + SILENCE } else { self.opened + SETUP }
    }

    /// What was going on, for an error.
    pub(crate) fn doing(&self) -> &'static str {
        match (self.stage, &self.tls) {
            (Stage::Connecting, _) => "connecting",
            (Stage::Proxy, _) => "the proxy connects",
            (Stage::Http, Some(tls)) if tls.is_handshaking() => "TLS begins",
            (Stage::Http, _) => "the relay takes the request",
            (Stage::Greeting, _) => "the relay greets",
            (Stage::Ready, _) => "the relay should have said something",
        }
    }
}

/// The limits in the server's info.
fn limits(now: Instant, text: &[u8]) -> Option<Bucket> {
    let json: serde_json::Value = serde_json::from_slice(text).ok()?;
    let rate = json.get("TokenBucketBytesPerSecond")?.as_f64().filter(|rate| *rate > 0.0)?;
    let burst = json.get("TokenBucketBytesBurst").and_then(serde_json::Value::as_f64).unwrap_or(rate);
    // A burst below one packet would let nothing pass.
    let burst = burst.max(2.0 * frame::MAX_PACKET as f64);
    Some(Bucket { rate, burst, tokens: burst, at: now })
}
