//! What updates add up to.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    DerpRegion, Dns, FilterChange, FilterRule, NodeId, Peer, PeerPatch, PeersUpdate, RegionId, SelfNode,
    TailnetLock, Update,
};

/// The netmap as it is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Ourselves, once the server has said so.
    pub node: Option<SelfNode>,
    /// The peers.
    pub peers: BTreeMap<NodeId, Peer>,
    /// Logins of the users that nodes belong to.
    pub users: BTreeMap<i64, String>,
    /// The relays.
    pub regions: BTreeMap<RegionId, DerpRegion>,
    /// Factors on the latency of regions.
    pub scores: BTreeMap<RegionId, f64>,
    /// Names.
    pub dns: Dns,
    /// The chunks of the packet filter; `None` until the first came, which means that nothing is let in.
    pub filter: Option<BTreeMap<String, Vec<FilterRule>>>,
    /// Tailnet lock.
    pub lock: TailnetLock,
}

/// What an update changed, so that only that is looked at again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Ourselves.
    pub node: bool,
    /// Peers that are new, changed or gone.
    pub peers: BTreeSet<NodeId>,
    /// The relays.
    pub derp: bool,
    /// Names.
    pub dns: bool,
    /// The packet filter.
    pub filter: bool,
}

impl State {
    /// Applies the message of a server.
    pub fn apply(&mut self, update: Update) -> Changes {
        let mut changes = Changes::default();
        if let Some(node) = update.node {
            changes.node = self.node.as_ref() != Some(&node);
            self.node = Some(node);
        }
        self.apply_peers(update.peers, &mut changes.peers);
        self.users.extend(update.users);
        if let Some(derp) = update.derp {
            let before = (self.regions.clone(), self.scores.clone());
            if let Some(regions) = derp.regions {
                self.regions = regions;
            }
            if let Some(scores) = derp.scores {
                self.scores = scores;
            }
            changes.derp = before != (self.regions.clone(), self.scores.clone());
        }
        if let Some(dns) = update.dns {
            changes.dns = self.dns != dns;
            self.dns = dns;
        }
        changes.filter = !update.filter.is_empty();
        for change in update.filter {
            let chunks = self.filter.get_or_insert_default();
            match change {
                FilterChange::Clear => chunks.clear(),
                FilterChange::Remove(name) => drop(chunks.remove(&name)),
                FilterChange::Set(name, rules) => drop(chunks.insert(name, rules)),
            }
        }
        if let Some(lock) = update.lock {
            self.lock = lock;
        }
        changes
    }

    fn apply_peers(&mut self, update: PeersUpdate, changed: &mut BTreeSet<NodeId>) {
        if update.full.is_empty() {
            for id in update.removed {
                if self.peers.remove(&id).is_some() {
                    changed.insert(id);
                }
            }
            for peer in update.changed {
                self.put(peer, changed);
            }
        } else {
            let mut old = std::mem::take(&mut self.peers);
            for peer in update.full {
                if old.remove(&peer.id).as_ref() != Some(&peer) {
                    changed.insert(peer.id);
                }
                self.peers.insert(peer.id, peer);
            }
            changed.extend(old.into_keys());
        }
        for (id, seen) in update.seen {
            self.change(id, changed, |peer| peer.last_seen = seen);
        }
        for (id, online) in update.online {
            self.change(id, changed, |peer| peer.online = Some(online));
        }
        for patch in update.patches {
            self.change(patch.id, changed, |peer| patch.clone().apply(peer));
        }
    }

    fn put(&mut self, peer: Peer, changed: &mut BTreeSet<NodeId>) {
        let id = peer.id;
        if self.peers.get(&id) != Some(&peer) {
            changed.insert(id);
            self.peers.insert(id, peer);
        }
    }

    fn change(&mut self, id: NodeId, changed: &mut BTreeSet<NodeId>, change: impl FnOnce(&mut Peer)) {
        if let Some(peer) = self.peers.get_mut(&id) {
            change(peer);
            changed.insert(id);
        }
    }

    /// The rules of all chunks, in the order of their names.
    pub fn rules(&self) -> impl Iterator<Item = &FilterRule> {
        self.filter.iter().flat_map(BTreeMap::values).flatten()
    }

