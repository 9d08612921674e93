//! `resolv.conf(5)`: which servers programs ask, and which domains they append.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// What a `resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The servers, in order. The C libraries use the first three; other resolvers use them all.
    pub servers: Vec<IpAddr>,
    /// The search domains, in lower case and without dots at their ends.
    pub search: Vec<String>,
}

/// Servers and search domains beyond these are ignored.
const MAX_ENTRIES: usize = 32;

impl ResolvConf {
    /// Reads the text. Lines that do not parse are ignored, as the C libraries do.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().and_then(address)),
                // The last of `search` and `domain` wins.
                Some("search" | "domain") => {
                    conf.search = words
                        .map(|domain| domain.trim_matches('.').to_ascii_lowercase())
                        .filter(|domain| !domain.is_empty())
                        .take(MAX_ENTRIES)
                        .collect();
                }
                _ => {}
            }
        }
        conf.servers.truncate(MAX_ENTRIES);
        if conf.servers.is_empty() {
            // The default of resolver(3).
            conf.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        conf
    }

    /// Whether `to` is where a program asks for names.
    pub fn is_server(&self, to: SocketAddr) -> bool {
        to.port() == 53 && self.servers.contains(&to.ip())
    }
}

/// An address literal, with the zone that glibc allows cut off.
fn address(text: &str) -> Option<IpAddr> {
    text.split('%').next()?.parse().ok()
}

/// A `resolv.conf` that is read again when it changes.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    conf: Arc<ResolvConf>,
    stamp: Option<(SystemTime, u64)>,
    checked: Option<Instant>,
}

impl Watched {
    /// How old the knowledge may be.
    const FRESH: Duration = Duration::from_millis(500);
    /// A file longer than this is not a `resolv.conf`.
    const MAX_SIZE: u64 = 64 * 1024;

    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        let conf = Arc::new(ResolvConf::parse(""));
        Self { path: path.into(), state: Mutex::new(State { conf, stamp: None, checked: None }) }
    }

    /// What the file says now.
    pub(crate) fn current(&self) -> Arc<ResolvConf> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.checked.is_some_and(|at| at.elapsed() < Self::FRESH) {
            return state.conf.clone();
        }
        state.checked = Some(Instant::now());
        let stamp = fs::metadata(&self.path)
            .ok()
            .filter(|meta| meta.len() <= Self::MAX_SIZE)
            .and_then(|meta| Some((meta.modified().ok()?, meta.len())));
        if stamp != state.stamp {
            let text = stamp.and_then(|_| fs::read(&self.path).ok()).unwrap_or_default();
            state.conf = Arc::new(ResolvConf::parse(&String::from_utf8_lossy(&text)));
            state.stamp = stamp;
        }
        state.conf.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_both_families_and_the_last_search_list_are_read() {
        let conf = ResolvConf::parse(
            "# comment\ndomain old.example\nnameserver 127.0.0.11\nnameserver fe80::1%eth0\n\
             search Corp.Example. svc.cluster.local\noptions ndots:5\nnameserver nonsense\n",
        );
        assert_eq!(
            conf.servers,
            ["127.0.0.11".parse::<IpAddr>().expect("v4"), "fe80::1".parse().expect("v6")]
        );
        assert_eq!(conf.search, ["corp.example", "svc.cluster.local"]);
        assert!(conf.is_server("127.0.0.11:53".parse().expect("an address")));
        assert!(!conf.is_server("127.0.0.11:5353".parse().expect("an address")));
    }

    #[test]
    fn without_a_server_the_local_one_is_asked() {
        assert_eq!(ResolvConf::parse("").servers, ["127.0.0.1".parse::<IpAddr>().expect("v4")]);
    }
}
