//! wg-quick files for the client.

use std::fmt;

/// A wg-quick file (wg-quick(8)). Tests change a field to make it wrong.
#[derive(Clone)]
pub(crate) struct Conf {
    pub(crate) private_key: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) mtu: Option<u16>,
    /// Further lines of `[Interface]`.
    pub(crate) interface: Vec<String>,
    pub(crate) server_key: String,
    pub(crate) preshared_key: Option<String>,
    pub(crate) endpoint: String,
    pub(crate) allowed_ips: Vec<String>,
    pub(crate) keepalive: Option<u16>,
    /// Further sections.
    pub(crate) rest: String,
}

impl fmt::Display for Conf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "[Interface]\nPrivateKey = {}\nAddress = {}",
            self.private_key,
            self.addresses.join(", ")
        )?;
        if !self.dns.is_empty() {
            writeln!(f, "DNS = {}", self.dns.join(", "))?;
        }
        if let Some(mtu) = self.mtu {
            writeln!(f, "MTU = {mtu}")?;
        }
        for line in &self.interface {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "\n[Peer]\nPublicKey = {}", self.server_key)?;
        if let Some(key) = &self.preshared_key {
            writeln!(f, "PresharedKey = {key}")?;
        }
        writeln!(f, "Endpoint = {}\nAllowedIPs = {}", self.endpoint, self.allowed_ips.join(", "))?;
        if let Some(seconds) = self.keepalive {
            writeln!(f, "PersistentKeepalive = {seconds}")?;
        }
        f.write_str(&self.rest)
    }
}
