//! Tailscale in the configuration: what lets a node in, which control server, and what is taken of the tailnet.

use std::path::PathBuf;

use adit_providers::tailscale::ControlUrl;
use adit_providers::{Problem, SecretSource};
use adit_tailscale::AcceptRoutes;
use adit_tunnel::Prefix;
use serde_json::{Value, json};

use super::entries::Entry;
use super::file::secret;
use super::setting::{Origin, Setting};
use super::table::{Reader, Table};

/// What a profile, flags or variables say of a tailnet. Everything may be missing.
#[derive(Clone, Debug, Default)]
pub struct Tailnet {
    /// `auth.key`: an auth key, or the secret of an OAuth client.
    pub key: Option<Setting<SecretSource>>,
    /// `auth.oauth`: the secret of an OAuth client, which makes auth keys.
    pub oauth: Option<Setting<SecretSource>>,
    /// `auth.client_id`: the federated identity that tokens of this job belong to.
    pub client_id: Option<Setting<String>>,
    /// `auth.id_token`: the identity token of this job.
    pub id_token: Option<Setting<SecretSource>>,
    /// `auth.audience`: whom the identity token that GitHub Actions gives is for.
    pub audience: Option<Setting<String>>,
    /// `auth.api`: the API that makes auth keys.
    pub api: Option<Setting<ControlUrl>>,
    /// `auth.browser`: somebody signs in.
    pub browser: Option<Setting<bool>>,
    /// `control`
    pub control: Option<Setting<ControlUrl>>,
    /// `ca_file`: authorities that are trusted besides the system's.
    pub ca_file: Option<Setting<PathBuf>>,
    /// `hostname`
    pub hostname: Option<Setting<String>>,
    /// `tags`
    pub tags: Option<Setting<Vec<String>>>,
    /// `ephemeral`
    pub ephemeral: Option<Setting<bool>>,
    /// `shields_up`
    pub shields_up: Option<Setting<bool>>,
    /// `accept.routes`
    pub routes: Option<Setting<AcceptRoutes>>,
    /// `accept.dns`
    pub dns: Option<Setting<bool>>,
    /// `exit_node`
    pub exit_node: Option<Setting<String>>,
    /// `udp`: whether peers are reached directly where that is possible.
    pub udp: Option<Setting<bool>>,
    /// `port`: the local UDP port.
    pub port: Option<Setting<u16>>,
    /// `plain_derp`: whether relays on loopback and private addresses are spoken to without TLS.
    pub plain_derp: Option<Setting<bool>>,
}

/// The keys of `[profile.X]` that only a tailnet has, and those of its `auth`, for suggestions.
pub(super) const KEYS: [(&str, &str); 9] = [
    ("key", "auth"),
    ("oauth", "auth"),
    ("client_id", "auth"),
    ("id_token", "auth"),
    ("audience", "auth"),
    ("api", "auth"),
    ("browser", "auth"),
    ("routes", "accept"),
    ("dns", "accept"),
];

impl Tailnet {
    /// These settings, and those of `below` where there are none here. One way to be let in hides the others of below.
    pub(super) fn over(self, below: Self) -> Self {
        let below = if self.ways().is_empty() { below } else { below.without_ways() };
        Self {
            key: self.key.or(below.key),
            oauth: self.oauth.or(below.oauth),
            client_id: self.client_id.or(below.client_id),
            id_token: self.id_token.or(below.id_token),
            audience: self.audience.or(below.audience),
            api: self.api.or(below.api),
            browser: self.browser.or(below.browser),
            control: self.control.or(below.control),
            ca_file: self.ca_file.or(below.ca_file),
            hostname: self.hostname.or(below.hostname),
            tags: self.tags.or(below.tags),
            ephemeral: self.ephemeral.or(below.ephemeral),
            shields_up: self.shields_up.or(below.shields_up),
            routes: self.routes.or(below.routes),
            dns: self.dns.or(below.dns),
            exit_node: self.exit_node.or(below.exit_node),
            udp: self.udp.or(below.udp),
            port: self.port.or(below.port),
            plain_derp: self.plain_derp.or(below.plain_derp),
        }
    }

    fn without_ways(self) -> Self {
        Self { key: None, oauth: None, id_token: None, audience: None, browser: None, ..self }
    }

    /// What was said about being let in.
    pub(super) fn ways(&self) -> Vec<&Origin> {
        let browser = self.browser.as_ref().filter(|browser| browser.value).map(|browser| &browser.origin);
        let key = self.key.as_ref().map(|key| &key.origin);
        let oauth = self.oauth.as_ref().map(|oauth| &oauth.origin);
        let token = self.id_token.as_ref().map(|token| &token.origin);
        let audience = self.audience.as_ref().map(|audience| &audience.origin);
        [key, oauth, token, audience, browser].into_iter().flatten().collect()
    }

    /// What shows that a tailnet is meant where no profile says so.
    pub(super) fn meant(&self) -> Option<&Origin> {
        self.ways().first().copied().or_else(|| self.control.as_ref().map(|control| &control.origin))
    }

    /// The sources of secrets.
    pub(super) fn sources(&self) -> impl Iterator<Item = &SecretSource> {
        [&self.key, &self.oauth, &self.id_token].into_iter().flatten().map(|setting| &setting.value)
    }

