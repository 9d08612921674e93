//! `adit.toml` as it is written: profiles whose keys may all be missing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use adit_providers::SecretSource;
use adit_tunnel::{ParsePrefixError, Prefix};
use toml::de::DeTable;

use super::openvpn::{Login, Provider};
use super::setting::{Origin, Setting};
use super::table::{Reader, Source, Table, nearest};
use super::tailnet::{self, Tailnet};
use super::{Failures, Mode, duration};
use crate::failure;
use crate::fronts::{ExposeRule, ForwardSpec, Protocol, Target};

/// The version of the format that this build reads.
const VERSION: i64 = 1;

/// An `adit.toml`.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// The profile that is used when none is named.
    pub default: Option<Setting<String>>,
    /// The profiles, by name.
    pub profiles: BTreeMap<String, ProfileEntry>,
}

/// A forward, with its place.
pub type ForwardEntry = Setting<ForwardSpec>;

/// A profile as it is written.
#[derive(Clone, Debug, Default)]
pub struct ProfileEntry {
    /// The line of its head, from 1.
    pub line: usize,
    /// `config`: the wg-quick file or OpenVPN profile, as written.
    pub config: Option<Setting<PathBuf>>,
    /// `auth.private_key`
    pub private_key: Option<Setting<SecretSource>>,
    /// `auth.preshared_key`
    pub preshared_key: Option<Setting<SecretSource>>,
    /// `auth.user_pass`, `auth.key_pass`, `auth.challenge`, `auth.challenge_cmd`, `auth.totp`
    pub login: Login,
    /// What only a tailnet has.
    pub tailnet: Tailnet,
    /// `provider`
    pub provider: Option<Setting<Provider>>,
    /// `race`
    pub race: Option<Setting<Duration>>,
    /// `auth.consume`
    pub consume: Option<Setting<bool>>,
    /// `mode`
    pub mode: Option<Setting<Mode>>,
    /// `strict`
    pub strict: Option<Setting<bool>>,
    /// `verify.targets`
    pub targets: Option<Setting<Vec<String>>>,
    /// `verify.timeout`
    pub timeout: Option<Setting<Duration>>,
    /// `verify.grace`
    pub grace: Option<Setting<Duration>>,
    /// `[[forward]]`
    pub forwards: Vec<ForwardEntry>,
    /// `proxy.socks`
    pub socks: Option<Setting<SocketAddr>>,
    /// `proxy.http`
    pub http: Option<Setting<SocketAddr>>,
    /// `expose`
    pub expose: Option<Setting<Vec<ExposeRule>>>,
    /// `allow.out`
    pub allow: Option<Setting<Vec<Prefix>>>,
}

impl File {
    /// Reads the text of an `adit.toml`; `name` is the file's name in messages.
    ///
    /// # Errors
    ///
    /// Everything that is wrong.
    pub fn parse(text: &str, name: &str) -> Result<Self, Failures> {
        let mut reader = Reader { source: Source { file: name, text }, failures: Vec::new() };
        let document = DeTable::parse(text).map_err(|error| syntax(&error, &reader.source))?;
        let mut top = Table::new(String::new(), document.span(), document.get_ref());
        version(&mut top, &mut reader);
        let default = top.parsed("default", &mut reader, |name| Ok(name.to_owned()));
        let mut profiles = BTreeMap::new();
        if let Some(table) = top.table("profile", &mut reader) {
            for (name, table) in table.named(&mut reader) {
                profiles.insert(name, profile(table, &mut reader));
            }
        }
        top.finish(&mut reader);
        let file = Self { default, profiles };
        file.check_default(&mut reader);
        if reader.failures.is_empty() {
            return Ok(file);
        }
        reader
            .failures
            .sort_by_key(|failure| failure.location.as_ref().map_or((0, 0), |l| (l.line, l.column)));
        Err(Failures(reader.failures))
    }

    fn check_default(&self, reader: &mut Reader<'_>) {
        let Some(default) = self.default.as_ref().filter(|name| !self.profiles.contains_key(&name.value))
        else {
            return;
        };
        let names: Vec<&str> = self.profiles.keys().map(String::as_str).collect();
        let summary = format!("`default` names the profile `{}`, which is not in the file", default.value);
        let mut failure = failure::of("config.profile", summary);
        failure = failure.seen(match names.as_slice() {
            [] => "the file has no profiles".to_owned(),
            names => format!("its profiles: {}", names.join(", ")),
        });
        if let Some(near) = nearest(&default.value, &names) {
            failure = failure.with_fix(vec![format!("write default = \"{near}\"")]);
        }
        // The line is known; the column is that of the value, which `default` alone has.
        if let Origin::File { line, .. } = default.origin {
            let text = reader.source.text;
            let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
            let length = text[start..].lines().next().map_or(0, str::len);
            failure = failure.in_file(reader.source.location(start..start + length));
        }
        reader.failures.push(failure);
    }
}

