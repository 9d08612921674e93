//! The answer of a Fabro hook: one JSON object, and exit code 0 (go on) or 2 (block, and show the object's text).

use serde::Serialize;

use crate::{Exit, Report};

#[derive(Serialize)]
struct Decision<'a> {
    decision: &'static str,
    reason: String,
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'a str>,
}

/// The object for stdout, and the exit code. The real exit code stands in the object.
pub fn fabro_hook(report: &Report) -> (String, Exit) {
    let (decision, exit) = if report.ok { ("proceed", Exit::Ok) } else { ("block", Exit::Usage) };
    let reason = match &report.failure {
        None => "the private network is verified".to_owned(),
        Some(failure) => {
            let fix = failure.fix.first().map(|fix| format!(" Fix: {fix}")).unwrap_or_default();
            // A deadline says nothing by itself; what was waited for does.
            let seen = failure.evidence.first().filter(|_| failure.class == "deadline");
            let seen = seen.map(|seen| format!(" Seen: {seen}.")).unwrap_or_default();
            format!("{} [{}, exit code {}].{seen}{fix}", failure.summary, failure.class, report.exit_code)
        }
    };
    let class = report.failure.as_ref().map(|failure| failure.class.as_str());
    let object = Decision { decision, reason, exit_code: report.exit_code, class };
    (serde_json::to_string(&object).unwrap_or_default(), exit)
}
