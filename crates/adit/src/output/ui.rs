//! Where messages and results go.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use adit_providers::ovpn::Ask;
use serde::Serialize;

use super::message::{Severity, render};
use super::moving;
use crate::cli::{Color, Global};
use crate::config::Failures;
use crate::{Exit, Failure, failure};

/// The two streams and how to write to them.
#[derive(Clone, Debug)]
pub struct Ui {
    color: bool,
    moving: bool,
    quiet: bool,
    person: bool,
    stamped: bool,
    /// Whether whoever read stdout has gone.
    unread: Arc<AtomicBool>,
}

impl Ui {
    /// Without colour and motion, before flags are known.
    pub fn plain() -> Self {
        Self {
            color: false,
            moving: false,
            quiet: false,
            person: false,
            stamped: false,
            unread: Arc::default(),
        }
    }

    /// As flags, environment and stderr allow.
    pub fn new(global: &Global) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        Self::choose(
            global,
            io::stderr().is_terminal(),
            &set,
            std::env::var("TERM").is_ok_and(|t| t == "dumb"),
        )
    }

    fn choose(global: &Global, terminal: bool, set: &dyn Fn(&str) -> bool, dumb: bool) -> Self {
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto if set("NO_COLOR") => false,
            Color::Auto if set("CLICOLOR_FORCE") => true,
            Color::Auto => terminal && !dumb,
        };
        let moving =
            terminal && !dumb && !set("CI") && !set("NO_COLOR") && !global.no_progress && !global.quiet;
        let person = terminal && !set("CI") && !global.quiet;
        let stamped = !terminal || dumb || set("CI");
        Self { color, moving, quiet: global.quiet, person, stamped, unread: Arc::default() }
    }

    /// Whether stderr takes colour.
    pub fn color(&self) -> bool {
        self.color
    }

    /// Whether a progress line may move; otherwise plain lines are printed.
    pub fn moving(&self) -> bool {
        self.moving
    }

    /// Whether stderr is a terminal that makes links of the addresses of pages (OSC 8); others show them as they are.
    pub fn links(&self) -> bool {
        !self.stamped
    }

    /// Whether lines of progress begin with the time: they are read later.
    pub fn stamped(&self) -> bool {
        self.stamped
    }

    /// How to ask the person at the terminal, where there seems to be one.
    pub(crate) fn asks(&self) -> Option<Ask> {
        self.person.then_some(super::ask::ask as Ask)
    }

    /// Prints a failure on stderr.
    pub fn failure(&self, failure: &Failure) {
        self.stderr(&render(failure, Severity::Error, self.color));
    }

    /// Prints all failures but the last, which it returns with the exit code of all: that of wrong input if one is
    /// such, because nothing else can be said for sure then, and that of the first otherwise.
    pub fn all_but_last(&self, failures: Failures) -> Failure {
        let Failures(mut failures) = failures;
        let Some(mut last) = failures.pop() else { return failure::internal("a failure without a reason") };
        for failure in &failures {
            self.failure(failure);
        }
        let wrong_input =
            failures.iter().any(|failure| failure.exit == Exit::Usage) || last.exit == Exit::Usage;
        match failures.first() {
            _ if wrong_input => last.exit = Exit::Usage,
            Some(first) => last.exit = first.exit,
            None => {}
        }
        last
    }

    /// Prints a warning on stderr, unless only errors are wanted.
    pub fn warning(&self, warning: &Failure) {
        if !self.quiet {
            self.stderr(&render(warning, Severity::Warning, self.color));
        }
    }

    /// Prints a line on stderr, unless only errors are wanted.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            self.stderr(&format!("{line}\n"));
        }
    }

    /// Prints the result on stdout, with a newline.
    ///
    /// # Errors
    ///
    /// Stdout is closed or full.
    pub fn result(&self, text: &str) -> Result<(), Failure> {
        self.stdout(&[text.as_bytes(), b"\n"])
    }

    /// Prints these bytes on stdout, one part after the other.
    ///
    /// # Errors
    ///
    /// Stdout is closed or full.
    pub fn stdout(&self, parts: &[&[u8]]) -> Result<(), Failure> {
        let written = moving::aside(|| {
            let mut stdout = io::stdout().lock();
            parts.iter().try_for_each(|part| stdout.write_all(part)).and_then(|()| stdout.flush())
        });
        written.map_err(|error| {
            self.unread.fetch_or(error.kind() == ErrorKind::BrokenPipe, Relaxed);
            failure::of("env.stdout", "the result cannot be written to stdout").seen(error.to_string())
        })
    }

    /// Whether whoever read stdout has gone, like `head` when it has seen enough.
    pub fn unread(&self) -> bool {
        self.unread.load(Relaxed)
    }

    /// Prints the result on stdout as JSON, indented.
    ///
    /// # Errors
    ///
    /// Stdout is closed or full.
    pub fn json<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| failure::internal(format!("a result is no JSON: {error}")))?;
        self.result(&text)
    }

    fn stderr(&self, text: &str) {
        // A closed stderr is the caller's decision, and there is nowhere else to say it.
        let _ = moving::aside(|| io::stderr().lock().write_all(text.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_input_among_other_failures_decides_the_exit_code() {
        let exit = |codes: &[&str]| {
            let failures = codes.iter().map(|code| failure::of(code, "x")).collect();
            Ui::plain().all_but_last(Failures(failures)).exit
        };
        assert_eq!(exit(&["wg.key.missing", "wg.config.parse"]), Exit::Usage);
        assert_eq!(exit(&["wg.config.parse", "wg.key.missing"]), Exit::Usage);
        assert_eq!(exit(&["wg.key.missing", "wg.address.missing"]), Exit::CredentialMissing);
        assert_eq!(exit(&["wg.key.missing"]), Exit::CredentialMissing);
    }
}
