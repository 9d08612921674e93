//! The keys of the data channel that are in use: the one that seals, the one that takes its place, the one before.

use std::time::{Duration, Instant};

use crate::data::DataKeys;

/// A new key seals at the latest after this time, if the server has not used it before: it may not have anything to
/// say, and it opens packets of either key by then.
const SWITCH_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Slot {
    keys: DataKeys,
    since: Instant,
}

/// Up to three keys.
#[derive(Debug)]
pub(crate) struct Slots {
    tran_window: Duration,
    current: Option<Slot>,
    next: Option<Slot>,
    /// The key before, which is opened with until this time.
    old: Option<(Slot, Instant)>,
}

impl Slots {
    pub(crate) fn new(tran_window: Duration) -> Self {
        Self { tran_window, current: None, next: None, old: None }
    }

    /// Takes a new key: the first seals at once, others once the server has used them or some time has passed.
    pub(crate) fn install(&mut self, now: Instant, keys: DataKeys) {
        let slot = Slot { keys, since: now };
        if self.current.is_none() {
            self.current = Some(slot);
            return;
        }
        self.promote(now);
        self.next = Some(slot);
    }

    /// The key that seals.
    pub(crate) fn sealing(&mut self) -> Option<&mut DataKeys> {
        self.current.as_mut().map(|slot| &mut slot.keys)
    }

    /// The newest key, to look at: it may not seal yet.
    pub(crate) fn newest(&self) -> Option<&DataKeys> {
        self.next.as_ref().or(self.current.as_ref()).map(|slot| &slot.keys)
    }

    /// Another key is being agreed on: a server then forgets all but the newest of those before.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.promote(now);
    }

    /// The key that opens messages of this key id.
    pub(crate) fn opening(&mut self, key_id: u8) -> Option<&mut DataKeys> {
        let old = self.old.as_mut().map(|(old, _)| old);
        let slots = [self.current.as_mut(), self.next.as_mut(), old];
        slots.into_iter().flatten().map(|slot| &mut slot.keys).find(|keys| keys.key_id() == key_id)
    }

    /// A message of this key id was opened: who seals with a new key opens with it too.
    pub(crate) fn opened(&mut self, now: Instant, key_id: u8) {
        if self.next.as_ref().is_some_and(|next| next.keys.key_id() == key_id) {
            self.promote(now);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let switch = self.next.as_ref().map(|next| next.since + SWITCH_AFTER);
        let end = self.old.as_ref().map(|(_, end)| *end);
        [switch, end].into_iter().flatten().min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.next.as_ref().is_some_and(|next| now >= next.since + SWITCH_AFTER) {
            self.promote(now);
        }
        if self.old.as_ref().is_some_and(|(_, end)| now >= *end) {
            self.old = None;
        }
    }

    /// The next key takes the place of the current one.
    fn promote(&mut self, now: Instant) {
        if let Some(next) = self.next.take() {
            self.old = self.current.replace(next).map(|old| (old, now + self.tran_window));
        }
    }
}

#[cfg(test)]
mod tests {
    use adit_tunnel::Dropped;
    use zeroize::Zeroizing;

    use super::*;
    use crate::data::{KeyMaterial, Parameters, Role, Suite};
    use crate::{Algorithm, Cipher};

    fn keys(role: Role, key_id: u8) -> DataKeys {
        let suite = Suite { cipher: Cipher::Aes128Gcm, auth: Algorithm::Sha1, epoch: false };
        let parameters = Parameters { role, key_id, peer_id: Some(0), replay_window: 64 };
        DataKeys::new(suite, &KeyMaterial::new(Zeroizing::new([key_id; 256])), &parameters)
    }

    fn open(slots: &mut Slots, now: Instant, message: &mut [u8]) -> Result<(), Dropped> {
        let key_id = message[0] & 7;
        slots.opening(key_id).ok_or(Dropped::Unexpected)?.open(message)?;
        slots.opened(now, key_id);
        Ok(())
    }

    fn sealed(keys: &mut DataKeys) -> Vec<u8> {
        let mut slot = vec![0; keys.sealed_len(3)];
        let len = keys.seal(&mut slot, 3).unwrap();
        slot.truncate(len);
        slot
    }

    #[test]
    fn a_new_key_seals_once_the_server_used_it_and_the_old_one_still_opens() {
        let now = Instant::now();
        let mut slots = Slots::new(Duration::from_secs(20));
        let (mut zero, mut one) = (keys(Role::Server, 0), keys(Role::Server, 1));
        slots.install(now, keys(Role::Client, 0));
        slots.install(now, keys(Role::Client, 1));
        assert_eq!(slots.sealing().unwrap().key_id(), 0);
        assert!(open(&mut slots, now, &mut sealed(&mut zero)).is_ok());
        assert_eq!(slots.sealing().unwrap().key_id(), 0);
        assert!(open(&mut slots, now, &mut sealed(&mut one)).is_ok());
        assert_eq!(slots.sealing().unwrap().key_id(), 1);
        assert!(
            open(&mut slots, now, &mut sealed(&mut zero)).is_ok(),
            "the old key opens for the transition"
        );
        let over = now + Duration::from_secs(20);
        assert_eq!(slots.poll_timeout(), Some(over));
        slots.handle_timeout(over);
        assert_eq!(open(&mut slots, over, &mut sealed(&mut zero)), Err(Dropped::Unexpected));
    }

    #[test]
    fn the_newest_key_seals_as_soon_as_another_is_being_agreed_on() {
        let now = Instant::now();
        let mut slots = Slots::new(Duration::from_secs(20));
        slots.install(now, keys(Role::Client, 0));
        slots.install(now, keys(Role::Client, 1));
        assert_eq!(slots.newest().unwrap().key_id(), 1);
        assert_eq!(slots.sealing().unwrap().key_id(), 0);
        slots.advance(now);
        assert_eq!(slots.sealing().unwrap().key_id(), 1);
        slots.advance(now);
        assert_eq!(slots.sealing().unwrap().key_id(), 1, "there is no newer one");
    }

    #[test]
    fn a_forged_packet_of_the_new_key_changes_nothing_and_time_does() {
        let now = Instant::now();
        let mut slots = Slots::new(Duration::from_secs(20));
        slots.install(now, keys(Role::Client, 0));
        slots.install(now, keys(Role::Client, 1));
        let mut forged = sealed(&mut keys(Role::Server, 1));
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(open(&mut slots, now, &mut forged), Err(Dropped::Unauthentic));
        assert_eq!(slots.sealing().unwrap().key_id(), 0);
        slots.handle_timeout(now + SWITCH_AFTER);
        assert_eq!(slots.sealing().unwrap().key_id(), 1);
    }
}
