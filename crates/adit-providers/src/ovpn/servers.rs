//! Servers, carriers, proxies and wrapping keys: `remote`, `<connection>` and what both may hold.

use std::time::Duration;

use adit_openvpn::{
    Algorithm, Compression, Credentials, Direction, MssFix, Remote, Retry, StaticKey, Transport, Via, Wrap,
};
use adit_tunnel::HostPort;

use super::lex::{Directive, lex};
use super::login;
use super::options::{self, Treatment};
use super::pem;
use super::proxies::{Http, header, http, socks};
use super::read::{Reading, shown};
use crate::{Problem, placeholder};

/// The port of OpenVPN (IANA).
const PORT: u16 = 1194;
/// No profile has more servers; every one costs name lookups.
const MAX_REMOTES: usize = 256;
/// The MTU inside where nobody says anything.
const TUN_MTU: u16 = 1500;
/// `connect-timeout` of the reference.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(120);

/// What a server or all of them are said to be like.
#[derive(Clone, Debug, Default)]
struct Conn {
    host: Option<String>,
    at: Option<Directive>,
    port: Option<u16>,
    proto: Option<Proto>,
    rport: Option<u16>,
    lport: Option<u16>,
    connect_timeout: Option<Duration>,
    compression: Option<Compression>,
    tun_mtu: Option<u16>,
    mssfix: Option<MssFix>,
    fragment: Option<u16>,
    exit_notify: Option<u8>,
    http: Option<Http>,
    http_credentials: Option<Credentials>,
    http_headers: Vec<(String, String)>,
    socks: Option<(HostPort, Option<Credentials>)>,
    tls_auth: Option<(StaticKey, Option<Direction>)>,
    tls_crypt: Option<StaticKey>,
    tls_crypt_v2: Option<(StaticKey, Vec<u8>)>,
    direction: Option<Direction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Proto {
    transport: Transport,
    family: Option<u8>,
}

/// Everything about servers, while it is read.
#[derive(Debug)]
pub(super) struct Servers {
    all: Conn,
    listed: Vec<Conn>,
    pub(super) random: bool,
    pub(super) random_hostname: bool,
    pub(super) float: bool,
    pub(super) retry: Retry,
    force: Option<Transport>,
}

impl Default for Servers {
    fn default() -> Self {
        let retry =
            Retry { pause: Duration::from_secs(1), max_pause: Duration::from_secs(300), rounds: None };
        Self {
            all: Conn::default(),
            listed: Vec::new(),
            random: false,
            random_hostname: false,
            float: false,
            retry,
            force: None,
        }
    }
}

impl Servers {
    /// Takes a directive, if it is about servers.
    pub(super) fn apply(&mut self, at: &Directive, reading: &mut Reading<'_>) -> bool {
        match at.name.text.as_str() {
            "remote" => {
                if self.listed.len() >= MAX_REMOTES {
                    reading.refused(
                        at,
                        None,
                        &format!("the profile has more than {MAX_REMOTES} servers"),
                        "keep those that are used",
                    );
                } else if let Some(conn) = remote(at, reading) {
                    self.listed.push(conn);
                }
            }
            "connection" => self.block(at, reading),
            "remote-random" => self.random = true,
            "remote-random-hostname" => self.random_hostname = true,
            "proto-force" => self.force = proto(at, 0, reading).map(|proto| proto.transport),
            _ => return self.global(at, reading) || self.all.apply(at, reading),
        }
        true
    }

