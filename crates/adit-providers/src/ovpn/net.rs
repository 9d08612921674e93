//! Addresses, routes and DNS that the profile itself has, and what it takes of the server's.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use adit_openvpn::{PullFilter, PullVerdict, RouteName, RouteOption};
use adit_tunnel::{DnsConfig, DnsRoute, Prefix};

use super::lex::Directive;
use super::read::{Reading, shown};
use crate::wgquick;

/// No profile has routes to more names; each costs a lookup before the first call.
const MAX_ROUTE_NAMES: usize = 16;
/// No profile has more routes.
const MAX_ROUTES: usize = 4096;
/// No profile has more resolvers and search domains.
const MAX_NAMES: usize = 256;

/// A `dns server` of the newer form.
#[derive(Debug, Default)]
struct Server {
    addresses: Vec<IpAddr>,
    domains: Vec<String>,
}

/// Everything about addresses, routes and names, while it is read.
#[derive(Debug, Default)]
pub(super) struct Net {
    pub(super) pull: bool,
    pub(super) client: bool,
    pub(super) route_nopull: bool,
    pub(super) filters: Vec<PullFilter>,
    pub(super) block_ipv6: bool,
    pub(super) routes: Vec<RouteOption>,
    pub(super) route_names: Vec<RouteName>,
    subnet: bool,
    ifconfig: Option<Directive>,
    address6: Option<Prefix>,
    servers: Vec<IpAddr>,
    search: Vec<String>,
    numbered: BTreeMap<i64, Server>,
}

impl Net {
    /// Takes a directive, if it is about the network inside.
    pub(super) fn apply(&mut self, at: &Directive, reading: &mut Reading<'_>) -> bool {
        match at.name.text.as_str() {
            "client" => (self.pull, self.client) = (true, true),
            "tls-client" => self.client = true,
            "pull" => self.pull = true,
            "pull-filter" => self.filter(at, reading),
            "route-nopull" => self.route_nopull = true,
            "block-ipv6" => self.block_ipv6 = true,
            "dev" | "dev-type" => device(at, reading),
            "topology" => match at.arg(0) {
                Some("subnet") => self.subnet = true,
                Some("net30" | "p2p") => self.subnet = false,
                _ => reading.wrong(at, Some(0), "topology is subnet, net30 or p2p", "write topology subnet"),
            },
            "ifconfig" => self.ifconfig = Some(at.clone()),
            "ifconfig-ipv6" => match at.arg(0).and_then(|text| text.parse::<Prefix>().ok()) {
                Some(prefix) if prefix.address().is_ipv6() => self.address6 = Some(prefix),
                _ => reading.wrong(
                    at,
                    Some(0),
                    "this is no IPv6 address with its length",
                    "write it like fd00::2/64",
                ),
            },
            "route" => self.route(at, reading),
            "route-ipv6" => self.route6(at, reading),
            "redirect-gateway" => self.redirect(at, reading),
            "redirect-private" => {}
            "dhcp-option" => self.dhcp_option(at, reading),
            "dns" => self.dns_option(at, reading),
            "allow-pull-fqdn" => reading.not_done(at, "names in pushed routes are not resolved"),
            _ => return false,
        }
        true
    }

    fn filter(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        let verdict = match at.arg(0) {
            Some("accept") => PullVerdict::Accept,
            Some("ignore") => PullVerdict::Ignore,
            Some("reject") => PullVerdict::Reject,
            _ => {
                return reading.wrong(
                    at,
                    Some(0),
                    "pull-filter begins with accept, ignore or reject",
                    "write pull-filter ignore \"TEXT\"",
                );
            }
        };
        if self.filters.len() < MAX_NAMES {
            self.filters.push(PullFilter { prefix: at.arg(1).unwrap_or("").to_owned(), verdict });
        }
    }

    fn push_route(&mut self, at: &Directive, prefix: Prefix, outside: bool, reading: &mut Reading<'_>) {
        if self.routes.len() >= MAX_ROUTES {
            return reading.refused(
                at,
                None,
                &format!("the profile has more than {MAX_ROUTES} routes"),
                "combine networks",
            );
        }
        self.routes.push(RouteOption { prefix: prefix.network(), outside });
    }

    fn route(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        let mask = at.arg(1).filter(|mask| *mask != "default");
        let outside = match gateway(at, 2) {
            Gateway::Tunnel => false,
            Gateway::Outside => true,
        };
        let length = match mask.map(|mask| mask.parse().ok().and_then(mask_length)) {
            None => 32,
            Some(Some(length)) => length,
            Some(None) => {
                return reading.wrong(at, Some(1), "this is no network mask", "write it like 255.255.255.0");
            }
        };
        let network = at.arg(0).unwrap_or("");
        match network.parse::<Ipv4Addr>().ok().and_then(|network| Prefix::new(network.into(), length)) {
            Some(prefix) => self.push_route(at, prefix, outside, reading),
            None if network.parse::<Prefix>().is_ok() || network.contains('/') => {
                reading.wrong(
                    at,
                    Some(0),
                    "route takes a network and a mask",
                    "write it like route 10.8.0.0 255.255.255.0",
                );
            }
            // The server stays outside in any case.
            None if network == "remote_host" => {}
            None if !is_name(network) => reading.wrong(
                at,
                Some(0),
                &format!("`{}` is no network and no name", shown(network)),
                "write it like route 10.8.0.0 255.255.255.0",
            ),
            None if self.route_names.len() < MAX_ROUTE_NAMES => {
                self.route_names.push(RouteName { host: network.to_owned(), length, outside });
            }
            None => reading.refused(
                at,
                None,
                &format!("the profile has routes to more than {MAX_ROUTE_NAMES} names"),
                "write addresses",
            ),
        }
    }

