//! Every failure class: its code, its exit code, who is at fault, what to do, and why. Offline, in the binary.

mod application;
mod environment;
mod general;
mod names;
mod openvpn;
mod openvpn_server;
mod tailscale;
mod targets;
mod wireguard;

use std::collections::BTreeMap;
use std::fmt;

use crate::Exit;

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Whoever wrote the configuration or the command line.
    User,
    /// Whoever runs the machine or container.
    Sandbox,
    /// The network between here and the VPN server.
    Path,
    /// Whoever runs the VPN server.
    Server,
    /// Whoever runs the target.
    Target,
    /// Cannot be told from here.
    Unknown,
    /// adit.
    Adit,
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "the configuration or command line",
            Self::Sandbox => "the machine or container that adit runs in",
            Self::Path => "the network between here and the VPN server",
            Self::Server => "the VPN server's side",
            Self::Target => "the target",
            Self::Unknown => "cannot be told from here alone",
            Self::Adit => "adit itself",
        })
    }
}

/// Whether a class ends a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It ends the run.
    Failure,
    /// It is shown, and the run goes on.
    Warning,
    /// `doctor` and `status` show it.
    Note,
}

/// A failure class.
#[derive(Clone, Copy, Debug)]
pub struct Class {
    /// The stable code.
    pub code: &'static str,
    /// The exit code. A warning's is [`Exit::Ok`].
    pub exit: Exit,
    /// Whether it ends a run.
    pub severity: Severity,
    /// Who has to act.
    pub blame: Blame,
    /// Whether the same attempt may succeed later without any change by a person.
    pub retryable: bool,
    /// One sentence without full stop. `{name|words}` is replaced by the value of `name`, or by `words`.
    pub summary: &'static str,
    /// What to do, the likeliest first. The same placeholders.
    pub fix: &'static [&'static str],
    /// Why it happens and how it is recognised.
    pub why: &'static str,
}

const fn class(
    code: &'static str,
    exit: Exit,
    blame: Blame,
    summary: &'static str,
    fix: &'static [&'static str],
    why: &'static str,
) -> Class {
    Class { code, exit, severity: Severity::Failure, blame, retryable: false, summary, fix, why }
}

impl Class {
    const fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    const fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self.exit = Exit::Ok;
        self
    }

    const fn note(mut self) -> Self {
        self.severity = Severity::Note;
        self.exit = Exit::Ok;
        self
    }

    /// The summary with `words` in it.
    pub fn summary(&self, words: &Words) -> String {
        words.fill(self.summary)
    }

    /// The fix lines with `words` in them.
    pub fn fix(&self, words: &Words) -> Vec<String> {
        self.fix.iter().map(|line| words.fill(line)).collect()
    }
}

/// Values for the placeholders of summaries and fixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words(BTreeMap<&'static str, String>);

impl Words {
    /// Sets the value of a placeholder.
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.set(name, value);
        self
    }

    /// Sets the value of a placeholder.
    pub fn set(&mut self, name: &'static str, value: impl ToString) {
        self.0.insert(name, value.to_string());
    }

    /// Replaces each `{name|words}` of a template.
    pub fn fill(&self, template: &str) -> String {
        let mut text = String::with_capacity(template.len());
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            text.push_str(before);
            let Some((slot, after)) = after.split_once('}') else {
                text.push('{');
                rest = after;
                continue;
            };
            let (name, fallback) = slot.split_once('|').unwrap_or((slot, slot));
            text.push_str(self.0.get(name).map_or(fallback, String::as_str));
            rest = after;
        }
        text.push_str(rest);
        text
    }
}

const TABLES: [&[Class]; 9] = [
    general::CLASSES,
    environment::CLASSES,
    names::CLASSES,
    targets::CLASSES,
    application::CLASSES,
    wireguard::CLASSES,
    openvpn::CLASSES,
    openvpn_server::CLASSES,
    tailscale::CLASSES,
];

/// Every class, by family.
pub fn all() -> impl Iterator<Item = &'static Class> {
    TABLES.into_iter().flatten()
}

/// The class with this code.
pub fn find(code: &str) -> Option<&'static Class> {
    all().find(|class| class.code == code)
}

/// The codes that are most like `code`, best first, at most three.
pub fn nearest(code: &str) -> Vec<&'static str> {
    let wanted = code.trim().to_ascii_lowercase();
    let mut scored: Vec<_> = all()
        .map(|class| {
            // The last word alone is what people remember: `nxdomain` means `dns.nxdomain`.
            let last = class.code.rsplit('.').next().unwrap_or(class.code);
            let score = strsim::jaro_winkler(&wanted, class.code).max(strsim::jaro_winkler(&wanted, last));
            (score, class.code)
        })
        .filter(|(score, _)| *score > 0.75)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(3).map(|(_, code)| code).collect()
}

/// A page about one class, for a terminal of any width: paragraphs are single lines.
pub fn explain(class: &Class) -> String {
    use fmt::Write as _;
    let words = Words::default();
    let mut page = format!("{}: {}\n\n{}\n\n", class.code, class.summary(&words), class.why);
    let _ = writeln!(page, "Who has to act: {}.", class.blame);
    match class.severity {
        Severity::Failure => {
            let _ = writeln!(page, "Exit code: {} ({}).", class.exit.code(), class.exit.meaning());
        }
        Severity::Warning => page.push_str("A warning: the run goes on.\n"),
        Severity::Note => {
            page.push_str("A note: it limits the choice of modes, and nothing fails by it alone.\n")
        }
    }
    let again = if class.retryable {
        "yes, the same attempt may succeed later"
    } else {
        "no, something must change first"
    };
    let _ = writeln!(page, "Worth a retry: {again}.\n\nWhat to do:");
    for line in class.fix(&words) {
        let _ = writeln!(page, "  * {line}");
    }
    page
}

#[cfg(test)]
mod tests;
