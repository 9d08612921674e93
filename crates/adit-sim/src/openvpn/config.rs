//! What a server is made with, and what it is told to say.

use std::net::Ipv4Addr;
use std::time::Duration;

use adit_openvpn::{Algorithm, Cipher, Compression, Direction, MssFix, StaticKey, TlsVersion};
use adit_tunnel::Prefix;
use zeroize::Zeroizing;

use super::identity::{ClientTrust, ServerIdentity};

/// A server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The UDP port.
    pub port: u16,
    /// The time at the start, in seconds since 1970: it goes into protected control packets.
    pub unix: u64,
    /// Protection of the control channel.
    pub wrap: ServerWrap,
    /// The certificate.
    pub identity: ServerIdentity,
    /// Whose clients are let in; `None` asks for no certificate.
    pub clients: Option<ClientTrust>,
    /// The newest version of TLS that is spoken.
    pub max_tls: TlsVersion,
    /// The data channel's ciphers in order of preference.
    pub ciphers: Vec<Cipher>,
    /// The HMAC of CBC.
    pub auth: Algorithm,
    /// Addresses of the server inside.
    pub addresses: Vec<Prefix>,
    /// The first client's address; the next client has the next one.
    pub first_client: Ipv4Addr,
    /// Whether there can be more than one client at a time. Else each takes the place and the address of the one
    /// before, as a client does at a real server that comes back under the same name.
    pub several_clients: bool,
    /// Pushed beside what follows from the other fields.
    pub push: Vec<String>,
    /// Whether `ifconfig` and `topology` are pushed.
    pub push_address: bool,
    /// Whether a peer id is pushed, for clients that announce the header.
    pub peer_id: bool,
    /// Whether keys come from the exporter of TLS, for clients that can.
    pub export_keys: bool,
    /// Whether renegotiations have keys of their own (dynamic tls-crypt), for clients that can.
    pub dynamic_tls_crypt: bool,
    /// Whether data packets have epochs, for clients that can.
    pub epoch: bool,
    /// Framing, which must be pushed or be in the client's profile.
    pub compression: Compression,
    /// `fragment`.
    pub fragment: Option<u16>,
    /// `mssfix`.
    pub mssfix: MssFix,
    /// The MTU inside.
    pub tun_mtu: u16,
    /// After this time of one key the server renegotiates.
    pub reneg_interval: Option<Duration>,
    /// The server pings after this time without another packet.
    pub ping: Duration,
    /// A client that is silent for this long is forgotten.
    pub ping_restart: Duration,
    /// What is done with the first connection, the second and so on; the last also serves those after it.
    pub scripts: Vec<Script>,
}

impl ServerConfig {
    /// A server on a port as Debian's would be set up: AEAD, exported keys, dynamic tls-crypt, `10.8.0.0/24`.
    pub fn new(port: u16, wrap: ServerWrap, identity: ServerIdentity) -> Self {
        let gateway = Prefix::new(Ipv4Addr::new(10, 8, 0, 1).into(), 24);
        Self {
            port,
            unix: 1_800_000_000,
            wrap,
            identity,
            clients: None,
            max_tls: TlsVersion::V13,
            ciphers: vec![Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305],
            auth: Algorithm::Sha1,
            addresses: gateway.into_iter().collect(),
            first_client: Ipv4Addr::new(10, 8, 0, 2),
            several_clients: false,
            push: Vec::new(),
            push_address: true,
            peer_id: true,
            export_keys: true,
            dynamic_tls_crypt: true,
            epoch: false,
            compression: Compression::None,
            fragment: None,
            mssfix: MssFix::Default,
            tun_mtu: 1500,
            reneg_interval: None,
            ping: Duration::from_secs(10),
            ping_restart: Duration::from_secs(120),
            scripts: vec![Script::accept()],
        }
    }

    pub(super) fn script(&self, connection: usize) -> Script {
        self.scripts.get(connection).or(self.scripts.last()).cloned().unwrap_or_default()
    }
}

/// Protection of the control channel, from the server's side.
#[derive(Clone, Debug)]
pub enum ServerWrap {
    /// None.
    None,
    /// `tls-auth`; a server's direction is usually [`Direction::Normal`].
    Auth {
        /// The key.
        key: StaticKey,
        /// The halves that are used.
        direction: Direction,
        /// The HMAC.
        algorithm: Algorithm,
    },
    /// `tls-crypt`.
    Crypt(StaticKey),
    /// `tls-crypt-v2`.
    CryptV2 {
        /// The first 128 bytes of the server's key.
        key: Zeroizing<[u8; 128]>,
        /// The server keeps nothing before it has heard from the client twice, and wants the wrapped key again.
        stateless: bool,
    },
}

/// What a server does with one connection, beginning when the client has said who it is.
#[derive(Clone, Debug, Default)]
pub struct Script(pub Vec<Step>);

impl Script {
    /// Sends the configuration at once.
    pub fn accept() -> Self {
        Self::after(Duration::ZERO, Act::Push)
    }

    /// One act after a time.
    pub fn after(after: Duration, act: Act) -> Self {
        Self(vec![Step { after, act }])
    }

    /// Says a control message at once and nothing else.
    pub fn say(message: &str) -> Self {
        Self::after(Duration::ZERO, Act::Say(message.to_owned()))
    }

    /// Goes on with another act, this long after the beginning.
    #[must_use]
    pub fn then(mut self, after: Duration, act: Act) -> Self {
        self.0.push(Step { after, act });
        self
    }
}

/// An act and its time.
#[derive(Clone, Debug)]
pub struct Step {
    /// The time since the client's message of key method 2.
    pub after: Duration,
    /// What is done.
    pub act: Act,
}

/// Something that a server does to a client.
#[derive(Clone, Debug)]
pub enum Act {
    /// Sends `PUSH_REPLY` as the configuration has it; from then on packets pass.
    Push,
    /// Sends a control message.
    Say(String),
    /// Sends bytes inside TLS, with no zero byte behind them.
    Tls(Vec<u8>),
    /// Sends a datagram as it is.
    Datagram(Vec<u8>),
    /// Sends the last control packet again, as it was on the wire.
    Replay,
    /// Begins a renegotiation.
    Renegotiate,
    /// Moves the data channel on to its next epoch, where it has them.
    Epoch,
    /// Lets packets pass, without telling.
    Open,
    /// Forgets the client without a word.
    Forget,
}