    /// Reads the keys of a profile that only a tailnet has; those of `auth` come by [`read_auth`](Self::read_auth).
    pub(super) fn read(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Self {
        let mut this = Self {
            control: table.parsed("control", reader, |text| ControlUrl::parse(text).map_err(words)),
            ca_file: table.parsed("ca_file", reader, |text| Ok(PathBuf::from(text))),
            hostname: table.parsed("hostname", reader, |text| Ok(text.to_owned())),
            tags: table.list("tags", reader, tag),
            ephemeral: table.boolean("ephemeral", reader),
            shields_up: table.boolean("shields_up", reader),
            exit_node: table.parsed("exit_node", reader, filled),
            udp: table.boolean("udp", reader),
            plain_derp: table.boolean("plain_derp", reader),
            port: port(table, reader),
            ..Self::default()
        };
        if let Some(mut accept) = table.table("accept", reader) {
            this.routes = routes(&mut accept, reader);
            this.dns = accept.boolean("dns", reader);
            accept.finish(reader);
        }
        this
    }

    /// Reads the keys of `auth` that only a tailnet has.
    pub(super) fn read_auth(&mut self, auth: &mut Table<'_, '_>, reader: &mut Reader<'_>) {
        self.key = secret(auth, "key", reader);
        self.oauth = secret(auth, "oauth", reader);
        self.id_token = secret(auth, "id_token", reader);
        self.client_id = auth.parsed("client_id", reader, filled);
        self.audience = auth.parsed("audience", reader, filled);
        self.api = auth.parsed("api", reader, |text| ControlUrl::parse(text).map_err(words));
        self.browser = auth.boolean("browser", reader);
    }

    /// Whether a profile says anything that only a tailnet has.
    pub(super) fn origin(&self) -> Option<Origin> {
        self.entries().into_iter().map(|entry| entry.origin).find(|origin| *origin != Origin::Default)
    }

    /// The lines of `config show`.
    pub(super) fn entries(&self) -> Vec<Entry> {
        fn line<T>(key: &str, setting: &Option<Setting<T>>, show: impl Fn(&T) -> Value) -> Entry {
            let origin = setting.as_ref().map_or(Origin::Default, |setting| setting.origin.clone());
            let value = setting.as_ref().map_or(Value::Null, |setting| show(&setting.value));
            Entry { key: key.to_owned(), value, origin }
        }
        let source = |source: &SecretSource| json!(source.to_string());
        let url = |url: &ControlUrl| json!(url.to_string());
        let on = |on: &bool| json!(on);
        let text = |text: &String| json!(text);
        vec![
            line("auth.key", &self.key, source),
            line("auth.oauth", &self.oauth, source),
            line("auth.client_id", &self.client_id, text),
            line("auth.id_token", &self.id_token, source),
            line("auth.audience", &self.audience, text),
            line("auth.api", &self.api, url),
            line("auth.browser", &self.browser, on),
            line("control", &self.control, url),
            line("ca_file", &self.ca_file, |path| json!(path.display().to_string())),
            line("hostname", &self.hostname, text),
            line("tags", &self.tags, |tags| json!(tags)),
            line("ephemeral", &self.ephemeral, on),
            line("shields_up", &self.shields_up, on),
            line("accept.routes", &self.routes, |routes| match routes {
                AcceptRoutes::None => json!(false),
                AcceptRoutes::All => json!(true),
                AcceptRoutes::Within(list) => json!(list.iter().map(Prefix::to_string).collect::<Vec<_>>()),
            }),
            line("accept.dns", &self.dns, on),
            line("exit_node", &self.exit_node, text),
            line("udp", &self.udp, on),
            line("port", &self.port, |port| json!(port)),
            line("plain_derp", &self.plain_derp, on),
        ]
    }
}

/// A tag as the policy file writes it; `tag:` may be left out.
pub(crate) fn tag(text: &str) -> Result<String, (String, String)> {
    let name = text.strip_prefix("tag:").unwrap_or(text);
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if plain && name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Ok(format!("tag:{name}"));
    }
    Err((format!("`{text}` is no tag"), "write letters, digits and hyphens, like \"tag:agent\"".to_owned()))
}

/// `true`, `false`, or the prefixes that routes must lie in.
fn routes(accept: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Option<Setting<AcceptRoutes>> {
    if accept.is_boolean("routes") {
        let all = accept.boolean("routes", reader)?;
        return Some(all.map(|all| if all { AcceptRoutes::All } else { AcceptRoutes::None }));
    }
    let list = accept.list("routes", reader, |text| {
        text.parse().map(|prefix: Prefix| prefix.network()).map_err(|error| {
            let error: adit_tunnel::ParsePrefixError = error;
            (error.to_string(), "write true, false, or prefixes like [\"10.8.0.0/16\"]".to_owned())
        })
    })?;
    Some(list.map(AcceptRoutes::Within))
}

fn port(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Option<Setting<u16>> {
    let found = table.integer("port", reader)?;
    match u16::try_from(found.value) {
        Ok(port) if port != 0 => {
            let file = reader.source.file.to_owned();
            Some(Setting::new(port, Origin::File { file, line: reader.source.line(found.span.start) }))
        }
        _ => {
            reader.wrong(
                found.span,
                format!("`port` is {}; that is no port", found.value),
                "write 1 to 65535",
            );
            None
        }
    }
}

fn filled(text: &str) -> Result<String, (String, String)> {
    match text.trim() {
        "" => Err(("it is empty".to_owned(), "write a value, or delete the line".to_owned())),
        text => Ok(text.to_owned()),
    }
}

/// A problem as what is wrong and what to write.
fn words(problem: Problem) -> (String, String) {
    let fix = problem.fix.first().cloned().unwrap_or_default();
    (problem.summary, fix)
}
