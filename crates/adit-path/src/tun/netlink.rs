//! Routes and addresses of the machine, by rtnetlink(7).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use adit_tunnel::Prefix;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, netdevice, recv, send, socket_with,
};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RT_TABLE_MAIN: u32 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const HEADER: usize = 16;
/// A dump of this many messages is cut: whoever has more routes than this has no use for their check.
const MAX_MESSAGES: usize = 100_000;

/// What a route does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Sends them on.
    Unicast,
    /// Refuses them with "host unreachable".
    Unreachable,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) destination: Prefix,
    pub(crate) kind: Kind,
    pub(crate) gateway: Option<IpAddr>,
    /// The index of the interface.
    pub(crate) interface: Option<u32>,
    pub(crate) metric: u32,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) interface: u32,
    /// The address itself with the length of its network.
    pub(crate) prefix: Prefix,
}

/// A connection to the kernel's routing.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        // Protocol 0 of the family is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The name of an interface; its number where it has none any more.
    pub(crate) fn name(&self, interface: u32) -> String {
        netdevice::index_to_name(&self.socket, interface).unwrap_or_else(|_| format!("interface {interface}"))
    }

    pub(crate) fn index(&self, name: &str) -> io::Result<u32> {
        Ok(netdevice::name_to_index(&self.socket, name)?)
    }

    /// The interfaces that loop back.
    pub(crate) fn loopbacks(&mut self) -> io::Result<Vec<u32>> {
        const IFF_LOOPBACK: u32 = 0x8;
        let mut found = Vec::new();
        self.dump(RTM_GETLINK, RTM_NEWLINK, &[0; 16], |body| {
            // struct ifinfomsg: family, pad, type, index, flags, change.
            let index = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
            let flags = u32::from_ne_bytes(*body.get(8..)?.first_chunk()?);
            (flags & IFF_LOOPBACK != 0).then(|| found.push(index))
        })?;
        Ok(found)
    }

    /// The addresses of all interfaces.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let mut found = Vec::new();
        self.dump(RTM_GETADDR, RTM_NEWADDR, &[0; 8], |body| {
            // struct ifaddrmsg: family, prefix length, flags, scope, index.
            let (&length, &family) = (body.get(1)?, body.first()?);
            let interface = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
            let attributes = || attributes(body.get(8..).unwrap_or_default());
            let value = |kind| attributes().find(|(k, _)| *k == kind).and_then(|(_, v)| address(family, v));
            // On a point-to-point link the address is the far end's; the local one is apart.
            let local = value(IFA_LOCAL).or_else(|| value(IFA_ADDRESS))?;
            found.push(Address { interface, prefix: Prefix::new(local, length)? });
            Some(())
        })?;
        Ok(found)
    }

    /// The unicast and unreachable routes of the main table.
    pub(crate) fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut request = [0; 12];
            request[0] = family;
            let result = self.dump(RTM_GETROUTE, RTM_NEWROUTE, &request, |body| {
                found.extend(parse_route(body));
                Some(())
            });
            match result {
                // A machine without IPv6 has no routes of it.
                Err(error) if family == AF_INET6 && error.kind() != io::ErrorKind::PermissionDenied => {}
                other => other?,
            }
        }
        Ok(found)
    }

    /// Adds a route, or replaces the one with the same destination and metric.
    pub(crate) fn add(&mut self, route: &Route) -> io::Result<()> {
        self.change(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route)
    }

    /// Removes a route; one that is gone already is no error.
    pub(crate) fn remove(&mut self, route: &Route) -> io::Result<()> {
        match self.change(RTM_DELROUTE, 0, route) {
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(()),
            other => other,
        }
    }

    /// Gives an interface an address.
    pub(crate) fn add_address(&mut self, interface: u32, prefix: &Prefix) -> io::Result<()> {
        /// No duplicate address detection: nobody else is on the link.
        const IFA_F_NODAD: u8 = 0x2;
        let (family, octets) = octets(prefix.address());
        let flags = if family == AF_INET6 { IFA_F_NODAD } else { 0 };
        // struct ifaddrmsg: family, prefix length, flags, scope, index.
        let mut message = vec![family, prefix.length(), flags, RT_SCOPE_UNIVERSE];
        message.extend_from_slice(&interface.to_ne_bytes());
        attribute(&mut message, IFA_LOCAL, &octets);
        attribute(&mut message, IFA_ADDRESS, &octets);
        self.request(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &message)?;
        self.answers(|_, _| Some(()))
    }

    fn change(&mut self, kind: u16, flags: u16, route: &Route) -> io::Result<()> {
        self.request(kind, NLM_F_ACK | flags, &route_message(route))?;
        self.answers(|_, _| Some(()))
    }

    fn dump(
        &mut self,
        kind: u16,
        expected: u16,
        body: &[u8],
        mut take: impl FnMut(&[u8]) -> Option<()>,
    ) -> io::Result<()> {
        self.request(kind, NLM_F_DUMP, body)?;
        self.answers(|kind, body| if kind == expected { take(body) } else { None })
    }

    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(body);
        send(&self.socket, &message, SendFlags::empty())?;
        Ok(())
    }

    /// Reads the kernel's messages until the last; what `take` cannot read is passed over.
    fn answers(&mut self, mut take: impl FnMut(u16, &[u8]) -> Option<()>) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        for _ in 0..MAX_MESSAGES {
            let (len, _) = recv(&self.socket, &mut buffer, RecvFlags::empty())?;
            let mut rest = &buffer[..len];
            while let Some((kind, sequence, body, next)) = split_message(rest) {
                rest = next;
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => drop(take(kind, body)),
                }
            }
        }
        Err(io::Error::other("the kernel's list of routes does not end"))
    }
}

