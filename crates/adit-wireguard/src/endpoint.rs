//! Where a peer is: configured by name or address, resolved, and learnt from authenticated packets.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_tunnel::HostPort;

use crate::config::literal;

/// A failed resolution is repeated after this time.
const RESOLVE_AGAIN: Duration = Duration::from_secs(5);
/// An answered question is not asked again before this time, whatever happens to the handshake.
const RESOLVE_AT_MOST: Duration = Duration::from_secs(10);
/// More addresses of one name than this are not tried.
const MAX_CANDIDATES: usize = 16;

/// The endpoint of one peer.
#[derive(Debug)]
pub(crate) struct Endpoint {
    configured: Option<HostPort>,
    /// What the configured endpoint resolves to, in the order in which to try.
    candidates: Vec<SocketAddr>,
    /// Where packets go.
    current: Option<SocketAddr>,
    resolution: Resolution,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolution {
    /// An address literal, or nothing configured.
    Needless,
    /// To be asked now.
    Wanted,
    /// Asked, no answer yet.
    Asked,
    /// Answered at this time.
    Known(Instant),
    /// Without an answer; asked again at this time.
    Failed(Instant),
}

/// What an answer to the question for the name changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// The name has no address, and none was known. Said once, however often the question fails.
    Nothing,
    /// Packets go where they went.
    Unchanged,
    /// Packets go elsewhere now.
    Moved,
}

impl Endpoint {
    pub(crate) fn new(configured: Option<HostPort>) -> Self {
        let address = configured.as_ref().and_then(literal);
        let wanted = configured.is_some() && address.is_none();
        Self {
            configured,
            candidates: address.into_iter().collect(),
            current: address,
            resolution: if wanted { Resolution::Wanted } else { Resolution::Needless },
            failures: 0,
        }
    }

    pub(crate) fn configured(&self) -> Option<&HostPort> {
        self.configured.as_ref()
    }

    pub(crate) fn current(&self) -> Option<SocketAddr> {
        self.current
    }

    pub(crate) fn candidates(&self) -> &[SocketAddr] {
        &self.candidates
    }

    /// An authenticated packet came from `from`: packets go there from now on.
    pub(crate) fn learn(&mut self, from: SocketAddr) {
        self.current = Some(from);
    }

    /// The name to resolve now, at most once per need.
    pub(crate) fn take_question(&mut self) -> Option<HostPort> {
        if self.resolution != Resolution::Wanted {
            return None;
        }
        self.resolution = Resolution::Asked;
        self.configured.clone()
    }

    /// The configured name shall be resolved again, because what it gave does not answer.
    pub(crate) fn resolve_again(&mut self, now: Instant) {
        if let Resolution::Known(at) = self.resolution
            && now >= at + RESOLVE_AT_MOST
        {
            self.resolution = Resolution::Wanted;
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Resolution::Failed(again) = self.resolution
            && now >= again
        {
            self.resolution = Resolution::Wanted;
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.resolution {
            Resolution::Failed(again) => Some(again),
            _ => None,
        }
    }

    /// Takes the answer. `struggling` says that the present address does not answer.
    pub(crate) fn resolved(&mut self, now: Instant, addresses: &[SocketAddr], struggling: bool) -> Resolved {
        if addresses.is_empty() {
            self.resolution = Resolution::Failed(now + RESOLVE_AGAIN);
            self.failures += 1;
            let news = self.candidates.is_empty() && self.failures == 1;
            return if news { Resolved::Nothing } else { Resolved::Unchanged };
        }
        self.failures = 0;
        self.resolution = Resolution::Known(now);
        self.candidates.clear();
        self.candidates.extend(addresses.iter().take(MAX_CANDIDATES));
        match self.current {
            Some(current) if !struggling || self.candidates.contains(&current) => Resolved::Unchanged,
            _ => {
                self.current = self.candidates.first().copied();
                Resolved::Moved
            }
        }
    }

    /// Goes to the next candidate (from a learnt address: to the first). Whether that is another address.
    pub(crate) fn rotate(&mut self) -> bool {
        let at = self.candidates.iter().position(|candidate| Some(*candidate) == self.current);
        let next = match at {
            Some(at) => self.candidates.get((at + 1) % self.candidates.len()),
            None => self.candidates.first(),
        };
        match next {
            Some(next) if Some(*next) != self.current => {
                self.current = Some(*next);
                true
            }
            _ => false,
        }
    }

    /// Forgets what was learnt from packets: the next try starts with the configured endpoint.
    pub(crate) fn forget_roaming(&mut self) {
        if let Some(current) = self.current
            && !self.candidates.contains(&current)
            && let Some(first) = self.candidates.first()
        {
            self.current = Some(*first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named() -> Endpoint {
        Endpoint::new(Some(HostPort { host: "vpn.example".to_owned(), port: 1 }))
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_literal_is_used_as_it_is_and_a_name_is_asked_for_once() {
        let mut literal = Endpoint::new(Some(HostPort { host: "fd00::1".to_owned(), port: 1 }));
        assert_eq!((literal.current(), literal.take_question()), (Some(address("[fd00::1]:1")), None));
        let mut named = named();
        assert!(
            named.current().is_none() && named.take_question().is_some() && named.take_question().is_none()
        );
    }

    #[test]
    fn a_failed_resolution_is_repeated_and_keeps_what_was_known() {
        let (mut endpoint, now) = (named(), Instant::now());
        endpoint.take_question();
        assert_eq!(endpoint.resolved(now, &[], false), Resolved::Nothing);
        endpoint.handle_timeout(endpoint.poll_timeout().unwrap());
        assert!(endpoint.take_question().is_some());
        assert_eq!(endpoint.resolved(now, &[address("192.0.2.1:1")], false), Resolved::Moved);
        endpoint.resolve_again(now + RESOLVE_AT_MOST);
        assert!(endpoint.take_question().is_some());
        assert_eq!(endpoint.resolved(now, &[], true), Resolved::Unchanged);
        assert_eq!(endpoint.current(), Some(address("192.0.2.1:1")));
    }

    #[test]
    fn a_new_answer_moves_a_struggling_peer_only() {
        let (mut endpoint, now) = (named(), Instant::now());
        let (old, new) = (address("192.0.2.1:1"), address("192.0.2.2:1"));
        endpoint.resolved(now, &[old], false);
        assert_eq!(endpoint.resolved(now, &[new], false), Resolved::Unchanged);
        assert_eq!(endpoint.current(), Some(old));
        assert_eq!(endpoint.resolved(now, &[new], true), Resolved::Moved);
        assert_eq!(endpoint.current(), Some(new));
    }

    #[test]
    fn candidates_take_turns_and_a_learnt_address_gives_way_to_them() {
        let (mut endpoint, now) = (named(), Instant::now());
        let (v6, v4) = (address("[2001:db8::1]:1"), address("192.0.2.1:1"));
        endpoint.resolved(now, &[v6, v4], false);
        assert!(endpoint.rotate());
        assert_eq!(endpoint.current(), Some(v4));
        assert!(endpoint.rotate());
        assert_eq!(endpoint.current(), Some(v6));
        endpoint.learn(address("198.51.100.9:7"));
        endpoint.forget_roaming();
        assert_eq!(endpoint.current(), Some(v6));
        let mut single = Endpoint::new(Some(HostPort { host: "192.0.2.1".to_owned(), port: 1 }));
        assert!(!single.rotate());
    }
}
