//! A TUN device as packet end: addresses, routes, DNS, and the guards around them.

mod device;
mod netlink;
mod resolv;
mod routes;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use adit_tunnel::{Prefix, TunnelError};

pub(crate) use self::device::TunEnd;

/// Options of a TUN device.
#[derive(Clone, Debug)]
pub struct TunOptions {
    /// The name of the device.
    pub name: String,
    /// A directory of ours, where the originals of what is replaced are kept until they are put back.
    pub state: PathBuf,
    /// The file that names the machine's DNS servers; `None` leaves it alone.
    pub resolv_conf: Option<PathBuf>,
    /// Take prefixes into the tunnel even if they overlap the machine's own networks.
    pub force: bool,
}

impl TunOptions {
    /// A device `adit0` that replaces `/etc/resolv.conf`.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self {
            name: "adit0".to_owned(),
            state: state.into(),
            resolv_conf: Some(PathBuf::from("/etc/resolv.conf")),
            force: false,
        }
    }
}

/// Why there is no TUN device, or not with these routes.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// A prefix of the tunnel and a network of this machine share addresses.
    #[error("{prefix}, which the tunnel routes, overlaps {network} of the interface {interface}")]
    Overlap {
        /// The tunnel's prefix.
        prefix: Prefix,
        /// The machine's network.
        network: Prefix,
        /// The interface that the network is on.
        interface: String,
    },
    /// A prefix of the tunnel would take link-local addresses in.
    #[error("{prefix}, which the tunnel routes, overlaps {network}, which belongs to the link")]
    LinkLocal {
        /// The tunnel's prefix.
        prefix: Prefix,
        /// The link-local addresses.
        network: Prefix,
    },
    /// A prefix of the tunnel would take the machine's own DNS server in.
    #[error("{prefix}, which the tunnel routes, covers this machine's DNS server {server}")]
    Server {
        /// The tunnel's prefix.
        prefix: Prefix,
        /// The server.
        server: IpAddr,
    },
    /// The device could not be made.
    #[error("the TUN device {name} cannot be made: {error}")]
    Device {
        /// The name of the device.
        name: String,
        /// What the system said.
        error: io::Error,
    },
    /// Routes or addresses could not be read or changed.
    #[error("{what}: {error}")]
    Network {
        /// What was tried.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// A file could not be written.
    #[error("{} cannot be replaced: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl TunnelError for TunError {
    fn class(&self) -> &'static str {
        match self {
            Self::Overlap { .. } | Self::Server { .. } | Self::LinkLocal { .. } => "route.clash",
            Self::Device { .. } | Self::Network { .. } => "env.no_tun",
            Self::File { .. } => "env.readonly_fs",
        }
    }

    fn evidence(&self) -> Vec<String> {
        match self {
            Self::Overlap { prefix, network, interface } => vec![
                format!("the tunnel's configuration routes {prefix}"),
                format!("the interface {interface} of this machine is in {network}"),
            ],
            Self::LinkLocal { prefix, network } => vec![
                format!("the tunnel's configuration routes {prefix}"),
                format!(
                    "{network} holds what a machine shares with its neighbours, such as a cloud's metadata"
                ),
            ],
            Self::Server { prefix, server } => vec![
                format!("the tunnel's configuration routes {prefix}"),
                format!("this machine's resolver configuration names the server {server}"),
            ],
            Self::Device { error, .. } | Self::Network { error, .. } | Self::File { error, .. } => {
                vec![format!("the system said: {error}")]
            }
        }
    }
}

/// Puts back what a run that was killed has left: the machine's resolver configuration and the guard routes. Returns
/// whether there was something.
///
/// # Errors
/// If files or routes cannot be changed; what is left can be repaired later.
pub fn repair_tun(options: &TunOptions) -> Result<bool, TunError> {
    let mut repaired = false;
    if let Some(path) = &options.resolv_conf {
        repaired |= resolv::repair(path, &options.state).map_err(|error| file_error(path, error))?;
    }
    repaired |= routes::repair(&options.state)?;
    Ok(repaired)
}

fn file_error(path: &Path, error: io::Error) -> TunError {
    TunError::File { path: path.to_owned(), error }
}

fn network_error(what: &str) -> impl FnOnce(io::Error) -> TunError {
    let what = what.to_owned();
    move |error| TunError::Network { what, error }
}
