//! What this machine knows of its own networks.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use adit_tunnel::Prefix;

/// The networks that this machine is attached to, without loopback and link-local ones. What cannot be read is
/// not known: then there are none.
pub(crate) fn networks() -> Vec<Prefix> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mut networks = parse_routes(&read("/proc/net/route"));
    networks.extend(parse_addresses(&read("/proc/net/if_inet6")));
    networks.sort();
    networks.dedup();
    networks
}

/// The name servers that this machine asks, resolv.conf(5).
pub(crate) fn resolvers() -> Vec<Prefix> {
    parse_resolvers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn parse_resolvers(text: &str) -> Vec<Prefix> {
    let server = |line: &str| {
        let address = line.trim().strip_prefix("nameserver")?.split_whitespace().next()?;
        address.split('%').next()?.parse().ok().map(Prefix::host)
    };
    text.lines().filter_map(server).collect()
}

/// The addresses of this machine, without loopback and link-local ones. Where the kernel's tables cannot be read, those
/// that packets to the outside would have.
pub(crate) fn addresses() -> Vec<IpAddr> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mut addresses = parse_local(&read("/proc/net/fib_trie"));
    if addresses.is_empty() {
        // Connecting a UDP socket chooses the source address and sends nothing.
        let chosen = |own: &str, outside: &str| {
            let socket = UdpSocket::bind((own, 0)).ok()?;
            socket.connect((outside, 9)).ok()?;
            socket.local_addr().ok().map(|address| address.ip())
        };
        addresses.extend(chosen("0.0.0.0", "192.0.2.1").filter(|ip| !ip.is_loopback()));
    }
    addresses.extend(parse_addresses_alone(&read("/proc/net/if_inet6")));
    addresses.sort();
    addresses.dedup();
    addresses
}

/// The addresses of this machine in the kernel's IPv4 trie, proc(5) `/proc/net/fib_trie`: `/32 host LOCAL` below them.
fn parse_local(trie: &str) -> Vec<IpAddr> {
    let mut last = None;
    let mut found = Vec::new();
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(last.filter(|ip| !ip.is_loopback() && !ip.is_link_local()).map(IpAddr::V4));
        }
    }
    found
}

/// Whether this network namespace has an interface of that name.
#[cfg(feature = "cli")]
pub(crate) fn has_interface(name: &str) -> bool {
    let interfaces = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let mut names = interfaces.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
    names.any(|interface| interface == name)
}

/// The on-link networks in an IPv4 route table, proc(5) `/proc/net/route`: those without gateway.
fn parse_routes(table: &str) -> Vec<Prefix> {
    let address = |hex: &str| Some(Ipv4Addr::from(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes()));
    let network = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let (to, gateway, mask) =
            (address(columns.get(1)?)?, address(columns.get(2)?)?, address(columns.get(7)?)?);
        let length = u8::try_from(mask.to_bits().leading_ones()).ok()?;
        let attached = gateway.is_unspecified() && length > 0 && !to.is_loopback() && !to.is_link_local();
        attached.then(|| Prefix::new(IpAddr::V4(to), length)).flatten()
    };
    table.lines().skip(1).filter_map(network).collect()
}

/// The IPv6 addresses in `/proc/net/if_inet6` without loopback and link-local ones.
fn parse_addresses_alone(table: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let digits = line.split_whitespace().next()?;
        let address = Ipv6Addr::from_bits(u128::from_str_radix(digits, 16).ok()?);
        (!address.is_loopback() && !address.is_unicast_link_local()).then_some(IpAddr::V6(address))
    };
    table.lines().filter_map(address).collect()
}

/// The networks of the IPv6 addresses in `/proc/net/if_inet6`: address, index, prefix length, scope, flags, name.
fn parse_addresses(table: &str) -> Vec<Prefix> {
    let network = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let address = Ipv6Addr::from_bits(u128::from_str_radix(columns.first()?, 16).ok()?);
        let length = u8::from_str_radix(columns.get(2)?, 16).ok()?;
        let attached = !address.is_loopback() && !address.is_unicast_link_local();
        attached.then(|| Prefix::new(IpAddr::V6(address), length)).flatten().map(|prefix| prefix.network())
    };
    table.lines().filter_map(network).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attached_networks_are_read_from_the_kernels_tables() {
        let routes = format!(
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
             eth0\t00000000\t{0}\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             eth0\t{1}\t00000000\t0001\t0\t0\t0\t{2}\t0\t0\t0\n\
             eth0\t{1}\t{0}\t0003\t0\t0\t0\t{2}\t0\t0\t0\n\
             garbage\n",
            hex([172, 17, 0, 1]),
            hex([172, 17, 0, 0]),
            hex([255, 255, 0, 0]),
        );
        assert_eq!(parse_routes(&routes), ["172.17.0.0/16".parse().unwrap()]);
        let addresses = "00000000000000000000000000000001 01 80 10 80       lo\n\
             fe80000000000000000000000000000a 02 40 20 80     eth0\n\
             fd00001700000000000000000000000a 02 40 00 80     eth0\nx\n";
        assert_eq!(parse_addresses(addresses), ["fd00:17::/64".parse().unwrap()]);
        assert_eq!(parse_addresses_alone(addresses), ["fd00:17::a".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn own_addresses_are_read_from_the_kernels_trie_once_a_table() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
             +-- 172.17.0.0/16 2 0 2\n        |-- 172.17.0.0\n           /16 link UNICAST\n\
             |-- 172.17.0.2\n           /32 host LOCAL\n        |-- 127.0.0.1\n           /32 host LOCAL\n";
        assert_eq!(parse_local(trie), [IpAddr::from([172, 17, 0, 2])]);
    }

    fn hex(address: [u8; 4]) -> String {
        format!("{:08X}", u32::from_ne_bytes(address))
    }

    #[cfg(feature = "cli")]
    #[test]
    fn interfaces_are_known_by_their_whole_name() {
        assert!(has_interface("lo"));
        assert!(!has_interface("l") && !has_interface("Inter-|   Receive"));
    }

    #[test]
    fn the_name_servers_of_this_machine_are_read() {
        let text =
            "# nameserver 192.0.2.9\nnameserver 192.0.2.1\nnameserver\tfe80::1%eth0\nsearch corp.example\n";
        let servers: Vec<Prefix> = ["192.0.2.1/32", "fe80::1/128"].map(|text| text.parse().unwrap()).into();
        assert_eq!(parse_resolvers(text), servers);
    }

    #[test]
    fn the_tables_of_this_machine_can_be_read() {
        assert!(networks().iter().all(|network| !network.address().is_loopback()));
    }
}
