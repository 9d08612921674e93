//! What all options of a push come to.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use adit_tunnel::Prefix;

use super::guard::{Fate, Guard};
use super::item::{DnsItem, Item, Redirect, Token, Topology};
use super::notice::{NoticeKind, Notices};
use super::{PushError, quote};
use crate::{Cipher, Compression};

/// More routes than any network needs.
const MAX_ROUTES: usize = 4096;
/// DNS servers, search domains and domains of a DNS server.
const MAX_SERVERS: usize = 16;
const MAX_DOMAINS: usize = 64;
/// A packet of IPv4 may always have this size (RFC 791 §3.1); the other bound is what we announce (`IV_MTU`).
const MTU: (u32, u32) = (576, 1600);
/// Timers in seconds: up to ten days.
const MAX_SECONDS: u32 = 864_000;

/// `protocol-flags`, and `key-derivation` with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProtocolFlags {
    /// `cc-exit`: the exit is told in the control channel.
    pub cc_exit: bool,
    /// `tls-ekm`: data keys come out of TLS.
    pub tls_ekm: bool,
    /// `dyn-tls-crypt`: renegotiations are protected by a key of their own.
    pub dyn_tls_crypt: bool,
    /// `aead-epoch`: the data channel has epochs.
    pub aead_epoch: bool,
}

/// A DNS server of the newer syntax.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsServer {
    /// Addresses and ports, in the order in which to try them.
    pub addresses: Vec<(IpAddr, u16)>,
    /// The domains that it answers for; none means all.
    pub domains: Vec<String>,
    /// What keeps us from asking it.
    pub unsupported: Option<&'static str>,
}

/// What a server pushed, cleared of what it must not have. Zero as a time means that the server turned something off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// `cipher`.
    pub cipher: Option<Cipher>,
    /// `peer-id`.
    pub peer_id: Option<u32>,
    /// `protocol-flags`.
    pub flags: ProtocolFlags,
    /// `topology`, where the server names one.
    pub topology: Option<Topology>,
    /// `ifconfig`.
    pub ifconfig: Option<(Ipv4Addr, Ipv4Addr)>,
    /// `ifconfig-ipv6`: our address with its network.
    pub ifconfig_v6: Option<Prefix>,
    /// The far end's address out of `ifconfig-ipv6`.
    pub remote_v6: Option<Ipv6Addr>,
    /// `route-gateway`.
    pub gateway: Option<IpAddr>,
    /// `route`, `route-ipv6`.
    pub routes: Vec<Prefix>,
    /// Routes by `net_gateway`: they stay outside.
    pub outside: Vec<Prefix>,
    /// `redirect-gateway`: of IPv4, and of IPv6.
    pub redirect: (bool, bool),
    /// `block-ipv6`.
    pub block_ipv6: bool,
    /// `dhcp-option DNS`.
    pub dhcp_dns: Vec<IpAddr>,
    /// `dhcp-option DOMAIN`.
    pub dhcp_domains: Vec<String>,
    /// `dns search-domains`.
    pub search_domains: Vec<String>,
    /// `dns server`, by number; the lowest that can be asked is.
    pub dns_servers: BTreeMap<i8, DnsServer>,
    /// `ping`.
    pub ping: Option<Duration>,
    /// `ping-restart`.
    pub ping_restart: Option<Duration>,
    /// `ping-exit`.
    pub ping_exit: Option<Duration>,
    /// `inactive`: the time, and the bytes that make it count as active.
    pub inactive: Option<(Duration, u64)>,
    /// `session-timeout`.
    pub session_timeout: Option<Duration>,
    /// `tun-mtu`.
    pub tun_mtu: Option<u16>,
    /// `comp-lzo`, `compress`.
    pub compression: Option<Compression>,
    /// `explicit-exit-notify`: how often.
    pub exit_notify: Option<u8>,
    /// `auth-token`: it stands for the password from now on.
    pub auth_token: Option<Token>,
    /// `auth-token-user`, in base64: it stands for the user name from now on.
    pub auth_token_user: Option<Token>,
}

/// What judges options as they are applied.
pub(super) struct Context<'a> {
    pub(super) guard: &'a Guard,
    pub(super) notices: &'a mut Notices,
    pub(super) ciphers: &'a [Cipher],
}

