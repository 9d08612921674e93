//! What no server may take, whatever it pushes.

use std::fmt;
use std::net::IpAddr;

use adit_tunnel::Prefix;

/// Why a destination is not the server's to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// Addresses of the machine itself.
    Loopback,
    /// The service that hands out a cloud machine's credentials.
    Metadata,
    /// Addresses of the link, which is not ours inside the tunnel.
    LinkLocal,
    /// Groups, which no route of a tunnel reaches.
    Multicast,
    /// Broadcasts, and addresses that are no destinations.
    Reserved,
    /// A prefix that the caller protects, and the server's own address.
    Protected(Prefix),
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback addresses are this machine's"),
            Self::Metadata => f.write_str("the cloud's metadata service is this machine's"),
            Self::LinkLocal => f.write_str("link-local addresses do not pass a tunnel"),
            Self::Multicast => f.write_str("multicast does not pass the tunnel"),
            Self::Reserved => f.write_str("the addresses are no destinations"),
            Self::Protected(prefix) => write!(f, "{prefix} stays outside of the tunnel"),
        }
    }
}

/// Judges destinations.
#[derive(Clone, Debug, Default)]
pub(super) struct Guard {
    protected: Vec<Prefix>,
}

/// What becomes of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is taken.
    Taken,
    /// It is taken, up to these parts.
    Carved(Vec<Prefix>),
    /// It is not.
    Refused(Ground),
}

/// RFC 6890 and the like: what each holds.
const GROUNDS: [(&str, Ground); 10] = [
    ("127.0.0.0/8", Ground::Loopback),
    ("::1/128", Ground::Loopback),
    ("169.254.169.254/32", Ground::Metadata),
    // Amazon's metadata service over IPv6.
    ("fd00:ec2::254/128", Ground::Metadata),
    ("169.254.0.0/16", Ground::LinkLocal),
    ("fe80::/10", Ground::LinkLocal),
    ("224.0.0.0/4", Ground::Multicast),
    ("ff00::/8", Ground::Multicast),
    ("255.255.255.255/32", Ground::Reserved),
    // IPv4 addresses in IPv6's clothes would pass by every rule for IPv4.
    ("::ffff:0:0/96", Ground::Reserved),
];

impl Guard {
    pub(super) fn new(protected: &[Prefix]) -> Self {
        Self { protected: protected.iter().map(Prefix::network).collect() }
    }

    pub(super) fn protect(&mut self, prefix: Prefix) {
        if !self.protected.contains(&prefix.network()) {
            self.protected.push(prefix.network());
        }
    }

    /// What stays outside under the widest of routes. Loopback and multicast need no mention, a kernel's own rules for
    /// them come first; the metadata service is an address like any other there.
    pub(super) fn holes(&self) -> impl Iterator<Item = Prefix> {
        let fixed = ["169.254.0.0/16", "fd00:ec2::254/128"].iter().filter_map(|text| text.parse().ok());
        self.protected.iter().copied().chain(fixed)
    }

    /// Judges an address that is to be used as such: a server of DNS, or one of our own.
    pub(super) fn address(&self, address: IpAddr) -> Result<(), Ground> {
        if address.is_unspecified() {
            return Err(Ground::Reserved);
        }
        match self.route(Prefix::host(address)) {
            Fate::Refused(ground) => Err(ground),
            Fate::Taken | Fate::Carved(_) => Ok(()),
        }
    }

    /// Judges a route: what lies inside something that is not the server's is refused; around it, it is carved out.
    pub(super) fn route(&self, route: Prefix) -> Fate {
        let inside = |outer: &Prefix| outer.length() <= route.length() && outer.contains(route.address());
        let fixed = GROUNDS.iter().find(|(text, _)| text.parse().is_ok_and(|prefix| inside(&prefix)));
        if let Some((_, ground)) = fixed {
            return Fate::Refused(*ground);
        }
        if let Some(prefix) = self.protected.iter().find(|prefix| inside(prefix)) {
            return Fate::Refused(Ground::Protected(*prefix));
        }
        let within = |inner: &&Prefix| inner.length() > route.length() && route.contains(inner.address());
        let carved: Vec<Prefix> = self.protected.iter().filter(within).copied().collect();
        if carved.is_empty() { Fate::Taken } else { Fate::Carved(carved) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        let mut guard = Guard::new(&["172.17.0.2/16".parse().unwrap(), "10.0.0.2/32".parse().unwrap()]);
        guard.protect("192.0.2.1/32".parse().unwrap());
        guard
    }

    #[test]
    fn what_is_this_machines_is_refused() {
        for (route, ground) in [
            ("127.0.0.0/8", Ground::Loopback),
            ("127.0.0.53/32", Ground::Loopback),
            ("::1/128", Ground::Loopback),
            ("169.254.169.254/32", Ground::Metadata),
            ("169.254.0.0/16", Ground::LinkLocal),
            ("169.254.1.0/24", Ground::LinkLocal),
            ("fe80::/64", Ground::LinkLocal),
            ("224.0.0.0/24", Ground::Multicast),
            ("ff02::/16", Ground::Multicast),
            ("255.255.255.255/32", Ground::Reserved),
            ("::ffff:10.0.0.0/104", Ground::Reserved),
            ("172.17.0.0/16", Ground::Protected("172.17.0.0/16".parse().unwrap())),
            ("172.17.9.0/24", Ground::Protected("172.17.0.0/16".parse().unwrap())),
            ("10.0.0.2/32", Ground::Protected("10.0.0.2/32".parse().unwrap())),
            ("192.0.2.1/32", Ground::Protected("192.0.2.1/32".parse().unwrap())),
        ] {
            assert_eq!(guard().route(route.parse().unwrap()), Fate::Refused(ground), "{route}");
        }
        for address in ["127.0.0.1", "0.0.0.0", "::", "224.0.0.251", "172.17.0.1", "192.0.2.1", "fe80::1"] {
            assert!(guard().address(address.parse().unwrap()).is_err(), "{address}");
        }
    }

    #[test]
    fn wider_routes_are_carved_and_others_taken() {
        let carved = |route: &str| guard().route(route.parse().unwrap());
        assert_eq!(carved("10.0.0.0/8"), Fate::Carved(vec!["10.0.0.2/32".parse().unwrap()]));
        assert!(matches!(carved("0.0.0.0/0"), Fate::Carved(parts) if parts.len() == 3));
        for route in ["10.8.0.0/24", "192.168.0.0/16", "fd00::/8", "::/0", "2000::/3"] {
            assert_eq!(carved(route), Fate::Taken, "{route}");
        }
        assert_eq!(guard().address("10.0.0.53".parse().unwrap()), Ok(()));
    }
}
