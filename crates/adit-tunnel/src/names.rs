//! Which names belong to a private network: the policy behind split DNS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::NetConfig;

/// Whose a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameScope {
    /// The private network's: answered by it or not at all. Never sent to a public resolver, whatever dies.
    Private,
    /// Perhaps the private network's: it is asked first, and what it does not know is asked outside.
    Either,
    /// Not the private network's.
    Public,
}

/// Domains that never exist in the public DNS: `internal` is reserved for private use by ICANN (2024),
/// `home.arpa` by RFC 8375, the rest by RFC 6762 appendix G.
const PRIVATE_DOMAINS: [&str; 8] =
    ["corp", "home", "home.arpa", "internal", "intranet", "lan", "localdomain", "private"];

impl NetConfig {
    /// Whose `name` is. A trailing dot is ignored, case too.
    ///
    /// Private are names under a search domain or a split rule, names of one label where search domains exist,
    /// names under a domain that is reserved for private use, and reverse names of the routes. With servers but
    /// without such a rule the network is asked first, which is what `DNS =` means in a wg-quick file.
    pub fn name_scope(&self, name: &str) -> NameScope {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let dns = &self.dns;
        let unconfigured = dns.servers.is_empty() && dns.routes.is_empty();
        let no_name = name.is_empty() || is_under(&name, "localhost") || name.parse::<IpAddr>().is_ok();
        if unconfigured || no_name {
            return NameScope::Public;
        }
        if let Some(address) = reverse_address(&name) {
            let routed = self.routes.iter().any(|route| !route.is_default() && route.contains(address));
            return if routed { NameScope::Private } else { NameScope::Public };
        }
        let suffixes =
            dns.search.iter().map(String::as_str).chain(dns.routes.iter().map(|rule| rule.suffix.as_str()));
        let configured = suffixes.into_iter().any(|suffix| is_under(&name, suffix));
        let single = !name.contains('.') && !dns.search.is_empty();
        let reserved =
            !dns.servers.is_empty() && PRIVATE_DOMAINS.iter().any(|domain| is_under(&name, domain));
        if configured || single || reserved {
            NameScope::Private
        } else if dns.servers.is_empty() {
            NameScope::Public
        } else {
            NameScope::Either
        }
    }
}

/// Whether `name` is `domain` or a name below it. The empty domain is above everything.
pub fn is_under(name: &str, domain: &str) -> bool {
    match name.len().checked_sub(domain.len()) {
        _ if domain.is_empty() => true,
        Some(0) => name.eq_ignore_ascii_case(domain),
        Some(cut) => {
            name.as_bytes().get(cut - 1) == Some(&b'.')
                && name.as_bytes()[cut..].eq_ignore_ascii_case(domain.as_bytes())
        }
        None => false,
    }
}

/// The address whose reverse name this is (RFC 1035 §3.5, RFC 3596 §2.5). `name` is in lower case.
pub fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut labels = labels.rsplit('.');
        for octet in &mut octets {
            *octet = labels.next()?.parse().ok()?;
        }
        return labels.next().is_none().then(|| Ipv4Addr::from(octets).into());
    }
    let mut labels = name.strip_suffix(".ip6.arpa")?.rsplit('.');
    let mut bits = 0_u128;
    for _ in 0..32 {
        let label = labels.next().filter(|label| label.len() == 1)?;
        bits = bits << 4 | u128::from(u8::from_str_radix(label, 16).ok()?);
    }
    labels.next().is_none().then(|| Ipv6Addr::from_bits(bits).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DnsConfig, DnsRoute};

    fn config(servers: &[&str], search: &[&str], splits: &[&str]) -> NetConfig {
        NetConfig {
            routes: vec!["10.8.0.0/16".parse().unwrap(), "fd08::/32".parse().unwrap()],
            dns: DnsConfig {
                servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
                search: search.iter().map(|&domain| domain.to_owned()).collect(),
                routes: splits
                    .iter()
                    .map(|&suffix| DnsRoute { suffix: suffix.to_owned(), servers: Vec::new() })
                    .collect(),
            },
            ..NetConfig::default()
        }
    }

    #[test]
    fn names_under_configured_or_reserved_domains_are_private() {
        let config = config(&["10.8.0.53"], &["corp.example"], &["split.example"]);
        for name in [
            "db.corp.example",
            "DB.Corp.Example.",
            "split.example",
            "db",
            "staging-db.internal",
            "x.home.arpa",
        ] {
            assert_eq!(config.name_scope(name), NameScope::Private, "{name}");
        }
        for name in ["example.com", "notcorp.example", "xsplit.example"] {
            assert_eq!(config.name_scope(name), NameScope::Either, "{name}");
        }
        for name in ["localhost", "a.localhost", "10.8.0.1", "", "."] {
            assert_eq!(config.name_scope(name), NameScope::Public, "{name}");
        }
    }

    #[test]
    fn without_servers_only_split_rules_make_a_name_private() {
        assert_eq!(config(&[], &[], &[]).name_scope("db.internal"), NameScope::Public);
        let split = config(&[], &[], &["split.example"]);
        assert_eq!(split.name_scope("a.split.example"), NameScope::Private);
        assert_eq!(split.name_scope("db.internal"), NameScope::Public);
    }

    #[test]
    fn reverse_names_of_the_routes_are_private() {
        let config = config(&["10.8.0.53"], &[], &[]);
        assert_eq!(config.name_scope("4.3.8.10.in-addr.arpa."), NameScope::Private);
        assert_eq!(config.name_scope("8.8.8.8.in-addr.arpa"), NameScope::Public);
        let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.0.d.f.ip6.arpa";
        assert_eq!(reverse_address(v6), Some("fd08::1".parse().unwrap()));
        assert_eq!(config.name_scope(v6), NameScope::Private);
        assert_eq!(reverse_address("3.8.10.in-addr.arpa"), None);
        assert_eq!(reverse_address("x.y.ip6.arpa"), None);
    }
}
