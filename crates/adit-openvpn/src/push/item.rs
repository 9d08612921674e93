//! One pushed option, typed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use adit_tunnel::Prefix;
use zeroize::Zeroizing;

use super::lex::{quoted, words};
use crate::Compression;

/// What `topology` says: how the addresses of `ifconfig` are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// A network of four addresses for each client: the default.
    #[default]
    Net30,
    /// A point-to-point link.
    P2p,
    /// One network for all clients.
    Subnet,
}

/// A secret out of a push, which `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// The secret.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Token {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// The flags of `redirect-gateway` and `redirect-private` that mean something without a kernel's routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// Not the default route itself (`redirect-private`).
    pub private: bool,
    /// `ipv6`: the default route of IPv6 too.
    pub v6: bool,
    /// `!ipv4`: not the default route of IPv4.
    pub not_v4: bool,
}

/// What a pushed option says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// `ifconfig`: our address, and a netmask or the far end's address by topology.
    Ifconfig(Ipv4Addr, Ipv4Addr),
    /// `ifconfig-ipv6`: our address with its network, and the far end's address.
    IfconfigV6(Prefix, Option<Ipv6Addr>),
    /// `topology`.
    Topology(Topology),
    /// `route`, `route-ipv6`: destinations, and whether they stay outside (`net_gateway`).
    Route(Prefix, bool),
    /// A route to a name, which only `allow-pull-fqdn` would resolve; or to the server itself.
    RouteName(String),
    /// `route-gateway`; `None` is `dhcp`.
    RouteGateway(Option<IpAddr>),
    /// `redirect-gateway`, `redirect-private`.
    Redirect(Redirect),
    /// `block-ipv6`.
    BlockIpv6,
    /// `dhcp-option DNS` and `DNS6`.
    DhcpDns(IpAddr),
    /// `dhcp-option DOMAIN` and its like.
    DhcpDomain(String),
    /// `dns search-domains`.
    SearchDomains(Vec<String>),
    /// `dns server N …`.
    DnsServer(i8, DnsItem),
    /// `ping`, in seconds.
    Ping(u32),
    /// `ping-restart`, in seconds.
    PingRestart(u32),
    /// `ping-exit`, in seconds.
    PingExit(u32),
    /// `keepalive`: ping and ping-restart, in seconds.
    Keepalive(u32, u32),
    /// `inactive`: seconds and bytes.
    Inactive(u32, u64),
    /// `session-timeout`, in seconds.
    SessionTimeout(u32),
    /// `peer-id`; `None` is -1.
    PeerId(Option<u32>),
    /// `cipher`, by its name.
    Cipher(String),
    /// `protocol-flags`.
    ProtocolFlags(Vec<String>),
    /// `key-derivation`.
    KeyDerivation(String),
    /// `auth-token`.
    AuthToken(Token),
    /// `auth-token-user`, in base64 still.
    AuthTokenUser(Token),
    /// `tun-mtu`, in bytes.
    TunMtu(u32),
    /// `comp-lzo`, `compress`.
    Compression(Compression),
    /// `explicit-exit-notify`.
    ExitNotify(u32),
    /// `push-continuation`: 2 if more follows, 1 if not.
    Continuation(u32),
    /// An option that means nothing here, by its name.
    Quiet(&'static str),
}

/// What is said of a DNS server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsItem {
    /// `address`: addresses and ports.
    Address(Vec<(IpAddr, u16)>),
    /// `resolve-domains`: the server answers for these alone.
    ResolveDomains(Vec<String>),
    /// `dnssec`: whether answers must be validated.
    Dnssec(String),
    /// `transport`: `plain`, `DoH`, `DoT`.
    Transport(String),
    /// `sni`: the name in the server's certificate.
    Sni(String),
}

/// Why an option says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Its arguments are wrong.
    Malformed,
    /// Nobody knows it.
    Unknown,
    /// It is one of a profile, which no server may set.
    NotPushable,
}

