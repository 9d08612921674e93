//! How anything in adit fails in front of a person: what, where, on which evidence, and what to do next.

use adit_providers::Problem;
pub use adit_verify::catalogue::Words;
pub use adit_verify::{Exit, Failure, Location};

/// A failure of a class of the catalogue, with a sentence that knows the case.
pub fn of(class: &str, summary: impl Into<String>) -> Failure {
    Failure::of(class, &Words::default()).saying(summary)
}

/// A wrong command line.
pub fn usage(summary: impl Into<String>) -> Failure {
    of("usage", summary)
}

/// A condition that only a defect of adit brings about.
pub fn internal(summary: impl Into<String>) -> Failure {
    of("internal", summary)
}

/// A problem of an input, with the name of the file that it is in.
pub fn of_problem(problem: Problem, file: &str) -> Failure {
    let Problem { class, summary, evidence, fix, place, file: other } = problem;
    let mut failure = of(class, summary).with_fix(fix);
    failure.evidence = evidence;
    failure.location = place.map(|place| Location {
        file: other.unwrap_or_else(|| file.to_owned()),
        line: place.line,
        column: place.column,
        length: place.length,
        text: place.text,
    });
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_keeps_its_words_and_gets_the_exit_code_of_its_class() {
        let failure = of_problem(Problem::new("wg.key.missing", "no key").fix("add it"), "lab.conf");
        assert_eq!((failure.exit, failure.summary.as_str()), (Exit::CredentialMissing, "no key"));
        assert_eq!(failure.fix, ["add it"]);
        assert!(!of("wg.silent", "x").fix.is_empty());
    }
}
