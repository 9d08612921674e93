//! Targets: the services that must answer, as people write them.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use adit_path::Destination;

/// Something that must answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    text: String,
    /// How to ask it.
    pub probe: Probe,
}

/// How to ask a target whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A TCP connection, and a check of the protocol behind it.
    Tcp {
        /// Where to.
        host: Destination,
        /// The port.
        port: u16,
        /// What must be spoken there.
        check: Option<Check>,
    },
    /// An HTTP request.
    Http {
        /// Whether it goes over TLS.
        tls: bool,
        /// Where to.
        host: Destination,
        /// The port.
        port: u16,
        /// The path and query, from `/` on.
        path: String,
        /// The status codes that count as success.
        status: RangeInclusive<u16>,
    },
    /// A datagram that must be answered.
    Udp {
        /// Where to.
        host: Destination,
        /// The port.
        port: u16,
    },
    /// A name that must resolve.
    Dns {
        /// The server to ask; the network's own resolver decides without it.
        server: Option<IpAddr>,
        /// The name.
        name: String,
    },
    /// An ICMP echo.
    Icmp {
        /// Where to.
        host: Destination,
    },
    /// A command that must end with 0 when it runs inside the network.
    Command(String),
}

/// A protocol that can be recognised behind a TCP port without credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// PostgreSQL: an SSLRequest is answered with `S` or `N`.
    Postgres,
    /// MySQL and MariaDB: the server greets first.
    MySql,
    /// SSH: the server sends its identification string.
    Ssh,
    /// SMTP: the server greets with 220.
    Smtp,
    /// Redis: PING is answered.
    Redis,
    /// TLS with a valid certificate.
    Tls,
}

impl Check {
    /// Every check, in the order in which they are listed for people.
    pub const ALL: [Self; 6] = [Self::Postgres, Self::Ssh, Self::Smtp, Self::MySql, Self::Redis, Self::Tls];

    /// The word in a target.
    pub fn word(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
            Self::Ssh => "ssh",
            Self::Smtp => "smtp",
            Self::Redis => "redis",
            Self::Tls => "tls",
        }
    }

    /// The protocol's own name.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::MySql => "MySQL",
            Self::Ssh => "SSH",
            Self::Smtp => "SMTP",
            Self::Redis => "Redis",
            Self::Tls => "TLS",
        }
    }
}

impl Target {
    /// Where the target is; `None` for a command, and for a name that the network's resolver is asked for.
    pub fn host(&self) -> Option<Destination> {
        match &self.probe {
            Probe::Tcp { host, .. }
            | Probe::Http { host, .. }
            | Probe::Udp { host, .. }
            | Probe::Icmp { host } => Some(host.clone()),
            Probe::Dns { server, .. } => server.map(Destination::Address),
            Probe::Command(_) => None,
        }
    }

    /// The port, where the target has one.
    pub fn port(&self) -> Option<u16> {
        match self.probe {
            Probe::Tcp { port, .. } | Probe::Http { port, .. } | Probe::Udp { port, .. } => Some(port),
            Probe::Dns { server: Some(_), .. } => Some(53),
            Probe::Dns { server: None, .. } | Probe::Icmp { .. } | Probe::Command(_) => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// Why a text is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}`, column {column}: {problem}")]
pub struct TargetError {
    /// The text.
    pub text: String,
    /// Where, in characters from 1.
    pub column: usize,
    /// What is wrong there.
    pub problem: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let text = text.trim();
        let probe = Parser { text, at: 0 }.target()?;
        Ok(Self { text: text.to_owned(), probe })
    }
}

const SCHEMES: [&str; 6] = ["tcp", "http", "https", "udp", "dns", "icmp"];

struct Parser<'a> {
    text: &'a str,
    /// A byte position on a character boundary.
    at: usize,
}

impl<'a> Parser<'a> {
    fn target(mut self) -> Result<Probe, TargetError> {
        if let Some(command) = self.text.strip_prefix("command=") {
            self.at = "command=".len();
            if command.trim().is_empty() {
                return Err(self.error("a command is expected after `command=`", None));
            }
            return Ok(Probe::Command(command.to_owned()));
        }
        let Some((scheme, rest)) = self.text.split_once("://") else { return Err(self.without_scheme()) };
        let lower = scheme.to_ascii_lowercase();
        if !SCHEMES.contains(&lower.as_str()) {
            return Err(self.unknown_scheme(&lower, rest));
        }
        self.at = scheme.len() + "://".len();
        if rest.split(['/', '?']).next().is_some_and(|authority| authority.contains('@')) {
            return Err(self.error("leave the part up to `@` out: checks need no user and no password", None));
        }
        match lower.as_str() {
            "tcp" => self.tcp(),
            "http" => self.http(false),
            "https" => self.http(true),
            "udp" => {
                let (host, port) = (self.host()?, self.port()?);
                self.end()?;
                Ok(Probe::Udp { host, port })
            }
            "dns" => self.dns(),
            _ => {
                let host = self.host()?;
                self.end()?;
                Ok(Probe::Icmp { host })
            }
        }
    }