/// Options that are accepted and do nothing: they speak of the operating system's network, of sockets, or of logs.
const QUIET: [&str; 30] = [
    "allow-recursive-routing",
    "block-outside-dns",
    "client-nat",
    "dhcp-pre-release",
    "dhcp-release",
    "dhcp-renew",
    "echo",
    "ifconfig-noexec",
    "ifconfig-nowarn",
    "ip-win32",
    "lladdr",
    "mute",
    "persist-key",
    "persist-tun",
    "ping-timer-rem",
    "rcvbuf",
    "register-dns",
    "reneg-sec",
    "route-delay",
    "route-ipv6-gateway",
    "route-method",
    "route-metric",
    "setenv-safe",
    "shaper",
    "sndbuf",
    "socket-flags",
    "tap-sleep",
    "tun-ipv6",
    "verb",
    "win-sys",
];

/// Options of a profile that would hand over more than addresses: files, programs, whom to trust, where to connect.
const NOT_PUSHABLE: [&str; 34] = [
    "askpass",
    "auth-user-pass",
    "ca",
    "capath",
    "cd",
    "cert",
    "chroot",
    "client-connect",
    "config",
    "connection",
    "crl-verify",
    "dev",
    "dev-node",
    "down",
    "extra-certs",
    "http-proxy",
    "ipchange",
    "key",
    "log",
    "log-append",
    "management",
    "pkcs12",
    "plugin",
    "remote",
    "remote-cert-tls",
    "route-pre-down",
    "route-up",
    "script-security",
    "socks-proxy",
    "tls-auth",
    "tls-crypt",
    "tls-verify",
    "up",
    "verify-x509-name",
];

impl Item {
    /// Reads an option, for example `route 10.0.0.0 255.0.0.0`.
    ///
    /// # Errors
    /// [`Problem`].
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let words = words(text).ok_or(Problem::Malformed)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (name, arguments) = words.split_first().ok_or(Problem::Malformed)?;
        if let Some(name) = QUIET.iter().find(|quiet| *quiet == name) {
            return Ok(Self::Quiet(name));
        }
        if NOT_PUSHABLE.contains(name) {
            return Err(Problem::NotPushable);
        }
        let item = match *name {
            "dns" => dns(arguments),
            "dhcp-option" => dhcp(arguments),
            "route" => route(arguments),
            "route-ipv6" => route_v6(arguments),
            "ifconfig" | "ifconfig-ipv6" | "topology" | "route-gateway" | "redirect-gateway"
            | "redirect-private" | "block-ipv6" => address(name, arguments),
            "ping" | "ping-restart" | "ping-exit" | "keepalive" | "inactive" | "session-timeout" => {
                timer(name, arguments)
            }
            _ => return other(name, arguments),
        };
        item.ok_or(Problem::Malformed)
    }
}

fn address(name: &str, arguments: &[&str]) -> Option<Item> {
    Some(match (name, arguments) {
        ("ifconfig", [local, remote, ..]) => Item::Ifconfig(local.parse().ok()?, remote.parse().ok()?),
        ("ifconfig-ipv6", [local, rest @ ..]) => {
            let local: Prefix = local.parse().ok().filter(|prefix: &Prefix| prefix.address().is_ipv6())?;
            Item::IfconfigV6(local, rest.first().map(|remote| remote.parse()).transpose().ok()?)
        }
        ("topology", ["net30", ..]) => Item::Topology(Topology::Net30),
        ("topology", ["p2p", ..]) => Item::Topology(Topology::P2p),
        ("topology", ["subnet", ..]) => Item::Topology(Topology::Subnet),
        ("route-gateway", ["dhcp", ..]) => Item::RouteGateway(None),
        ("route-gateway", [gateway, ..]) => Item::RouteGateway(Some(gateway.parse().ok()?)),
        ("redirect-gateway" | "redirect-private", flags) => Item::Redirect(Redirect {
            private: name == "redirect-private",
            v6: flags.contains(&"ipv6"),
            not_v4: flags.contains(&"!ipv4"),
        }),
        ("block-ipv6", _) => Item::BlockIpv6,
        _ => return None,
    })
}

