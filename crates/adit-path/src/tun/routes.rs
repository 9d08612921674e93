//! The routes that lead into the device, and those that guard them.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use adit_tunnel::Prefix;

use super::netlink::{Kind, Netlink, Route};
use super::{TunError, file_error, network_error, resolv};

/// Guard routes count only when nothing else leads to the prefix.
const GUARD_METRIC: u32 = 4_000_000;
const STATE: &str = "tun.routes";

/// What was changed in the main table and must be changed back.
#[derive(Debug)]
pub(crate) struct Routes {
    netlink: Netlink,
    state: PathBuf,
    device: u32,
    prefixes: Vec<Prefix>,
    /// Private prefixes of a family in which we have no address: nothing leads there, and nothing past the device.
    closed: Vec<Prefix>,
    /// Routes that outlive the device if this process is killed.
    lasting: Vec<Route>,
    /// Endpoints that must not be reached through the tunnel.
    endpoints: Vec<IpAddr>,
}

impl Routes {
    /// Adds guards. Device routes follow with [`lead`](Self::lead), so that there is no moment in which a packet for
    /// the private network finds another way.
    pub(crate) fn guard(
        netlink: Netlink,
        state: &Path,
        device: u32,
        prefixes: Vec<Prefix>,
        closed: Vec<Prefix>,
    ) -> Result<Self, TunError> {
        let mut this = Self {
            netlink,
            state: state.join(STATE),
            device,
            prefixes: halves(prefixes),
            closed: halves(closed),
            lasting: Vec::new(),
            endpoints: Vec::new(),
        };
        for prefix in this.prefixes.clone() {
            this.add_lasting(barrier(prefix))?;
        }
        for prefix in this.closed.clone() {
            // A machine without IPv6 has no way past the device either.
            if let Err(error) = this.add_lasting(barrier(prefix)) {
                tracing::debug!(%prefix, %error, "no guard");
            }
        }
        Ok(this)
    }

    /// Leads the prefixes into the device.
    pub(crate) fn lead(&mut self) -> Result<(), TunError> {
        for prefix in &self.prefixes {
            let route = Route {
                destination: *prefix,
                kind: Kind::Unicast,
                gateway: None,
                interface: Some(self.device),
                metric: 0,
            };
            let what = format!("a route to {prefix} cannot be added");
            self.netlink.add(&route).map_err(network_error(&what))?;
        }
        Ok(())
    }

    /// Keeps the way to an endpoint outside of the tunnel, if a prefix covers it.
    pub(crate) fn protect(&mut self, endpoint: IpAddr) -> Result<(), TunError> {
        let endpoint = endpoint.to_canonical();
        let covered = self.prefixes.iter().chain(&self.closed).any(|prefix| prefix.contains(endpoint));
        if endpoint.is_loopback() || !covered || self.endpoints.contains(&endpoint) {
            return Ok(());
        }
        let routes = self.netlink.routes().map_err(network_error("the routes cannot be read"))?;
        let Some(way) = way_outside(&routes, endpoint, self.device) else { return Ok(()) };
        self.endpoints.push(endpoint);
        self.add_lasting(Route { destination: Prefix::host(endpoint), metric: 0, ..way })
    }

    /// The machine's network changed: the ways to the endpoints may be others.
    pub(crate) fn network_changed(&mut self) -> Result<(), TunError> {
        let routes = self.netlink.routes().map_err(network_error("the routes cannot be read"))?;
        for endpoint in self.endpoints.clone() {
            let host = Prefix::host(endpoint);
            let others: Vec<Route> =
                routes.iter().filter(|route| route.destination != host).copied().collect();
            let Some(way) = way_outside(&others, endpoint, self.device) else { continue };
            let route = Route { destination: host, metric: 0, ..way };
            if !routes.contains(&route) {
                self.lasting.retain(|lasting| lasting.destination != host);
                self.add_lasting(route)?;
            }
        }
        Ok(())
    }

