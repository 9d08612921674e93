//! Whether the tailnet takes us for a member, and what people should know although it does.

use std::collections::BTreeMap;

use adit_tunnel::{Event, Fault};

use super::{Phase, Tailscale};
use crate::Problem;
use crate::netmap::{RegionId, SelfNode};

/// No more texts of relays are kept.
const MAX_TEXTS: usize = 8;

/// What the control server and the relays say of this node.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Why we are no member, where that is not in the netmap.
    pub(super) excluded: Option<Problem>,
    /// What the control side wants people to know.
    pub(super) warnings: Vec<Problem>,
    /// What relays say is wrong with our connection, with the region's name.
    relays: BTreeMap<RegionId, (String, String)>,
    /// The class under which it was said last that we are no member.
    said: Option<&'static str>,
}

impl Standing {
    /// A relay says what is wrong; an empty text is the end of it.
    pub(super) fn relay(&mut self, name: String, id: RegionId, text: &str) {
        if text.is_empty() {
            self.relays.remove(&id);
        } else if self.relays.len() < MAX_TEXTS || self.relays.contains_key(&id) {
            self.relays.insert(id, (name, text.to_owned()));
        }
    }

    pub(super) fn warnings(&self) -> Vec<Fault> {
        let relays = self.relays.values().map(|(name, text)| {
            let lower = text.to_ascii_lowercase();
            // The text is for people, and duplicates are the only reason for one that is known.
            let (class, summary) = if ["duplicate", "multiple", "another"].iter().any(|w| lower.contains(w)) {
                ("ts.node.duplicate", "another process uses the identity of this node".to_owned())
            } else {
                ("ts.health", format!("the relay of region {name} says: {text}"))
            };
            Problem { class, summary, evidence: vec![format!("the relay of region {name} says: {text}")] }
        });
        self.warnings.iter().cloned().chain(relays).map(|problem| Fault::from(&problem)).collect()
    }
}

impl Tailscale {
    /// Whether no peer takes our packets, because of what the server says of us. Says so, if that is news.
    pub(super) fn is_excluded(&mut self) -> bool {
        let problem = self.standing.excluded.clone().or_else(|| self.exclusion(self.state.node.as_ref()?));
        let said = std::mem::replace(&mut self.standing.said, problem.as_ref().map(|problem| problem.class));
        let Some(problem) = problem else {
            if said.is_some() && self.phase == Phase::Down {
                // What else is wrong has not been said yet.
                self.phase = Phase::Starting;
            }
            return false;
        };
        if self.phase != Phase::Failed && said != Some(problem.class) {
            self.phase = Phase::Down;
            self.events.push_back(Event::Down(problem));
        }
        true
    }

    fn exclusion(&self, node: &SelfNode) -> Option<Problem> {
        let (class, summary, seen) = if node.expired {
            (
                "ts.nodekey.expired",
                "the node's key has expired",
                "its day in the netmap has passed".to_owned(),
            )
        } else if !node.authorized {
            (
                "ts.approval.pending",
                "the node is registered and waits for an administrator's approval",
                format!("the control server knows {} and has not approved it", node.name),
            )
        } else if self.state.lock.on && !node.signed {
            (
                "ts.lock.unsigned",
                "tailnet lock is on, and this node is not signed",
                format!("what a signing node runs: tailscale lock sign {}", self.ours),
            )
        } else {
            return None;
        };
        Some(Problem { class, summary: summary.to_owned(), evidence: vec![seen] })
    }
}