fn timer(name: &str, arguments: &[&str]) -> Option<Item> {
    let (first, rest) = arguments.split_first()?;
    let seconds = first.parse().ok()?;
    Some(match (name, rest) {
        ("ping", _) => Item::Ping(seconds),
        ("ping-restart", _) => Item::PingRestart(seconds),
        ("ping-exit", _) => Item::PingExit(seconds),
        ("keepalive", [restart, ..]) => Item::Keepalive(seconds, restart.parse().ok()?),
        ("inactive", []) => Item::Inactive(seconds, 0),
        ("inactive", [bytes, ..]) => Item::Inactive(seconds, bytes.parse().ok()?),
        ("session-timeout", _) => Item::SessionTimeout(seconds),
        _ => return None,
    })
}

fn other(name: &str, arguments: &[&str]) -> Result<Item, Problem> {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let number = |text: &str| text.parse().map_err(|_| Problem::Malformed);
    Ok(match (name, arguments) {
        ("peer-id", ["-1", ..]) => Item::PeerId(None),
        ("peer-id", [id, ..]) => Item::PeerId(Some(number(id)?)),
        ("cipher", [name, ..]) => Item::Cipher((*name).to_owned()),
        ("protocol-flags", flags) => Item::ProtocolFlags(owned(flags)),
        ("key-derivation", [kind, ..]) => Item::KeyDerivation((*kind).to_owned()),
        ("auth-token", [token, ..]) => Item::AuthToken((*token).to_owned().into()),
        ("auth-token-user", [user, ..]) => Item::AuthTokenUser((*user).to_owned().into()),
        ("tun-mtu", [bytes, ..]) => Item::TunMtu(number(bytes)?),
        ("comp-lzo", _) => Item::Compression(Compression::Lzo),
        ("compress", []) => Item::Compression(Compression::Stub),
        ("compress", [algorithm, ..]) => Item::Compression(match *algorithm {
            "lzo" => Compression::Lzo,
            "stub" | "lz4" => Compression::Stub,
            "stub-v2" | "lz4-v2" | "migrate" => Compression::StubV2,
            _ => return Err(Problem::Malformed),
        }),
        // The number may be left out: once.
        ("explicit-exit-notify", []) => Item::ExitNotify(1),
        ("explicit-exit-notify", [times, ..]) => Item::ExitNotify(number(times)?),
        ("push-continuation", [more, ..]) => Item::Continuation(number(more)?),
        (
            "peer-id" | "cipher" | "key-derivation" | "auth-token" | "auth-token-user" | "tun-mtu"
            | "push-continuation",
            [],
        ) => return Err(Problem::Malformed),
        _ => return Err(Problem::Unknown),
    })
}

/// `route network [netmask [gateway [metric]]]`.
fn route(arguments: &[&str]) -> Option<Item> {
    let (network, rest) = arguments.split_first()?;
    let outside = rest.get(1) == Some(&"net_gateway");
    if let Ok(prefix) = network.parse::<Prefix>() {
        let (IpAddr::V4(address), 32) = (prefix.address(), prefix.length()) else {
            // A length behind a slash: other programs write it so.
            return prefix.address().is_ipv4().then(|| Item::Route(prefix.network(), outside));
        };
        let length = match rest.first() {
            None | Some(&"default") => 32,
            Some(mask) => mask_length(mask.parse().ok()?)?,
        };
        return Some(Item::Route(Prefix::new(address.into(), length)?.network(), outside));
    }
    let host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (!network.is_empty() && network.chars().all(host)).then(|| Item::RouteName((*network).to_owned()))
}

