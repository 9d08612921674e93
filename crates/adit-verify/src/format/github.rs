//! Workflow commands of GitHub Actions, and the Markdown of a step summary.

use super::{duration, subject};
use crate::{Report, StageStatus};

/// One annotation per failure and warning.
pub fn annotations(report: &Report) -> String {
    let mut text = String::new();
    for failure in report.failures() {
        let mut message = vec![failure.summary.clone()];
        message.extend(failure.evidence.iter().map(|seen| format!("seen: {seen}")));
        message.extend(failure.fix.iter().map(|fix| format!("fix: {fix}")));
        message.push(format!("more: {}", failure.docs));
        let title = format!("adit: {}", failure.class);
        text.push_str(&format!("::error title={}::{}\n", property(&title), data(&message.join("\n"))));
    }
    for warning in &report.warnings {
        let title = format!("adit: {}", warning.class);
        text.push_str(&format!("::warning title={}::{}\n", property(&title), data(&warning.summary)));
    }
    text
}

/// A table of the stages for `$GITHUB_STEP_SUMMARY`.
pub fn summary(report: &Report) -> String {
    let verdict = if report.ok { "verified" } else { "not verified" };
    let mut text = format!("### adit: {verdict}\n\n| | stage | | time |\n|---|---|---|---|\n");
    for stage in &report.stages {
        let mark = match stage.status {
            StageStatus::Ok => "✅",
            StageStatus::Warn => "⚠️",
            StageStatus::Fail => "❌",
            StageStatus::Skipped => "➖",
        };
        let about = subject(stage).replace('|', "\\|").replace(['\r', '\n'], " ");
        text.push_str(&format!("| {mark} | {} | {about} | {} |\n", stage.id, duration(stage.ms)));
    }
    for failure in report.failures() {
        text.push_str(&format!("\n**{}** `{}`\n", failure.summary, failure.class));
        for fix in &failure.fix {
            text.push_str(&format!("- {fix}\n"));
        }
    }
    text
}

/// The text of a command: these characters would end or split it.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// The value of a property of a command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
