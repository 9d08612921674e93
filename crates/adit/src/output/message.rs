//! The layout of failures: what failed, where, the evidence, the fix, and where to read more.

use std::fmt::Write as _;

use crate::failure::{Failure, Location};

/// The mark in front of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    Error,
    Warning,
}

/// Renders a failure, with a final newline.
pub(super) fn render(failure: &Failure, severity: Severity, color: bool) -> String {
    let paint = |code: &str, text: &str| {
        if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    };
    let mark = match severity {
        Severity::Error => paint("31;1", "✗"),
        Severity::Warning => paint("33;1", "⚠"),
    };
    let mut text = format!("{mark} {}  {}\n", failure.summary, paint("2", &format!("[{}]", failure.class)));
    if let Some(location) = &failure.location {
        snippet(&mut text, location, &paint);
    }
    for (label, lines) in [("seen:", &failure.evidence), ("fix: ", &failure.fix)] {
        for (index, line) in lines.iter().enumerate() {
            let label = if index == 0 { paint("2", label) } else { "     ".to_owned() };
            let _ = writeln!(text, "  {label} {}", line.replace('\n', "\n        "));
        }
    }
    if severity == Severity::Error && failure.class != "usage" {
        let _ = writeln!(text, "  {} adit explain {}", paint("2", "more:"), failure.class);
    }
    text
}

fn snippet(text: &mut String, location: &Location, paint: &dyn Fn(&str, &str) -> String) {
    let number = location.line.to_string();
    let gutter = " ".repeat(number.len());
    let _ = writeln!(text, "  {gutter} {} {location}", paint("34", "-->"));
    // A very long line is cut around the place, so that the mark stays visible.
    const WIDTH: usize = 100;
    let start = if location.column > WIDTH { location.column - WIDTH / 2 } else { 1 };
    let line: String = location
        .text
        .chars()
        .skip(start - 1)
        .take(WIDTH + WIDTH / 2)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let _ = writeln!(text, "  {} {} {line}", paint("34", &number), paint("34", "|"));
    let indent = " ".repeat(location.column - start);
    let marks = "^".repeat(location.length.clamp(1, WIDTH));
    let _ = writeln!(text, "  {gutter} {} {indent}{}", paint("34", "|"), paint("31;1", &marks));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure;

    #[test]
    fn a_failure_shows_what_where_evidence_and_fix() {
        let failure = failure::of("config.key", "`targts` is not a key of [profile.staging.verify]")
            .in_file(Location {
                file: "adit.toml".to_owned(),
                line: 12,
                column: 1,
                text: "targts = []".to_owned(),
                length: 6,
            })
            .seen("known keys: timeout, targets")
            .with_fix(vec!["write `targets`".to_owned(), "or delete the line".to_owned()]);
        assert_eq!(
            render(&failure, Severity::Error, false),
            "\
✗ `targts` is not a key of [profile.staging.verify]  [config.key]
     --> adit.toml:12:1
  12 | targts = []
     | ^^^^^^
  seen: known keys: timeout, targets
  fix:  write `targets`
        or delete the line
  more: adit explain config.key
"
        );
    }

    #[test]
    fn control_characters_and_long_lines_do_not_break_the_snippet() {
        let line = format!("{}\x1b[31m{}", "a".repeat(300), "b".repeat(5000));
        let failure = failure::of("config.parse", "no").in_file(Location {
            file: "f".to_owned(),
            line: 1,
            column: 302,
            text: line,
            length: 9000,
        });
        let text = render(&failure, Severity::Error, false);
        assert!(!text.contains('\x1b') && text.lines().all(|line| line.chars().count() < 220));
    }
}