impl Pushed {
    /// Applies one option; `text` is how it was pushed.
    pub(super) fn apply(
        &mut self,
        item: Item,
        text: &str,
        context: &mut Context<'_>,
    ) -> Result<(), PushError> {
        match item {
            Item::Ifconfig(local, remote) => {
                context
                    .guard
                    .address(local.into())
                    .map_err(|ground| PushError::Address { option: quote(text), ground })?;
                self.ifconfig = Some((local, remote));
            }
            Item::IfconfigV6(local, remote) => {
                context
                    .guard
                    .address(local.address())
                    .map_err(|ground| PushError::Address { option: quote(text), ground })?;
                (self.ifconfig_v6, self.remote_v6) = (Some(local), remote);
            }
            Item::Topology(topology) => self.topology = Some(topology),
            Item::Route(prefix, outside) => self.route(prefix, outside, text, context),
            // The server's own address stays outside of every tunnel anyhow.
            Item::RouteName(name) if name == "remote_host" => {}
            Item::RouteName(_) => {
                let why = "routes to names are not resolved (allow-pull-fqdn)";
                context.notices.add(text, NoticeKind::Unsupported(why));
            }
            Item::RouteGateway(gateway) => self.gateway = gateway,
            Item::Redirect(redirect) => self.redirect(redirect),
            Item::BlockIpv6 => self.block_ipv6 = true,
            Item::DhcpDns(address) => {
                if let Some(address) = checked(address, text, context) {
                    add(&mut self.dhcp_dns, address, MAX_SERVERS, text, context);
                }
            }
            Item::DhcpDomain(domain) => add(&mut self.dhcp_domains, domain, MAX_DOMAINS, text, context),
            Item::SearchDomains(domains) => {
                for domain in domains {
                    add(&mut self.search_domains, domain, MAX_DOMAINS, text, context);
                }
            }
            Item::DnsServer(index, item) => self.dns_server(index, item, text, context),
            item => return self.apply_session(item, text, context),
        }
        Ok(())
    }

    /// Applies an option about the session.
    fn apply_session(&mut self, item: Item, text: &str, context: &mut Context<'_>) -> Result<(), PushError> {
        let option = || quote(text);
        match item {
            Item::Ping(seconds) => timer(&mut self.ping, seconds, text, context),
            Item::PingRestart(seconds) => timer(&mut self.ping_restart, seconds, text, context),
            Item::PingExit(seconds) => timer(&mut self.ping_exit, seconds, text, context),
            Item::Keepalive(ping, restart) => {
                timer(&mut self.ping, ping, text, context);
                timer(&mut self.ping_restart, restart, text, context);
            }
            Item::Inactive(seconds, bytes) => {
                let mut time = None;
                timer(&mut time, seconds, text, context);
                self.inactive = time.map(|time| (time, bytes)).or(self.inactive);
            }
            Item::SessionTimeout(seconds) => timer(&mut self.session_timeout, seconds, text, context),
            Item::PeerId(None) => self.peer_id = None,
            Item::PeerId(Some(id)) if id <= 0x00ff_ffff => self.peer_id = Some(id),
            Item::PeerId(Some(_)) => return Err(PushError::Broken { option: option() }),
            Item::Cipher(name) => match Cipher::from_name(&name)
                .filter(|cipher| context.ciphers.contains(cipher))
            {
                Some(cipher) => self.cipher = Some(cipher),
                None => return Err(PushError::Cipher { name: quote(&name), ours: context.ciphers.to_vec() }),
            },
            Item::ProtocolFlags(flags) => {
                for flag in flags {
                    match flag.as_str() {
                        "cc-exit" => self.flags.cc_exit = true,
                        "tls-ekm" => self.flags.tls_ekm = true,
                        "dyn-tls-crypt" => self.flags.dyn_tls_crypt = true,
                        "aead-epoch" => self.flags.aead_epoch = true,
                        _ => return Err(PushError::ProtocolFlag { flag: quote(&flag) }),
                    }
                }
            }
            Item::KeyDerivation(kind) if kind == "tls-ekm" => self.flags.tls_ekm = true,
            Item::KeyDerivation(_) => return Err(PushError::Broken { option: option() }),
            Item::AuthToken(token) => self.auth_token = Some(token),
            Item::AuthTokenUser(user) => self.auth_token_user = Some(user),
            Item::TunMtu(bytes) => match u16::try_from(bytes) {
                Ok(mtu) if (MTU.0..=MTU.1).contains(&bytes) => self.tun_mtu = Some(mtu),
                _ => context.notices.add(text, NoticeKind::OutOfBounds(MTU.0, MTU.1)),
            },
            Item::Compression(compression) => self.compression = Some(compression),
            Item::ExitNotify(times) => self.exit_notify = Some(times.min(10) as u8),
            // The rest is applied above, is of no use here, or was looked at before.
            _ => {}
        }
        Ok(())
    }

