//! Which destinations are private, by the network's own configuration: the rule behind [`Network::owns`].
//!
//! [`Network::owns`]: crate::Network::owns

use std::net::IpAddr;

use adit_tunnel::{NameScope, NetConfig, PrefixTable};

use crate::Destination;

/// The destinations that a network owns. Built once per configuration, asked for every trapped system call.
#[derive(Clone, Debug, Default)]
pub struct Ownership {
    /// Routes, and the exclusions inside of them as `false`.
    routes: PrefixTable<bool>,
    config: NetConfig,
}

impl Ownership {
    /// Reads the rules out of a configuration.
    pub fn new(config: &NetConfig) -> Self {
        let mut routes = PrefixTable::default();
        for prefix in &config.excluded {
            routes.insert(prefix.network(), false);
        }
        for prefix in &config.routes {
            routes.insert(prefix.network(), true);
        }
        Self { routes, config: config.clone() }
    }

    /// Whether the destination is private: an address by a route, a name by [`NetConfig::name_scope`].
    pub fn owns(&self, destination: &Destination) -> bool {
        match destination {
            Destination::Address(address) => self.owns_address(*address),
            Destination::Name(name) => self.scope(name) == NameScope::Private,
        }
    }

    /// Whether a route covers the address. Loopback, link-local, multicast and broadcast stay the machine's
    /// own even under a default route: the link-local range holds the metadata services of clouds.
    pub fn owns_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        !is_local(address) && self.routes.lookup(address) == Some(&true)
    }

    /// Whose a name is.
    pub fn scope(&self, name: &str) -> NameScope {
        self.config.name_scope(name)
    }
}

fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            a.is_loopback() || a.is_link_local() || a.is_multicast() || a.is_broadcast() || a.is_unspecified()
        }
        IpAddr::V6(a) => {
            a.is_loopback() || a.is_unicast_link_local() || a.is_multicast() || a.is_unspecified()
        }
    }
}

#[cfg(test)]
mod tests {
    use adit_tunnel::{DnsConfig, DnsRoute};

    use super::*;

    fn config(routes: &[&str], servers: &[&str], search: &[&str], split: &[&str]) -> Ownership {
        Ownership::new(&NetConfig {
            routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
            dns: DnsConfig {
                servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
                search: search.iter().map(ToString::to_string).collect(),
                routes: split
                    .iter()
                    .map(|suffix| DnsRoute { suffix: suffix.to_string(), servers: Vec::new() })
                    .collect(),
            },
            ..NetConfig::default()
        })
    }

    #[test]
    fn addresses_are_owned_by_routes_and_local_ones_never() {
        let ownership = config(&["0.0.0.0/0", "fd00::/8"], &[], &[], &[]);
        for (address, owned) in [
            ("10.1.2.3", true),
            ("8.8.8.8", true),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("fd00::1", true),
            ("2001:db8::1", false),
            ("::1", false),
            ("::ffff:10.1.2.3", true),
            ("::ffff:127.0.0.1", false),
        ] {
            assert_eq!(ownership.owns_address(address.parse().unwrap()), owned, "{address}");
        }
    }

    #[test]
    fn what_is_excluded_from_a_route_is_not_owned() {
        let prefixes = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        let ownership = Ownership::new(&NetConfig {
            routes: prefixes(&["0.0.0.0/0", "172.17.5.0/24"]),
            excluded: prefixes(&["172.17.0.0/16"]),
            ..NetConfig::default()
        });
        for (address, owned) in [("172.17.0.1", false), ("172.17.5.1", true), ("172.18.0.1", true)] {
            assert_eq!(ownership.owns_address(address.parse().unwrap()), owned, "{address}");
        }
    }

    #[test]
    fn only_private_names_are_owned() {
        let ownership = config(&["10.8.0.0/16"], &["10.8.0.1"], &["corp.internal"], &["lab"]);
        for (name, owned) in [
            ("db.corp.internal", true),
            ("DB.Corp.Internal.", true),
            ("x.lab", true),
            ("db", true),
            ("5.0.8.10.in-addr.arpa", true),
            ("5.0.9.10.in-addr.arpa", false),
            ("localhost", false),
            ("example.com", false),
            ("10.8.0.1", false),
            ("", false),
        ] {
            assert_eq!(ownership.owns(&Destination::Name(name.to_owned())), owned, "{name}");
        }
        assert_eq!(ownership.scope("example.com"), NameScope::Either);
    }
}
