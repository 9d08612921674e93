//! What a client is made with: an `.ovpn` profile after everything that needs a file or a question was answered.

use std::fmt;
use std::time::{Duration, Instant};

use adit_tunnel::{DnsConfig, HostPort, Prefix};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// Everything that the client needs to know. Option names in the descriptions are those of the manual of OpenVPN 2.6.
#[derive(Clone, Debug)]
pub struct Config {
    /// The servers in the order in which they are tried; never empty.
    pub remotes: Vec<Remote>,
    /// Shuffle the servers once (`remote-random`).
    pub remote_random: bool,
    /// Start the next server of another transport after this head start instead of waiting for the first to fail.
    pub race: Option<Duration>,
    /// Accept authenticated packets from another address of the server (`float`).
    pub float: bool,
    /// The TLS side.
    pub tls: TlsConfig,
    /// Sent where the server wants user and password (`auth-user-pass`).
    pub credentials: Option<Credentials>,
    /// Asked for before the first attempt and sent with the password (`static-challenge`).
    pub static_challenge: Option<Challenge>,
    /// The data channel's ciphers in order of preference (`data-ciphers`); never empty.
    pub data_ciphers: Vec<Cipher>,
    /// The cipher for servers that negotiate none (`data-ciphers-fallback`, else `cipher`).
    pub fallback_cipher: Option<Cipher>,
    /// The HMAC of CBC data channels (`auth`); tls-auth carries its own in [`Wrap::Auth`].
    pub auth: Option<Algorithm>,
    /// Addresses of the profile itself (`ifconfig`, `ifconfig-ipv6`), for servers that push none.
    pub addresses: Vec<Prefix>,
    /// Routes of the profile itself.
    pub routes: Vec<RouteOption>,
    /// Routes of the profile itself to names.
    pub route_names: Vec<RouteName>,
    /// DNS of the profile itself.
    pub dns: DnsConfig,
    /// Refuse IPv6 instead of leaking it (`block-ipv6`).
    pub block_ipv6: bool,
    /// Ask for options at all (`pull`, implied by `client`).
    pub pull: bool,
    /// Take no routes and no DNS from the server (`route-nopull`).
    pub route_nopull: bool,
    /// The first rule whose text begins a pushed option decides (`pull-filter`).
    pub pull_filters: Vec<PullFilter>,
    /// Prefixes that no push may take: the machine's own networks, resolvers and the like.
    pub protected: Vec<Prefix>,
    /// `ping`; a push overrides it.
    pub ping: Option<Duration>,
    /// `ping-restart`; `None` means the default of 120 s under `pull`, zero means never.
    pub ping_restart: Option<Duration>,
    /// `ping-exit`.
    pub ping_exit: Option<Duration>,
    /// `inactive`: end when fewer than this many bytes passed in this time.
    pub inactive: Option<(Duration, u64)>,
    /// `session-timeout`.
    pub session_timeout: Option<Duration>,
    /// `reneg-sec`; zero means never by ourselves.
    pub reneg_interval: Duration,
    /// `reneg-bytes`.
    pub reneg_bytes: Option<u64>,
    /// `reneg-pkts`.
    pub reneg_packets: Option<u64>,
    /// `tran-window`.
    pub tran_window: Duration,
    /// `hand-window`.
    pub hand_window: Duration,
    /// `tls-timeout`: the first retransmission of a control packet at the latest.
    pub tls_timeout: Duration,
    /// `replay-window`: how many packets may come late. On UDP only.
    pub replay_window: u32,
    /// How attempts follow each other.
    pub retry: Retry,
    /// Sent as peer information beside our own (`setenv UV_…`, `push-peer-info`), as `KEY` and value.
    pub peer_info: Vec<(String, String)>,
    /// `push-peer-info`: tell the server more about this client.
    pub push_peer_info: bool,
    /// A browser or a person can be asked (`IV_SSO`): what the caller can answer of `webauth`, `openurl`, `crtext`.
    pub sso: Vec<&'static str>,
    /// `auth-federate`: the lengths of the AWS dialect (SAML responses do not fit 16 bits).
    pub wide_strings: bool,
    /// `auth-nocache`: the password is forgotten once a token stands for it, and a person is asked for it
    /// ([`Prompt::Answer`](adit_tunnel::Prompt::Answer)) when the token is over.
    pub auth_nocache: bool,
    /// What time it is.
    pub clock: Clock,
}