    fn route(&mut self, prefix: Prefix, outside: bool, text: &str, context: &mut Context<'_>) {
        if outside {
            return add(&mut self.outside, prefix, MAX_ROUTES, text, context);
        }
        match context.guard.route(prefix) {
            Fate::Taken => {}
            Fate::Carved(parts) => {
                for part in parts.into_iter().filter(|_| prefix.length() > 1) {
                    context.notices.add(text, NoticeKind::Carved(part));
                }
            }
            Fate::Refused(ground) => return context.notices.add(text, NoticeKind::Refused(ground)),
        }
        add(&mut self.routes, prefix, MAX_ROUTES, text, context);
    }

    fn redirect(&mut self, redirect: Redirect) {
        if !redirect.private {
            self.redirect = (self.redirect.0 || !redirect.not_v4, self.redirect.1 || redirect.v6);
        }
    }

    fn dns_server(&mut self, index: i8, item: DnsItem, text: &str, context: &mut Context<'_>) {
        if self.dns_servers.len() >= MAX_SERVERS && !self.dns_servers.contains_key(&index) {
            return context.notices.add(text, NoticeKind::TooMany(MAX_SERVERS));
        }
        let server = self.dns_servers.entry(index).or_default();
        match item {
            DnsItem::Address(addresses) => {
                for (address, port) in addresses {
                    if port != 53 {
                        let why = "DNS is asked at port 53 alone";
                        context.notices.add(text, NoticeKind::Unsupported(why));
                    } else if let Some(address) = checked(address, text, context) {
                        add(&mut server.addresses, (address, port), MAX_SERVERS, text, context);
                    }
                }
            }
            DnsItem::ResolveDomains(domains) => {
                for domain in domains {
                    add(&mut server.domains, domain, MAX_DOMAINS, text, context);
                }
            }
            DnsItem::Transport(transport) if transport != "plain" => {
                server.unsupported = Some("DNS is asked in plain alone");
                context.notices.add(text, NoticeKind::Unsupported("DNS is asked in plain alone"));
            }
            DnsItem::Dnssec(wanted) if wanted == "yes" => {
                server.unsupported = Some("answers are not validated");
                context.notices.add(text, NoticeKind::Unsupported("answers are not validated"));
            }
            DnsItem::Transport(_) | DnsItem::Dnssec(_) | DnsItem::Sni(_) => {}
        }
    }

    /// Discards what options of this name set: they come anew in an update.
    pub(super) fn discard(&mut self, name: &str) {
        match name {
            "ifconfig" => self.ifconfig = None,
            "ifconfig-ipv6" => (self.ifconfig_v6, self.remote_v6) = (None, None),
            "topology" => self.topology = None,
            "route" => {
                self.routes.retain(|prefix| prefix.address().is_ipv6());
                self.outside.retain(|prefix| prefix.address().is_ipv6());
            }
            "route-ipv6" => {
                self.routes.retain(|prefix| prefix.address().is_ipv4());
                self.outside.retain(|prefix| prefix.address().is_ipv4());
            }
            "route-gateway" => self.gateway = None,
            "redirect-gateway" => self.redirect = (false, false),
            "block-ipv6" => self.block_ipv6 = false,
            "dhcp-option" => {
                self.dhcp_dns.clear();
                self.dhcp_domains.clear();
            }
            "dns" => {
                self.search_domains.clear();
                self.dns_servers.clear();
            }
            "tun-mtu" => self.tun_mtu = None,
            "keepalive" => (self.ping, self.ping_restart) = (None, None),
            _ => {}
        }
    }
}

/// An address of a DNS server, where it may be one.
fn checked(address: IpAddr, text: &str, context: &mut Context<'_>) -> Option<IpAddr> {
    match context.guard.address(address) {
        Ok(()) => Some(address),
        Err(ground) => {
            context.notices.add(text, NoticeKind::Refused(ground));
            None
        }
    }
}

fn add<T: PartialEq>(list: &mut Vec<T>, value: T, most: usize, text: &str, context: &mut Context<'_>) {
    if list.len() >= most {
        context.notices.add(text, NoticeKind::TooMany(most));
    } else if !list.contains(&value) {
        list.push(value);
    }
}

fn timer(timer: &mut Option<Duration>, seconds: u32, text: &str, context: &mut Context<'_>) {
    if seconds <= MAX_SECONDS {
        *timer = Some(Duration::from_secs(seconds.into()));
    } else {
        context.notices.add(text, NoticeKind::OutOfBounds(0, MAX_SECONDS));
    }
}
