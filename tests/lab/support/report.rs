//! What a command with `--json` reports.

use serde_json::Value;

use super::Outcome;

/// What a person is told about a failure.
pub(crate) struct Told {
    pub(crate) summary: String,
    pub(crate) evidence: String,
    pub(crate) fix: Vec<String>,
}

impl Outcome {
    /// The report on standard output.
    #[track_caller]
    pub(crate) fn report(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("--json prints one object on stdout: {error}\n{self}"))
    }

    /// Asserts class and exit code, in the report and of the process, and that there is advice.
    #[track_caller]
    pub(crate) fn failure(&self, class: &str, exit: i32) -> Told {
        let report = self.report();
        let failure = &report["failure"];
        assert_eq!(report["schema"], "adit.verify/1", "{self}");
        assert_eq!(report["ok"], false, "{self}");
        assert_eq!(failure["class"], class, "{self}");
        assert_eq!(report["exit_code"], exit, "{self}");
        assert_eq!(self.status.code(), Some(exit), "{self}");
        let lines = |field: &str| -> Vec<String> {
            let lines = failure[field].as_array().map(Vec::as_slice).unwrap_or_default();
            lines.iter().filter_map(|line| line.as_str().map(str::to_owned)).collect()
        };
        let summary = failure["summary"].as_str().unwrap_or_default().to_owned();
        let told = Told { summary, evidence: lines("evidence").join("\n"), fix: lines("fix") };
        assert!(!told.fix.is_empty(), "no advice: {self}");
        told
    }
}