fn split_message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let sequence = u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
    let body = bytes.get(HEADER..len)?;
    Some((kind, sequence, body, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// The attributes (struct rtattr: length, type) of a message.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn address(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(IpAddr::V4(Ipv4Addr::from(*value.first_chunk::<4>()?))),
        AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(*value.first_chunk::<16>()?))),
        _ => None,
    }
}

/// struct rtmsg: family, destination length, source length, TOS, table, protocol, scope, type, flags.
fn parse_route(body: &[u8]) -> Option<Route> {
    let &[family, length, _, _, table, _, _, kind, ..] = body else { return None };
    let mut table = u32::from(table);
    let mut destination = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut gateway, mut interface, mut metric) = (None, None, 0);
    for (kind, value) in attributes(body.get(12..)?) {
        let number = value.first_chunk().map(|value| u32::from_ne_bytes(*value));
        match kind {
            RTA_DST => destination = address(family, value)?,
            RTA_GATEWAY => gateway = address(family, value),
            RTA_OIF => interface = number,
            RTA_PRIORITY => metric = number?,
            RTA_TABLE => table = number?,
            _ => {}
        }
    }
    let kind = match kind {
        RTN_UNICAST => Kind::Unicast,
        RTN_UNREACHABLE => Kind::Unreachable,
        _ => return None,
    };
    let destination = Prefix::new(destination, length)?;
    (table == RT_TABLE_MAIN).then_some(Route { destination, kind, gateway, interface, metric })
}

fn route_message(route: &Route) -> Vec<u8> {
    let network = route.destination.network();
    let (family, octets) = octets(network.address());
    let (kind, scope) = match route.kind {
        Kind::Unicast if route.gateway.is_none() && family == AF_INET => (RTN_UNICAST, RT_SCOPE_LINK),
        Kind::Unicast => (RTN_UNICAST, RT_SCOPE_UNIVERSE),
        Kind::Unreachable => (RTN_UNREACHABLE, RT_SCOPE_UNIVERSE),
    };
    let table = RT_TABLE_MAIN as u8;
    let mut message = vec![family, network.length(), 0, 0, table, RTPROT_STATIC, scope, kind, 0, 0, 0, 0];
    if network.length() > 0 {
        attribute(&mut message, RTA_DST, &octets);
    }
    if let Some(gateway) = route.gateway {
        attribute(&mut message, RTA_GATEWAY, &self::octets(gateway).1);
    }
    if let Some(interface) = route.interface {
        attribute(&mut message, RTA_OIF, &interface.to_ne_bytes());
    }
    if route.metric != 0 {
        attribute(&mut message, RTA_PRIORITY, &route.metric.to_ne_bytes());
    }
    message
}

/// Appends a struct rtattr. All our values are a multiple of four bytes long, which is its alignment.
fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(a) => (AF_INET, a.octets().to_vec()),
        IpAddr::V6(a) => (AF_INET6, a.octets().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_as_it_was_written() {
        for (destination, gateway) in [
            ("10.8.0.0/16", Some("192.0.2.1")),
            ("0.0.0.0/0", None),
            ("fd00:8::/32", None),
            ("::/0", Some("fe80::1")),
        ] {
            for kind in [Kind::Unicast, Kind::Unreachable] {
                let route = Route {
                    destination: destination.parse().unwrap(),
                    kind,
                    gateway: gateway.map(|gateway| gateway.parse().unwrap()),
                    interface: Some(7),
                    metric: 4_000_000,
                };
                assert_eq!(parse_route(&route_message(&route)), Some(route));
            }
        }
    }

    #[test]
    fn cut_messages_are_passed_over() {
        let route = Route {
            destination: "10.8.0.0/16".parse().unwrap(),
            kind: Kind::Unicast,
            gateway: None,
            interface: Some(7),
            metric: 1,
        };
        let message = route_message(&route);
        for len in 0..message.len() {
            assert_ne!(parse_route(&message[..len]), Some(route), "{len} bytes");
        }
        assert_eq!(split_message(&[200, 0, 0, 0, 1, 0]), None);
    }

    #[test]
    fn the_loopback_network_of_this_machine_is_listed() {
        let mut netlink = Netlink::open().unwrap();
        let loopbacks = netlink.loopbacks().unwrap();
        let addresses = netlink.addresses().unwrap();
        let expected: Prefix = "127.0.0.1/8".parse().unwrap();
        let found = addresses.iter().find(|address| address.prefix == expected);
        let found = found.expect("every machine with a network has it");
        assert!(loopbacks.contains(&found.interface));
        assert_eq!(netlink.index(&netlink.name(found.interface)).unwrap(), found.interface);
    }
}
