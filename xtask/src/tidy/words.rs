//! Words that do not belong into the repository, and calls that do not belong into the core.

use super::Files;

/// What a file must not say, and why. Written in halves, so that this file does not say them either.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "do it or delete it"),
    (concat!("FIX", "ME"), "fix it or delete it"),
    (concat!("XX", "X:"), "say what is meant"),
    (concat!("todo", "!("), "nothing is left to be written"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/tmp/", "wt"), "a path of one machine"),
    (concat!("/tmp/", "plan"), "a path of one machine"),
    (concat!("proxy.go", "lang.org"), "a registry's host"),
    (concat!("static.", "crates.io"), "a registry's host"),
    (concat!("index.", "crates.io"), "a registry's host"),
    (concat!("deb.deb", "ian.org"), "a registry's host"),
];

/// What code below layer 2 must not call: time, sockets, files, threads and the environment are arguments there.
const HIDDEN_INPUTS: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "UdpSocket",
    "TcpStream",
    "std::fs",
    "std::env",
    "std::thread",
    "thread::spawn",
    "OsRng",
    "getrandom",
];

const CORE: &[&str] = &[
    "crates/adit-tunnel/src/",
    "crates/adit-openvpn/src/",
    "crates/adit-tailscale/src/",
    "crates/adit-wireguard/src/",
    "crates/adit-netstack/src/",
];

/// Packages whose sources may hold `unsafe`.
const UNSAFE: &[&str] = &["crates/adit-intercept/", "tests/", "benches/", "xtask/src/tidy/"];

pub(crate) fn check(files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in files.iter() {
        if path == "Cargo.lock" || path.ends_with("/Cargo.lock") || path.starts_with("fuzz/corpus/") {
            continue;
        }
        problems.extend(forbidden(path, text));
        let is_test =
            path.ends_with("/tests.rs") || path.contains("/tests/") || path.ends_with("/testing.rs");
        if path.ends_with(".rs") && !is_test && CORE.iter().any(|room| path.starts_with(room)) {
            problems.extend(hidden_inputs(path, text));
        }
        if path.ends_with(".rs") && !UNSAFE.iter().any(|room| path.starts_with(room)) {
            problems.extend(relaxed_unsafe(path, text));
        }
    }
    problems
}

fn forbidden(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (word, why) in FORBIDDEN.iter().filter(|(word, _)| line.contains(word)) {
            problems.push(format!("{path}:{}: `{word}`: {why}", number + 1));
        }
    }
    problems
}

fn hidden_inputs(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, line) in code(text) {
        for call in HIDDEN_INPUTS.iter().filter(|call| line.contains(**call)) {
            problems
                .push(format!("{path}:{number}: `{call}` below layer 2; what the core needs is an argument"));
        }
    }
    problems
}

fn relaxed_unsafe(path: &str, text: &str) -> Vec<String> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| line.contains("(unsafe_code"))
        .map(|(number, _)| format!("{path}:{}: only adit-intercept holds `unsafe` code", number + 1))
        .collect()
}

/// The lines of a file that are neither comments nor its tests, which stand at the foot.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_in_the_core_is_found_but_not_in_its_tests_or_comments() {
        let text = "// Instant::now is the caller's\nlet now = Instant::now();\n#[cfg(test)]\nmod tests { Instant::now() }\n";
        let problems = hidden_inputs("core.rs", text);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("core.rs:2:"), "{problems:?}");
    }

    #[test]
    fn a_forbidden_word_is_named_with_its_line() {
        let text = concat!("fine\nlet x = to", "do!();\n");
        assert!(forbidden("a.rs", text)[0].starts_with("a.rs:2:"));
    }
}
