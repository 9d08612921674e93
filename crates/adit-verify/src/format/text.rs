//! For people: a line a stage, and at most six lines a failure.

use super::{duration, subject};
use crate::{Event, Failure, Report, Stage, StageReport, StageStatus, Verified, Warning};

/// Whether to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// ANSI colours.
    pub color: bool,
    /// Addresses of pages as links that a terminal opens (OSC 8).
    pub links: bool,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// An address that can be clicked. A server named it, so what a terminal would act on stays plain.
    fn link(self, url: &str) -> String {
        match self.links && url.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => format!("\x1b]8;;{url}\x1b\\{url}\x1b]8;;\x1b\\"),
            false => url.to_owned(),
        }
    }
}

/// The whole report: its stages, warnings and failures, then one sentence.
pub fn text(report: &Report, style: Style) -> String {
    let mut lines = Vec::new();
    for done in &report.stages {
        if done.status != StageStatus::Fail {
            lines.push(stage(done, style));
        }
    }
    lines.extend(report.warnings.iter().map(|found| warning(found, style)));
    lines.extend(report.failures().map(|found| failure(found, style)));
    lines.push(verdict(report, style));
    lines.join("\n") + "\n"
}

/// One line for a stage that ended: `✓ dns      tcp://db:5432: 10.8.0.12  44 ms`.
pub fn stage(stage: &StageReport, style: Style) -> String {
    let mark = match stage.status {
        StageStatus::Ok => style.paint("32", "✓"),
        StageStatus::Warn => style.paint("33", "!"),
        StageStatus::Fail => style.paint("31", "✗"),
        StageStatus::Skipped => style.paint("2", "-"),
    };
    let mut line = format!("{mark} {:<10}", stage.id);
    let about = subject(stage);
    if !about.is_empty() {
        line.push_str(&format!(" {about}"));
    }
    if stage.status != StageStatus::Skipped {
        line.push_str(if about.is_empty() { "" } else { " " });
        line.push_str(&style.paint("2", &format!(" {}", duration(stage.ms))));
    }
    if let Some(attempts) = stage.attempts {
        line.push_str(&style.paint("2", &format!(", {attempts} attempts")));
    }
    line.trim_end().to_owned()
}

/// A failure in at most six lines: what, up to two observations, up to two advices, where more is said.
pub fn failure(failure: &Failure, style: Style) -> String {
    let stage = failure.stage.map(Stage::id).unwrap_or("failed");
    let mut lines = vec![format!(
        "{} {stage:<10} {}  {}",
        style.paint("31", "✗"),
        style.paint("1", &failure.summary),
        style.paint("2", &format!("[{}]", failure.class))
    )];
    lines.extend(reasons(failure));
    lines.join("\n")
}

/// What was seen, what mends it, and where more is said.
fn reasons(failure: &Failure) -> impl Iterator<Item = String> {
    let seen = failure.evidence.iter().take(2).map(|seen| format!("  seen: {}", one_line(seen)));
    let fix = failure.fix.iter().take(2).map(|fix| format!("  fix:  {fix}"));
    seen.chain(fix).chain([format!("  more: {}", failure.docs)])
}

/// Evidence may quote what a server said.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn warning(warning: &Warning, style: Style) -> String {
    format!(
        "{} {}  {}",
        style.paint("33", "! warning"),
        warning.summary,
        style.paint("2", &format!("[{}]", warning.class))
    )
}

fn verdict(report: &Report, style: Style) -> String {
    let took = duration(report.duration_ms);
    match (report.ok, report.verified) {
        (true, Verified::TunnelOnly) => format!(
            "{} in {took}. Nothing behind it was checked: name services with --target tcp://HOST:PORT",
            style.paint("32", "The tunnel works")
        ),
        (true, _) => format!("{} in {took}", style.paint("32", "Every target answers")),
        (false, _) => {
            format!("{} after {took}, exit code {}", style.paint("31", "Not verified"), report.exit_code)
        }
    }
}

/// A line of progress for an event; `None` for an event that needs no line. `limit_ms` is the time for everything.
pub fn progress(event: &Event, style: Style) -> Option<String> {
    match event {
        Event::Verifying(done) => Some(stage(done, style)),
        Event::Waiting { id, target, elapsed_ms, limit_ms } => {
            let about = target.as_ref().map(|target| format!(": {target}")).unwrap_or_default();
            let (elapsed, limit) = (elapsed_ms / 1000, limit_ms.div_ceil(1000));
            Some(format!("still waiting for {}{about} ({elapsed} s of {limit} s)", id.waiting_for()))
        }
        Event::Provisional { id, class, summary, wait_ms, .. } => Some(format!(
            "{} {id:<10} {summary}  {}\n  this may still be on its way through the network: trying for {} s more",
            style.paint("33", "…"),
            style.paint("2", &format!("[{class}]")),
            wait_ms.div_ceil(1000),
        )),
        Event::AuthRequired { url, qr, .. } => {
            let qr = qr.as_ref().map(|qr| format!("\n{qr}")).unwrap_or_default();
            Some(format!("open this page to log in:\n{}{qr}", style.link(url)))
        }
        Event::ActionRequired { class, summary, fix, wait_ms } => {
            let class = style.paint("2", &format!("[{class}]"));
            let head = format!("{summary}  {class}\nwaiting for that for {} s more", wait_ms.div_ceil(1000));
            let fix = fix.iter().map(|line| format!("\n  - {line}"));
            Some(std::iter::once(head).chain(fix).collect())
        }
        Event::Degraded(found) => {
            let head = format!("{} {found}", style.paint("33", "! degraded"));
            Some([head].into_iter().chain(reasons(found)).collect::<Vec<_>>().join("\n"))
        }
        Event::Recovered => Some(format!("{} checks succeed again", style.paint("32", "✓ recovered"))),
        Event::KeyExpiring { at } => {
            Some(format!("{} a key expires at {at}", style.paint("33", "! warning")))
        }
        Event::Disconnected => Some("disconnected".to_owned()),
        Event::Connecting { .. }
        | Event::Authenticated
        | Event::Connected { .. }
        | Event::Verified { .. }
        | Event::Failed(_) => None,
    }
}
