//! `config show`: every setting with its origin.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::setting::{Origin, Setting};
use super::{Settings, duration};

/// Settings that a tailnet does not have.
const OTHERS: [&str; 9] = [
    "config",
    "auth.private_key",
    "auth.preshared_key",
    "auth.user_pass",
    "auth.key_pass",
    "auth.challenge",
    "auth.challenge_cmd",
    "auth.totp",
    "race",
];

/// A line of `config show`. It holds no secret: sources of secrets are shown, never what they give.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key, as in the file.
    pub key: String,
    /// The value.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

fn entry<T>(key: &str, setting: &Setting<T>, value: impl FnOnce(&T) -> Value) -> Entry {
    Entry { key: key.to_owned(), value: value(&setting.value), origin: setting.origin.clone() }
}

fn shown<T: fmt::Display>(value: &Option<T>) -> Value {
    value.as_ref().map_or(Value::Null, |value| json!(value.to_string()))
}

fn login<T: fmt::Display>(key: &str, setting: &Option<Setting<T>>) -> Entry {
    let origin = setting.as_ref().map_or(Origin::Default, |setting| setting.origin.clone());
    Entry { key: key.to_owned(), value: shown(&setting.as_ref().map(|setting| &setting.value)), origin }
}

impl Settings {
    /// Every setting, for people.
    pub fn entries(&self) -> Vec<Entry> {
        let path = |path: &PathBuf| json!(path.display().to_string());
        let optional = |path: &Option<PathBuf>| shown(&path.as_ref().map(|path| path.display()));
        let mut entries = vec![
            entry("file", &self.file, path),
            entry("profile", &self.profile, |name| json!(name)),
            entry("config", &self.config, path),
            entry("auth.private_key", &self.private_key, shown),
            entry("auth.preshared_key", &self.preshared_key, shown),
            login("auth.user_pass", &self.user_pass_source()),
            login("auth.key_pass", &self.login.key_pass),
            login("auth.challenge", &self.login.challenge),
            login("auth.challenge_cmd", &self.login.challenge_cmd),
            login("auth.totp", &self.login.totp),
            entry("provider", &self.provider, shown),
            entry("auth.consume", &self.consume, |on| json!(on)),
            entry("insecure_perms", &self.insecure_perms, |on| json!(on)),
            entry("mode", &self.mode, |mode| json!(mode.word())),
            entry("strict", &self.strict, |on| json!(on)),
            entry("verify.targets", &self.targets, |targets| json!(targets)),
            entry("race", &self.race, |time| json!(duration::display(*time))),
            entry("verify.timeout", &self.timeout, |time| json!(duration::display(*time))),
            entry("proxy.socks", &self.socks, shown),
            entry("proxy.http", &self.http, shown),
            entry("allow.out", &self.allow, |prefixes| {
                json!(prefixes.iter().map(ToString::to_string).collect::<Vec<_>>())
            }),
            entry("expose", &self.expose, |ports| {
                json!(ports.iter().map(ToString::to_string).collect::<Vec<_>>())
            }),
            entry("state_dir", &self.state_dir, optional),
            entry("socket", &self.socket, optional),
        ];
        let tailnet = self.is_tailnet();
        // What belongs to another provider would only be noise.
        entries.retain(|entry| !tailnet || !OTHERS.contains(&entry.key.as_str()));
        if tailnet {
            entries.push(entry("verify.grace", &self.grace, |time| json!(duration::display(*time))));
            entries.extend(self.tailnet.entries());
        }
        entries.extend(self.forwards.iter().enumerate().map(|(index, forward)| {
            entry(&format!("forward[{}]", index + 1), forward, |spec| json!(spec.to_string()))
        }));
        entries
    }
}
