//! Why the control server was not reached or said no.

use std::fmt;
use std::time::Duration;

use crate::Problem;

/// Whether the same attempt is worth repeating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Something must change first.
    Never,
    /// After the usual pause.
    Later,
    /// After the time that the server asked for.
    After(Duration),
}

/// A failure of the control connection, with its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlError {
    /// The class, the sentence and the evidence.
    pub problem: Problem,
    /// Whether to try again.
    pub retry: Retry,
}

impl ControlError {
    pub(super) fn never(class: &'static str, summary: impl Into<String>) -> Self {
        Self { problem: Problem::new(class, summary), retry: Retry::Never }
    }

    pub(super) fn later(class: &'static str, summary: impl Into<String>) -> Self {
        Self { problem: Problem::new(class, summary), retry: Retry::Later }
    }

    pub(super) fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.problem = self.problem.seen(evidence);
        self
    }

    /// The failure class.
    pub fn class(&self) -> &'static str {
        self.problem.class
    }

    /// The failure for whoever watches the tunnel.
    pub fn fault(&self) -> adit_tailscale::Problem {
        fault(self.problem.clone())
    }
}

/// A problem in the words of the data side.
pub(super) fn fault(problem: Problem) -> adit_tailscale::Problem {
    let Problem { class, summary, evidence, .. } = problem;
    adit_tailscale::Problem { class, summary, evidence }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)?;
        for evidence in &self.problem.evidence {
            write!(f, "; {evidence}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ControlError {}
