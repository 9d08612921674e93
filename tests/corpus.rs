//! Replays the committed fuzz corpora on the stable compiler.

use std::fs;
use std::path::Path;

use adit_tests::fuzzing::TARGETS;

#[test]
fn every_committed_input_is_handled() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, target) in TARGETS {
        let directory = root.join(name);
        let mut paths: Vec<_> = fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        assert!(!paths.is_empty(), "{name} has no corpus");
        for path in paths {
            // Shown when the target panics.
            println!("cargo fuzz run {name} {}", path.display());
            target(&fs::read(&path).unwrap());
        }
    }
}

#[test]
fn every_corpus_and_every_shim_has_its_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let names = |directory: &str| {
        let mut names: Vec<String> = fs::read_dir(root.join(directory))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().trim_end_matches(".rs").to_owned())
            .collect();
        names.sort();
        names
    };
    let targets: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names("corpus"), targets);
    assert_eq!(names("fuzz_targets"), targets);
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for target in targets {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "fuzz/Cargo.toml lacks {target}");
    }
}

/// No input at all, and inputs of one repeated byte, are what a broken peer sends first.
#[test]
fn degenerate_inputs_are_handled() {
    for (name, target) in TARGETS {
        for byte in [0, 1, 0x45, 0x7f, 0xff] {
            for length in [0, 1, 2, 3, 8, 40, 1500] {
                println!("{name}: {length} bytes of {byte:#x}");
                target(&vec![byte; length]);
            }
        }
    }
}