impl Config {
    /// A client of one server with the defaults of the manual of OpenVPN 2.6, and without certificate or login.
    pub fn new(remote: Remote, trust: Trust, clock: Clock) -> Self {
        let hour = Duration::from_secs(3600);
        Self {
            remotes: vec![remote],
            remote_random: false,
            race: None,
            float: false,
            tls: TlsConfig {
                trust,
                identity: None,
                min: TlsVersion::V12,
                max: TlsVersion::V13,
                suites_12: Vec::new(),
                suites_13: Vec::new(),
                groups: Vec::new(),
            },
            credentials: None,
            static_challenge: None,
            data_ciphers: vec![Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305],
            fallback_cipher: None,
            auth: Some(Algorithm::Sha1),
            addresses: Vec::new(),
            routes: Vec::new(),
            route_names: Vec::new(),
            dns: DnsConfig::default(),
            block_ipv6: false,
            pull: true,
            route_nopull: false,
            pull_filters: Vec::new(),
            protected: Vec::new(),
            ping: None,
            ping_restart: None,
            ping_exit: None,
            inactive: None,
            session_timeout: None,
            reneg_interval: hour,
            reneg_bytes: None,
            reneg_packets: None,
            tran_window: hour,
            hand_window: Duration::from_secs(60),
            tls_timeout: Duration::from_secs(2),
            replay_window: 64,
            retry: Retry { pause: Duration::from_secs(1), max_pause: Duration::from_secs(300), rounds: None },
            peer_info: Vec::new(),
            push_peer_info: false,
            sso: Vec::new(),
            wide_strings: false,
            auth_nocache: false,
            clock,
        }
    }
}

/// Relates the caller's monotonic time to the calendar, for certificates and for replay protection.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// An instant.
    pub instant: Instant,
    /// The time since 1970-01-01T00:00:00Z at that instant.
    pub unix: Duration,
}

/// One server: a `remote` with what its `<connection>` block overrides.
#[derive(Clone, Debug)]
pub struct Remote {
    /// The name or address, and the port.
    pub host: HostPort,
    /// Put a random label before the name (`remote-random-hostname`).
    pub random_hostname: bool,
    /// UDP or TCP.
    pub transport: Transport,
    /// Only this address family: 4 or 6 (`udp4`, `tcp6-client`, …).
    pub family: Option<u8>,
    /// The local port of UDP (`lport`, `port`); `None` with `nobind`.
    pub local_port: Option<u16>,
    /// A proxy on the way.
    pub via: Option<Via>,
    /// The first answer of the server must come within this (`server-poll-timeout`, `connect-timeout`).
    pub connect_timeout: Duration,
    /// Protection of the control channel.
    pub wrap: Wrap,
    /// Framing that the profile asks for (`comp-lzo`, `compress`); the server's push overrides it.
    pub compression: Compression,
    /// The MTU inside (`tun-mtu`); the server's push overrides it.
    pub tun_mtu: u16,
    /// `mssfix`.
    pub mssfix: MssFix,
    /// `fragment`, in bytes of the outer datagram.
    pub fragment: Option<u16>,
    /// `explicit-exit-notify`: how often the exit is told, on UDP.
    pub exit_notify: u8,
}

impl Remote {
    /// A server with the defaults of the manual of OpenVPN 2.6.
    pub fn new(host: HostPort, transport: Transport, wrap: Wrap) -> Self {
        Self {
            host,
            random_hostname: false,
            transport,
            family: None,
            local_port: None,
            via: None,
            connect_timeout: Duration::from_secs(120),
            wrap,
            compression: Compression::None,
            tun_mtu: 1500,
            mssfix: MssFix::Default,
            fragment: None,
            exit_notify: 0,
        }
    }
}

/// The carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One packet in one datagram.
    Udp,
    /// A stream of packets with two bytes of length before each.
    Tcp,
}

/// A proxy between us and the server.
#[derive(Clone, Debug)]
pub enum Via {
    /// `http-proxy`: an HTTP CONNECT, for TCP only.
    Http {
        /// The proxy.
        proxy: HostPort,
        /// User and password, where given.
        credentials: Option<Credentials>,
        /// The methods that may be used are limited to Digest (`auto-nct`) or to what is named.
        digest_only: bool,
        /// Further header lines (`http-proxy-option CUSTOM-HEADER`, `AGENT`), without line ends.
        headers: Vec<(String, String)>,
    },
    /// `socks-proxy`: SOCKS 5, CONNECT for TCP and UDP ASSOCIATE for UDP.
    Socks {
        /// The proxy.
        proxy: HostPort,
        /// User and password, where given.
        credentials: Option<Credentials>,
    },
}

