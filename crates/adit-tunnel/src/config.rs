//! What a private network gives its member: addresses, routes, DNS.

use std::net::IpAddr;

use crate::Prefix;

/// Addresses, routes, DNS and MTU inside the tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NetConfig {
    /// Our own addresses; the length says what is on the link.
    pub addresses: Vec<Prefix>,
    /// The prefixes that the tunnel reaches.
    pub routes: Vec<Prefix>,
    /// Name resolution inside.
    pub dns: DnsConfig,
    /// The largest IP packet that fits into the tunnel, in bytes.
    pub mtu: u16,
}

/// Name resolution inside the tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DnsConfig {
    /// Servers asked for every private name without a more specific route.
    pub servers: Vec<IpAddr>,
    /// Search domains, without leading dot, in order.
    pub search: Vec<String>,
    /// Split rules: a suffix and the servers that answer for it.
    pub routes: Vec<DnsRoute>,
}

/// Names under `suffix` are asked of `servers`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DnsRoute {
    /// A domain without leading or trailing dot, in lower case.
    pub suffix: String,
    /// The servers; none means that the name is answered by nobody and never leaves the machine.
    pub servers: Vec<IpAddr>,
}