    /// Removes everything that outlives the device.
    pub(crate) fn clear(&mut self) -> Result<(), TunError> {
        for route in std::mem::take(&mut self.lasting) {
            let what = format!("the route to {} cannot be removed", route.destination);
            self.netlink.remove(&route).map_err(network_error(&what))?;
        }
        resolv::remove(&self.state).map_err(|error| file_error(&self.state, error))
    }

    /// Writes down what is about to be added, then adds it: whatever happens in between can be repaired.
    fn add_lasting(&mut self, route: Route) -> Result<(), TunError> {
        self.lasting.push(route);
        let text: String = self.lasting.iter().map(write_route).collect();
        resolv::private(&self.state, text.as_bytes()).map_err(|error| file_error(&self.state, error))?;
        let what = format!("a route to {} cannot be added", route.destination);
        self.netlink.add(&route).map_err(network_error(&what))
    }
}

/// Removes the routes that a killed run has left.
pub(crate) fn repair(state: &Path) -> Result<bool, TunError> {
    let path = state.join(STATE);
    let Ok(text) = fs::read_to_string(&path) else { return Ok(false) };
    let mut netlink = Netlink::open().map_err(network_error("the routes cannot be changed"))?;
    for route in text.lines().filter_map(read_route) {
        let what = format!("the route to {} cannot be removed", route.destination);
        netlink.remove(&route).map_err(network_error(&what))?;
    }
    resolv::remove(&path).map_err(|error| file_error(&path, error))?;
    Ok(true)
}

/// What a packet for the prefix meets where no device route is.
fn barrier(destination: Prefix) -> Route {
    Route { destination, kind: Kind::Unreachable, gateway: None, interface: None, metric: GUARD_METRIC }
}

