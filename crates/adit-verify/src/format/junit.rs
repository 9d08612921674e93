//! JUnit XML: one test case a stage, so that CI systems show where it ended.

use crate::{Report, StageReport, StageStatus};

/// The report as a JUnit test suite.
pub fn junit(report: &Report) -> String {
    let count = |status| report.stages.iter().filter(|stage| stage.status == status).count();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n<testsuite name=\"adit verify\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" time=\"{}\" timestamp=\"{}\">\n",
        report.stages.len(),
        count(StageStatus::Fail),
        count(StageStatus::Skipped),
        seconds(report.duration_ms),
        escape(&report.started),
    );
    for stage in &report.stages {
        text.push_str(&case(report, stage));
    }
    text.push_str("</testsuite>\n</testsuites>\n");
    text
}

fn case(report: &Report, stage: &StageReport) -> String {
    let name = match &stage.target {
        Some(target) => format!("{} {target}", stage.id),
        None => stage.id.to_string(),
    };
    let head = format!(
        "<testcase classname=\"adit.{}\" name=\"{}\" time=\"{}\"",
        escape(report.profile.as_deref().unwrap_or("verify")),
        escape(&name),
        seconds(stage.ms)
    );
    match stage.status {
        StageStatus::Ok | StageStatus::Warn => format!("{head}/>\n"),
        StageStatus::Skipped => format!("{head}><skipped/></testcase>\n"),
        StageStatus::Fail => {
            let failure = report
                .failures()
                .find(|failure| failure.stage == Some(stage.id) && failure.target == stage.target)
                .or(report.failure.as_ref());
            let (class, summary) =
                failure.map_or(("", ""), |failure| (failure.class.as_str(), failure.summary.as_str()));
            let lines: Vec<_> = failure
                .into_iter()
                .flat_map(|failure| {
                    let seen = failure.evidence.iter().map(|seen| format!("seen: {seen}"));
                    seen.chain(failure.fix.iter().map(|fix| format!("fix: {fix}")))
                })
                .collect();
            format!(
                "{head}><failure type=\"{}\" message=\"{}\">{}</failure></testcase>\n",
                escape(class),
                escape(summary),
                escape(&lines.join("\n"))
            )
        }
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// Characters that XML 1.0 does not allow at all are shown as `?`.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            c if c.is_control() && c != '\t' => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}
