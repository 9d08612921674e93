//! Names outside the tunnel, resolved by the system on a helper thread: the driver itself never waits.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use adit_tunnel::HostPort;

use super::commands::Bell;

/// Lookups under way at a time. The system's resolver may take ten seconds for each.
const MAX_LOOKUPS: usize = 8;

type Answer = (HostPort, Vec<SocketAddr>);

/// Lookups by the system's resolver.
#[derive(Debug)]
pub(crate) struct Bootstrap {
    bell: Bell,
    answers: SyncSender<Answer>,
    answered: Receiver<Answer>,
    waiting: Vec<HostPort>,
    running: usize,
}

impl Bootstrap {
    pub(crate) fn new(bell: Bell) -> Self {
        // No thread ever waits for room: there are never more answers than lookups under way.
        let (answers, answered) = sync_channel(MAX_LOOKUPS);
        Self { bell, answers, answered, waiting: Vec::new(), running: 0 }
    }

    /// Asks for a name; a name that is being asked for already is not asked twice.
    pub(crate) fn resolve(&mut self, name: HostPort) {
        if !self.waiting.contains(&name) {
            self.waiting.push(name);
        }
        self.start();
    }

    /// The next answer; no addresses means that the name does not resolve.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let answer = self.answered.try_recv().ok()?;
        self.running -= 1;
        self.start();
        Some(answer)
    }

    fn start(&mut self) {
        while self.running < MAX_LOOKUPS {
            let Some(name) = self.waiting.pop() else { return };
            let (answers, bell) = (self.answers.clone(), self.bell.clone());
            let lookup = name.clone();
            let started = thread::Builder::new().name("adit-resolve".to_owned()).spawn(move || {
                let addresses = lookup_system(&lookup);
                // The driver may have ended meanwhile.
                let _ = answers.send((lookup, addresses));
                bell.ring();
            });
            self.running += 1;
            if let Err(error) = started {
                tracing::warn!(%name, %error, "no thread for a lookup");
                let _ = self.answers.try_send((name, Vec::new()));
                self.bell.ring();
            }
        }
    }
}

fn lookup_system(name: &HostPort) -> Vec<SocketAddr> {
    match (name.host.as_str(), name.port).to_socket_addrs() {
        Ok(addresses) => {
            let mut unique: Vec<SocketAddr> = Vec::new();
            for address in addresses {
                if !unique.contains(&address) {
                    unique.push(address);
                }
            }
            unique
        }
        Err(error) => {
            tracing::debug!(%name, %error, "the system does not resolve the name");
            Vec::new()
        }
    }
}
