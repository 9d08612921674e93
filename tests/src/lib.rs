//! What the tests of the whole share: a skip that is counted, and what is done with fuzzed bytes.

pub mod fuzzing;

use std::fs::OpenOptions;
use std::io::Write;

/// Says that a test cannot run here and why. The test then returns.
///
/// `cargo xtask test` names the file that collects skips, so that each is counted and printed at the end. Where
/// `CI=true`, nothing may be missing.
///
/// # Panics
/// Where `CI=true`.
pub fn skip(test: &str, why: &str) {
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!ci, "{test} cannot run: {why}; CI must not skip tests");
    eprintln!("skipped: {test}: {why}");
    let Some(path) = std::env::var_os("ADIT_SKIPS") else { return };
    let file = OpenOptions::new().create(true).append(true).open(path);
    let written = file.and_then(|mut file| writeln!(file, "{test}: {why}"));
    if let Err(error) = written {
        eprintln!("the skip was not counted: {error}");
    }
}
