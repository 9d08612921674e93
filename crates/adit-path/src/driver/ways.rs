//! Questions for ways that wait for the tunnel's answers.

use std::collections::BTreeMap;

use adit_tunnel::Way;
use tokio::sync::oneshot;

use crate::WayFailure;

/// Questions that may wait.
const MAX_WAITING: usize = 64;

type Reply = oneshot::Sender<Result<Way, WayFailure>>;

/// Who waits, by the token of the question. Who waits when the loop ends hears that by the end of the channel.
#[derive(Debug, Default)]
pub(super) struct Ways {
    waiting: BTreeMap<u64, Reply>,
    next: u64,
}

impl Ways {
    /// A token for a question; `None` if too many wait, which the asker is told.
    pub(super) fn ask(&mut self, reply: Reply) -> Option<u64> {
        self.waiting.retain(|_, reply| !reply.is_closed());
        if self.waiting.len() >= MAX_WAITING {
            // Nobody may wait for it any more; likewise below.
            let _ = reply.send(Err(WayFailure::busy()));
            return None;
        }
        self.next += 1;
        self.waiting.insert(self.next, reply);
        Some(self.next)
    }

    pub(super) fn answer(&mut self, token: u64, way: Way) {
        self.end(token, Ok(way));
    }

    pub(super) fn refuse(&mut self, token: u64, why: WayFailure) {
        self.end(token, Err(why));
    }

    fn end(&mut self, token: u64, outcome: Result<Way, WayFailure>) {
        if let Some(reply) = self.waiting.remove(&token) {
            let _ = reply.send(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_question_gets_its_answer_and_too_many_are_refused() {
        let mut ways = Ways::default();
        let mut answers = Vec::new();
        for _ in 0..MAX_WAITING {
            let (reply, answer) = oneshot::channel();
            answers.push((ways.ask(reply).unwrap(), answer));
        }
        let (reply, mut refused) = oneshot::channel();
        assert_eq!(ways.ask(reply), None);
        assert!(matches!(refused.try_recv(), Ok(Err(WayFailure::Exhausted(_)))));
        let (token, mut answer) = answers.pop().unwrap();
        let way = Way { peer: "db".to_owned(), ..Way::default() };
        ways.answer(token, way.clone());
        assert_eq!(answer.try_recv().unwrap(), Ok(way));
        let (token, mut answer) = answers.pop().unwrap();
        ways.refuse(token, WayFailure::Unsupported);
        assert_eq!(answer.try_recv().unwrap(), Err(WayFailure::Unsupported));
        drop(answers);
        let (reply, _answer) = oneshot::channel();
        assert!(ways.ask(reply).is_some(), "askers that are gone make room");
    }
}
