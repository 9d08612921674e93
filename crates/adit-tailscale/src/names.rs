//! Names of relays, resolved outside the tunnel.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_tunnel::{Event, HostPort};

use crate::Problem;
use crate::netmap::{DerpAddress, DerpNode};

/// An answer is used for this long.
const FRESH: Duration = Duration::from_secs(300);
/// Without an answer the question is asked again after this time; after "no such name" too.
const AGAIN: Duration = Duration::from_secs(5);

/// What is known of a host's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// These, in the order in which to try them; perhaps none.
    Known(Vec<IpAddr>),
    /// The question is asked.
    Pending,
}

#[derive(Debug)]
struct Entry {
    addresses: Option<Vec<IpAddr>>,
    at: Instant,
}

/// The answers so far, and the questions under way.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: BTreeMap<String, Entry>,
}

impl Names {
    /// The addresses of a host; asks for them where they are not known, or old.
    pub(crate) fn lookup(
        &mut self,
        now: Instant,
        host: &str,
        port: u16,
        events: &mut impl Extend<Event<Problem>>,
    ) -> Lookup {
        if let Ok(literal) = host.parse() {
            return Lookup::Known(vec![literal]);
        }
        let entry = self.known.get(host);
        let lives = |entry: &Entry| match &entry.addresses {
            Some(addresses) if !addresses.is_empty() => FRESH,
            _ => AGAIN,
        };
        if entry.is_none_or(|entry| now >= entry.at + lives(entry)) {
            events.extend([Event::Resolve(HostPort { host: host.to_owned(), port })]);
            // An old answer is better than none until the new one is there.
            let old = entry.and_then(|entry| entry.addresses.clone()).filter(|old| !old.is_empty());
            self.known.insert(host.to_owned(), Entry { addresses: old, at: now });
        }
        match self.known.get(host).and_then(|entry| entry.addresses.clone()) {
            Some(addresses) => Lookup::Known(addresses),
            None => Lookup::Pending,
        }
    }

    /// The addresses of a relay that can be tried.
    pub(crate) fn node(
        &mut self,
        now: Instant,
        node: &DerpNode,
        events: &mut impl Extend<Event<Problem>>,
    ) -> Lookup {
        let mut addresses = Vec::new();
        let mut wanted = (false, false);
        for (address, wanted) in [(node.v4, &mut wanted.0), (node.v6, &mut wanted.1)] {
            match address {
                DerpAddress::Fixed(address) => addresses.push(address),
                DerpAddress::Resolve => *wanted = true,
                DerpAddress::Off => {}
            }
        }
        // A map with one fixed address means that one.
        if !addresses.is_empty() || wanted == (false, false) {
            return Lookup::Known(addresses);
        }
        match self.lookup(now, &node.host, node.derp_port, events) {
            Lookup::Known(mut known) => {
                known.retain(|address| if address.is_ipv4() { wanted.0 } else { wanted.1 });
                Lookup::Known(known)
            }
            Lookup::Pending => Lookup::Pending,
        }
    }

    /// Takes an answer; returns whether anybody asked.
    pub(crate) fn resolved(&mut self, now: Instant, host: &HostPort, addresses: &[SocketAddr]) -> bool {
        let Some(entry) = self.known.get_mut(&host.host) else { return false };
        let mut unique: Vec<IpAddr> = Vec::new();
        for address in addresses {
            if !unique.contains(&address.ip()) && unique.len() < 16 {
                unique.push(address.ip());
            }
        }
        *entry = Entry { addresses: Some(unique), at: now };
        true
    }

    /// Forgets everything: the machine is in another network.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
    }
}
