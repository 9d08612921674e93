//! Answers that are kept for as long as they say, within a fixed number of entries.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::message::Reply;

/// How many answers are kept.
const MAX_ENTRIES: usize = 1024;
/// No answer is kept longer, whatever it says (RFC 8767 §4 advises a cap of days; a session is shorter).
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);
/// No negative answer is kept longer (RFC 2308 §5).
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
struct Entry {
    reply: Reply,
    server: std::net::IpAddr,
    expires: Instant,
}

/// The cache. Keys are names in lower case and record types.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: HashMap<(String, u16), Entry>,
}

impl Cache {
    pub(super) fn get(&self, now: Instant, name: &str, record: u16) -> Option<(Reply, std::net::IpAddr)> {
        let entry = self.entries.get(&(name.to_owned(), record))?;
        let left = entry.expires.checked_duration_since(now).filter(|left| !left.is_zero())?;
        let mut reply = entry.reply.clone();
        reply.ttl = Some(left);
        Some((reply, entry.server))
    }

    pub(super) fn put(
        &mut self,
        now: Instant,
        name: &str,
        record: u16,
        reply: &Reply,
        server: std::net::IpAddr,
    ) {
        let cap = if reply.is_negative() { MAX_NEGATIVE_TTL } else { MAX_TTL };
        let Some(ttl) = reply.ttl.map(|ttl| ttl.min(cap)).filter(|ttl| !ttl.is_zero()) else { return };
        if self.entries.len() >= MAX_ENTRIES {
            self.make_room(now);
        }
        self.entries
            .insert((name.to_owned(), record), Entry { reply: reply.clone(), server, expires: now + ttl });
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    fn make_room(&mut self, now: Instant) {
        self.entries.retain(|_, entry| entry.expires > now);
        if self.entries.len() >= MAX_ENTRIES
            && let Some(first) =
                self.entries.iter().min_by_key(|(_, entry)| entry.expires).map(|(key, _)| key.clone())
        {
            self.entries.remove(&first);
        }
    }
}