/// A user name and a password.
#[derive(Clone)]
pub struct Credentials {
    /// The user name.
    pub username: String,
    /// The password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A question whose answer goes with the password.
#[derive(Clone)]
pub struct Challenge {
    /// The question.
    pub text: String,
    /// Whether the answer may be shown while it is typed.
    pub echo: bool,
    /// The answer follows the password directly (`concat`), instead of in the form `SCRV1`.
    pub concat: bool,
    /// The answer, where the caller has it already.
    pub answer: Option<Zeroizing<String>>,
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, echo, concat, answer } = self;
        f.debug_struct("Challenge")
            .field("text", text)
            .field("echo", echo)
            .field("concat", concat)
            .field("answered", &answer.is_some())
            .finish()
    }
}

/// How the control channel is protected below TLS.
#[derive(Clone, Debug)]
pub enum Wrap {
    /// By nothing.
    None,
    /// `tls-auth`.
    Auth {
        /// The key of 256 bytes.
        key: StaticKey,
        /// The halves that are used.
        direction: Direction,
        /// The HMAC (`auth`).
        algorithm: Algorithm,
    },
    /// `tls-crypt`.
    Crypt(StaticKey),
    /// `tls-crypt-v2`.
    CryptV2 {
        /// The client's key.
        key: StaticKey,
        /// The same key under the server's, with its own length in its last two bytes; at most 1024 bytes.
        wrapped: Vec<u8>,
    },
}

/// A key of 256 bytes, shared with the server.
#[derive(Clone)]
pub struct StaticKey(pub Zeroizing<[u8; 256]>);

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticKey")
    }
}

/// `key-direction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// 0.
    Normal,
    /// 1: the usual one of a client.
    Inverse,
    /// Not given: one key for both directions.
    Both,
}

/// A message digest, for HMACs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// MD5.
    Md5,
    /// SHA-1: the default of `auth`.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// A cipher of the data channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// `AES-128-GCM`.
    Aes128Gcm,
    /// `AES-256-GCM`.
    Aes256Gcm,
    /// `CHACHA20-POLY1305`.
    ChaCha20Poly1305,
    /// `AES-128-CBC`.
    Aes128Cbc,
    /// `AES-192-CBC`.
    Aes192Cbc,
    /// `AES-256-CBC`.
    Aes256Cbc,
}

impl Cipher {
    /// Every cipher.
    pub const ALL: [Self; 6] = [
        Self::Aes256Gcm,
        Self::Aes128Gcm,
        Self::ChaCha20Poly1305,
        Self::Aes256Cbc,
        Self::Aes192Cbc,
        Self::Aes128Cbc,
    ];

    /// The name, as OpenVPN writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "AES-128-GCM",
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "CHACHA20-POLY1305",
            Self::Aes128Cbc => "AES-128-CBC",
            Self::Aes192Cbc => "AES-192-CBC",
            Self::Aes256Cbc => "AES-256-CBC",
        }
    }

    /// Whether it authenticates by itself, without an HMAC.
    pub fn is_aead(self) -> bool {
        matches!(self, Self::Aes128Gcm | Self::Aes256Gcm | Self::ChaCha20Poly1305)
    }

    /// The cipher of a name, in any case; OpenSSL's `id-aes256-GCM` is one too. `None` for what is not spoken here.
    pub fn from_name(name: &str) -> Option<Self> {
        let alias = match name.to_ascii_lowercase().as_str() {
            "id-aes128-gcm" => "AES-128-GCM",
            "id-aes256-gcm" => "AES-256-GCM",
            _ => name,
        };
        Self::ALL.into_iter().find(|cipher| cipher.name().eq_ignore_ascii_case(alias))
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The framing that a compression option brings, in which nothing is ever compressed by us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// No option, no framing.
    #[default]
    None,
    /// `comp-lzo` in any form, `compress lzo`: one byte in front.
    Lzo,
    /// `compress`, `compress stub`, `compress lz4`: one byte in front, the first byte at the end.
    Stub,
    /// `compress stub-v2`, `compress lz4-v2`: nothing in front of almost every packet.
    StubV2,
}