fn syntax(error: &toml::de::Error, source: &Source<'_>) -> Failures {
    let end = source.text.len();
    let failure = failure::of("config.parse", format!("{} is not valid TOML", source.file))
        .seen(error.message().trim().replace('\n', "; "))
        .with_fix(vec!["correct the place that is shown; strings stand in quotes".to_owned()]);
    Failures::from(failure.in_file(source.location(error.span().unwrap_or(end..end))))
}

fn version(top: &mut Table<'_, '_>, reader: &mut Reader<'_>) {
    match top.integer("version", reader) {
        Some(found) if found.value == VERSION => {}
        Some(found) => reader.wrong(
            found.span,
            format!("`version` is {}; this adit reads version {VERSION}", found.value),
            "use a newer adit, or write version = 1",
        ),
        // A wrong type has been reported.
        None if top.has("version") => {}
        None => {
            let failure = failure::of("config.missing", "`version` is missing")
                .with_fix(vec![format!("begin the file with version = {VERSION}")]);
            reader.failures.push(failure.in_file(reader.source.location(0..0)));
        }
    }
}

fn profile(mut table: Table<'_, '_>, reader: &mut Reader<'_>) -> ProfileEntry {
    let mut profile =
        ProfileEntry { line: reader.source.line(table.span().start), ..ProfileEntry::default() };
    profile.provider = table.parsed("provider", reader, provider);
    let tailnet = profile.provider.as_ref().is_some_and(|provider| provider.value == Provider::Tailscale);
    profile.config = table.parsed("config", reader, |path| {
        if path.is_empty() {
            return Err((
                "it is empty".to_owned(),
                "write the path of a wg-quick file or OpenVPN profile".to_owned(),
            ));
        }
        Ok(PathBuf::from(path))
    });
    if tailnet && table.has("config") {
        let failure = failure::of("config.value", format!("`{}` is of no use here", table.name("config")))
            .with_fix(vec!["delete the line: a node of a tailnet has no file".to_owned()]);
        reader.failures.push(failure.in_file(reader.source.location(table.span())));
    }
    if !tailnet && profile.config.is_none() && !table.has("config") {
        let failure = failure::of("config.missing", format!("`{}` is missing", table.name("config")))
            .with_fix(vec!["name the wg-quick file or OpenVPN profile: config = \"lab.conf\"".to_owned()]);
        reader.failures.push(failure.in_file(reader.source.location(table.span())));
    }
    profile.mode = table.parsed("mode", reader, mode);
    profile.strict = table.boolean("strict", reader);
    profile.race = table.parsed("race", reader, |text| {
        duration::parse(text).map_err(|why| (why, "write a duration like \"1500ms\", or \"0s\"".to_owned()))
    });
    profile.expose = table.list("expose", reader, |text| {
        text.parse().map_err(|error| {
            (format!("{error}"), "write ports, like [8080, \"5353/udp\"], or [\"all\"]".to_owned())
        })
    });
    profile.tailnet = Tailnet::read(&mut table, reader);
    if let Some(mut auth) = table.table("auth", reader) {
        profile.tailnet.read_auth(&mut auth, reader);
        profile.private_key = secret(&mut auth, "private_key", reader);
        profile.preshared_key = secret(&mut auth, "preshared_key", reader);
        profile.login = Login {
            user_pass: secret(&mut auth, "user_pass", reader),
            key_pass: secret(&mut auth, "key_pass", reader),
            challenge: secret(&mut auth, "challenge", reader),
            challenge_cmd: auth.parsed("challenge_cmd", reader, |text| Ok(text.to_owned())),
            totp: secret(&mut auth, "totp", reader),
        };
        profile.consume = auth.boolean("consume", reader);
        auth.finish(reader);
    }
    if let Some(mut verify) = table.table("verify", reader) {
        profile.targets = verify.list("targets", reader, |text| target(text).map(|()| text.to_owned()));
        profile.timeout = verify.parsed("timeout", reader, |text| {
            duration::parse(text).map_err(|why| (why, "write a duration like \"60s\"".to_owned()))
        });
        profile.grace = verify.parsed("grace", reader, |text| {
            duration::parse(text).map_err(|why| (why, "write a duration like \"40s\", or \"0s\"".to_owned()))
        });
        verify.finish(reader);
    }
    if let Some(mut allow) = table.table("allow", reader) {
        profile.allow = allow.list("out", reader, |text| {
            let fix = "write addresses and prefixes of the network, like [\"10.8.0.0/16\", \"10.9.0.5\"]";
            text.parse().map_err(|error: ParsePrefixError| (error.to_string(), fix.to_owned()))
        });
        allow.finish(reader);
    }
    if let Some(mut proxy) = table.table("proxy", reader) {
        profile.socks = proxy.parsed("socks", reader, listen);
        profile.http = proxy.parsed("http", reader, listen);
        proxy.finish(reader);
    }
    for forward in table.tables("forward", reader) {
        profile.forwards.extend(self::forward(forward, reader));
    }
    if let Some(Origin::File { line, .. }) = profile.tailnet.origin().filter(|_| !tailnet) {
        let failure =
            failure::of("config.key", format!("line {line} says something that only a tailnet has"))
                .with_fix(vec![format!("write provider = \"tailscale\" in [{}]", table.path())]);
        reader.failures.push(failure.in_file(reader.source.location(table.span())));
    }
    let below = [
        ("targets", "verify"),
        ("timeout", "verify"),
        ("grace", "verify"),
        ("private_key", "auth"),
        ("preshared_key", "auth"),
        ("user_pass", "auth"),
        ("key_pass", "auth"),
        ("challenge", "auth"),
        ("challenge_cmd", "auth"),
        ("totp", "auth"),
        ("consume", "auth"),
        ("socks", "proxy"),
        ("http", "proxy"),
    ];
    table.finish_with(&[&below[..], &tailnet::KEYS].concat(), reader);
    profile
}

