//! The network that profile and push describe together.

use std::net::IpAddr;

use adit_tunnel::{DnsConfig, DnsRoute, NetConfig, Prefix};

use super::PushError;
use super::guard::{Fate, Ground, Guard};
use super::item::{Topology, mask_length};
use super::pushed::Pushed;
use crate::{Cipher, Config, PullFilter, Remote, RouteOption};

/// What the profile says of pushes and of the network: the part of a [`Config`] that matters here.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// As [`Config::addresses`].
    pub addresses: Vec<Prefix>,
    /// As [`Config::routes`].
    pub routes: Vec<RouteOption>,
    /// As [`Config::dns`].
    pub dns: DnsConfig,
    /// As [`Config::block_ipv6`].
    pub block_ipv6: bool,
    /// As [`Remote::tun_mtu`](crate::Remote::tun_mtu).
    pub tun_mtu: u16,
    /// The ciphers that we offered.
    pub ciphers: Vec<Cipher>,
    /// As [`Config::pull_filters`].
    pub filters: Vec<PullFilter>,
    /// As [`Config::route_nopull`].
    pub nopull: bool,
    /// As [`Config::protected`].
    pub protected: Vec<Prefix>,
}

impl Profile {
    /// What matters of a configuration while one of its servers is called.
    pub fn new(config: &Config, remote: &Remote) -> Self {
        let fallback = config.fallback_cipher.filter(|cipher| !config.data_ciphers.contains(cipher));
        Self {
            addresses: config.addresses.clone(),
            routes: config.routes.clone(),
            dns: config.dns.clone(),
            block_ipv6: config.block_ipv6,
            tun_mtu: remote.tun_mtu,
            ciphers: config.data_ciphers.iter().copied().chain(fallback).collect(),
            filters: config.pull_filters.clone(),
            nopull: config.route_nopull,
            protected: config.protected.clone(),
        }
    }

    /// The network. Routes and DNS of the profile come first, and are not judged: its author is the user.
    pub(super) fn net_config(&self, pushed: &Pushed, guard: &Guard) -> Result<NetConfig, PushError> {
        let mut config = NetConfig { mtu: pushed.tun_mtu.unwrap_or(self.tun_mtu), ..NetConfig::default() };
        let mut links = Vec::new();
        if let Some((address, link)) = ifconfig(pushed) {
            config.addresses.push(address);
            links.push(link);
        }
        if let Some(address) = pushed.ifconfig_v6 {
            config.addresses.push(address);
            links.push(address.network());
        }
        for family_v4 in [true, false] {
            let has = |address: &&Prefix| address.address().is_ipv4() == family_v4;
            if !config.addresses.iter().any(|address| has(&address)) {
                config.addresses.extend(self.addresses.iter().filter(has));
                links.extend(self.addresses.iter().filter(has).map(Prefix::network));
            }
        }
        if config.addresses.is_empty() {
            return Err(PushError::NoAddress);
        }
        let mine = self.routes.iter().filter(|route| !route.outside).map(|route| route.prefix.network());
        config.routes.extend(mine);
        config.routes.extend(links.into_iter().filter(|link| refusal(*link, guard).is_none()));
        config.routes.extend(&pushed.routes);
        config.routes.extend(defaults(pushed, pushed.block_ipv6 || self.block_ipv6));
        dedup(&mut config.routes);
        let outside = self.routes.iter().filter(|route| route.outside).map(|route| route.prefix.network());
        config.excluded.extend(outside);
        config.excluded.extend(&pushed.outside);
        config.excluded.extend(guard.holes());
        dedup(&mut config.excluded);
        let routes = &config.routes;
        config.excluded.retain(|prefix| {
            routes.iter().any(|route| route.length() < prefix.length() && route.contains(prefix.address()))
        });
        config.dns = self.dns(pushed);
        Ok(config)
    }

    /// Why the far end of the pushed link is not the server's to take.
    pub(super) fn refused_link(pushed: &Pushed, guard: &Guard) -> Option<Ground> {
        ifconfig(pushed).and_then(|(_, link)| refusal(link, guard))
    }

    fn dns(&self, pushed: &Pushed) -> DnsConfig {
        let mut dns = self.dns.clone();
        if pushed.dns_servers.is_empty() && pushed.search_domains.is_empty() {
            dns.servers.extend(&pushed.dhcp_dns);
            dns.search.extend(pushed.dhcp_domains.iter().cloned());
        } else {
            // The newer syntax replaces the older one.
            dns.search.extend(pushed.search_domains.iter().cloned());
            let usable = pushed
                .dns_servers
                .values()
                .find(|server| server.unsupported.is_none() && !server.addresses.is_empty());
            if let Some(server) = usable {
                let servers: Vec<IpAddr> = server.addresses.iter().map(|(address, _)| *address).collect();
                if server.domains.is_empty() {
                    dns.servers.extend(servers);
                } else {
                    let route =
                        |suffix: &String| DnsRoute { suffix: suffix.clone(), servers: servers.clone() };
                    dns.routes.extend(server.domains.iter().map(route));
                }
            }
        }
        dedup(&mut dns.servers);
        dedup(&mut dns.search);
        dns
    }
}

fn refusal(link: Prefix, guard: &Guard) -> Option<Ground> {
    match guard.route(link) {
        Fate::Refused(ground) => Some(ground),
        Fate::Taken | Fate::Carved(_) => None,
    }
}

/// Our IPv4 address, and what is reached on the link.
fn ifconfig(pushed: &Pushed) -> Option<(Prefix, Prefix)> {
    let (local, remote) = pushed.ifconfig?;
    // Without a topology some servers push a netmask nevertheless; no far end has an address like that.
    let mask = mask_length(remote).filter(|_| remote.octets()[0] == 255);
    let subnet = match pushed.topology {
        Some(Topology::Subnet) => Some(mask_length(remote).unwrap_or(32)),
        Some(Topology::Net30 | Topology::P2p) | None => mask,
    };
    let host = Prefix::host(local.into());
    Some(match subnet.and_then(|length| Prefix::new(local.into(), length)) {
        Some(address) => (address, address.network()),
        None => (host, Prefix::host(remote.into())),
    })
}

/// The default routes. A blocked IPv6 is ours too, so that it goes nowhere instead of outside.
fn defaults(pushed: &Pushed, block_ipv6: bool) -> impl Iterator<Item = Prefix> {
    let any = |address: IpAddr| Prefix::new(address, 0);
    let v4 = pushed.redirect.0.then(|| any(IpAddr::from([0u8; 4])));
    let v6 = (pushed.redirect.1 || block_ipv6).then(|| any(IpAddr::from([0u8; 16])));
    [v4, v6].into_iter().flatten().flatten()
}

/// Removes repetitions and keeps the order.
fn dedup<T: PartialEq + Clone>(list: &mut Vec<T>) {
    let mut seen: Vec<T> = Vec::with_capacity(list.len());
    list.retain(|value| {
        let new = !seen.contains(value);
        if new {
            seen.push(value.clone());
        }
        new
    });
}
