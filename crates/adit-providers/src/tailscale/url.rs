//! Addresses of servers: `https://host[:port]`, and proxies.

use std::fmt;
use std::net::IpAddr;

use adit_tailscale::Proxy;
use adit_tunnel::HostPort;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Problem;

/// The control server of Tailscale.
pub const TAILSCALE: &str = "https://controlplane.tailscale.com";

/// Where a control server is: a URL without path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlUrl {
    /// Whether the connection has TLS.
    pub tls: bool,
    /// The host: a name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Default for ControlUrl {
    fn default() -> Self {
        Self { tls: true, host: "controlplane.tailscale.com".to_owned(), port: 443 }
    }
}

impl ControlUrl {
    /// Reads a URL. A slash at the end is fine, a path is not.
    ///
    /// # Errors
    ///
    /// It is no URL of a control server (`config.value`).
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = |why: &str| {
            Problem::new("config.value", format!("`{text}` is no URL of a control server: {why}"))
                .fix("write https://HOST, like https://headscale.example.com")
        };
        let (scheme, rest) = text.trim().split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        let tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(wrong("its scheme is neither https nor http")),
        };
        let rest = rest.trim_end_matches('/');
        if rest.contains(['/', '?', '#', '@']) {
            return Err(wrong("it has more than host and port"));
        }
        let (host, port) =
            host_port(rest, if tls { 443 } else { 80 }).ok_or_else(|| wrong("its host is wrong"))?;
        Ok(Self { tls, host, port })
    }

    /// The value of `Host`: the port is left out where it is the scheme's.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.tls { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for ControlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

/// `host[:port]`, an IPv6 address in brackets.
fn host_port(text: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || host.len() > 253 || !host.chars().all(plain) {
        return None;
    }
    let port = port.map_or(Some(default), |port| port.parse().ok().filter(|port| *port != 0))?;
    Some((host.to_ascii_lowercase(), port))
}

/// The proxies of the environment, as most programs read them.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    https: Option<Proxy>,
    http: Option<Proxy>,
    /// Hosts and domains that are not proxied; `*` is all.
    none: Vec<String>,
}

impl Proxies {
    /// Reads `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case.
    ///
    /// # Errors
    ///
    /// A value cannot be used (`env.proxy_required`).
    pub fn from_env() -> Result<Self, Problem> {
        Self::read(|name| std::env::var(name).ok())
    }

    /// Like [`from_env`](Self::from_env), with variables from elsewhere.
    ///
    /// # Errors
    ///
    /// A value cannot be used.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Problem> {
        let get = |name: &str| {
            [name.to_owned(), name.to_ascii_lowercase()]
                .iter()
                .find_map(|name| variable(name).filter(|value| !value.trim().is_empty()))
        };
        let chosen = |name: &'static str| match get(name).or_else(|| get("ALL_PROXY")) {
            Some(text) => proxy(&text).map(Some).ok_or_else(|| unusable(name)),
            None => Ok(None),
        };
        let none = get("NO_PROXY").unwrap_or_default();
        let none = none.split(',').map(|host| host.trim().to_ascii_lowercase());
        Ok(Self {
            https: chosen("HTTPS_PROXY")?,
            http: chosen("HTTP_PROXY")?,
            none: none.filter(|host| !host.is_empty()).collect(),
        })
    }

    /// The proxy on the way to a host; `None` goes there directly. Loopback is never proxied.
    pub fn of(&self, tls: bool, host: &str) -> Option<&Proxy> {
        let address: Option<IpAddr> = host.parse().ok();
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return None;
        }
        let exempt = self.none.iter().any(|entry| {
            let domain = entry.trim_start_matches("*.").trim_start_matches('.');
            let below = || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
            let network = || {
                let prefix: Option<adit_tunnel::Prefix> = entry.parse().ok();
                prefix.zip(address).is_some_and(|(prefix, address)| prefix.contains(address))
            };
            entry == "*" || host == domain || below() || network()
        });
        if exempt {
            None
        } else if tls {
            self.https.as_ref()
        } else {
            self.http.as_ref()
        }
    }
}

/// The value may hold a password, so it is not shown.
fn unusable(name: &str) -> Problem {
    Problem::new("env.proxy_required", format!("the proxy in {name} cannot be used"))
        .fix("write http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT; other kinds of proxies are not supported here")
}

/// `[http://][user:password@]host[:port]`
fn proxy(text: &str) -> Option<Proxy> {
    let text = text.trim();
    let rest = match text.split_once("://") {
        Some(("http", rest)) => rest,
        Some(_) => return None,
        None => text,
    };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, rest),
    };
    let (host, port) = host_port(rest.trim_end_matches('/'), 80)?;
    let authorization = match user {
        Some(user) => Some(format!("Basic {}", STANDARD.encode(percent_decoded(user)?))),
        None => None,
    };
    Some(Proxy { at: HostPort { host, port }, authorization })
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        decoded.push(u8::try_from(digit()? << 4 | digit()?).ok()?);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_read_back_with_the_port_only_where_it_is_not_the_usual_one() {
        for (text, shown, authority) in [
            ("https://hs.example.com", "https://hs.example.com", "hs.example.com"),
            ("https://HS.example.com/", "https://hs.example.com", "hs.example.com"),
            ("https://hs.example.com:8443", "https://hs.example.com:8443", "hs.example.com:8443"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://[::1]:8080/", "http://[::1]:8080", "[::1]:8080"),
            ("https://[fd00::1]", "https://[fd00::1]", "[fd00::1]"),
        ] {
            let url = ControlUrl::parse(text).unwrap();
            assert_eq!((url.to_string().as_str(), url.authority().as_str()), (shown, authority));
        }
        for wrong in [
            "hs.example.com",
            "ftp://x",
            "https://",
            "https://a/b",
            "https://a:0",
            "https://a:x",
            "https://[x]",
        ] {
            assert_eq!(ControlUrl::parse(wrong).unwrap_err().class, "config.value", "{wrong}");
        }
        assert_eq!(ControlUrl::parse(TAILSCALE).unwrap(), ControlUrl::default());
    }

    #[test]
    fn the_environment_decides_which_hosts_are_proxied() {
        let proxies = Proxies::read(|name| {
            Some(match name {
                "https_proxy" => "http://us%65r:pa%40ss@proxy.corp:3128/".to_owned(),
                "NO_PROXY" => "internal.example, .corp,10.0.0.0/8".to_owned(),
                _ => return None,
            })
        })
        .unwrap();
        let proxy = proxies.of(true, "controlplane.tailscale.com").unwrap();
        assert_eq!((proxy.at.host.as_str(), proxy.at.port), ("proxy.corp", 3128));
        assert_eq!(proxy.authorization.as_deref(), Some("Basic dXNlcjpwYUBzcw=="));
        assert!(!format!("{proxies:?}").contains("dXNlcjpwYUBzcw"));
        for direct in
            ["localhost", "127.0.0.1", "::1", "internal.example", "a.internal.example", "hs.corp", "10.1.2.3"]
        {
            assert!(proxies.of(true, direct).is_none(), "{direct}");
        }
        assert!(proxies.of(true, "notinternal.example").is_some());
        assert!(proxies.of(false, "example.com").is_none());
        let socks = Proxies::read(|name| (name == "ALL_PROXY").then(|| "socks5://x:secret@y".to_owned()));
        assert!(!format!("{:?}", socks.unwrap_err()).contains("secret"));
    }
}
