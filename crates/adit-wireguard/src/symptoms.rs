//! What a session that works seems to suffer from, read from the order of its messages: a NAT on the way that forgets
//! us, and a key that another machine uses as well.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use adit_tunnel::Fault;

/// The shortest time after which NATs are known to forget a UDP mapping (RFC 4787 §4.3 asks for two minutes and notes
/// that many take less).
const PAUSE: Duration = Duration::from_secs(20);
/// What the peer still has to say is resent within this time after it hears from us again.
const ANSWER: Duration = Duration::from_secs(5);
/// A session is renewed after 120 s (Rekey-After-Time of the WireGuard paper §6.1). One that lasted less than this died.
const EARLY: Duration = Duration::from_secs(110);
/// Older deaths of sessions count no more.
const MEMORY: Duration = Duration::from_secs(600);
/// As often as this is no coincidence.
const OFTEN: u32 = 2;

/// What is known of one peer's messages.
#[derive(Debug, Default)]
pub(crate) struct Symptoms {
    /// The last message in either direction.
    last: Option<Instant>,
    /// When we broke the last pause.
    woke: Option<Instant>,
    /// The peer's last data message: its session, its number, and when it came.
    heard: Option<(u32, u64, Instant)>,
    /// Pauses that cost messages, and how many messages.
    pauses: u32,
    lost: u64,
    /// A handshake that was begun because a young session had died, since when.
    early: Option<Instant>,
    /// When such handshakes were answered.
    deaths: VecDeque<Instant>,
    /// Data messages from the peer's address for a session that is not ours.
    foreign: u32,
}

impl Symptoms {
    /// A message of ours goes out.
    pub(crate) fn sent(&mut self, now: Instant) {
        if self.last.is_some_and(|last| now >= last + PAUSE) {
            self.woke = Some(now);
        }
        self.last = Some(now);
    }

    /// An authentic data message of the peer came: its session's index with us, and its number there.
    pub(crate) fn received(&mut self, now: Instant, session: u32, number: u64) {
        if let Some((before, last, at)) = self.heard
            && before == session
            && number > last.saturating_add(1)
            && self.woke.is_some_and(|woke| woke >= at + PAUSE && now < woke + ANSWER)
        {
            self.pauses += 1;
            self.lost += number - last - 1;
        }
        self.last = Some(now);
        self.heard = Some((session, number, now));
    }

    /// A handshake begins by itself; the session before is of this age.
    pub(crate) fn renewing(&mut self, now: Instant, age: Option<Duration>) {
        if age.is_some_and(|age| age < EARLY) {
            self.early.get_or_insert(now);
        }
    }

    /// A handshake was answered.
    pub(crate) fn renewed(&mut self, now: Instant) {
        let Some(begun) = self.early.take() else { return };
        // A server that was away is another matter.
        if now < begun + ANSWER {
            self.deaths.push_back(now);
        }
        self.deaths.retain(|at| now < *at + MEMORY);
    }

    /// A data message from the peer's address that belongs to no session of ours.
    pub(crate) fn foreign(&mut self) {
        self.foreign = self.foreign.saturating_add(1);
    }

    /// What all of it looks like. `keepalive` is ours, if we send any.
    pub(crate) fn judge(&self, keepalive: Option<Duration>) -> Option<Fault> {
        let deaths = u32::try_from(self.deaths.len()).unwrap_or(u32::MAX);
        if deaths >= OFTEN && self.foreign >= OFTEN {
            return Some(fault(
                "wg.key.shared",
                "another machine seems to use the same private key",
                vec![
                    format!(
                        "{deaths} sessions died within {} s of their handshake and came back at once",
                        EARLY.as_secs()
                    ),
                    format!(
                        "{} messages of the server were sealed for a session that is not ours",
                        self.foreign
                    ),
                ],
            ));
        }
        let silent = keepalive.is_none_or(|keepalive| keepalive > PAUSE);
        (silent && self.pauses >= OFTEN).then(|| {
            fault(
                "wg.nat.idle",
                "something on the way forgets this machine when it is silent",
                vec![format!(
                    "in {} pauses of more than {} s the server sent {} messages that did not arrive, and the next \
                     ones did once this side spoke",
                    self.pauses,
                    PAUSE.as_secs(),
                    self.lost
                )],
            )
        })
    }
}

fn fault(class: &str, summary: &str, evidence: Vec<String>) -> Fault {
    Fault { class: class.to_owned(), summary: summary.to_owned(), evidence }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(symptoms: &Symptoms) -> Option<String> {
        symptoms.judge(None).map(|fault| fault.class)
    }

    #[test]
    fn messages_that_are_missing_after_pauses_mean_a_forgetful_nat() {
        let (mut symptoms, mut now, mut number) = (Symptoms::default(), Instant::now(), 0);
        for pause in 0..3 {
            assert_eq!(class(&symptoms).is_some(), pause >= 2, "after {pause} pauses");
            symptoms.sent(now);
            symptoms.received(now, 7, number);
            now += PAUSE;
            number += 3;
            symptoms.sent(now);
            symptoms.received(now + Duration::from_millis(30), 7, number);
            number += 1;
        }
        assert_eq!(class(&symptoms).as_deref(), Some("wg.nat.idle"));
        assert_eq!(symptoms.judge(Some(Duration::from_secs(15))), None, "keepalives are the cure");
    }

    #[test]
    fn loss_without_a_pause_and_pauses_without_loss_mean_nothing() {
        let (mut symptoms, mut now) = (Symptoms::default(), Instant::now());
        for number in 0..20 {
            symptoms.sent(now);
            symptoms.received(now, 7, number * 2);
            now += Duration::from_secs(1);
        }
        for number in 40..50 {
            symptoms.sent(now);
            symptoms.received(now, 7, number);
            now += PAUSE * 2;
        }
        // Another session counts anew.
        symptoms.sent(now);
        symptoms.received(now, 8, 100);
        assert_eq!(class(&symptoms), None);
    }

    #[test]
    fn sessions_that_die_young_and_foreign_messages_mean_a_shared_key() {
        let (mut symptoms, now) = (Symptoms::default(), Instant::now());
        for round in 0..2 {
            symptoms.foreign();
            assert_eq!(class(&symptoms), None);
            symptoms.renewing(now + PAUSE * round, Some(PAUSE));
            symptoms.renewed(now + PAUSE * round);
        }
        assert_eq!(class(&symptoms).as_deref(), Some("wg.key.shared"));
    }

    #[test]
    fn ordinary_renewals_and_a_server_that_was_away_are_no_deaths() {
        let (mut symptoms, now) = (Symptoms::default(), Instant::now());
        for round in 0..5 {
            symptoms.foreign();
            symptoms.renewing(now, Some(EARLY));
            symptoms.renewed(now);
            symptoms.renewing(now + PAUSE * round, Some(PAUSE));
            symptoms.renewed(now + PAUSE * round + ANSWER);
        }
        assert_eq!(class(&symptoms), None);
    }
}
