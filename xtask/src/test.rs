//! `cargo xtask test`: everything that must pass, and a count of what could not run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::setup;
use crate::shell::{Result, Shell};

/// The test targets of adit-tests that need boringtun's mock clock. Cargo unifies features, so they are an invocation
/// of their own: the mock clock must never be in the binary that the other tests run.
const SIMULATED: &[&str] = &["--package", "adit-tests", "--features", "sim"];

pub(crate) fn run(shell: &Shell, _arguments: &[String]) -> Result {
    setup::run(shell, &[])?;

    shell.step("build: the release binary, which the laboratory runs");
    shell.run(&mut shell.cargo(["build", "--release", "--package", "adit", "--locked"]))?;
    let binary = target_directory(shell)?.join("release/adit");

    let skips = shell.path("target/skips.txt");
    // The file of an earlier run may not exist.
    let _ = fs::remove_file(&skips);
    let mut count = Count::default();
    let result = all(shell, &binary, &skips, &mut count);
    count.skipped += report_skips(&skips);
    if result.is_err() && count.failed == 0 {
        // A target that did not compile or died counts too.
        count.failed = 1;
    }
    println!("\n{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
    result
}

fn all(shell: &Shell, binary: &Path, skips: &Path, count: &mut Count) -> Result {
    let mut failures = Vec::new();

    shell.step("test: units, documentation, fuzz corpora, laboratory");
    let mut command = shell.cargo(["test", "--workspace", "--locked", "--no-fail-fast"]);
    command.env("ADIT_BIN", binary).env("ADIT_SKIPS", skips);
    failures.extend(shell.watch(&mut command, |line| count.see(line)).err());

    let targets = simulated_targets(shell)?;
    if !targets.is_empty() {
        shell.step("test: scenarios in virtual time");
        let mut command = shell.cargo(["test", "--locked", "--no-fail-fast"]);
        command.args(SIMULATED).args(targets).env("ADIT_SKIPS", skips);
        failures.extend(shell.watch(&mut command, |line| count.see(line)).err());
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// `--test NAME` for each target of adit-tests that asks for feature `sim`.
fn simulated_targets(shell: &Shell) -> Result<Vec<String>> {
    let text = shell.output(&mut shell.cargo(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| format!("cargo metadata printed no JSON: {error}"))?;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let targets = packages
        .iter()
        .filter(|package| package["name"] == "adit-tests")
        .filter_map(|package| package["targets"].as_array())
        .flatten()
        .filter(|target| {
            target["required-features"]
                .as_array()
                .is_some_and(|features| features.iter().any(|name| name == "sim"))
        });
    Ok(targets
        .filter_map(|target| target["name"].as_str())
        .flat_map(|name| ["--test".into(), name.into()])
        .collect())
}

fn target_directory(shell: &Shell) -> Result<PathBuf> {
    let text = shell.output(&mut shell.cargo(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| format!("cargo metadata printed no JSON: {error}"))?;
    metadata["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| "cargo metadata names no target".into())
}

/// Prints each skipped test once with its reason; returns how many there were.
fn report_skips(path: &Path) -> usize {
    let text = fs::read_to_string(path).unwrap_or_default();
    for line in text.lines() {
        println!("skipped: {line}");
    }
    text.lines().count()
}

/// What the test harness counted, over all its binaries.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Count {
    /// Adds a closing line of libtest: `test result: ok. 12 passed; 0 failed; 1 ignored; …`.
    fn see(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for part in result.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<usize>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_added_up() {
        let mut count = Count::default();
        count.see(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.31s",
        );
        count.see("test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s");
        count.see("test some::name ... ok");
        assert_eq!(count, Count { passed: 16, failed: 2, skipped: 1 });
    }
}
