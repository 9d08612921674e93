//! Where a client of a front wants to go.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use adit_path::Destination;

/// The longest DNS name in text, without trailing dot (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// An address or a name.
    pub host: Destination,
    /// The port.
    pub port: u16,
}

/// Why a text names no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// There is no port.
    #[error("`{0}` has no port; write HOST:PORT")]
    NoPort(String),
    /// The port is no number between 1 and 65535.
    #[error("`{0}` is not a port between 1 and 65535")]
    BadPort(String),
    /// The host is neither an address nor a name.
    #[error("`{0}` is neither an IP address nor a host name")]
    BadHost(String),
}

impl Target {
    /// A host as text with its port. Brackets around an IPv6 address are taken off.
    pub fn new(host: &str, port: u16) -> Result<Self, TargetError> {
        Ok(Self { host: parse_host(host)?, port })
    }

    /// Reads `HOST:PORT`; `default` is the port of a text without one.
    pub fn parse(text: &str, default: Option<u16>) -> Result<Self, TargetError> {
        let (host, port) = split_port(text);
        let port = match (port, default) {
            (Some(port), _) => parse_port(port)?,
            (None, Some(port)) => port,
            (None, None) => return Err(TargetError::NoPort(text.to_owned())),
        };
        Self::new(host, port)
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { host: Destination::Address(address.ip().to_canonical()), port: address.port() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Destination::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
            Destination::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Splits the port off; an IPv6 address without brackets has none.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    }
}

/// A port that something can listen on.
pub(super) fn parse_port(text: &str) -> Result<u16, TargetError> {
    match text.parse() {
        Ok(port) if port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err(TargetError::BadPort(text.to_owned())),
    }
}

fn parse_host(text: &str) -> Result<Destination, TargetError> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(text).parse::<IpAddr>() {
        return Ok(Destination::Address(address.to_canonical()));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_NAME || name.contains("..") || !name.chars().all(plain) {
        return Err(TargetError::BadHost(text.to_owned()));
    }
    Ok(Destination::Name(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_read_in_every_common_form() {
        for (text, shown) in [
            ("db.internal:5432", "db.internal:5432"),
            ("db.internal.:5432", "db.internal:5432"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
        ] {
            assert_eq!(Target::parse(text, None).unwrap().to_string(), shown);
        }
        assert_eq!(Target::parse("fd00::1", Some(80)).unwrap().to_string(), "[fd00::1]:80");
        assert_eq!(Target::parse("db", Some(80)).unwrap().to_string(), "db:80");
    }

    #[test]
    fn what_is_no_target_is_named_in_the_error() {
        let bad = |text: &str| Target::parse(text, None).unwrap_err();
        assert_eq!(bad("db"), TargetError::NoPort("db".to_owned()));
        assert_eq!(bad("db:0"), TargetError::BadPort("0".to_owned()));
        assert_eq!(bad("db:+80"), TargetError::BadPort("+80".to_owned()));
        assert_eq!(bad("db:65536"), TargetError::BadPort("65536".to_owned()));
        for host in ["", "a b", "a..b", "a\0b", "a/b", "[db]"] {
            assert_eq!(bad(&format!("{host}:80")), TargetError::BadHost(host.to_owned()));
        }
    }
}
