use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;

#[test]
fn codes_are_unique_and_well_formed() {
    let mut seen = BTreeSet::new();
    for class in all() {
        assert!(seen.insert(class.code), "{} stands twice", class.code);
        assert!(
            class
                .code
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'_'),
            "{}",
            class.code
        );
        assert!(!class.summary.ends_with('.'), "{}: a summary has no full stop", class.code);
        assert!(!class.fix.is_empty() && !class.why.is_empty(), "{} has no advice", class.code);
        assert_eq!(class.severity == Severity::Failure, class.exit != Exit::Ok, "{}", class.code);
    }
}

#[test]
fn placeholders_take_values_or_their_fallback() {
    let words = Words::default().with("target", "tcp://db:5432");
    assert_eq!(words.fill("{target|it} and {other|the rest}"), "tcp://db:5432 and the rest");
    assert_eq!(words.fill("a { b"), "a { b");
}

#[test]
fn a_code_that_is_nearly_right_finds_its_neighbour() {
    assert_eq!(nearest("wg.slient").first(), Some(&"wg.silent"));
    assert_eq!(nearest("nxdomain").first(), Some(&"dns.nxdomain"));
    assert_eq!(nearest("WG.MTU").first(), Some(&"wg.mtu"));
    assert!(nearest("zzzzzzzz").is_empty());
}

#[test]
fn every_class_has_a_page_with_its_exit_code_and_advice() {
    for class in all() {
        let page = explain(class);
        assert!(page.contains(class.code) && page.contains("What to do:"), "{page}");
        assert!(!page.contains('{') || class.code == "credential.placeholder", "{page}");
    }
}

/// A class that nothing in the sources names can come of nothing.
#[test]
fn every_class_of_the_catalogue_is_one_that_the_sources_name() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(crates).unwrap() {
        collect(&entry.unwrap().path().join("src"), &mut files);
    }
    files.retain(|file| !file.components().any(|part| part.as_os_str() == "catalogue"));
    let sources: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let dead: Vec<_> =
        all().map(|class| class.code).filter(|code| !sources.contains(&format!("\"{code}\""))).collect();
    assert!(dead.is_empty(), "{dead:?}");
}

/// Every string literal of the workspace's sources that has the form of a class is one.
#[test]
fn every_class_that_the_sources_name_is_in_the_catalogue() {
    const FAMILIES: [&str; 17] = [
        "app.",
        "budget.",
        "config.",
        "credential.",
        "dns.",
        "env.",
        "policy.",
        "quality.",
        "route.",
        "session.",
        "soak.",
        "target.",
        "tls.",
        "tunnel.",
        "ovpn.",
        "wg.",
        "ts.",
    ];
    // Names with the form of a class that are none.
    const OTHERS: [&str; 1] = ["wg.slient"];
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(crates).unwrap() {
        collect(&entry.unwrap().path().join("src"), &mut files);
    }
    assert!(files.len() > 10, "the sources are not where they are expected");
    let mut unknown = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for literal in text.split('"').skip(1).step_by(1) {
            let shaped = literal.contains('.')
                && !literal.ends_with('.')
                && literal.bytes().all(|b| b.is_ascii_lowercase() || b == b'.' || b == b'_');
            let belongs = FAMILIES.iter().any(|family| literal.starts_with(family));
            if shaped && belongs && find(literal).is_none() && !OTHERS.contains(&literal) && !is_file(literal)
            {
                unknown.push(format!("{}: {literal}", file.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "not in the catalogue:\n{}", unknown.join("\n"));
}

fn is_file(literal: &str) -> bool {
    [".toml", ".conf", ".rs", ".json", ".key", ".sock", ".internal", ".ovpn"]
        .iter()
        .any(|end| literal.ends_with(end))
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
}