    fn route6(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        let outside = matches!(gateway(at, 1), Gateway::Outside);
        match at.arg(0).and_then(|text| text.parse::<Prefix>().ok()) {
            Some(prefix) if prefix.address().is_ipv6() => self.push_route(at, prefix, outside, reading),
            _ => reading.wrong(at, Some(0), "this is no IPv6 network", "write it like fd00:1::/64"),
        }
    }

    fn redirect(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        let mut families = (true, false);
        for (index, flag) in at.args.iter().enumerate() {
            match flag.text.as_str() {
                "ipv6" => families.1 = true,
                "!ipv4" => families.0 = false,
                "local" | "autolocal" | "def1" | "bypass-dhcp" | "bypass-dns" | "block-local" => {}
                _ => reading.doubt(
                    at,
                    Some(index),
                    "ovpn.config.unknown",
                    "there is no such flag of redirect-gateway; it is left out",
                    "delete it",
                ),
            }
        }
        let anywhere = [
            (families.0, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            (families.1, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        ];
        for (_, address) in anywhere.into_iter().filter(|(wanted, _)| *wanted) {
            if let Some(prefix) =
                Prefix::new(address, 0).filter(|prefix| !self.routes.iter().any(|r| r.prefix == *prefix))
            {
                self.push_route(at, prefix, false, reading);
            }
        }
    }

    fn dhcp_option(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        let values = at.args.iter().enumerate().skip(1);
        match at.arg(0).unwrap_or("").to_ascii_uppercase().as_str() {
            "DNS" | "DNS6" => {
                for (index, value) in values {
                    match value.text.parse() {
                        Ok(address) if self.servers.len() < MAX_NAMES => self.servers.push(address),
                        _ => reading.wrong(
                            at,
                            Some(index),
                            "this is no address of a resolver",
                            "write it like dhcp-option DNS 10.8.0.1",
                        ),
                    }
                }
            }
            "DOMAIN" | "ADAPTER_DOMAIN_SUFFIX" | "DOMAIN-SEARCH" => {
                for (index, value) in values {
                    match wgquick::search_domain(&value.text) {
                        Some(domain) if self.search.len() < MAX_NAMES => {
                            if !self.search.contains(&domain) {
                                self.search.push(domain);
                            }
                        }
                        _ => reading.wrong(
                            at,
                            Some(index),
                            "this is no domain",
                            "write it like dhcp-option DOMAIN corp.internal",
                        ),
                    }
                }
            }
            // Time servers, WINS and proxies are for whole machines.
            _ => reading.not_done(at, "only resolvers and search domains are used"),
        }
    }

    /// `dns search-domains …`, `dns server N address|resolve-domains|dnssec|transport|sni …`.
    fn dns_option(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        let bad = "the form is dns server N address ADDRESS, or dns search-domains NAME";
        let values = |from: usize| at.args.iter().enumerate().skip(from);
        match (at.arg(0), at.arg(2)) {
            (Some("search-domains"), _) => {
                for (index, value) in values(1) {
                    match wgquick::search_domain(&value.text) {
                        Some(domain) if self.search.len() < MAX_NAMES => self.search.push(domain),
                        _ => reading.wrong(at, Some(index), "this is no domain", bad),
                    }
                }
            }
            (Some("server"), Some(what)) => {
                let Some(number) =
                    at.arg(1).and_then(|n| n.parse::<i64>().ok()).filter(|n| (-128..=127).contains(n))
                else {
                    return reading.wrong(at, Some(1), "the number of a dns server is from -128 to 127", bad);
                };
                let server = self.numbered.entry(number).or_default();
                for (index, value) in values(3) {
                    match what {
                        "address" => match address(&value.text) {
                            Some((address, port)) if server.addresses.len() < 8 => {
                                server.addresses.push(address);
                                if port != 53 {
                                    reading.not_done(at, "resolvers are asked at port 53");
                                }
                            }
                            _ => reading.wrong(
                                at,
                                Some(index),
                                "this is no address of a resolver, or one too many",
                                bad,
                            ),
                        },
                        "resolve-domains" => match wgquick::search_domain(&value.text) {
                            Some(domain) if server.domains.len() < MAX_NAMES => server.domains.push(domain),
                            _ => reading.wrong(at, Some(index), "this is no domain", bad),
                        },
                        "transport" if value.text != "plain" => {
                            reading.not_done(at, "resolvers are asked in clear, inside the tunnel");
                        }
                        "transport" | "sni" | "dnssec" => {}
                        _ => {
                            return reading.wrong(
                                at,
                                Some(2),
                                "there is no such property of a dns server",
                                bad,
                            );
                        }
                    }
                }
            }
            _ => reading.wrong(at, Some(0), "this is no form of `dns`", bad),
        }
    }

    /// The profile's own addresses.
    pub(super) fn addresses(&self, reading: &mut Reading<'_>) -> Vec<Prefix> {
        let mut addresses = Vec::new();
        if let Some(at) = &self.ifconfig {
            let pair = at
                .arg(0)
                .and_then(|a| a.parse::<Ipv4Addr>().ok())
                .zip(at.arg(1).and_then(|b| b.parse().ok()));
            let prefix = pair.and_then(|(address, other): (_, Ipv4Addr)| {
                let length = if self.subnet { mask_length(other)? } else { 32 };
                Prefix::new(address.into(), length)
            });
            match prefix {
                Some(prefix) => addresses.push(prefix),
                None => reading.wrong(
                    at,
                    Some(0),
                    "ifconfig takes our address, and the mask (topology subnet) or the other end",
                    "write it like ifconfig 10.8.0.2 255.255.255.0",
                ),
            }
        }
        addresses.extend(self.address6);
        addresses
    }

    /// The profile's own resolvers. Those of the newer form replace the others; the lowest number counts.
    pub(super) fn dns(&self) -> DnsConfig {
        let mut dns = DnsConfig { search: self.search.clone(), ..DnsConfig::default() };
        match self.numbered.values().find(|server| !server.addresses.is_empty()) {
            None => dns.servers.clone_from(&self.servers),
            Some(server) if server.domains.is_empty() => dns.servers.clone_from(&server.addresses),
            Some(server) => {
                let route =
                    |suffix: &String| DnsRoute { suffix: suffix.clone(), servers: server.addresses.clone() };
                dns.routes = server.domains.iter().map(route).collect();
            }
        }
        dns
    }
}

/// Whether a text can be looked up: the form of a host's name (RFC 1123 §2.1), with underscores as they occur.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // What looks like an address and is none is a mistake.
    text.len() <= 253
        && text.trim_end_matches('.').split('.').all(label)
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

fn device(at: &Directive, reading: &mut Reading<'_>) {
    let word = at.arg(0).unwrap_or("");
    if word.starts_with("tap") {
        reading.refused(
            at,
            Some(0),
            "the server bridges Ethernet (tap), and adit carries IP only (tun)",
            "ask for a tun profile; only protocols without IP need tap",
        );
    } else if !word.starts_with("tun") && at.name.text == "dev-type" || word == "null" {
        reading.wrong(at, Some(0), &format!("there is no kind of device `{}`", shown(word)), "write dev tun");
    }
}

enum Gateway {
    Tunnel,
    Outside,
}

/// `vpn_gateway`, `net_gateway`, or an address, which inside a tunnel makes no difference.
fn gateway(at: &Directive, index: usize) -> Gateway {
    match at.arg(index) {
        Some("net_gateway" | "net_gateway_ipv6") => Gateway::Outside,
        _ => Gateway::Tunnel,
    }
}

/// The length of a mask like 255.255.255.0.
fn mask_length(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    (bits.leading_ones() + bits.trailing_zeros() == 32 || bits == u32::MAX)
        .then_some(bits.leading_ones() as u8)
}

/// An address, or one with a port: `10.8.0.1`, `10.8.0.1:53`, `[fd00::1]:53`, `fd00::1`.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address, 53));
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return Some((inner.parse::<Ipv6Addr>().ok()?.into(), 53));
    }
    text.parse::<SocketAddr>().ok().map(|socket| (socket.ip(), socket.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_lengths_and_holes_are_none() {
        for (mask, length) in [
            ("255.255.255.255", Some(32)),
            ("255.255.255.0", Some(24)),
            ("0.0.0.0", Some(0)),
            ("128.0.0.0", Some(1)),
            ("255.0.255.0", None),
            ("0.0.0.255", None),
            ("10.8.0.1", None),
        ] {
            assert_eq!(mask_length(mask.parse().unwrap()), length, "{mask}");
        }
    }

    #[test]
    fn resolvers_have_ports_in_both_families() {
        for (text, said) in [
            ("10.8.0.1", Some(("10.8.0.1", 53))),
            ("10.8.0.1:5353", Some(("10.8.0.1", 5353))),
            ("fd00::1", Some(("fd00::1", 53))),
            ("[fd00::1]", Some(("fd00::1", 53))),
            ("[fd00::1]:5353", Some(("fd00::1", 5353))),
            ("resolver", None),
        ] {
            assert_eq!(address(text), said.map(|(address, port)| (address.parse().unwrap(), port)), "{text}");
        }
    }
}
