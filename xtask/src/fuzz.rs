//! `cargo xtask fuzz`: one target under libFuzzer, or every committed corpus on the stable compiler.

use crate::shell::{Result, Shell};

pub(crate) fn run(shell: &Shell, arguments: &[String]) -> Result {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--replay"] => replay(shell),
        [target] => fuzz(shell, target, "60"),
        [target, seconds] => fuzz(shell, target, seconds),
        _ => Err(format!(
            "usage: cargo xtask fuzz TARGET [SECONDS] | --replay\ntargets: {}",
            targets(shell)?.join(" ")
        )),
    }
}

/// Replays every file of fuzz/corpus through the function that its target calls.
pub(crate) fn replay(shell: &Shell) -> Result {
    shell.run(&mut shell.cargo(["test", "--package", "adit-tests", "--test", "corpus"]))
}

fn fuzz(shell: &Shell, target: &str, seconds: &str) -> Result {
    let known = targets(shell)?;
    if !known.iter().any(|name| name == target) {
        return Err(format!("there is no target `{target}`; there are: {}", known.join(" ")));
    }
    if shell.find("cargo-fuzz").is_none() {
        return Err("cargo-fuzz is not installed; `cargo xtask setup --fuzz` installs it".into());
    }
    let limit = format!("-max_total_time={seconds}");
    // The corpus in target/ grows; the committed one only seeds it.
    let grown = shell.path(&format!("target/fuzz-corpus/{target}"));
    std::fs::create_dir_all(&grown).map_err(|error| format!("creating {}: {error}", grown.display()))?;
    let mut command = shell.cargo(["+nightly", "fuzz", "run", target]);
    command.arg(&grown).arg(shell.path(&format!("fuzz/corpus/{target}")));
    command.args(["--", &limit, "-rss_limit_mb=2048"]);
    shell.run(&mut command)
}

fn targets(shell: &Shell) -> Result<Vec<String>> {
    let directory = shell.path("fuzz/fuzz_targets");
    let entries =
        std::fs::read_dir(&directory).map_err(|error| format!("reading {}: {error}", directory.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            entry.ok()?.file_name().into_string().ok()?.strip_suffix(".rs").map(str::to_owned)
        })
        .collect();
    names.sort();
    Ok(names)
}
