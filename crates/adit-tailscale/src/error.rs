//! What can go wrong with a node as a whole.

use adit_tunnel::TunnelError;

/// A failure, with what was observed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{summary}")]
pub struct Problem {
    /// The stable failure class, `ts.*`.
    pub class: &'static str,
    /// One sentence.
    pub summary: String,
    /// The observations, one sentence each.
    pub evidence: Vec<String>,
}

impl TunnelError for Problem {
    fn class(&self) -> &'static str {
        self.class
    }

    fn evidence(&self) -> Vec<String> {
        self.evidence.clone()
    }
}
