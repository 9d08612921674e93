//! `adit doctor`: what this machine allows, tried and not guessed.

use std::fmt::Write as _;

use adit_intercept::Ladder;

use crate::cli::Context;
use crate::{Exit, Failure};

/// Tries everything that a mode needs, and prints what works and why the rest does not.
pub(crate) fn run(context: &mut Context) -> Result<Exit, Failure> {
    let ladder = Ladder::probe();
    if context.global.json {
        context.ui.json(&ladder)?;
    } else {
        context.ui.result(text(&ladder).trim_end())?;
    }
    Ok(Exit::Ok)
}

fn text(ladder: &Ladder) -> String {
    let system = &ladder.system;
    let mut text = format!(
        "kernel {}  {}  uid {}  capabilities {:x}  no_new_privs {}  seccomp filters {}  container {}\n\n",
        system.kernel,
        system.arch,
        system.uid,
        system.capabilities,
        u8::from(system.no_new_privs),
        system.seccomp_filters,
        system.container,
    );
    let mut line = |mark: char, name: &str, why: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{mark} {name:<22} {why}");
    };
    for finding in &ladder.findings {
        line(if finding.works { '✓' } else { '✗' }, &finding.what, &finding.detail);
    }
    line(' ', "", "");
    for rung in &ladder.rungs {
        let mark = match (rung.works, rung.supported) {
            (true, true) => '✓',
            (true, false) => '-',
            (false, _) => '✗',
        };
        line(mark, &rung.mode, &rung.reason);
    }
    let mode =
        ladder.backend().map_or("env (proxy variables)".to_owned(), |backend| format!("seccomp, {backend}"));
    let _ = writeln!(text, "\n`adit exec` uses: {mode}");
    text
}