fn provider(text: &str) -> Result<Provider, (String, String)> {
    match text {
        "wireguard" => Ok(Provider::WireGuard),
        "openvpn" => Ok(Provider::OpenVpn),
        "tailscale" => Ok(Provider::Tailscale),
        _ => Err((
            format!("there is no provider `{text}`"),
            match nearest(text, &["wireguard", "openvpn", "tailscale"]) {
                Some(near) => format!("write \"{near}\""),
                None => "write \"wireguard\", \"openvpn\" or \"tailscale\"".to_owned(),
            },
        )),
    }
}

fn mode(text: &str) -> Result<Mode, (String, String)> {
    Mode::ALL.into_iter().find(|mode| mode.word() == text).ok_or_else(|| {
        let words: Vec<_> = Mode::ALL.iter().map(|mode| mode.word()).collect();
        (format!("there is no mode `{text}`"), format!("write one of {}", words.join(", ")))
    })
}

/// Whether a text is a target; otherwise why not, and what to write.
pub(super) fn target(text: &str) -> Result<(), (String, String)> {
    let forms =
        "write tcp://HOST:PORT[,postgres|…], http(s)://HOST/, udp://HOST:PORT, dns://NAME or icmp://HOST";
    match text.parse::<adit_verify::Target>() {
        Ok(_) => Ok(()),
        Err(error) => {
            let fix = error.suggestion.as_ref().map_or(forms.to_owned(), |near| format!("write {near}"));
            Err((error.to_string(), fix))
        }
    }
}

/// `ADDRESS:PORT` of this machine, or a port on 127.0.0.1.
fn listen(text: &str) -> Result<SocketAddr, (String, String)> {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::new(localhost, port));
    }
    let text =
        text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    text.parse().map_err(|_| {
        (format!("`{text}` is no address and port of this machine"), "write \"127.0.0.1:1055\"".to_owned())
    })
}

/// A source; a literal is refused without being shown.
pub(super) fn secret(
    auth: &mut Table<'_, '_>,
    key: &'static str,
    reader: &mut Reader<'_>,
) -> Option<Setting<SecretSource>> {
    let found = auth.text(key, reader)?;
    match found.value.parse() {
        Ok(source) => {
            let origin = Origin::File {
                file: reader.source.file.to_owned(),
                line: reader.source.line(found.span.start),
            };
            Some(Setting::new(source, origin))
        }
        Err(error) => {
            let error: adit_providers::SourceError = error;
            let problem = error.problem(&format!("`{}`", auth.name(key)));
            let failure = failure::of_problem(problem, reader.source.file);
            reader.failures.push(failure.in_file(reader.source.secret_location(found.span)));
            None
        }
    }
}

fn forward(mut table: Table<'_, '_>, reader: &mut Reader<'_>) -> Option<ForwardEntry> {
    let address = table.parsed("listen", reader, listen);
    let to = table.parsed("to", reader, |text| {
        Target::parse(text, None)
            .map_err(|error| (error.to_string(), "write HOST:PORT, like \"db.internal:5432\"".to_owned()))
    });
    let protocol = table.parsed("protocol", reader, |text| match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        other => Err((format!("there is no protocol `{other}`"), "write \"tcp\" or \"udp\"".to_owned())),
    });
    for key in ["listen", "to"] {
        if !table.has(key) {
            let failure = failure::of("config.missing", format!("`{}` is missing", table.name(key)));
            reader.failures.push(
                failure
                    .with_fix(vec![
                        "a forward has listen = \"127.0.0.1:5432\" and to = \"HOST:PORT\"".to_owned(),
                    ])
                    .in_file(reader.source.location(table.span())),
            );
        }
    }
    table.finish(reader);
    let (listen, to) = (address?, to?);
    let protocol = protocol.map_or(Protocol::Tcp, |setting| setting.value);
    Some(Setting::new(ForwardSpec { listen: listen.value, to: to.value, protocol }, listen.origin))
}
