//! Which server is tried next, at which address, and when.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_tunnel::HostPort;

use super::attempt::Attempt;
use crate::{Remote, Retry, Transport};

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;
/// Rounds over the list before the pause grows.
const QUICK_ROUNDS: u32 = 5;

/// Servers that are tried one after another. There is one line, or one for each transport that race each other.
#[derive(Debug)]
pub(crate) struct Line {
    /// Indices into the configuration.
    remotes: Vec<usize>,
    position: usize,
    addresses: Vec<SocketAddr>,
    address: usize,
    /// The address that is tried first, if the name still has it.
    preferred: Option<SocketAddr>,
    round: u32,
    /// Nothing in this round gave reason to try again.
    hopeless: bool,
    over: bool,
    /// A server asked for a pause until then: nothing shortens it.
    pub(crate) not_before: Instant,
    pub(crate) state: State,
}

/// What a line does.
#[derive(Debug)]
pub(crate) enum State {
    /// The next attempt begins then.
    Waiting(Instant),
    /// A name is being resolved.
    Resolving(HostPort),
    /// A server is being called.
    Trying(Box<Attempt>),
    /// Another line has reached a server, or this one has come to its end.
    Parked,
}

/// Where the next attempt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// To the same address.
    Stay,
    /// To the next address of the name, then to the next server.
    Address,
    /// To the next server.
    Remote,
}

impl Line {
    pub(crate) fn new(remotes: Vec<usize>, start: Instant) -> Self {
        Self {
            remotes,
            position: 0,
            addresses: Vec::new(),
            address: 0,
            preferred: None,
            round: 0,
            hopeless: true,
            over: false,
            not_before: start,
            state: State::Waiting(start),
        }
    }

    /// The lines of a configuration: with a head start given, one per transport, of which the second starts later.
    pub(crate) fn all(
        order: Vec<usize>,
        remotes: &[Remote],
        race: Option<Duration>,
        now: Instant,
    ) -> Vec<Self> {
        let transport = |index: &usize| remotes.get(*index).map(|remote| remote.transport);
        let first = order.first().and_then(transport);
        let (leading, other): (Vec<_>, Vec<_>) = order.iter().partition(|index| transport(index) == first);
        match race {
            Some(head_start) if !other.is_empty() => {
                vec![Self::new(leading, now), Self::new(other, now + head_start)]
            }
            _ => vec![Self::new(order, now)],
        }
    }

    /// The server that it is at.
    pub(crate) fn remote(&self) -> usize {
        self.remotes.get(self.position).copied().unwrap_or_default()
    }

    /// Whether the server is one of the line's.
    pub(crate) fn stand_at(&mut self, remote: usize) -> bool {
        match self.remotes.iter().position(|index| *index == remote) {
            Some(position) => {
                self.position = position;
                true
            }
            None => false,
        }
    }

    /// The address that is next, if the name has been resolved in this round.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.addresses.get(self.address).copied()
    }

    /// Takes the addresses of the present server's name, in the order in which they are tried.
    pub(crate) fn resolved(&mut self, addresses: impl Iterator<Item = SocketAddr>) {
        self.addresses = addresses.take(MAX_ADDRESSES).collect();
        let preferred = self.preferred.take();
        // Names often fail together with the network that took the connection.
        if self.addresses.is_empty() {
            self.addresses.extend(preferred);
        }
        self.addresses.sort_by_key(|address| Some(*address) != preferred);
        self.address = 0;
    }

    /// A connection to this address is over: its name is resolved again, since the server may have moved.
    pub(crate) fn leave(&mut self, address: SocketAddr) {
        self.addresses.clear();
        self.address = 0;
        self.preferred = Some(address);
    }

    /// Goes on after a failure; returns how long to wait, or `None` when every server was tried as often as it may.
    pub(crate) fn advance(&mut self, next: Next, hopeless: bool, retry: &Retry) -> Option<Duration> {
        self.hopeless &= hopeless;
        match next {
            Next::Stay => return Some(Duration::ZERO),
            Next::Address if self.address + 1 < self.addresses.len() => {
                self.address += 1;
                return Some(Duration::ZERO);
            }
            Next::Address | Next::Remote => {}
        }
        // Names are resolved again for every attempt.
        self.addresses.clear();
        self.address = 0;
        self.position += 1;
        if self.position < self.remotes.len() {
            return Some(Duration::ZERO);
        }
        self.position = 0;
        self.round = self.round.saturating_add(1);
        if std::mem::replace(&mut self.hopeless, true)
            || retry.rounds.is_some_and(|rounds| self.round >= rounds)
        {
            self.over = true;
            return None;
        }
        let doublings = self.round.saturating_sub(QUICK_ROUNDS).min(16);
        Some((retry.pause * (1 << doublings)).min(retry.max_pause))
    }

    /// Whether it gave way to another line and has not come to its end.
    pub(crate) fn may_go_on(&self) -> bool {
        !self.over
    }

    /// A server was reached: pauses are short again.
    pub(crate) fn reached(&mut self) {
        self.round = 0;
        self.hopeless = false;
    }
}

