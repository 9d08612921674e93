//! Exposing every server of this machine: whatever listens, now or later, except what belongs to adit.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use adit_path::Network;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use super::expose::{Expose, ExposeSpec};
use super::listen::{FrontError, OwnPorts, Protocol, owner, primary_address};

/// How often the machine's servers are looked up.
const ROUND: Duration = Duration::from_secs(1);
/// The name of our own processes, whose proxies and forwards are never published.
const OURSELVES: &str = "adit";

/// What to expose, as it is written: `PORT[/udp]`, or `all` for every TCP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExposeRule {
    /// Every TCP server of this machine.
    All,
    /// One port.
    Port(ExposeSpec),
}

impl FromStr for ExposeRule {
    type Err = FrontError;

    fn from_str(text: &str) -> Result<Self, FrontError> {
        if text == "all" { Ok(Self::All) } else { text.parse().map(Self::Port) }
    }
}

impl fmt::Display for ExposeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Port(spec) => spec.fmt(f),
        }
    }
}

/// Exposes the TCP servers of this machine as they come and go, until the network or the future ends.
pub async fn expose_all(network: Arc<dyn Network>, own: OwnPorts) {
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut exposed: BTreeMap<u16, Option<AbortHandle>> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        rounds.tick().await;
        while tasks.try_join_next().is_some() {}
        let mut ports = servers();
        ports.retain(|port| !own.contains(Protocol::Tcp, *port));
        exposed.retain(|port, task| {
            let stays = ports.contains(port);
            if let Some(task) = task.as_ref().filter(|_| !stays) {
                task.abort();
            }
            stays
        });
        for port in ports {
            if exposed.contains_key(&port) {
                continue;
            }
            // Looked at once, when the server appears: it means a walk through all processes.
            let ours = owner(Protocol::Tcp, port).is_some_and(|owner| owner.name == OURSELVES);
            let task = if ours { None } else { expose(&*network, port, &own, &mut tasks).await };
            exposed.insert(port, task);
        }
    }
}

async fn expose(
    network: &dyn Network,
    port: u16,
    own: &OwnPorts,
    tasks: &mut JoinSet<()>,
) -> Option<AbortHandle> {
    match Expose::bind(network, ExposeSpec { port, protocol: Protocol::Tcp }, own.clone()).await {
        Ok(expose) => Some(tasks.spawn(expose.run())),
        Err(error) => {
            tracing::warn!(port, %error, "a server of this machine is not exposed");
            None
        }
    }
}

/// The ports on which TCP servers of this machine listen where peers would be led to.
fn servers() -> BTreeSet<u16> {
    let primary = primary_address();
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    tables
        .iter()
        .flat_map(|table| listeners(table))
        .filter(|(ip, _)| is_reached(*ip, primary))
        .map(|(_, port)| port)
        .collect()
}

/// Only these addresses are dialled for a peer. Others in 127.0.0.0/8 are where interception meets programs.
fn is_reached(address: IpAddr, primary: Option<IpAddr>) -> bool {
    let address = address.to_canonical();
    address.is_unspecified()
        || address == IpAddr::V4(Ipv4Addr::LOCALHOST)
        || address == IpAddr::V6(Ipv6Addr::LOCALHOST)
        || Some(address) == primary
}

/// The listening sockets in a table of proc_net_tcp(5).
fn listeners(table: &str) -> impl Iterator<Item = (IpAddr, u16)> {
    table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (address, port) = columns.next()?.rsplit_once(':')?;
        let listens = columns.nth(1)? == "0A";
        let port = u16::from_str_radix(port, 16).ok()?;
        listens.then(|| Some((parse_address(address)?, port)))?
    })
}

/// An address as the kernel prints it: 32-bit words in the machine's own byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index * 8)?);
            }
            Some(IpAddr::from(bytes))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn servers_are_found_where_peers_are_led_to() {
        let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
        let loopback = TcpListener::bind("[::1]:0").ok();
        let aside = TcpListener::bind("127.65.0.1:0").unwrap();
        let port = |server: &TcpListener| server.local_addr().unwrap().port();
        let found = servers();
        assert!(
            found.contains(&port(&everywhere)) && loopback.iter().all(|server| found.contains(&port(server)))
        );
        assert!(!found.contains(&port(&aside)), "where exec meets programs is nobody's server");
    }

    #[test]
    fn addresses_are_read_as_the_kernel_prints_them() {
        let v4 = format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
        assert_eq!(parse_address(&v4), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let v6 = format!("{:08X}{:08X}{:08X}{:08X}", 0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1]));
        assert_eq!(parse_address(&v6), Some(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert_eq!(
            (parse_address(""), parse_address("0100007"), parse_address("XY00007F")),
            (None, None, None)
        );
        assert_eq!(listeners("head\n x\n 0: 0:0 0:0 0A\n").count(), 0);
    }

    #[test]
    fn everything_is_a_rule_beside_ports() {
        assert_eq!("all".parse::<ExposeRule>().unwrap().to_string(), "all");
        assert_eq!("53/udp".parse::<ExposeRule>().unwrap().to_string(), "53/udp");
        assert!("every".parse::<ExposeRule>().is_err());
    }
}