/// `route-ipv6 prefix/length [gateway [metric]]`.
fn route_v6(arguments: &[&str]) -> Option<Item> {
    let (network, rest) = arguments.split_first()?;
    let prefix: Prefix = network.parse().ok().filter(|prefix: &Prefix| prefix.address().is_ipv6())?;
    Some(Item::Route(prefix.network(), rest.first() == Some(&"net_gateway")))
}

/// The length of a netmask whose ones stand together.
pub(super) fn mask_length(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let length = bits.leading_ones();
    (bits.count_ones() == length).then_some(length as u8)
}

fn dhcp(arguments: &[&str]) -> Option<Item> {
    let (kind, rest) = arguments.split_first()?;
    Some(match (kind.to_ascii_uppercase().as_str(), rest) {
        ("DNS" | "DNS6", [address, ..]) => Item::DhcpDns(address.parse().ok()?),
        ("DOMAIN" | "ADAPTER_DOMAIN_SUFFIX" | "DOMAIN-SEARCH", [domain, ..]) => {
            Item::DhcpDomain(self::domain(domain)?)
        }
        ("DNS" | "DNS6" | "DOMAIN" | "ADAPTER_DOMAIN_SUFFIX" | "DOMAIN-SEARCH", _) => return None,
        // WINS, NTP, NBT, PROXY_HTTP, … concern services that are not ours.
        _ => Item::Quiet("dhcp-option OTHER"),
    })
}

fn dns(arguments: &[&str]) -> Option<Item> {
    match arguments {
        ["search-domains", domains @ ..] if !domains.is_empty() => {
            Some(Item::SearchDomains(domains.iter().map(|name| domain(name)).collect::<Option<_>>()?))
        }
        ["server", index, what, values @ ..] if !values.is_empty() => {
            let index = index.parse().ok().filter(|index| *index >= 0)?;
            Some(Item::DnsServer(index, dns_item(what, values)?))
        }
        _ => None,
    }
}

fn dns_item(what: &str, values: &[&str]) -> Option<DnsItem> {
    let first = (*values.first()?).to_owned();
    Some(match what {
        "address" => DnsItem::Address(values.iter().map(|value| with_port(value)).collect::<Option<_>>()?),
        "resolve-domains" => {
            DnsItem::ResolveDomains(values.iter().map(|name| domain(name)).collect::<Option<_>>()?)
        }
        "dnssec" if matches!(first.as_str(), "yes" | "optional" | "no") => DnsItem::Dnssec(first),
        "transport" if matches!(first.as_str(), "plain" | "DoH" | "DoT") => DnsItem::Transport(first),
        "sni" => DnsItem::Sni(first),
        _ => return None,
    })
}

/// An address, or one with a port: `1.2.3.4:53`, `[::1]:53`.
fn with_port(text: &str) -> Option<(IpAddr, u16)> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse() {
        return Some((address, 53));
    }
    text.parse::<SocketAddr>().ok().map(|address| (address.ip(), address.port()))
}

/// A domain in lower case without leading or trailing dot.
fn domain(text: &str) -> Option<String> {
    let name = text.strip_prefix('.').unwrap_or(text);
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    (name.len() <= 253 && name.split('.').all(label)).then_some(name)
}

