//! wg-quick files (`wg-quick(8)`, `wg(8)`): a strict parser with places, and the values it yields.
//!
//! Every key that `wg-quick` knows is read. What cannot be done without root (`Table`, `FwMark`, hooks) is kept
//! and reported as a warning; hooks are never run. A key that `wg-quick` does not know is an error, with the
//! nearest key that it does know.

mod check;
mod line;
mod parse;
mod value;

use std::net::IpAddr;

use adit_tunnel::{DnsConfig, HostPort, Prefix};
use adit_wireguard::{PeerConfig, PresharedKey, PrivateKey, PublicKey};

use crate::{Problem, Problems, SecretKey};

pub use line::censored;
pub use parse::{holds_secret, looks_like};
pub(crate) use value::search_domain;

/// What WireGuard adds to a packet over IPv6: 40 bytes IPv6, 8 UDP, 32 WireGuard.
const OVERHEAD: u16 = 80;

/// Keys that come from elsewhere and are not expected in the file.
#[derive(Clone, Debug, Default)]
pub struct Supplied {
    /// The interface's private key; it replaces that of the file.
    pub private_key: Option<SecretKey>,
    /// The preshared key of the only peer; it replaces that of the file.
    pub preshared_key: Option<SecretKey>,
}

/// A wg-quick file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WgQuick {
    /// Our side.
    pub interface: Interface,
    /// The far sides, in the order of the file; at least one.
    pub peers: Vec<Peer>,
    /// What is doubtful or not done, in the order of the file.
    pub warnings: Vec<Problem>,
}

/// The `[Interface]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `PrivateKey`
    pub private_key: SecretKey,
    /// `ListenPort`; `None` or 0 chooses one.
    pub listen_port: Option<u16>,
    /// `FwMark`; not used without root.
    pub fwmark: Option<u32>,
    /// `Address`, host bits included; never empty.
    pub addresses: Vec<Prefix>,
    /// The addresses of `DNS`.
    pub dns_servers: Vec<IpAddr>,
    /// The names of `DNS`, in lower case without dots at the ends.
    pub dns_search: Vec<String>,
    /// `MTU`
    pub mtu: Option<u16>,
    /// `Table`; not used without root.
    pub table: Table,
    /// `PreUp`, `PostUp`, `PreDown` and `PostDown`; never run.
    pub hooks: Vec<Hook>,
    /// `SaveConfig`; files are never written.
    pub save_config: bool,
}

/// Where routes go, for `wg-quick`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Table {
    /// The main table, or a table of its own for a default route.
    #[default]
    Auto,
    /// No routes.
    Off,
    /// A table by number or name.
    Named,
}

/// A command that `wg-quick` would run as root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The key: `PreUp`, `PostUp`, `PreDown` or `PostDown`.
    pub key: &'static str,
    /// The command line.
    pub command: String,
    /// The line in the file, from 1.
    pub line: usize,
}

/// A `[Peer]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `PublicKey`
    pub public_key: PublicKey,
    /// `PresharedKey`
    pub preshared_key: Option<SecretKey>,
    /// `AllowedIPs`, host bits cleared.
    pub allowed_ips: Vec<Prefix>,
    /// `Endpoint`; without it the peer must call first.
    pub endpoint: Option<HostPort>,
    /// `PersistentKeepalive` in seconds; `None` is off.
    pub persistent_keepalive: Option<u16>,
    /// The line of the section's head, from 1.
    pub line: usize,
}

impl WgQuick {
    /// Reads a file whose keys are all inside.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the file.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        parse::parse(text, &Supplied::default())
    }

    /// Reads a file some of whose keys come from elsewhere.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the file.
    pub fn parse_with(text: &str, supplied: &Supplied) -> Result<Self, Problems> {
        parse::parse(text, supplied)
    }

    /// Reads bytes, which must be UTF-8; a byte order mark is skipped.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the file.
    pub fn parse_bytes(bytes: &[u8], supplied: &Supplied) -> Result<Self, Problems> {
        let text = std::str::from_utf8(bytes).map_err(|error| line::not_text(bytes, error.valid_up_to()))?;
        parse::parse(text, supplied)
    }

    /// Our public key, which the server's `[Peer]` section must name.
    pub fn public_key(&self) -> PublicKey {
        self.interface.private_key.public()
    }

    /// The MTU inside the tunnel as `wg-quick` computes it: the file's, else `link_mtu` (the MTU of the route to
    /// the endpoint, where known) minus 80, else 1420.
    pub fn mtu(&self, link_mtu: Option<u16>) -> u16 {
        self.interface.mtu.unwrap_or_else(|| match link_mtu {
            Some(link) => link.saturating_sub(OVERHEAD).max(576),
            None => adit_wireguard::DEFAULT_MTU,
        })
    }

    /// The configuration of the tunnel. The `DNS` servers answer every private name; names under a search domain
    /// are private.
    pub fn tunnel_config(&self, link_mtu: Option<u16>) -> adit_wireguard::Config {
        let interface = &self.interface;
        let mut config = adit_wireguard::Config::new(PrivateKey::from_bytes(*interface.private_key.expose()));
        config.addresses = interface.addresses.clone();
        config.dns = DnsConfig {
            servers: interface.dns_servers.clone(),
            search: interface.dns_search.clone(),
            routes: Vec::new(),
        };
        config.mtu = self.mtu(link_mtu);
        config.listen_port = interface.listen_port.filter(|port| *port != 0);
        config.peers = self.peers.iter().map(Peer::tunnel_config).collect();
        config
    }
}

impl Peer {
    fn tunnel_config(&self) -> PeerConfig {
        PeerConfig {
            public_key: self.public_key,
            preshared_key: self.preshared_key.as_ref().map(|key| PresharedKey::from_bytes(*key.expose())),
            endpoint: self.endpoint.clone(),
            allowed_ips: self.allowed_ips.clone(),
            persistent_keepalive: self.persistent_keepalive,
        }
    }
}
