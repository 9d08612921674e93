//! `adit explain`

use adit_providers::ovpn::options::{self, OptionSpec};
use adit_verify::catalogue::{self, Class, Severity, Words};
use serde_json::{Value, json};

use crate::cli::{Context, ExplainArgs, OptionsOf};
use crate::{Exit, Failure, failure};

/// Prints the page of a class, the exit codes, or the list of all classes.
pub(crate) fn run(context: &mut Context, args: &ExplainArgs) -> Result<Exit, Failure> {
    let json = context.global.json;
    if let Some(OptionsOf::Openvpn) = args.options {
        if json {
            context.ui.json(&options::all().map(option).collect::<Vec<_>>())?;
        } else {
            context.ui.result(option_table().trim_end())?;
        }
        return Ok(Exit::Ok);
    }
    match args.code.as_deref() {
        None if json => context.ui.json(&catalogue::all().map(entry).collect::<Vec<_>>()),
        None => context.ui.result(list().trim_end()),
        Some("exit-codes") if json => context.ui.json(&exit_codes()),
        Some("exit-codes") => context.ui.result(exit_code_table().trim_end()),
        Some(code) => {
            let class = catalogue::find(code).ok_or_else(|| unknown(code))?;
            if json {
                context.ui.json(&entry(class))
            } else {
                context.ui.result(catalogue::explain(class).trim_end())
            }
        }
    }?;
    Ok(Exit::Ok)
}

fn unknown(code: &str) -> Failure {
    let near = catalogue::nearest(code);
    let failure = failure::usage(format!("there is no failure class `{code}`"));
    failure.with_fix(match near.as_slice() {
        [] => vec!["adit explain lists all classes".to_owned()],
        near => near.iter().map(|code| format!("adit explain {code}")).collect(),
    })
}

fn entry(class: &Class) -> Value {
    let words = Words::default();
    json!({
        "code": class.code,
        "severity": match class.severity {
            Severity::Failure => "failure",
            Severity::Warning => "warning",
            Severity::Note => "note",
        },
        "exit": class.exit.code(),
        "blame": class.blame.to_string(),
        "retryable": class.retryable,
        "summary": class.summary(&words),
        "why": class.why,
        "fix": class.fix(&words),
    })
}

fn list() -> String {
    let width = catalogue::all().map(|class| class.code.len()).max().unwrap_or(0);
    let line = |class: &Class| format!("{:width$}  {}\n", class.code, class.summary(&Words::default()));
    catalogue::all().map(line).collect()
}

fn option(option: &OptionSpec) -> Value {
    json!({
        "name": option.name,
        "treatment": option.treatment.word(),
        "reason": option.treatment.reason(),
        "parameters": [option.least, option.most],
        "inline": option.inline,
        "about": option.about,
    })
}

fn option_table() -> String {
    let width = options::all().map(|option| option.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (section, rows) in options::SECTIONS {
        text.push_str(&format!("{section}\n"));
        for row in *rows {
            let why = row.treatment.reason().map_or(String::new(), |why| format!(" ({why})"));
            let word = row.treatment.word();
            text.push_str(&format!("  {:width$}  {word:9}  {}{why}\n", row.name, row.about));
        }
        text.push('\n');
    }
    text
}

fn exit_codes() -> Vec<Value> {
    Exit::ALL.iter().map(|exit| json!({ "code": exit.code(), "meaning": exit.meaning() })).collect()
}

fn exit_code_table() -> String {
    let line = |exit: &Exit| format!("{:>3}  {}\n", exit.code(), exit.meaning());
    let table: String = Exit::ALL.iter().map(line).collect();
    format!(
        "{table}\n`adit exec` returns its program's own code, or 128 plus the number of the signal that ended it."
    )
}