/// The addresses that a server may be called at.
pub(crate) fn fits(remote: &Remote, address: &SocketAddr) -> bool {
    !matches!((remote.family, address.ip()), (Some(4), IpAddr::V6(_)) | (Some(6), IpAddr::V4(_)))
}

/// A literal needs no resolver.
pub(crate) fn literal(name: &HostPort) -> Option<SocketAddr> {
    let host = name.host.trim_start_matches('[').trim_end_matches(']');
    Some(SocketAddr::new(host.parse().ok()?, name.port))
}

/// A server as messages name it.
pub(crate) fn title(remote: &Remote) -> String {
    let transport = match remote.transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    };
    format!("{} {transport}", remote.host)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Retry =
        Retry { pause: Duration::from_secs(1), max_pause: Duration::from_secs(10), rounds: None };

    fn line(remotes: usize) -> Line {
        Line::new((0..remotes).collect(), Instant::now())
    }

    #[test]
    fn addresses_come_before_servers_and_a_round_ends_with_a_pause_that_grows() {
        let mut line = line(2);
        line.resolved(["192.0.2.1:1", "192.0.2.2:1"].iter().map(|a| a.parse().unwrap()));
        assert_eq!(line.advance(Next::Address, false, &RETRY), Some(Duration::ZERO));
        assert_eq!((line.remote(), line.address()), (0, Some("192.0.2.2:1".parse().unwrap())));
        assert_eq!(line.advance(Next::Address, false, &RETRY), Some(Duration::ZERO));
        assert_eq!((line.remote(), line.address()), (1, None), "names are resolved again");
        assert_eq!(line.advance(Next::Address, false, &RETRY), Some(Duration::from_secs(1)));
        let pauses: Vec<_> = (0..18).filter_map(|_| line.advance(Next::Remote, false, &RETRY)).collect();
        let pauses: Vec<_> = pauses.iter().map(Duration::as_secs).filter(|pause| *pause > 0).collect();
        assert_eq!(pauses, [1, 1, 1, 1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn a_round_in_which_nothing_can_get_better_is_the_last() {
        let mut line = line(2);
        assert!(line.advance(Next::Address, true, &RETRY).is_some());
        assert_eq!(line.advance(Next::Address, true, &RETRY), None);
        assert!(line.advance(Next::Address, true, &RETRY).is_some());
        assert!(line.advance(Next::Address, false, &RETRY).is_some(), "one server may come back");
    }

    #[test]
    fn after_a_connection_its_address_comes_first_if_the_name_still_has_it() {
        let addresses = || ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"].iter().map(|a| a.parse().unwrap());
        let mut line = line(1);
        line.resolved(addresses());
        line.leave("192.0.2.2:1".parse().unwrap());
        assert_eq!(line.address(), None, "the name is resolved again");
        line.resolved(addresses());
        let order: Vec<_> = line.addresses.iter().map(|address| address.to_string()).collect();
        assert_eq!(order, ["192.0.2.2:1", "192.0.2.1:1", "192.0.2.3:1"]);
        line.leave("192.0.2.9:1".parse().unwrap());
        line.resolved(addresses());
        assert_eq!(line.address(), Some("192.0.2.1:1".parse().unwrap()));
        line.leave("192.0.2.9:1".parse().unwrap());
        line.resolved(std::iter::empty());
        assert_eq!(
            line.address(),
            Some("192.0.2.9:1".parse().unwrap()),
            "a name that fails is no reason to give up"
        );
        line.resolved(std::iter::empty());
        assert_eq!(line.address(), None);
    }

    #[test]
    fn rounds_are_limited_where_the_profile_says_so() {
        let mut line = line(1);
        let retry = Retry { rounds: Some(2), ..RETRY };
        assert!(line.advance(Next::Address, false, &retry).is_some());
        assert_eq!(line.advance(Next::Address, false, &retry), None);
    }
}