    /// The domain of the tailnet's names: our own name without its first label.
    pub fn suffix(&self) -> Option<&str> {
        self.node.as_ref()?.name.split_once('.').map(|(_, suffix)| suffix).filter(|suffix| !suffix.is_empty())
    }
}

impl PeerPatch {
    fn apply(self, peer: &mut Peer) {
        fn set<T>(field: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *field = value;
            }
        }
        set(&mut peer.home_derp, self.home_derp);
        set(&mut peer.capability_version, self.capability_version);
        set(&mut peer.capabilities, self.capabilities);
        set(&mut peer.endpoints, self.endpoints);
        set(&mut peer.key, self.key);
        set(&mut peer.disco, self.disco);
        set(&mut peer.expired, self.expired);
        peer.online = self.online.or(peer.online);
        peer.last_seen = self.last_seen.or(peer.last_seen);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::NodeKey;

    fn peer(id: i64, version: u8) -> Peer {
        Peer { id: NodeId(id), key: NodeKey([version; 32]), ..Peer::default() }
    }

    #[test]
    fn a_full_list_replaces_and_an_empty_one_does_not() {
        let mut state = State::default();
        let full = |full| Update { peers: PeersUpdate { full, ..Default::default() }, ..Update::default() };
        state.apply(full(vec![peer(1, 1), peer(2, 1)]));
        assert!(state.apply(full(Vec::new())).peers.is_empty());
        assert_eq!(state.peers.len(), 2);
        let mut update = full(vec![peer(2, 1), peer(3, 1)]);
        update.peers.removed.push(NodeId(2));
        update.peers.changed.push(peer(9, 1));
        let changed = state.apply(update).peers;
        assert_eq!(state.peers.keys().map(|id| id.0).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(
            changed,
            [NodeId(1), NodeId(3)].into(),
            "a peer that stayed as it was is not looked at again"
        );
    }

    #[test]
    fn a_delta_may_come_before_any_full_list_and_a_patch_of_nobody_is_nothing() {
        let mut state = State::default();
        let mut update = Update::default();
        update.peers.changed.push(peer(5, 1));
        update.peers.patches.push(PeerPatch { id: NodeId(5), online: Some(true), ..Default::default() });
        update.peers.patches.push(PeerPatch { id: NodeId(6), online: Some(true), ..Default::default() });
        state.apply(update);
        assert_eq!(state.peers.len(), 1);
        assert_eq!(state.peers[&NodeId(5)].online, Some(true));
    }

    #[test]
    fn chunks_of_the_filter_are_set_removed_and_cleared() {
        let mut state = State::default();
        assert!(state.filter.is_none());
        let rule = FilterRule { protocols: vec![6], ..Default::default() };
        let set = |name: &str| FilterChange::Set(name.to_owned(), vec![rule.clone()]);
        state.apply(Update { filter: vec![set("base"), set("a")], ..Update::default() });
        assert_eq!(state.rules().count(), 2);
        state.apply(Update { filter: vec![FilterChange::Remove("a".into())], ..Update::default() });
        assert_eq!(state.rules().count(), 1);
        state.apply(Update { filter: vec![FilterChange::Clear], ..Update::default() });
        assert_eq!((state.rules().count(), state.filter.is_some()), (0, true));
    }

    fn peers() -> impl Strategy<Value = Vec<Peer>> {
        prop::collection::btree_map(0i64..8, 0u8..3, 0..8)
            .prop_map(|peers| peers.into_iter().map(|(id, version)| peer(id, version)).collect())
    }

    proptest! {
        #[test]
        fn deltas_lead_where_the_full_list_leads(steps in prop::collection::vec(peers(), 1..8)) {
            let mut by_deltas = State::default();
            for target in steps {
                let removed = by_deltas.peers.keys().filter(|id| target.iter().all(|p| p.id != **id)).copied();
                let changed = target.iter().filter(|p| by_deltas.peers.get(&p.id) != Some(p)).cloned();
                let peers =
                    PeersUpdate { removed: removed.collect(), changed: changed.collect(), ..Default::default() };
                by_deltas.apply(Update { peers, ..Update::default() });
                let mut by_full = State::default();
                by_full.apply(Update {
                    peers: PeersUpdate { full: target, ..Default::default() },
                    ..Update::default()
                });
                prop_assert_eq!(&by_deltas, &by_full);
            }
        }
    }
}