    fn tcp(&mut self) -> Result<Probe, TargetError> {
        let (host, port) = (self.host()?, self.port()?);
        let check = if self.take(',') { Some(self.check()?) } else { None };
        self.end()?;
        Ok(Probe::Tcp { host, port, check })
    }

    fn check(&mut self) -> Result<Check, TargetError> {
        let word = self.rest();
        if let Some(check) = Check::ALL.into_iter().find(|check| check.word() == word.to_ascii_lowercase()) {
            self.at = self.text.len();
            return Ok(check);
        }
        let words = Check::ALL.map(Check::word);
        let suggestion = closest(word, &words).map(|found| format!("{}{found}", &self.text[..self.at]));
        Err(self.error(&format!("`{word}` is no check; there are {}", words.join(", ")), suggestion))
    }

    fn http(&mut self, tls: bool) -> Result<Probe, TargetError> {
        let host = self.host()?;
        let port = if self.rest().starts_with(':') {
            self.port()?
        } else if tls {
            443
        } else {
            80
        };
        let (path, status) = self.path_and_status()?;
        Ok(Probe::Http { tls, host, port, path, status })
    }

    /// `/path?query[200-399]`; both parts may be missing.
    fn path_and_status(&mut self) -> Result<(String, RangeInclusive<u16>), TargetError> {
        let rest = self.rest();
        let (path, range) = match rest.strip_suffix(']').and_then(|inner| inner.rsplit_once('[')) {
            Some((path, range)) => (path, Some(range)),
            None => (rest, None),
        };
        if !path.is_empty() && !path.starts_with(['/', '?']) {
            return Err(self.error("a path that begins with `/` is expected", None));
        }
        if let Some(bad) = path.find(|c: char| c.is_whitespace() || c.is_control() || !c.is_ascii()) {
            self.at += bad;
            return Err(self.error("a path is ASCII without blanks; encode others as %XX", None));
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let Some(range) = range else { return Ok((path, 200..=399)) };
        self.at = self.text.len() - 1 - range.len();
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        match (low.trim().parse(), high.trim().parse()) {
            (Ok(low), Ok(high)) if (100..=999).contains(&low) && (low..=999).contains(&high) => {
                Ok((path, low..=high))
            }
            _ => Err(self.error("a range of status codes like [200-399] is expected", None)),
        }
    }

    /// `server/name` or `name`.
    fn dns(&mut self) -> Result<Probe, TargetError> {
        let server = match self.rest().split_once('/') {
            None => None,
            Some((server, _)) => {
                let bare = server.trim_start_matches('[').trim_end_matches(']');
                let Ok(address) = bare.parse() else {
                    return Err(self.error("the server must be an IP address: dns://10.0.0.53/NAME", None));
                };
                self.at += server.len() + 1;
                Some(address)
            }
        };
        let start = self.at;
        let Destination::Name(name) = self.host()? else {
            self.at = start;
            return Err(self.error("a name is expected, not an address", None));
        };
        self.end()?;
        Ok(Probe::Dns { server, name })
    }

    /// A name, an IPv4 address, or an IPv6 address in brackets.
    fn host(&mut self) -> Result<Destination, TargetError> {
        let rest = self.rest();
        if let Some(inner) = rest.strip_prefix('[') {
            let Some((address, _)) = inner.split_once(']') else {
                return Err(self.error("`]` is missing after the IPv6 address", None));
            };
            let Ok(parsed) = address.parse() else {
                self.at += 1;
                return Err(self.error(&format!("`{address}` is not an IPv6 address"), None));
            };
            self.at += address.len() + 2;
            return Ok(Destination::Address(IpAddr::V6(parsed)));
        }
        let host = rest.split([':', '/', ',', '?']).next().unwrap_or_default();
        let host =
            host.strip_suffix(']').and_then(|inner| inner.split_once('[')).map_or(host, |(host, _)| host);
        if host.is_empty() {
            return Err(self.error("a host name or address is expected", None));
        }
        if rest.matches(':').count() > 1 && host.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(self.error("an IPv6 address stands in brackets: [fd00::1]:PORT", None));
        }
        if let Ok(address) = host.parse() {
            self.at += host.len();
            return Ok(Destination::Address(IpAddr::V4(address)));
        }
        self.name(host)
    }

