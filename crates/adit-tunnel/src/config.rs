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
    /// Prefixes inside of routes that stay outside of the tunnel. A longer route inside of one is reached again.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Vec::is_empty"))]
    pub excluded: Vec<Prefix>,
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

impl NetConfig {
    /// Whether the tunnel reaches `address`: of routes and exclusions the longest decides, and a route where both are
    /// equally long.
    pub fn routes_to(&self, address: IpAddr) -> bool {
        let longest = |prefixes: &[Prefix]| {
            prefixes.iter().filter(|prefix| prefix.contains(address)).map(Prefix::length).max()
        };
        longest(&self.routes).is_some_and(|route| longest(&self.excluded).is_none_or(|hole| route >= hole))
    }

    /// The routes without what is excluded, for tables that know no exceptions.
    pub fn carved_routes(&self) -> Vec<Prefix> {
        let mut carved: Vec<Prefix> = Vec::with_capacity(self.routes.len());
        for route in &self.routes {
            route.without(&self.excluded, &mut |part| carved.push(part));
        }
        carved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(list: &[&str]) -> Vec<Prefix> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_longest_of_routes_and_exclusions_decides() {
        let config = NetConfig {
            routes: prefixes(&["0.0.0.0/0", "172.17.5.0/24", "10.0.0.0/8"]),
            excluded: prefixes(&["172.17.0.0/16", "10.0.0.0/8", "192.0.2.1/32"]),
            ..NetConfig::default()
        };
        let carved = NetConfig { routes: config.carved_routes(), ..NetConfig::default() };
        for (address, reached) in [
            ("8.8.8.8", true),
            ("172.17.0.1", false),
            ("172.17.5.1", true),
            ("10.1.1.1", true),
            ("192.0.2.1", false),
            ("192.0.2.0", true),
            ("fd00::1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(config.routes_to(address), reached, "{address}");
            assert_eq!(carved.routes_to(address), reached, "{address} in {carved:?}");
        }
    }

    #[test]
    fn without_exclusions_routes_stay_as_they_are() {
        let routes = prefixes(&["0.0.0.0/0", "fd00::/8"]);
        let config = NetConfig { routes: routes.clone(), ..NetConfig::default() };
        assert_eq!(config.carved_routes(), routes);
    }
}
