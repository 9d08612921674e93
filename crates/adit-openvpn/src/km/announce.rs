//! What we say of ourselves: the options string, which servers compare with their own, and the peer information.

use std::fmt::Write as _;

use crate::data::Suite;
use crate::{Algorithm, Cipher, Compression, Config, Remote, Transport, Wrap};

/// The bits of `IV_PROTO`. Only what works may be announced: a server uses it without asking again.
pub mod proto {
    /// Data packets with a peer id.
    pub const DATA_V2: u32 = 1 << 1;
    /// The configuration is sent without a request.
    pub const REQUEST_PUSH: u32 = 1 << 2;
    /// Keys by the exporter of TLS.
    pub const TLS_KEY_EXPORT: u32 = 1 << 3;
    /// `AUTH_PENDING` with parameters.
    pub const AUTH_PENDING: u32 = 1 << 4;
    /// The exit as a control message; `protocol-flags`.
    pub const CC_EXIT: u32 = 1 << 7;
    /// `AUTH_FAILED,TEMP`.
    pub const AUTH_FAIL_TEMP: u32 = 1 << 8;
    /// Dynamic tls-crypt.
    pub const DYNAMIC_TLS_CRYPT: u32 = 1 << 9;
    /// Data packets with epochs.
    pub const EPOCH: u32 = 1 << 10;
    /// The `dns` option.
    pub const DNS_V2: u32 = 1 << 11;
    /// `PUSH_UPDATE`.
    pub const PUSH_UPDATE: u32 = 1 << 12;
}

/// The largest MTU inside that may be pushed.
const MAX_TUN_MTU: u16 = 1600;

/// The options string. Servers warn about differences; what they act on is the cipher (of a client that cannot
/// negotiate), `comp-lzo` (a migrating server answers with a stub) and `mtu-dynamic` (`fragment`).
pub fn options_string(config: &Config, remote: &Remote) -> String {
    let cipher = config.fallback_cipher.or_else(|| config.data_ciphers.first().copied());
    let auth = config.auth.unwrap_or(Algorithm::Sha1);
    let overhead = cipher.map_or(0, |cipher| {
        let payload = usize::from(remote.tun_mtu);
        Suite { cipher, auth, epoch: false }.sealed_len(true, payload) - payload
    });
    let proto = match (remote.transport, remote.family) {
        (Transport::Udp, Some(6)) => "UDPv6",
        (Transport::Udp, _) => "UDPv4",
        (Transport::Tcp, Some(6)) => "TCPv6_CLIENT",
        (Transport::Tcp, _) => "TCPv4_CLIENT",
    };
    let mut text = format!(
        "V4,dev-type tun,link-mtu {},tun-mtu {},proto {proto}",
        usize::from(remote.tun_mtu) + overhead,
        remote.tun_mtu
    );
    if remote.compression != Compression::None {
        text.push_str(",comp-lzo");
    }
    if remote.fragment.is_some() {
        text.push_str(",mtu-dynamic");
    }
    // Writing to a string does not fail; likewise below.
    if let Wrap::Auth { direction, .. } = &remote.wrap {
        match direction {
            crate::Direction::Normal => text.push_str(",keydir 0"),
            crate::Direction::Inverse => text.push_str(",keydir 1"),
            crate::Direction::Both => {}
        }
    }
    if let Some(cipher) = cipher {
        let digest = if cipher.is_aead() { "[null-digest]" } else { auth.name() };
        let _ = write!(text, ",cipher {cipher},auth {digest},keysize {}", key_bits(cipher));
    }
    if matches!(remote.wrap, Wrap::Auth { .. }) {
        text.push_str(",tls-auth");
    }
    text.push_str(",key-method 2,tls-client");
    text
}

fn key_bits(cipher: Cipher) -> u16 {
    match cipher {
        Cipher::Aes128Gcm | Cipher::Aes128Cbc => 128,
        Cipher::Aes192Cbc => 192,
        Cipher::Aes256Gcm | Cipher::Aes256Cbc | Cipher::ChaCha20Poly1305 => 256,
    }
}

/// The peer information: what this client can do, one `KEY=VALUE` a line. `proto` holds the bits of [`proto`].
pub fn peer_info(config: &Config, proto: u32) -> String {
    let has = |cipher| config.data_ciphers.contains(&cipher);
    let ciphers: Vec<_> = config.data_ciphers.iter().map(|cipher| cipher.name()).collect();
    let mut lines = vec![
        // Servers gate features on this number; the product's own name stands beside it.
        "IV_VER=2.6.14".to_owned(),
        "IV_PLAT=linux".to_owned(),
        "IV_TCPNL=1".to_owned(),
        format!("IV_MTU={MAX_TUN_MTU}"),
    ];
    if has(Cipher::Aes128Gcm) && has(Cipher::Aes256Gcm) {
        lines.push("IV_NCP=2".to_owned());
    }
    lines.push(format!("IV_CIPHERS={}", ciphers.join(":")));
    lines.push(format!("IV_PROTO={}", proto));
    // The framing of compression without any compression.
    lines.extend(["IV_LZO_STUB=1", "IV_COMP_STUB=1", "IV_COMP_STUBv2=1"].map(str::to_owned));
    if !config.sso.is_empty() {
        lines.push(format!("IV_SSO={}", config.sso.join(",")));
    }
    if !config.peer_info.iter().any(|(key, _)| key == "IV_GUI_VER") {
        lines.push(format!("IV_GUI_VER=adit_{}", env!("CARGO_PKG_VERSION")));
    }
    if config.push_peer_info {
        lines.push("IV_SSL=rustls".to_owned());
    }
    // A line break in a value would begin a line of its own.
    let clean = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
    lines.extend(config.peer_info.iter().map(|(key, value)| format!("{}={}", clean(key), clean(value))));
    lines.join("\n") + "\n"
}
