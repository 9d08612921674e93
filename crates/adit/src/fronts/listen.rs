//! Local listeners: loopback unless asked otherwise, and a port in use names its owner.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use adit_path::{ListenFailure, UdpFailure};
use tokio::net::{TcpListener, UdpSocket};

use super::target::TargetError;

/// Why a front was not opened.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// Somebody else listens there.
    #[error("{protocol} port {address} is in use{}", .owner.as_ref().map(|owner| format!(" by {owner}")).unwrap_or_default())]
    PortInUse {
        /// The address.
        address: SocketAddr,
        /// The protocol.
        protocol: Protocol,
        /// Who listens there, where it can be seen.
        owner: Option<Owner>,
    },
    /// The address is reachable from other machines.
    #[error("{0} is reachable from other machines, and everybody there could use the private network")]
    NotLoopback(SocketAddr),
    /// The forward is malformed.
    #[error("`{spec}` is no forward: {why}")]
    Spec {
        /// The text.
        spec: String,
        /// What is wrong with it.
        why: String,
    },
    /// A port of adit's own would be published.
    #[error(
        "port {0} belongs to adit itself, and exposing it would open the private network and this proxy to peers"
    )]
    OwnPort(u16),
    /// The network does not let the port be listened on.
    #[error("port {port} cannot be exposed: {failure}")]
    Expose {
        /// The port.
        port: u16,
        /// Why.
        failure: String,
    },
    /// The system refused.
    #[error("cannot listen on {address}: {error}")]
    Io {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
}

impl FrontError {
    /// The stable failure class.
    pub fn class(&self) -> &'static str {
        match self {
            Self::PortInUse { .. } => "env.port_in_use",
            Self::NotLoopback(_) | Self::Spec { .. } | Self::OwnPort(_) => "usage",
            Self::Expose { .. } | Self::Io { .. } => "env.listen",
        }
    }

    pub(super) fn spec(spec: &str, error: TargetError) -> Self {
        Self::Spec { spec: spec.to_owned(), why: error.to_string() }
    }

    pub(super) fn listen(port: u16, failure: &ListenFailure) -> Self {
        Self::Expose { port, failure: failure.to_string() }
    }

    pub(super) fn udp(port: u16, failure: &UdpFailure) -> Self {
        Self::Expose { port, failure: failure.to_string() }
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its number.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`).
    pub name: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// The local ports that adit itself serves: they are never exposed.
#[derive(Clone, Debug, Default)]
pub struct OwnPorts(Arc<Mutex<BTreeSet<(Protocol, u16)>>>);

impl OwnPorts {
    /// Adds a port.
    pub fn add(&self, protocol: Protocol, port: u16) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((protocol, port));
    }

    /// Whether the port is adit's own.
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&(protocol, port))
    }
}

/// Binds a TCP listener. `remote` allows addresses that other machines reach.
pub(super) async fn tcp(address: SocketAddr, remote: bool) -> Result<TcpListener, FrontError> {
    check(address, remote)?;
    TcpListener::bind(address).await.map_err(|error| failed(address, Protocol::Tcp, error))
}

/// Binds a UDP socket on loopback.
pub(super) async fn udp(address: SocketAddr) -> Result<UdpSocket, FrontError> {
    check(address, false)?;
    UdpSocket::bind(address).await.map_err(|error| failed(address, Protocol::Udp, error))
}

fn check(address: SocketAddr, remote: bool) -> Result<(), FrontError> {
    let local = address.ip().to_canonical().is_loopback();
    if local || remote { Ok(()) } else { Err(FrontError::NotLoopback(address)) }
}

fn failed(address: SocketAddr, protocol: Protocol, error: io::Error) -> FrontError {
    if error.kind() == io::ErrorKind::AddrInUse {
        return FrontError::PortInUse { address, protocol, owner: owner(protocol, address.port()) };
    }
    FrontError::Io { address, error }
}

/// Who uses a local port, as far as `/proc` shows it to this user.
pub fn owner(protocol: Protocol, port: u16) -> Option<Owner> {
    let inode = ["", "6"].iter().find_map(|family| {
        let table = fs::read_to_string(format!("/proc/net/{protocol}{family}")).ok()?;
        find_inode(&table, protocol, port)
    })?;
    let socket = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = descriptors.flatten().any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|link| link.as_os_str() == socket.as_str())
        });
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(Owner { pid, name: name.trim().to_owned() });
        }
    }
    None
}

/// The inode of the socket that uses a port, in the table of proc_net_tcp(5). Of TCP only listeners count.
fn find_inode(table: &str, protocol: Protocol, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let (_, hex) = columns.get(1)?.rsplit_once(':')?;
        let listens = protocol == Protocol::Udp || columns.get(3) == Some(&LISTEN);
        let same = u16::from_str_radix(hex, 16) == Ok(port);
        (listens && same).then(|| columns.get(9)?.parse().ok())?
    })
}

/// The address that this machine uses towards others, to reach servers that do not listen on loopback.
pub(super) fn primary_address() -> Option<IpAddr> {
    // Connecting a UDP socket chooses a route and a source address and sends nothing; the destination is one
    // of RFC 5737.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_names_its_owner() {
        let taken = tcp("127.0.0.1:0".parse().unwrap(), false).await.unwrap();
        let address = taken.local_addr().unwrap();
        match tcp(address, false).await {
            Err(FrontError::PortInUse { owner: Some(owner), .. }) => {
                assert_eq!(owner.pid, std::process::id())
            }
            other => panic!("{other:?}"),
        }
        let taken = udp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = udp(taken.local_addr().unwrap()).await.unwrap_err();
        assert_eq!(error.class(), "env.port_in_use");
        assert!(error.to_string().contains(&format!("(pid {})", std::process::id())), "{error}");
    }

    #[tokio::test]
    async fn other_machines_are_kept_out_unless_asked_for() {
        let everywhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
        assert!(matches!(tcp(everywhere, false).await, Err(FrontError::NotLoopback(_))));
        assert!(tcp(everywhere, true).await.is_ok());
    }

    #[test]
    fn only_listeners_of_the_port_are_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:041F 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 11 1\n   \
            1: 0100007F:041F 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 22 1\n";
        assert_eq!(find_inode(table, Protocol::Tcp, 1055), Some(22));
        assert_eq!(find_inode(table, Protocol::Udp, 1055), Some(11));
        assert_eq!(find_inode(table, Protocol::Tcp, 1056), None);
        assert_eq!(find_inode("garbage\n:\n", Protocol::Tcp, 1), None);
    }
}
