//! What the control side tells the node.

use std::time::Instant;

use adit_tunnel::{Event, Outbox};
use adit_wireguard::PrivateKey;

use super::peer::Member;
use super::{Phase, Tailscale, limiter};
use crate::netmap::{Addresses, Changes, NodeId, Update};
use crate::routes::{net_config, table};
use crate::{Command, Control, SecretKey};

impl Tailscale {
    pub(super) fn command(&mut self, now: Instant, command: Command, out: &mut Outbox) {
        match command {
            Command::Netmap(update) => self.update(now, *update, out),
            Command::Control(control) => self.control(now, control),
            Command::NodeKey(key) => self.set_node_key(now, key, out),
            Command::LocalAddresses(addresses) => {
                self.local_addresses = addresses;
                self.update_endpoints();
            }
            Command::ExitNode(exit_node) => {
                self.policy.exit_node = exit_node;
                for index in self.by_id.values().copied().collect::<Vec<_>>() {
                    self.use_prefixes(index);
                }
                self.rebuild_routes();
                self.configure();
            }
            Command::NetworkChanged => self.network_changed(now, &mut out.net),
        }
    }

    fn control(&mut self, now: Instant, control: Control) {
        match control {
            Control::Prompt(prompt) => self.events.push_back(Event::Prompt(prompt)),
            Control::Failed(problem) => {
                self.phase = Phase::Failed;
                self.events.push_back(Event::Failed(problem));
            }
            // While packets pass, a control server that is away is no reason to say that they do not.
            Control::Lost(problem) => {
                if self.phase == Phase::Starting {
                    self.events.push_back(Event::Down(problem));
                }
            }
            Control::Excluded(problem) => {
                self.standing.excluded = Some(problem);
                self.evaluate(now);
            }
            Control::Warnings(warnings) => self.standing.warnings = warnings,
            Control::Connected => {
                self.standing.excluded = None;
                self.evaluate(now);
            }
        }
    }

    fn set_node_key(&mut self, now: Instant, key: SecretKey, out: &mut Outbox) {
        self.keys.node = key;
        self.ours = self.keys.node_key();
        self.private = PrivateKey::from_bytes(*self.keys.node.as_bytes());
        self.limiter = limiter(self.ours, now);
        for member in self.members.values_mut() {
            member.session = None;
        }
        // Whoever was asked to sign in has done so, and hears of it when the relay has taken the new key.
        if self.phase == Phase::Up {
            self.phase = Phase::Starting;
        }
        let (relays, mut cx) = self.relays(now, &mut out.net);
        relays.network_changed(&mut cx);
        self.evaluate(now);
    }

    fn update(&mut self, now: Instant, update: Update, out: &mut Outbox) {
        let changes = self.state.apply(update);
        let (mut names, mut routes) = (changes.node || changes.dns, false);
        for id in &changes.peers {
            self.note_refused(*id);
            let (renamed, rerouted) = self.update_peer(now, *id);
            names |= renamed || rerouted;
            routes |= rerouted;
        }
        if routes {
            self.rebuild_routes();
        }
        if self.filter_is_affected(&changes) {
            self.filter.configure(&self.state);
        }
        if names {
            self.magic.configure(&self.state);
        }
        if changes.node || changes.dns || routes {
            self.configure();
        }
        if changes.derp {
            let Self { relays, events, names, state, .. } = self;
            let mut cx = crate::derp::Context { now, net: &mut out.net, events, names };
            relays.set_map(&mut cx, &state.regions);
            self.measure(now, &mut out.net);
        }
        self.evaluate(now);
    }

    fn filter_is_affected(&self, changes: &Changes) -> bool {
        let by_capability = || {
            let sources = self.state.rules().flat_map(|rule| &rule.sources);
            sources.into_iter().any(|source| matches!(source, Addresses::Capability(_)))
        };
        changes.filter || changes.node || !changes.peers.is_empty() && by_capability()
    }

    /// Brings a peer up to date. Returns whether its name and whether its prefixes are other ones.
    fn update_peer(&mut self, now: Instant, id: NodeId) -> (bool, bool) {
        let known = self.by_id.get(&id).copied();
        if let Some(member) = known.and_then(|index| self.members.get(&index)) {
            // Another peer may have taken over a key in the same message.
            if self.by_key.get(&member.key).copied() == known {
                self.by_key.remove(&member.key);
            }
            if self.by_disco.get(&member.disco).copied() == known {
                self.by_disco.remove(&member.disco);
            }
        }
        // A peer whose key has expired is none: nothing goes there, and nothing comes from there.
        let Some(peer) = self.state.peers.get(&id).filter(|peer| !peer.key.is_zero() && !peer.expired) else {
            let Some(index) = known else { return (true, false) };
            self.by_id.remove(&id);
            self.members.remove(&index);
            self.active.remove(&index);
            return (true, true);
        };
        let index = known.unwrap_or_else(|| unused_index(&self.members, &mut self.random));
        let member = self.members.entry(index).or_insert_with(|| Member::new(peer, now));
        member.update(peer, now);
        let renamed = member.name != peer.name;
        member.name.clone_from(&peer.name);
        self.by_id.insert(id, index);
        self.by_key.insert(peer.key, index);
        if !peer.disco.is_zero() {
            self.by_disco.insert(peer.disco, index);
        }
        (renamed, self.use_prefixes(index))
    }

    /// Finds the prefixes that are used of a peer. Returns whether they are other ones.
    fn use_prefixes(&mut self, index: u32) -> bool {
        let Some(member) = self.members.get_mut(&index) else { return false };
        let Some(peer) = self.state.peers.get(&member.id) else { return false };
        let prefixes: Vec<_> = self.policy.used(peer).collect();
        if prefixes == member.prefixes {
            return false;
        }
        member.prefixes = prefixes;
        member.told = None;
        true
    }

    fn rebuild_routes(&mut self) {
        self.table = table(&self.state.peers, &self.policy, |id| self.by_id.get(&id).copied());
    }

    /// Tells the packet end, if there is something new.
    fn configure(&mut self) {
        let config = net_config(&self.state, &self.policy);
        if config != self.config && !config.addresses.is_empty() {
            self.config = config.clone();
            self.events.push_back(Event::Configured(config));
        }
    }
}

/// An index that no peer has. Unguessable for convenience, not for security.
fn unused_index(members: &std::collections::BTreeMap<u32, Member>, random: &mut crate::seal::Random) -> u32 {
    loop {
        let index = u32::from_le_bytes(random.bytes()) >> 8;
        if !members.contains_key(&index) {
            return index;
        }
    }
}
