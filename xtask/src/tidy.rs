//! `cargo xtask tidy`: what no compiler checks about this repository.

mod documents;
mod layers;
mod words;

use std::fs;

use crate::shell::{Result, Shell};

/// A file longer than this is reported; twice as long is refused.
const LONG: usize = 600;

pub(crate) fn run(shell: &Shell, _arguments: &[String]) -> Result {
    let files = Files::of(shell)?;
    let mut problems = Vec::new();
    problems.extend(layers::check(shell)?);
    problems.extend(documents::check(shell, &files));
    problems.extend(words::check(&files));
    problems.extend(lengths(&files));
    if problems.is_empty() {
        println!("tidy: {} files", files.0.len());
        return Ok(());
    }
    for problem in &problems {
        println!("tidy: {problem}");
    }
    Err(format!("{} things to tidy up", problems.len()))
}

/// The text files that belong to the repository: path and content.
pub(crate) struct Files(Vec<(String, String)>);

impl Files {
    fn of(shell: &Shell) -> Result<Self> {
        let list = shell.output(shell.command("git").args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]))?;
        let mut files = Vec::new();
        for path in list.split('\0').filter(|path| !path.is_empty()) {
            // A corpus is bytes; a deleted file is still listed until the deletion is staged.
            let Ok(bytes) = fs::read(shell.path(path)) else { continue };
            if let Ok(text) = String::from_utf8(bytes) {
                files.push((path.to_owned(), text));
            }
        }
        Ok(Self(files))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    pub(crate) fn get(&self, path: &str) -> Option<&str> {
        self.iter().find(|(name, _)| *name == path).map(|(_, text)| text)
    }
}

fn lengths(files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let lines = text.lines().count();
        if lines > 2 * LONG {
            problems.push(format!("{path} has {lines} lines; split it by kind"));
        } else if lines > LONG {
            println!("tidy: {path} has {lines} lines (more than {LONG}: consider a split)");
        }
    }
    problems
}
