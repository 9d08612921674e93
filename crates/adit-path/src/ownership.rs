//! Which destinations are private, by the network's own configuration: the rule behind [`Network::owns`].
//!
//! [`Network::owns`]: crate::Network::owns

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_tunnel::{NetConfig, PrefixTable};

use crate::Destination;

/// How strongly a network claims a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The name lies under a split rule or search domain, is a single label that search domains complete, or
    /// is the reverse name of a routed address: it must never be asked of anybody else.
    Private,
    /// The network's servers are for every name. Such a name may turn out to be a public one.
    Default,
}

/// The destinations that a network owns. Built once per configuration, asked for every trapped system call.
#[derive(Clone, Debug, Default)]
pub struct Ownership {
    routes: PrefixTable<()>,
    suffixes: Vec<String>,
    searches: bool,
    every_name: bool,
}

impl Ownership {
    /// Reads the rules out of a configuration.
    ///
    /// Servers without any split rule or search domain are for every name, as wg-quick(8) and resolvconf(8)
    /// treat them.
    pub fn new(config: &NetConfig) -> Self {
        let mut routes = PrefixTable::default();
        for prefix in &config.routes {
            routes.insert(prefix.network(), ());
        }
        let dns = &config.dns;
        let suffixes: Vec<String> = dns
            .routes
            .iter()
            .map(|route| &route.suffix)
            .chain(&dns.search)
            .map(|suffix| suffix.trim_matches('.').to_ascii_lowercase())
            .collect();
        let every_name = !dns.servers.is_empty() && suffixes.iter().all(String::is_empty);
        Self {
            routes,
            searches: !dns.search.is_empty(),
            every_name,
            suffixes: suffixes.into_iter().filter(|suffix| !suffix.is_empty()).collect(),
        }
    }

    /// Whether the destination is private.
    pub fn owns(&self, destination: &Destination) -> bool {
        match destination {
            Destination::Address(address) => self.owns_address(*address),
            Destination::Name(name) => self.claim(name).is_some(),
        }
    }

    /// Whether a route covers the address. Loopback, link-local, multicast and broadcast stay the machine's
    /// own even under a default route: the link-local range holds the metadata services of clouds.
    pub fn owns_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        !is_local(address) && self.routes.lookup(address).is_some()
    }

    /// How the network claims a name; `None` if the name is not its business.
    pub fn claim(&self, name: &str) -> Option<Claim> {
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() || is_suffix("localhost", name) || name.parse::<IpAddr>().is_ok() {
            return None;
        }
        let private = (self.searches && !name.contains('.'))
            || self.suffixes.iter().any(|suffix| is_suffix(suffix, name))
            || reverse(name).is_some_and(|address| self.owns_address(address));
        match (private, self.every_name) {
            (true, _) => Some(Claim::Private),
            (false, true) => Some(Claim::Default),
            (false, false) => None,
        }
    }
}

/// Whether `name` is `suffix` or lies under it. `suffix` is in lower case.
fn is_suffix(suffix: &str, name: &str) -> bool {
    let Some(start) = name.len().checked_sub(suffix.len()) else { return false };
    let (head, tail) = name.as_bytes().split_at(start);
    tail.eq_ignore_ascii_case(suffix.as_bytes()) && (head.is_empty() || head.ends_with(b"."))
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

/// The address whose reverse name this is (RFC 1035 §3.5, RFC 3596 §2.5).
fn reverse(name: &str) -> Option<IpAddr> {
    let name = name.to_ascii_lowercase();
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0u8; 4];
        let mut labels = labels.split('.').rev();
        for octet in &mut octets {
            *octet = labels.next()?.parse().ok()?;
        }
        return labels.next().is_none().then_some(IpAddr::V4(Ipv4Addr::from(octets)));
    }
    let mut bits = 0u128;
    let mut count = 0;
    for label in name.strip_suffix(".ip6.arpa")?.split('.').rev() {
        let digit = label.chars().next().filter(|_| label.len() == 1)?.to_digit(16)?;
        bits = bits << 4 | u128::from(digit);
        count += 1;
    }
    (count == 32).then_some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
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
    fn names_are_claimed_by_suffix_at_label_boundaries() {
        let ownership = config(&["10.8.0.0/16"], &["10.8.0.1"], &["corp.internal"], &["lab"]);
        for (name, claim) in [
            ("db.corp.internal", Some(Claim::Private)),
            ("DB.Corp.Internal.", Some(Claim::Private)),
            ("corp.internal", Some(Claim::Private)),
            ("evilcorp.internal", None),
            ("x.lab", Some(Claim::Private)),
            ("db", Some(Claim::Private)),
            ("localhost", None),
            ("a.localhost", None),
            ("example.com", None),
            ("10.8.0.1", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(ownership.claim(name), claim, "{name}");
        }
    }

    #[test]
    fn servers_without_rules_are_for_every_name() {
        let ownership = config(&["10.8.0.0/16"], &["10.8.0.1"], &[], &[]);
        assert_eq!(ownership.claim("example.com"), Some(Claim::Default));
        assert_eq!(ownership.claim("localhost"), None);
        assert_eq!(config(&["10.8.0.0/16"], &[], &[], &[]).claim("example.com"), None);
    }

    #[test]
    fn reverse_names_of_routed_addresses_stay_inside() {
        let ownership = config(&["10.8.0.0/16", "fd00:8::/32"], &["10.8.0.1"], &["corp"], &[]);
        assert_eq!(ownership.claim("5.0.8.10.in-addr.arpa"), Some(Claim::Private));
        assert_eq!(ownership.claim("5.0.9.10.in-addr.arpa"), None);
        assert_eq!(ownership.claim("0.8.10.in-addr.arpa"), None);
        let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(ownership.claim(v6), Some(Claim::Private));
    }
}