/// Writes the option as a server would push it; [`Item::parse`] reads the same from it. Secrets are written too.
impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |words: &[String]| words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
        match self {
            Self::Ifconfig(local, remote) => write!(f, "ifconfig {local} {remote}"),
            Self::IfconfigV6(local, Some(remote)) => write!(f, "ifconfig-ipv6 {local} {remote}"),
            Self::IfconfigV6(local, None) => write!(f, "ifconfig-ipv6 {local}"),
            Self::Topology(Topology::Net30) => f.write_str("topology net30"),
            Self::Topology(Topology::P2p) => f.write_str("topology p2p"),
            Self::Topology(Topology::Subnet) => f.write_str("topology subnet"),
            Self::Route(prefix, outside) => write_route(f, prefix, *outside),
            Self::RouteName(name) => write!(f, "route {}", quoted(name)),
            Self::RouteGateway(None) => f.write_str("route-gateway dhcp"),
            Self::RouteGateway(Some(gateway)) => write!(f, "route-gateway {gateway}"),
            Self::Redirect(redirect) => {
                let name = if redirect.private { "redirect-private" } else { "redirect-gateway" };
                let v6 = if redirect.v6 { " ipv6" } else { "" };
                let not_v4 = if redirect.not_v4 { " !ipv4" } else { "" };
                write!(f, "{name} def1{v6}{not_v4}")
            }
            Self::BlockIpv6 => f.write_str("block-ipv6"),
            Self::DhcpDns(address) => write!(f, "dhcp-option DNS {address}"),
            Self::DhcpDomain(domain) => write!(f, "dhcp-option DOMAIN {domain}"),
            Self::SearchDomains(domains) => write!(f, "dns search-domains {}", list(domains)),
            Self::DnsServer(index, item) => write!(f, "dns server {index} {item}"),
            Self::Ping(seconds) => write!(f, "ping {seconds}"),
            Self::PingRestart(seconds) => write!(f, "ping-restart {seconds}"),
            Self::PingExit(seconds) => write!(f, "ping-exit {seconds}"),
            Self::Keepalive(ping, restart) => write!(f, "keepalive {ping} {restart}"),
            Self::Inactive(seconds, bytes) => write!(f, "inactive {seconds} {bytes}"),
            Self::SessionTimeout(seconds) => write!(f, "session-timeout {seconds}"),
            Self::PeerId(None) => f.write_str("peer-id -1"),
            Self::PeerId(Some(id)) => write!(f, "peer-id {id}"),
            Self::Cipher(name) => write!(f, "cipher {}", quoted(name)),
            Self::ProtocolFlags(flags) => write!(f, "protocol-flags {}", list(flags)),
            Self::KeyDerivation(kind) => write!(f, "key-derivation {}", quoted(kind)),
            Self::AuthToken(token) => write!(f, "auth-token {}", quoted(token.as_str())),
            Self::AuthTokenUser(user) => write!(f, "auth-token-user {}", quoted(user.as_str())),
            Self::TunMtu(bytes) => write!(f, "tun-mtu {bytes}"),
            Self::Compression(Compression::Lzo) => f.write_str("comp-lzo no"),
            Self::Compression(Compression::StubV2) => f.write_str("compress stub-v2"),
            Self::Compression(Compression::Stub | Compression::None) => f.write_str("compress stub"),
            Self::ExitNotify(times) => write!(f, "explicit-exit-notify {times}"),
            Self::Continuation(more) => write!(f, "push-continuation {more}"),
            Self::Quiet(name) => f.write_str(name),
        }
    }
}

fn write_route(f: &mut fmt::Formatter<'_>, prefix: &Prefix, outside: bool) -> fmt::Result {
    let gateway = if outside { " net_gateway" } else { "" };
    match prefix.address() {
        IpAddr::V6(_) => write!(f, "route-ipv6 {prefix}{gateway}"),
        IpAddr::V4(address) => {
            let ones = u32::MAX.checked_shl(32 - u32::from(prefix.length())).unwrap_or(0);
            write!(f, "route {address} {}{gateway}", Ipv4Addr::from_bits(ones))
        }
    }
}

impl fmt::Display for DnsItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(addresses) => {
                f.write_str("address")?;
                addresses
                    .iter()
                    .try_for_each(|(address, port)| write!(f, " {}", SocketAddr::new(*address, *port)))
            }
            Self::ResolveDomains(domains) => write!(f, "resolve-domains {}", domains.join(" ")),
            Self::Dnssec(value) => write!(f, "dnssec {value}"),
            Self::Transport(value) => write!(f, "transport {value}"),
            Self::Sni(name) => write!(f, "sni {}", quoted(name)),
        }
    }
}

#[cfg(test)]
mod tests;