    /// Options of `<connection>` that hold for all servers here.
    fn global(&mut self, at: &Directive, reading: &mut Reading<'_>) -> bool {
        match at.name.text.as_str() {
            "float" => self.float = true,
            "connect-retry" => {
                if let Some(pause) = reading.number(at, 0, 0, 65535) {
                    self.retry.pause = Duration::from_secs(pause.max(1));
                    self.retry.max_pause = self.retry.max_pause.max(self.retry.pause);
                }
                if at.args.len() > 1
                    && let Some(most) = reading.number(at, 1, 1, 65535)
                {
                    self.retry.max_pause = Duration::from_secs(most).max(self.retry.pause);
                }
            }
            "connect-retry-max" => {
                // `unlimited` is the manual's word; 0 is what some profiles write for it.
                self.retry.rounds = match at.arg(0) {
                    Some("unlimited" | "0") => None,
                    _ => reading.number(at, 0, 1, 65535).map(|rounds| rounds as u32),
                };
            }
            _ => return false,
        }
        true
    }

    fn block(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        let Some(block) = &at.block else { return };
        let lexed = lex(&block.text, block.first_line, at.file.as_deref());
        reading.problems.extend(lexed.problems);
        reading.warnings.extend(lexed.warnings);
        let mut conn = Conn::default();
        for inner in &lexed.directives {
            let name = inner.name.text.as_str();
            let Some(spec) = options::find(name) else {
                let fix = "delete the line, or correct it";
                reading.doubt(
                    inner,
                    None,
                    "ovpn.config.unknown",
                    format!("there is no option `{}`; it is left out", shown(name)),
                    fix,
                );
                continue;
            };
            if spec.treatment == Treatment::Quiet {
                continue;
            }
            if name == "remote" {
                if let Some(found) = remote(inner, reading) {
                    conn = Conn {
                        host: found.host,
                        at: found.at,
                        port: found.port.or(conn.port),
                        proto: found.proto.or(conn.proto),
                        ..conn
                    };
                }
            } else if !spec.connection || !(self.global(inner, reading) || conn.apply(inner, reading)) {
                reading.wrong(
                    inner,
                    None,
                    &format!("`{name}` cannot stand in <connection>"),
                    "move it out of the block",
                );
            }
        }
        if conn.host.is_some() && self.listed.len() < MAX_REMOTES {
            self.listed.push(conn);
        } else {
            reading.wrong(at, None, "the <connection> block has no usable `remote`", "add remote HOST PORT");
        }
    }

    /// The servers, complete. `algorithm` is that of `auth`, `None` for `auth none`.
    pub(super) fn finish(&self, algorithm: Option<Algorithm>, reading: &mut Reading<'_>) -> Vec<Remote> {
        if self.listed.is_empty() {
            if reading.problems.is_empty() {
                reading.problems.push(
                    Problem::new(
                        "ovpn.config.missing",
                        "the profile has no `remote`, so there is no server to call",
                    )
                    .fix("add remote HOST PORT udp, as the server's administrator says"),
                );
            }
            return Vec::new();
        }
        let remotes: Vec<Remote> = self
            .listed
            .iter()
            .filter_map(|conn| self.complete(conn, algorithm, reading))
            .filter(|remote| self.force.is_none_or(|force| force == remote.transport))
            .collect();
        if remotes.is_empty() && reading.problems.is_empty() {
            reading.problems.push(
                Problem::new("ovpn.config.missing", "no server of the profile can be used")
                    .seen("all are UDP where an HTTP proxy or proto-force allows TCP only, or the other way round")
                    .fix("add a server with the other protocol: remote HOST 443 tcp"),
            );
        }
        remotes
    }

