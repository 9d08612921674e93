//! Messages of a Tailscale control server.

use std::time::{Duration, UNIX_EPOCH};

use adit_providers::tailscale::map_update;
use adit_tailscale::netmap::{RegionId, State};

/// Reads messages, one a line, and adds them up. Whatever a server sends, the netmap holds together.
pub fn tailscale_map(bytes: &[u8]) {
    let now = UNIX_EPOCH + Duration::from_secs(1_795_507_200);
    let mut state = State::default();
    for message in bytes.split(|byte| *byte == b'\n').take(64) {
        let Some(update) = map_update(message, now) else { continue };
        assert_eq!(map_update(message, now).as_ref(), Some(&update), "a message means one thing");
        state.apply(update);
        for (id, peer) in &state.peers {
            assert_eq!(*id, peer.id);
            assert!(!peer.name.ends_with('.'), "a name is without the root's dot: {}", peer.name);
        }
        for rule in state.rules() {
            assert!(
                !rule.sources.is_empty() && !rule.targets.is_empty(),
                "a rule without sides allows nothing"
            );
            assert!(rule.targets.iter().all(|target| target.first <= target.last));
        }
        assert!(!state.regions.contains_key(&RegionId(0)), "region 0 stands for none");
        assert!(state.scores.values().all(|score| score.is_finite() && *score > 0.0));
    }
}
