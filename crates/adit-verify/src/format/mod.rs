//! The report in the forms that people, CI systems and hooks read.

mod github;
mod hook;
mod junit;
mod text;

pub use github::{annotations as github, summary as github_summary};
pub use hook::fabro_hook;
pub use junit::junit;
pub use text::{Style, failure as failure_text, progress, stage as stage_text, text};

use crate::{Report, StageReport};

/// The report as one JSON object.
pub fn json(report: &Report) -> String {
    serde_json::to_string(report).unwrap_or_default()
}

/// A time of a stage for people: `3 ms`, `0.8 s`, `12 s`.
fn duration(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..10_000 => format!("{:.1} s", ms as f64 / 1e3),
        _ => format!("{} s", ms / 1000),
    }
}

/// What a stage is about, for one line.
fn subject(stage: &StageReport) -> String {
    let text = |key: &str| match stage.evidence.get(key) {
        Some(serde_json::Value::Array(values)) => {
            let parts: Vec<_> =
                values.iter().map(|value| value.as_str().unwrap_or_default().to_owned()).collect();
            Some(parts.join(", "))
        }
        Some(serde_json::Value::String(value)) => Some(value.clone()),
        Some(serde_json::Value::Null) | None => None,
        Some(value) => Some(value.to_string()),
    };
    let keys = [
        "why",
        "proof",
        "addresses",
        "endpoint",
        "answer",
        "route",
        "peer",
        "status",
        "seen",
        "days_left",
        "rtt_ms",
        "mode",
        "file",
        "from",
    ];
    let found = keys.into_iter().find_map(|key| Some((key, text(key)?)));
    let detail = match found {
        Some(("days_left", days)) => format!("certificate valid for {days} more days"),
        Some(("rtt_ms", rtt)) => format!("round trip {rtt} ms"),
        Some(("status", status)) => format!("HTTP {status}"),
        Some((_, value)) => value,
        None => text("protocol").unwrap_or_default(),
    };
    match (&stage.target, detail.is_empty()) {
        (Some(target), true) => target.clone(),
        (Some(target), false) => format!("{target}: {detail}"),
        (None, _) => detail,
    }
}

#[cfg(test)]
mod tests;
