//! Whether the tailnet takes us for a member, and what people should know although it does.

use std::collections::BTreeMap;

use adit_tunnel::{Event, Fault, Prefix};

use super::{Phase, Socket, Tailscale};
use crate::Problem;
use crate::netmap::{NodeId, RegionId, SelfNode};

/// No more texts of relays are kept.
const MAX_TEXTS: usize = 8;
/// No more refused routes are told.
const MAX_REFUSED: usize = 16;

/// What the control server and the relays say of this node.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Why we are no member, where that is not in the netmap.
    pub(super) excluded: Option<Problem>,
    /// What the control side wants people to know.
    pub(super) warnings: Vec<Problem>,
    /// Whose routes are not taken: the name, which, and why.
    refused: BTreeMap<NodeId, (String, Vec<(Prefix, &'static str)>)>,
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
        let told = self.warnings.iter().cloned().chain(relays).chain(self.refusal());
        told.map(|problem| Fault::from(&problem)).collect()
    }

    fn refusal(&self) -> Option<Problem> {
        let mut routes =
            self.refused.values().flat_map(|(peer, routes)| routes.iter().map(move |at| (peer, at)));
        let evidence: Vec<String> = routes
            .by_ref()
            .take(MAX_REFUSED)
            .map(|(peer, (prefix, why))| format!("{prefix} of {peer}: {why}"))
            .collect();
        let (_, first) = self.refused.values().next()?;
        let (prefix, _) = first.first()?;
        let summary = match evidence.len() + routes.count() {
            1 => format!("the route {prefix} was not taken"),
            count => format!("{prefix} and {} more of the routes were not taken", count - 1),
        };
        Some(Problem { class: "ts.route.refused", summary, evidence })
    }
}

impl Tailscale {
    /// Everything that people should know although packets pass.
    pub(super) fn all_warnings(&self) -> Vec<Fault> {
        let mut warnings = self.standing.warnings();
        warnings.extend(self.blocked().map(|problem| Fault::from(&problem)));
        warnings
    }

    /// UDP does not pass, and relays do.
    fn blocked(&self) -> Option<Problem> {
        let open = matches!(self.socket, Socket::Open { .. });
        (open && self.phase == Phase::Up && self.check.udp() == Some(false)).then(|| Problem {
            class: "ts.udp.blocked",
            summary: "UDP is blocked here; everything goes through a relay".to_owned(),
            evidence: vec![
                "no STUN server of the tailnet's relays answered, and a relay is connected".to_owned(),
            ],
        })
    }

    /// Looks which routes of a peer are not taken.
    pub(super) fn note_refused(&mut self, id: NodeId) {
        let peer = self.state.peers.get(&id);
        let refused: Vec<_> = peer.into_iter().flat_map(|peer| self.policy.refused(peer)).collect();
        match peer.filter(|_| !refused.is_empty()) {
            Some(peer) => self.standing.refused.insert(id, (peer.name.clone(), refused)),
            None => self.standing.refused.remove(&id),
        };
    }

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