/// `mssfix`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MssFix {
    /// 1492 bytes outside where the MTU inside is 1500, else the MTU inside.
    #[default]
    Default,
    /// `mssfix 0`.
    Off,
    /// `mssfix N`: the packet with OpenVPN's overhead, without the outer IP and UDP headers.
    Payload(u16),
    /// `mssfix N mtu`: the packet with the outer headers.
    Mtu(u16),
    /// `mssfix N fixed`: the inner packet.
    Fixed(u16),
}

/// A route of the profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteOption {
    /// The destinations.
    pub prefix: Prefix,
    /// They stay outside (`net_gateway`).
    pub outside: bool,
}

/// A route of the profile to a name. It is resolved outside of the tunnel before the first server is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteName {
    /// The name.
    pub host: String,
    /// The length of the prefix around each of its IPv4 addresses.
    pub length: u8,
    /// They stay outside (`net_gateway`).
    pub outside: bool,
}

/// A rule about pushed options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullFilter {
    /// The beginning of the options that the rule is about.
    pub prefix: String,
    /// What happens to them.
    pub verdict: PullVerdict,
}

/// What happens to a pushed option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullVerdict {
    /// It is taken.
    Accept,
    /// It is left out.
    Ignore,
    /// The connection ends.
    Reject,
}

/// How attempts follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The pause before the next attempt (`connect-retry`).
    pub pause: Duration,
    /// What it may grow to.
    pub max_pause: Duration,
    /// How often each server is tried (`connect-retry-max`); `None` for ever.
    pub rounds: Option<u32>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2.
    V12,
    /// 1.3.
    V13,
}

/// The TLS side of a client.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// Whom to believe.
    pub trust: Trust,
    /// Our certificate, where there is one.
    pub identity: Option<Identity>,
    /// `tls-version-min`; at least 1.2.
    pub min: TlsVersion,
    /// `tls-version-max`.
    pub max: TlsVersion,
    /// `tls-cipher` in IANA names, empty for all of rustls.
    pub suites_12: Vec<String>,
    /// `tls-ciphersuites`, empty for all of rustls.
    pub suites_13: Vec<String>,
    /// `tls-groups`, in the names of OpenSSL, empty for all of rustls.
    pub groups: Vec<String>,
}

/// Whom to believe to be the server.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// The authorities (`ca`).
    pub roots: Vec<CertificateDer<'static>>,
    /// Certificates that help to build a chain (`extra-certs`).
    pub intermediates: Vec<CertificateDer<'static>>,
    /// Revoked certificates (`crl-verify`).
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// Serial numbers that are revoked, whoever issued them (`crl-verify DIR dir`): big-endian, without zeros in front.
    pub revoked: Vec<Vec<u8>>,
    /// SHA-256 of acceptable server certificates (`peer-fingerprint`); with some, no authority is needed.
    pub fingerprints: Vec<[u8; 32]>,
    /// SHA-256 (or SHA-1: 20 bytes) of the certificate that issued the server's (`verify-hash`).
    pub issuer_hash: Option<Vec<u8>>,
    /// What the certificate must be meant for.
    pub usage: Vec<KeyUsage>,
    /// Its name (`verify-x509-name`).
    pub name: Option<NameCheck>,
    /// `tls-cert-profile`: signatures with SHA-1 are refused (`preferred`, `suiteb`).
    pub modern: bool,
}

/// What a certificate must be meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyUsage {
    /// `remote-cert-tls server`: a key usage, and the extended key usage serverAuth.
    Server,
    /// `ns-cert-type server`, or the extended key usage serverAuth.
    NetscapeServer,
    /// `remote-cert-ku`: one of these values of the key usage extension, as 16 bits, first bit highest of low byte.
    Bits(Vec<u16>),
    /// `remote-cert-eku`: an object identifier in dotted form, or a name of OpenSSL.
    Extended(String),
}

/// `verify-x509-name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameCheck {
    /// The whole subject, as in `C=DE, O=Example, CN=server`.
    Subject(String),
    /// The common name.
    Name(String),
    /// How the common name begins.
    Prefix(String),
}

/// Our certificate and key.
#[derive(Debug)]
pub struct Identity {
    /// Our certificate and those that lead to the authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}
