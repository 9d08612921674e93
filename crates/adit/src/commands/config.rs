//! `adit config`

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use adit_providers::Reader;
use serde_json::{Map, Value, json};

use crate::cli::{ConfigCheckArgs, ConfigCommand, ConfigInitArgs, ConfigShowArgs, Context};
use crate::config::{CheckedFile, Failures, Settings};
use crate::failure::{self, Exit, Failure};

const EXAMPLE: &str = include_str!("../config/example.toml");

pub(crate) fn run(context: &mut Context, command: &ConfigCommand) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Check(args) => check(context, args),
        ConfigCommand::Show(args) => show(context, args),
        ConfigCommand::Init(args) => init(context, args),
    }
}

fn check(context: &mut Context, args: &ConfigCheckArgs) -> Result<Exit, Failure> {
    let read = || {
        let mut settings = context.settings_or_all(&args.connect, args.file.clone())?;
        // Whoever checks wants to run afterwards.
        settings.consume.value = false;
        let (file, warnings) = settings.check(Reader::default())?;
        Ok((settings, file, warnings))
    };
    let checked: Result<_, Failures> = read();
    if context.global.json {
        return check_json(context, checked);
    }
    let (settings, file, warnings) = checked.map_err(|failures| context.ui.all_but_last(failures))?;
    for warning in &warnings {
        context.ui.warning(warning);
    }
    let mut said = summary(&settings, &file, warnings.len());
    if let Some((facts, needs)) = told(&file) {
        said.push_str(&explanation(facts, needs));
    }
    context.ui.result(&said)?;
    Ok(Exit::Ok)
}

fn check_json(
    context: &Context,
    checked: Result<(Settings, CheckedFile, Vec<Failure>), Failures>,
) -> Result<Exit, Failure> {
    let (profile, file, failures, warnings) = match checked {
        Ok((settings, file, warnings)) => (Some(settings.profile.value), Some(file), Vec::new(), warnings),
        Err(Failures(failures)) => (None, None, failures, Vec::new()),
    };
    let exit = failures.first().map_or(Exit::Ok, |failure| failure.exit);
    let mut object = json!({
        "schema": "adit.config/1",
        "ok": failures.is_empty(),
        "profile": profile,
        "provider": file.as_ref().map(|file| match file {
            CheckedFile::WgQuick(_) => "wireguard",
            CheckedFile::OpenVpn { .. } => "openvpn",
            CheckedFile::Tailscale(_) => "tailscale",
        }),
        "failures": failures,
        "warnings": warnings,
    });
    if let (Some((facts, needs)), Some(object)) = (file.as_ref().and_then(told), object.as_object_mut()) {
        let facts = facts.into_iter().map(|(key, values)| (key.to_owned(), json!(values)));
        object.insert("explanation".to_owned(), facts.collect::<Map<_, _>>().into());
        object.insert("needs".to_owned(), json!(needs));
    }
    context.ui.json(&object)?;
    Ok(exit)
}

fn summary(settings: &Settings, file: &CheckedFile, warnings: usize) -> String {
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let targets = settings.targets.value.len();
    let checked = match targets {
        0 => "no targets: only the tunnel itself would be verified".to_owned(),
        count => plural(count, "target"),
    };
    let tunnel = match file {
        CheckedFile::WgQuick(file) => format!("wireguard, {}", plural(file.peers.len(), "peer")),
        CheckedFile::OpenVpn { profile, .. } => {
            format!("openvpn, {}", plural(profile.remotes.len(), "server"))
        }
        CheckedFile::Tailscale(joining) => format!("tailscale by {}", joining.control),
    };
    format!(
        "{}: profile {}, {tunnel}, {checked}; {}",
        settings.file.value.display(),
        settings.profile.value,
        if warnings == 0 { "nothing is wrong".to_owned() } else { plural(warnings, "warning") },
    )
}

/// Facts by key, and flags that are missing.
type Told<'a> = (Vec<(&'static str, Vec<String>)>, &'a [&'static str]);

/// What a profile is and what will be done with it, and what is still missing; `None` where its file says all.
fn told(file: &CheckedFile) -> Option<Told<'_>> {
    match file {
        CheckedFile::WgQuick(_) => None,
        CheckedFile::OpenVpn { profile, needs } => {
            Some((profile.explain().into_iter().map(|fact| (fact.key, fact.values)).collect(), needs))
        }
        CheckedFile::Tailscale(joining) => Some((joining.facts.clone(), &joining.needs)),
    }
}

/// A fact a line.
fn explanation(mut facts: Vec<(&'static str, Vec<String>)>, needs: &[&'static str]) -> String {
    if !needs.is_empty() {
        facts.push(("needs", needs.iter().map(|flag| (*flag).to_owned()).collect()));
    }
    let width = facts.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (key, values) in facts {
        for (index, value) in values.iter().enumerate() {
            let key = if index == 0 { key } else { "" };
            text.push_str(&format!("\n  {key:width$}  {value}"));
        }
    }
    text
}

fn show(context: &mut Context, args: &ConfigShowArgs) -> Result<Exit, Failure> {
    let entries = context.settings(&args.connect, args.file.clone())?.entries();
    if context.global.json {
        let mut object = Map::new();
        for entry in entries {
            let origin = entry.origin.to_string();
            object.insert(entry.key, json!({ "value": entry.value, "origin": origin }));
        }
        context.ui.json(&json!({ "schema": "adit.settings/1", "settings": object }))?;
        return Ok(Exit::Ok);
    }
    let rows: Vec<_> =
        entries.into_iter().map(|entry| (entry.key, plain(&entry.value), entry.origin.to_string())).collect();
    let width =
        |column: &dyn Fn(&(String, String, String)) -> usize| rows.iter().map(column).max().unwrap_or(0);
    let (keys, values) = (width(&|row| row.0.len()), width(&|row| row.1.chars().count()).min(60));
    let lines: Vec<String> = rows
        .iter()
        .map(|(key, value, origin)| match args.origin {
            true => format!("{key:keys$}  {value:values$}  # {origin}"),
            false => format!("{key:keys$}  {value}"),
        })
        .collect();
    context.ui.result(&lines.join("\n"))?;
    Ok(Exit::Ok)
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn init(context: &mut Context, args: &ConfigInitArgs) -> Result<Exit, Failure> {
    let path = args.file.display();
    write_new(&args.file).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => failure::usage(format!("{path} exists; it is not replaced"))
            .with_fix(vec!["give another name, or remove the file".to_owned()]),
        _ => failure::of("env.readonly_fs", format!("{path} cannot be written")).seen(error.to_string()),
    })?;
    context.ui.note(&format!("wrote {path}; next: edit it, then `adit config check --config {path}`"));
    Ok(Exit::Ok)
}

fn write_new(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(EXAMPLE.as_bytes())
}
