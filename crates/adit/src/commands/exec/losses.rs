//! What becomes of the network while the program runs, in the words of whoever ended it.

use adit_path::{Phase, Status};
use tokio::sync::watch;

use crate::output::Ui;

/// Waits for the end of `work`; meanwhile prints a line whenever the network is lost, comes back, or is gone for good.
pub(super) async fn tell<T>(
    ui: &Ui,
    mut status: watch::Receiver<Status>,
    work: impl Future<Output = T>,
) -> T {
    let mut told = Told::default();
    let mut work = std::pin::pin!(work);
    let mut lives = true;
    loop {
        let result = tokio::select! {
            result = &mut work => Some(result),
            changed = status.changed(), if lives => {
                lives = changed.is_ok();
                None
            }
        };
        // Also at the end: what ended the network may have ended the program.
        let line = told.line(&status.borrow_and_update());
        if let Some(line) = line {
            ui.note(&line);
        }
        if let Some(result) = result {
            return result;
        }
    }
}

/// What was told last.
#[derive(Debug, Default)]
struct Told {
    lost: bool,
    gone: bool,
    /// The words of the last loss: while a network is called again and again, they are told once.
    words: String,
    ups: u64,
}

impl Told {
    /// What is to be told of a state, if it is new.
    fn line(&mut self, status: &Status) -> Option<String> {
        let why = status.fault.as_ref();
        let words = why.map_or_else(String::new, |fault| format!(": {}  [{}]", fault.summary, fault.class));
        match status.phase {
            Phase::Up => {
                let returned = std::mem::take(&mut self.lost) || (self.ups > 0 && status.ups > self.ups);
                self.ups = status.ups;
                self.words.clear();
                returned.then(|| "the network is back; connections go on".to_owned())
            }
            Phase::Reconnecting if !self.lost || (self.words != words && !words.is_empty()) => {
                self.lost = true;
                self.words.clone_from(&words);
                Some(format!("! the network is lost and called again{words}"))
            }
            Phase::Failed if !std::mem::replace(&mut self.gone, true) => {
                Some(format!("! the network is gone{words}"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use adit_tunnel::Fault;

    use super::*;

    fn status(phase: Phase, ups: u64, words: Option<&str>) -> Status {
        let fault = words.map(|words| Fault {
            class: "ovpn.restart".to_owned(),
            summary: words.to_owned(),
            evidence: Vec::new(),
        });
        Status { phase, ups, fault, ..Status::default() }
    }

    #[test]
    fn each_loss_is_told_once_with_its_words_and_so_is_each_return() {
        let mut told = Told::default();
        let mut line = |phase, ups, words| told.line(&status(phase, ups, words));
        assert_eq!(line(Phase::Up, 1, None), None);
        let lost = Some("! the network is lost and called again: come back later  [ovpn.restart]".to_owned());
        assert_eq!(line(Phase::Reconnecting, 1, Some("come back later")), lost);
        assert_eq!(line(Phase::Reconnecting, 1, Some("come back later")), None);
        let back = Some("the network is back; connections go on".to_owned());
        assert_eq!(line(Phase::Up, 2, None), back);
        assert_eq!(line(Phase::Up, 2, None), None);
        assert_eq!(line(Phase::Up, 3, None), back, "a loss that nobody saw");
        let gone = Some("! the network is gone: for good  [ovpn.restart]".to_owned());
        assert_eq!(line(Phase::Failed, 3, Some("for good")), gone);
        assert_eq!(line(Phase::Failed, 3, Some("for good")), None);
    }
}
