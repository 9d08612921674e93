//! Documents that name files must name files that exist.

use std::collections::BTreeSet;

use super::Files;
use crate::shell::Shell;

/// Documents whose code spans are checked.
const DOCUMENTS: &[&str] = &["ARCHITECTURE.md", "README.md", "SECURITY.md"];

pub(crate) fn check(shell: &Shell, files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    for document in DOCUMENTS {
        let Some(text) = files.get(document) else {
            problems.push(format!("{document} is missing"));
            continue;
        };
        for (line, path) in paths(text) {
            if !shell.path(&path).exists() {
                problems.push(format!("{document}:{line}: there is no `{path}`"));
            }
        }
    }
    problems.extend(unmapped(files));
    problems
}

/// Every crate has its place in the code map.
fn unmapped(files: &Files) -> Vec<String> {
    let Some(map) = files.get("ARCHITECTURE.md") else { return Vec::new() };
    let crates: BTreeSet<&str> = files
        .iter()
        .filter_map(|(path, _)| path.strip_prefix("crates/"))
        .filter_map(|path| path.split('/').next())
        .collect();
    crates
        .into_iter()
        .filter(|name| !map.contains(&format!("`crates/{name}`")))
        .map(|name| format!("ARCHITECTURE.md: the code map lacks `crates/{name}`"))
        .collect()
}

/// The spans of a document that look like paths of this repository, with their lines.
fn paths(text: &str) -> Vec<(usize, String)> {
    const ROOMS: &[&str] = &["crates/", "tests/", "benches/", "fuzz/", "xtask/", "docs/", ".ci/"];
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continue;
        }
        let spans = line.split('`').skip(1).step_by(2);
        let links = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for span in spans.chain(links) {
            let path = span.split(['#', ':']).next().unwrap_or(span);
            let is_path = ROOMS.iter().any(|room| path.starts_with(room))
                || (path.ends_with(".md") && !path.contains("//") && !path.contains(' '));
            if is_path && !path.contains(['*', ' ', '…', '{', '<']) {
                found.push((index + 1, path.to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_in_spans_and_links_but_not_in_blocks() {
        let text = "see `crates/adit/src/main.rs:12` and [map](ARCHITECTURE.md#code)\n```\n`crates/none`\n```\n`let x`\n";
        assert_eq!(
            paths(text),
            [(1, "crates/adit/src/main.rs".to_owned()), (1, "ARCHITECTURE.md".to_owned())]
        );
    }
}