/// A default route becomes two halves, which are more specific than the machine's own and leave it in place.
fn halves(prefixes: Vec<Prefix>) -> Vec<Prefix> {
    let mut found = Vec::new();
    for prefix in prefixes {
        if prefix.is_default() {
            let text =
                if prefix.address().is_ipv4() { ["0.0.0.0/1", "128.0.0.0/1"] } else { ["::/1", "8000::/1"] };
            found.extend(text.iter().filter_map(|half| half.parse::<Prefix>().ok()));
        } else {
            found.push(prefix.network());
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// How an address is reached without the device: by the longest prefix, then the smallest metric.
fn way_outside(routes: &[Route], to: IpAddr, device: u32) -> Option<Route> {
    routes
        .iter()
        .filter(|route| route.kind == Kind::Unicast && route.interface != Some(device))
        .filter(|route| route.destination.contains(to))
        .max_by_key(|route| (route.destination.length(), std::cmp::Reverse(route.metric)))
        .copied()
}

fn write_route(route: &Route) -> String {
    let kind = match route.kind {
        Kind::Unicast => "unicast",
        Kind::Unreachable => "unreachable",
    };
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let gateway = or_none(route.gateway.map(|gateway| gateway.to_string()));
    let interface = or_none(route.interface.map(|interface| interface.to_string()));
    format!("{} {kind} {gateway} {interface} {}\n", route.destination, route.metric)
}

fn read_route(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split(' ').collect();
    let &[destination, kind, gateway, interface, metric] = fields.as_slice() else { return None };
    let kind = match kind {
        "unicast" => Kind::Unicast,
        "unreachable" => Kind::Unreachable,
        _ => return None,
    };
    Some(Route {
        destination: destination.parse().ok()?,
        kind,
        gateway: if gateway == "-" { None } else { Some(gateway.parse().ok()?) },
        interface: if interface == "-" { None } else { Some(interface.parse().ok()?) },
        metric: metric.parse().ok()?,
    })
}

/// Refuses prefixes that would cut the machine off from its own networks or its own resolver. A default route is none:
/// the networks of the machine are more specific.
pub(crate) fn check(
    prefixes: &[Prefix],
    networks: &[(Prefix, String)],
    servers: &[IpAddr],
) -> Result<(), TunError> {
    for prefix in prefixes.iter().filter(|prefix| !prefix.is_default()) {
        if let Some(network) = link_local().find(|network| network.overlaps(prefix)) {
            return Err(TunError::LinkLocal { prefix: *prefix, network });
        }
        if let Some((network, interface)) = networks.iter().find(|(network, _)| network.overlaps(prefix)) {
            return Err(TunError::Overlap {
                prefix: *prefix,
                network: network.network(),
                interface: interface.clone(),
            });
        }
        if let Some(server) = servers.iter().find(|server| prefix.contains(**server)) {
            return Err(TunError::Server { prefix: *prefix, server: *server });
        }
    }
    Ok(())
}

/// The addresses of the link itself (RFC 3927, RFC 4291 §2.5.6). Clouds keep their metadata services there.
fn link_local() -> impl Iterator<Item = Prefix> {
    ["169.254.0.0/16", "fe80::/10"].iter().filter_map(|network| network.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(text: &[&str]) -> Vec<Prefix> {
        text.iter().map(|prefix| prefix.parse().unwrap()).collect()
    }

    fn route(destination: &str, gateway: Option<&str>, interface: u32, metric: u32) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            kind: Kind::Unicast,
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            interface: Some(interface),
            metric,
        }
    }

    #[test]
    fn a_prefix_that_overlaps_a_network_of_the_machine_is_refused() {
        let networks = [("172.17.0.2/16".parse().unwrap(), "eth0".to_owned())];
        let servers = ["192.0.2.53".parse().unwrap()];
        let check = |text: &[&str]| check(&prefixes(text), &networks, &servers);
        check(&["10.8.0.0/16", "0.0.0.0/0", "::/0"]).unwrap();
        for link_local in ["169.254.169.254/32", "168.0.0.0/6", "fe80::/64"] {
            let error = check(&[link_local]).unwrap_err();
            assert!(matches!(error, TunError::LinkLocal { .. }), "{error}");
        }
        for clash in ["172.16.0.0/12", "172.17.3.0/24", "172.17.0.0/16"] {
            let error = check(&["10.8.0.0/16", clash]).unwrap_err();
            let expected =
                format!("{clash}, which the tunnel routes, overlaps 172.17.0.0/16 of the interface eth0");
            assert_eq!(error.to_string(), expected);
        }
        let error = check(&["192.0.2.0/24"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "192.0.2.0/24, which the tunnel routes, covers this machine's DNS server 192.0.2.53"
        );
    }

    #[test]
    fn the_way_outside_is_the_most_specific_one_that_is_not_the_device() {
        let routes = [
            route("0.0.0.0/0", Some("192.0.2.1"), 2, 100),
            route("0.0.0.0/0", Some("192.0.2.2"), 3, 50),
            route("0.0.0.0/1", None, 9, 0),
            route("10.1.0.0/16", None, 4, 0),
        ];
        let way = |to: &str| way_outside(&routes, to.parse().unwrap(), 9).and_then(|route| route.interface);
        assert_eq!(way("10.1.2.3"), Some(4));
        assert_eq!(way("10.2.2.3"), Some(3));
        assert_eq!(way("fd00::1"), None);
    }

    #[test]
    fn a_default_route_is_two_halves() {
        let expected = prefixes(&["0.0.0.0/1", "10.0.0.0/8", "128.0.0.0/1", "::/1", "8000::/1"]);
        assert_eq!(halves(prefixes(&["0.0.0.0/0", "10.1.1.1/8", "::/0", "10.0.0.0/8"])), expected);
    }

    #[test]
    fn written_routes_are_read_again() {
        for route in [
            route("192.0.2.7/32", Some("192.0.2.1"), 2, 0),
            Route { kind: Kind::Unreachable, interface: None, ..route("fd00::/8", None, 0, GUARD_METRIC) },
        ] {
            assert_eq!(read_route(write_route(&route).trim_end()), Some(route));
        }
        assert_eq!(read_route("10.0.0.0/8 unicast - -"), None);
    }
}
