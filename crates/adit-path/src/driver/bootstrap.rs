//! Names outside the tunnel, resolved on a helper thread: the driver itself never waits.

use std::fs;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use adit_tunnel::HostPort;

use super::commands::Bell;
use crate::system;

/// Lookups under way at a time. The system's resolver may take ten seconds for each.
const MAX_LOOKUPS: usize = 8;

/// How long servers that are asked directly may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names that no server is asked for, hosts(5).
const HOSTS: &str = "/etc/hosts";

type Answer = (HostPort, Vec<SocketAddr>);

/// Lookups by the system's resolver, or by servers that are named because that resolver leads into the tunnel.
#[derive(Debug)]
pub(crate) struct Bootstrap {
    bell: Bell,
    answers: SyncSender<Answer>,
    answered: Receiver<Answer>,
    waiting: Vec<(HostPort, Vec<IpAddr>)>,
    running: usize,
}

impl Bootstrap {
    pub(crate) fn new(bell: Bell) -> Self {
        // No thread ever waits for room: there are never more answers than lookups under way.
        let (answers, answered) = sync_channel(MAX_LOOKUPS);
        Self { bell, answers, answered, waiting: Vec::new(), running: 0 }
    }

    /// Asks for a name; a name that waits already is not asked twice. Without `servers` the system is asked.
    pub(crate) fn resolve(&mut self, name: HostPort, servers: Vec<IpAddr>) {
        if !self.waiting.iter().any(|(waiting, _)| *waiting == name) {
            self.waiting.push((name, servers));
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
            let Some((name, servers)) = self.waiting.pop() else { return };
            let (answers, bell) = (self.answers.clone(), self.bell.clone());
            let lookup = name.clone();
            let started = thread::Builder::new().name("adit-resolve".to_owned()).spawn(move || {
                let addresses =
                    if servers.is_empty() { lookup_system(&lookup) } else { lookup_at(&lookup, servers) };
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

/// Asks the machine's own servers, as its resolver would if it had been left alone.
fn lookup_at(name: &HostPort, servers: Vec<IpAddr>) -> Vec<SocketAddr> {
    let addresses = match name.host.parse() {
        Ok(address) => vec![address],
        Err(_) => {
            let local = hosts(&fs::read_to_string(HOSTS).unwrap_or_default(), &name.host);
            if local.is_empty() { system::lookup(servers, &name.host, PATIENCE) } else { local }
        }
    };
    addresses.into_iter().map(|address| SocketAddr::new(address, name.port)).collect()
}

/// The addresses of a name in a file of hosts(5).
fn hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_hosts_gives_every_address_of_a_name() {
        let text = "127.0.0.1 localhost\n# 192.0.2.9 vpn.example\n192.0.2.1\tgate VPN.example # ours\n\
                    2001:db8::1 vpn.example\nnonsense vpn.example\n";
        let expected: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(hosts(text, "vpn.example"), expected);
        assert!(hosts(text, "example").is_empty());
    }
}