    fn complete(
        &self,
        conn: &Conn,
        algorithm: Option<Algorithm>,
        reading: &mut Reading<'_>,
    ) -> Option<Remote> {
        let all = &self.all;
        let at = conn.at.as_ref()?;
        let proto = conn.proto.or(all.proto).unwrap_or(Proto { transport: Transport::Udp, family: None });
        let udp = proto.transport == Transport::Udp;
        let port = conn.port.or(conn.rport).or(all.rport).or(all.port).unwrap_or(PORT);
        let via = self.via(conn);
        if udp && matches!(via, Some(Via::Http { .. })) {
            reading.not_done(at, "an HTTP proxy carries TCP only, so this UDP server is left out");
            return None;
        }
        let fragment = conn.fragment.or(all.fragment).filter(|_| udp);
        let mssfix = match (conn.mssfix.or(all.mssfix).unwrap_or_default(), fragment) {
            // As in the reference: segments that fit one fragment.
            (MssFix::Default, Some(size)) => MssFix::Payload(size),
            (other, _) => other,
        };
        Some(Remote {
            host: HostPort { host: conn.host.clone()?, port },
            random_hostname: self.random_hostname,
            transport: proto.transport,
            family: proto.family,
            local_port: conn.lport.or(all.lport).filter(|port| *port != 0 && udp),
            via,
            connect_timeout: conn.connect_timeout.or(all.connect_timeout).unwrap_or(CONNECT_TIMEOUT),
            wrap: self.wrap(conn, at, algorithm, reading)?,
            compression: conn.compression.or(all.compression).unwrap_or_default(),
            tun_mtu: conn.tun_mtu.or(all.tun_mtu).unwrap_or(TUN_MTU),
            mssfix,
            fragment,
            exit_notify: conn.exit_notify.or(all.exit_notify).filter(|_| udp).unwrap_or(0),
        })
    }

    fn via(&self, conn: &Conn) -> Option<Via> {
        let all = &self.all;
        if let Some(http) = conn.http.as_ref().or(all.http.as_ref()) {
            let inline = conn.http_credentials.as_ref().or(all.http_credentials.as_ref());
            return Some(Via::Http {
                proxy: http.proxy.clone(),
                credentials: http.credentials.as_ref().or(inline).cloned(),
                digest_only: http.digest_only,
                headers: all.http_headers.iter().chain(&conn.http_headers).cloned().collect(),
            });
        }
        let (proxy, credentials) = conn.socks.as_ref().or(all.socks.as_ref())?;
        Some(Via::Socks { proxy: proxy.clone(), credentials: credentials.clone() })
    }

    fn wrap(
        &self,
        conn: &Conn,
        at: &Directive,
        algorithm: Option<Algorithm>,
        reading: &mut Reading<'_>,
    ) -> Option<Wrap> {
        // A block's own key replaces that of the profile, of whatever kind.
        let own = conn.tls_auth.is_some() || conn.tls_crypt.is_some() || conn.tls_crypt_v2.is_some();
        let from = if own { conn } else { &self.all };
        let direction = conn.direction.or(self.all.direction);
        match (&from.tls_auth, &from.tls_crypt, &from.tls_crypt_v2) {
            (None, None, None) => Some(Wrap::None),
            (Some((key, said)), None, None) => {
                let Some(algorithm) = algorithm else {
                    reading.refused(
                        at,
                        None,
                        "`tls-auth` needs a digest, and `auth none` says that there is none",
                        "write the server's digest: auth SHA256",
                    );
                    return None;
                };
                let direction = said.or(direction).unwrap_or(Direction::Both);
                Some(Wrap::Auth { key: key.clone(), direction, algorithm })
            }
            (None, Some(key), None) => Some(Wrap::Crypt(key.clone())),
            (None, None, Some((key, wrapped))) => {
                Some(Wrap::CryptV2 { key: key.clone(), wrapped: wrapped.clone() })
            }
            _ => {
                reading.wrong(
                    at,
                    None,
                    "the profile has more than one of tls-auth, tls-crypt and tls-crypt-v2",
                    "keep the one that the server uses",
                );
                None
            }
        }
    }
}

impl Conn {
    fn apply(&mut self, at: &Directive, reading: &mut Reading<'_>) -> bool {
        match at.name.text.as_str() {
            "proto" => self.proto = proto(at, 0, reading).or(self.proto),
            "port" => self.port = port(at, 0, reading).or(self.port),
            "rport" => self.rport = port(at, 0, reading).or(self.rport),
            "lport" => self.lport = reading.number(at, 0, 0, 65535).map(|port| port as u16),
            "connect-timeout" | "server-poll-timeout" => {
                self.connect_timeout = reading.number(at, 0, 1, 65535).map(Duration::from_secs);
            }
            "explicit-exit-notify" => {
                self.exit_notify = match at.args.is_empty() {
                    true => Some(1),
                    false => reading.number(at, 0, 0, 255).map(|times| times as u8),
                };
            }
            "comp-lzo" => self.compression = Some(Compression::Lzo),
            "compress" => self.compression = compression(at, reading).or(self.compression),
            "tun-mtu" => {
                self.tun_mtu = reading.number(at, 0, 576, 65535).map(|mtu| mtu as u16).or(self.tun_mtu)
            }
            "mssfix" => self.mssfix = mssfix(at, reading),
            // Splitting is for datagrams; a server's UDP and TCP listeners share such lines.
            "fragment" => {
                self.fragment = match at.arg(0) {
                    Some("0") => None,
                    _ => reading.number(at, 0, 68, 65535).map(|size| size as u16),
                }
            }
            "http-proxy" => self.http = http(at, reading),
            "http-proxy-user-pass" => {
                let content = reading.content(at, 0, "the proxy's user and password", true);
                self.http_credentials = content.and_then(|content| login::of_proxy(at, &content, reading));
            }
            "http-proxy-option" => header(at, &mut self.http_headers, reading),
            "socks-proxy" => self.socks = socks(at, reading),
            "tls-auth" | "tls-crypt" | "tls-crypt-v2" => self.key(at, reading),
            "key-direction" => self.direction = direction(at, 0, reading),
            _ => return false,
        }
        true
    }

