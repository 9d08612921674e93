//! What has been said already, and what people should know of the node.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::noise::printable;
use crate::Problem;

/// A node key that expires within this time is worth a word.
pub(super) const SOON: Duration = Duration::from_secs(24 * 3600);
/// No more texts of the server are passed on.
const MAX_TEXTS: usize = 16;

/// What has been said already, so that it is said once.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) name: String,
    pub(super) page: Option<String>,
    pub(super) ping: String,
    /// When the node key expires.
    pub(super) expiry: Option<SystemTime>,
    /// What the server says about the node's health.
    pub(super) health: Vec<String>,
    /// The name that we wanted and the one that we got.
    pub(super) collision: Option<(String, String)>,
    /// Whether the server has shown us our own disco key in this session, and whether it shows another one now.
    pub(super) ours_shown: bool,
    pub(super) duplicate: bool,
    /// Whether an administrator has removed the node, which then joined again.
    pub(super) rejoined: bool,
    warnings: Vec<Problem>,
}

impl Said {
    /// What people should know, if that is news.
    pub(super) fn news(&mut self, now: SystemTime) -> Option<Vec<Problem>> {
        let warnings = self.all(now);
        if warnings == self.warnings {
            return None;
        }
        self.warnings.clone_from(&warnings);
        Some(warnings)
    }

    fn all(&self, now: SystemTime) -> Vec<Problem> {
        let mut all = Vec::new();
        if let Some((wanted, assigned)) = &self.collision {
            let summary = format!("the node is called {assigned}, because {wanted} was taken");
            all.push(Problem::new("ts.name.collision", summary));
        }
        if let Some(expiry) = self.expiry.filter(|at| *at <= now + SOON) {
            let summary = format!("the node's key expires at {}", moment(expiry));
            all.push(Problem::new("ts.nodekey.expiring", summary));
        }
        if self.duplicate {
            let summary = "another process uses the identity of this node";
            let seen = "the control server shows us a disco key that another process has told it";
            all.push(Problem::new("ts.node.duplicate", summary).seen(seen));
        }
        if self.rejoined {
            let summary = "this node was removed from the network, and has joined again";
            all.push(Problem::new("ts.node.removed", summary));
        }
        all.extend(self.health.iter().take(MAX_TEXTS).map(|text| {
            let text = printable(text.as_bytes());
            Problem::new("ts.health", format!("the control server says: {text}"))
        }));
        all
    }
}

/// A time for people.
pub(super) fn moment(time: SystemTime) -> String {
    adit_tunnel::rfc3339(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}