    /// A DNS name: labels of 1 to 63 letters, digits, hyphens and underscores (RFC 1035 §2.3.1, RFC 2181 §11).
    fn name(&mut self, host: &str) -> Result<Destination, TargetError> {
        let bare = host.strip_suffix('.').unwrap_or(host);
        if let Some(bad) = bare.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))) {
            self.at += bad;
            let found = bare[bad..].chars().next().unwrap_or_default();
            return Err(
                self.error(&format!("`{}` cannot stand in a host name", found.escape_default()), None)
            );
        }
        if bare.len() > 253 || bare.split('.').any(|label| label.is_empty() || label.len() > 63) {
            return Err(
                self.error("the labels of a host name have 1 to 63 characters, all of it at most 253", None)
            );
        }
        if bare.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(self.error(&format!("`{bare}` is neither an IPv4 address nor a name"), None));
        }
        self.at += host.len();
        Ok(Destination::Name(bare.to_ascii_lowercase()))
    }

    fn port(&mut self) -> Result<u16, TargetError> {
        if !self.take(':') {
            let suggestion = default_port(self.rest())
                .map(|port| format!("{}:{port}{}", &self.text[..self.at], self.rest()));
            return Err(self.error("`:PORT` is expected", suggestion));
        }
        let digits = self.rest().split(['/', ',', '[', '?']).next().unwrap_or_default();
        match digits.parse() {
            Ok(port) if port != 0 => {
                self.at += digits.len();
                Ok(port)
            }
            _ => {
                Err(self.error(&format!("`{}` is not a port from 1 to 65535", digits.escape_default()), None))
            }
        }
    }

    fn end(&self) -> Result<(), TargetError> {
        if self.rest().is_empty() {
            return Ok(());
        }
        Err(self.error(&format!("`{}` is not expected here", self.rest().escape_default()), None))
    }

    fn without_scheme(&self) -> TargetError {
        // host:port is what people type first, and it can only mean TCP.
        let mut guess = Parser { text: self.text, at: 0 };
        let suggestion = match guess.tcp() {
            Ok(_) => Some(format!("tcp://{}", self.text)),
            Err(_) => None,
        };
        self.error(
            "a scheme is expected: tcp://, http://, https://, udp://, dns://, icmp:// or command=",
            suggestion,
        )
    }

    fn unknown_scheme(&self, scheme: &str, rest: &str) -> TargetError {
        if let Some(check) = Check::ALL
            .into_iter()
            .find(|check| check.word() == scheme || (scheme == "postgresql" && *check == Check::Postgres))
        {
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            let host = host.split(['/', '?']).next().unwrap_or(host);
            let port = if host.contains(':') { String::new() } else { format!(":{}", check.default_port()) };
            return self.error(
                &format!("`{scheme}` is a check, not a scheme"),
                Some(format!("tcp://{host}{port},{}", check.word())),
            );
        }
        let suggestion = closest(scheme, &SCHEMES).map(|found| format!("{found}://{rest}"));
        self.error(
            &format!("`{}` is no scheme; there are {}", scheme.escape_default(), SCHEMES.join(", ")),
            suggestion,
        )
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, expected: char) -> bool {
        let found = self.rest().starts_with(expected);
        if found {
            self.at += expected.len_utf8();
        }
        found
    }

    fn error(&self, problem: &str, suggestion: Option<String>) -> TargetError {
        let before = self.text.get(..self.at).unwrap_or(self.text);
        TargetError {
            text: redact_user(self.text),
            column: before.chars().count() + 1,
            problem: problem.to_owned(),
            suggestion,
        }
    }
}

impl Check {
    fn default_port(self) -> u16 {
        match self {
            Self::Postgres => 5432,
            Self::MySql => 3306,
            Self::Ssh => 22,
            Self::Smtp => 25,
            Self::Redis => 6379,
            Self::Tls => 443,
        }
    }
}

/// The port that `,check` implies.
fn default_port(rest: &str) -> Option<u16> {
    let word = rest.strip_prefix(',')?;
    Check::ALL.into_iter().find(|check| check.word() == word).map(Check::default_port)
}