    fn key(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        let name = at.name.text.as_str();
        // `tls-auth FILE 1`; as block, the direction stands in key-direction.
        let said = if at.args.len() > 1 { direction(at, 1, reading) } else { None };
        let Some(content) = reading.content(at, 0, &format!("the key of {name}"), true) else {
            if name == "tls-auth" && said.is_some() {
                self.direction = said;
            }
            return;
        };
        let text = content.bytes.expose_text().unwrap_or("");
        let read = match name {
            "tls-crypt-v2" => pem::client_key_v2(text).map(|(key, wrapped)| {
                self.tls_crypt_v2 = Some((StaticKey(key), wrapped));
            }),
            "tls-crypt" => pem::static_key(text).map(|key| self.tls_crypt = Some(StaticKey(key))),
            _ => pem::static_key(text).map(|key| self.tls_auth = Some((StaticKey(key), said))),
        };
        if let Err(problem) = read {
            let problem = match placeholder(text.trim()) {
                Some(found) => unfilled(name, found),
                None if text.trim().is_empty() => unfilled(name, "nothing"),
                None => Problem { summary: format!("{name}: {}", problem.summary), ..problem },
            };
            reading.problems.push(at.problem(Some(0).filter(|_| at.block.is_none()), problem));
        }
    }
}

/// The framing that `compress` brings.
fn compression(at: &Directive, reading: &mut Reading<'_>) -> Option<Compression> {
    match at.arg(0) {
        None | Some("stub" | "lz4") => Some(Compression::Stub),
        Some("stub-v2" | "lz4-v2") => Some(Compression::StubV2),
        Some("lzo") => Some(Compression::Lzo),
        Some("migrate") => Some(Compression::None),
        Some(other) => {
            let summary = format!("adit does not have the compression `{}`", shown(other));
            reading.refused(at, Some(0), &summary, "remove compression from the server and the profile");
            None
        }
    }
}

/// A value that was to be filled in.
pub(super) fn unfilled(name: &str, found: &str) -> Problem {
    Problem::new("ovpn.config.placeholder", format!("{name} was never filled in"))
        .seen(format!("it holds {}", shown(found)))
        .fix("put the real value there, as the instructions of whoever made the profile say")
}

fn remote(at: &Directive, reading: &mut Reading<'_>) -> Option<Conn> {
    let host = at.arg(0)?;
    let template = host.to_ascii_uppercase();
    let marks = ["YOUR_", "YOURSERVER", "SERVER_IP", "SERVERIP", "SERVER_ADDRESS", "EXAMPLE_IP"];
    if placeholder(host).is_some() || marks.iter().any(|mark| template.contains(mark)) {
        reading.problems.push(at.problem(Some(0), unfilled("the server's name", host)));
        return None;
    }
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let fits = !host.is_empty()
        && host.len() <= 253
        && !host.contains(['/', '@', ' '])
        && !host.contains(char::is_control);
    // More than one colon is an IPv6 address; exactly one is a port that was joined to the name.
    if !fits || host.matches(':').count() == 1 {
        reading.wrong(
            at,
            Some(0),
            &format!("`{}` is no name and no address", shown(host)),
            "write remote HOST PORT PROTOCOL, with spaces between",
        );
        return None;
    }
    let port = if at.args.len() > 1 { Some(port(at, 1, reading)?) } else { None };
    let proto = if at.args.len() > 2 { Some(proto(at, 2, reading)?) } else { None };
    Some(Conn { host: Some(host.to_owned()), at: Some(at.clone()), port, proto, ..Conn::default() })
}

fn port(at: &Directive, index: usize, reading: &mut Reading<'_>) -> Option<u16> {
    reading.number(at, index, 1, 65535).map(|port| port as u16)
}

fn proto(at: &Directive, index: usize, reading: &mut Reading<'_>) -> Option<Proto> {
    let word = at.arg(index)?.to_ascii_lowercase();
    let (transport, family) = match word.as_str() {
        "udp" => (Transport::Udp, None),
        "udp4" => (Transport::Udp, Some(4)),
        "udp6" => (Transport::Udp, Some(6)),
        "tcp" | "tcp-client" => (Transport::Tcp, None),
        "tcp4" | "tcp4-client" => (Transport::Tcp, Some(4)),
        "tcp6" | "tcp6-client" => (Transport::Tcp, Some(6)),
        "tcp-server" | "tcp4-server" | "tcp6-server" => {
            reading.refused(
                at,
                Some(index),
                "this is a server's configuration; adit is a client",
                "write tcp-client, and give the client's profile",
            );
            return None;
        }
        _ => {
            reading.wrong(
                at,
                Some(index),
                &format!("there is no protocol `{}`", shown(&word)),
                "write udp or tcp-client",
            );
            return None;
        }
    };
    Some(Proto { transport, family })
}

fn direction(at: &Directive, index: usize, reading: &mut Reading<'_>) -> Option<Direction> {
    match at.arg(index)? {
        "0" => Some(Direction::Normal),
        "1" => Some(Direction::Inverse),
        // What some exporters write for none.
        "bidirectional" => Some(Direction::Both),
        other => {
            let summary = format!("`{}` is no direction of a key", shown(other));
            reading.wrong(
                at,
                Some(index),
                &summary,
                "write 1, if the server has 0; or delete it, if the server has none",
            );
            None
        }
    }
}

fn mssfix(at: &Directive, reading: &mut Reading<'_>) -> Option<MssFix> {
    if at.args.is_empty() {
        return Some(MssFix::Default);
    }
    let size = reading.number(at, 0, 0, 65535)? as u16;
    match at.arg(1) {
        _ if size == 0 => Some(MssFix::Off),
        None => Some(MssFix::Payload(size)),
        Some("mtu") => Some(MssFix::Mtu(size)),
        Some("fixed") => Some(MssFix::Fixed(size)),
        Some(other) => {
            let summary = format!("`{}` is no way to count for mssfix", shown(other));
            reading.wrong(at, Some(1), &summary, "write mtu or fixed, or delete the word");
            None
        }
    }
}