/// People paste whole connection strings: what stands before `@` may hold a password and is not repeated.
fn redact_user(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://…@{host}"),
        _ => text.to_owned(),
    }
}

/// The candidate that takes the fewest edits, swaps of neighbours included, if it takes few.
fn closest(word: &str, among: &[&str]) -> Option<String> {
    let word = word.to_ascii_lowercase();
    among
        .iter()
        .map(|candidate| (strsim::osa_distance(&word, candidate), *candidate))
        .filter(|(edits, candidate)| *edits <= (candidate.len() / 3).max(1))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Probe {
        text.parse::<Target>().unwrap_or_else(|error| panic!("{error}")).probe
    }

    fn fails(text: &str) -> TargetError {
        text.parse::<Target>().unwrap_err()
    }

    fn name(text: &str) -> Destination {
        Destination::Name(text.to_owned())
    }

    #[test]
    fn every_kind_of_target_is_read() {
        assert_eq!(
            parse("tcp://DB.internal.:5432,postgres"),
            Probe::Tcp { host: name("db.internal"), port: 5432, check: Some(Check::Postgres) }
        );
        assert_eq!(
            parse("tcp://[fd00::1]:22"),
            Probe::Tcp { host: Destination::Address("fd00::1".parse().unwrap()), port: 22, check: None }
        );
        assert_eq!(
            parse("https://api.internal/healthz?x=1[200-204]"),
            Probe::Http {
                tls: true,
                host: name("api.internal"),
                port: 443,
                path: "/healthz?x=1".to_owned(),
                status: 200..=204
            }
        );
        assert_eq!(
            parse("http://10.0.0.1:8080[401]"),
            Probe::Http {
                tls: false,
                host: Destination::Address("10.0.0.1".parse().unwrap()),
                port: 8080,
                path: "/".to_owned(),
                status: 401..=401
            }
        );
        assert_eq!(
            parse("http://api.internal[200-299]"),
            Probe::Http {
                tls: false,
                host: name("api.internal"),
                port: 80,
                path: "/".to_owned(),
                status: 200..=299
            }
        );
        assert_eq!(parse("udp://h:7"), Probe::Udp { host: name("h"), port: 7 });
        assert_eq!(parse("dns://db.internal"), Probe::Dns { server: None, name: "db.internal".to_owned() });
        assert_eq!(
            parse("dns://10.0.0.53/db.internal"),
            Probe::Dns { server: Some("10.0.0.53".parse().unwrap()), name: "db.internal".to_owned() }
        );
        assert_eq!(
            parse("icmp://10.0.0.1"),
            Probe::Icmp { host: Destination::Address("10.0.0.1".parse().unwrap()) }
        );
        assert_eq!(parse("command=pg_isready -h db"), Probe::Command("pg_isready -h db".to_owned()));
    }

    #[test]
    fn errors_name_the_column_and_what_was_probably_meant() {
        for (text, column, suggestion) in [
            ("tpc://db:5432", 1, Some("tcp://db:5432")),
            ("db:5432", 1, Some("tcp://db:5432")),
            ("db:5432,postgres", 1, Some("tcp://db:5432,postgres")),
            ("tcp://db:5432,postgers", 15, Some("tcp://db:5432,postgres")),
            ("tcp://db,postgres", 9, Some("tcp://db:5432,postgres")),
            ("redis://cache", 1, Some("tcp://cache:6379,redis")),
            ("tcp://db:99999", 10, None),
            ("tcp://db:0", 10, None),
            ("tcp://d b:1", 8, None),
            ("tcp://fd00::1:22", 7, None),
            ("tcp://[fd00::1:22", 7, None),
            ("tcp://10.0.0.256:1", 7, None),
            ("tcp://:1", 7, None),
            ("http://h/x[abc]", 12, None),
            ("http://h/x[300-200]", 12, None),
            ("http://h/a b", 11, None),
            ("icmp://h:1", 9, None),
            ("dns://ns.internal/x", 7, None),
            ("dns://10.0.0.1", 7, None),
            ("command=", 9, None),
            ("", 1, None),
        ] {
            let error = fails(text);
            assert_eq!((error.column, error.suggestion.as_deref()), (column, suggestion), "{error}");
        }
    }

    #[test]
    fn a_pasted_connection_string_never_shows_its_password() {
        let error = fails("postgresql://app:hunter2@db.internal/orders");
        assert_eq!(error.suggestion.as_deref(), Some("tcp://db.internal:5432,postgres"));
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        let error = fails("tcp://app:hunter2@db.internal:5432");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}
