//! The device itself, between the tunnel and the kernel.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use adit_tunnel::{Dropped, HostPacket, NetConfig};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::netlink::Netlink;
use super::resolv::{self, Resolv};
use super::routes::{self, Routes};
use super::{TunError, TunOptions, file_error, network_error, repair_tun};

/// Packets that are read from the device between two looks at the rest.
const QUANTUM: usize = 128;
/// The largest IP packet.
const MAX_PACKET: usize = 65_535;

/// A TUN device as packet end. It comes into being with the first configuration.
#[derive(Debug)]
pub(crate) struct TunEnd {
    options: TunOptions,
    registry: Registry,
    token: Token,
    up: Option<Up>,
    buffer: Vec<u8>,
    /// Bytes of a packet that was read and not taken.
    waiting: usize,
    readable: bool,
}

struct Up {
    device: SyncDevice,
    routes: Routes,
    resolv: Option<Resolv>,
    /// The machine's own DNS servers.
    servers: Vec<IpAddr>,
    config: NetConfig,
}

impl std::fmt::Debug for Up {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Up").field("routes", &self.routes).finish_non_exhaustive()
    }
}

impl TunEnd {
    pub(crate) fn new(options: TunOptions, registry: Registry, token: Token) -> Self {
        Self { options, registry, token, up: None, buffer: vec![0; MAX_PACKET], waiting: 0, readable: false }
    }

    /// Makes the device, or makes it anew when the configuration is another one.
    pub(crate) fn configure(&mut self, config: &NetConfig, endpoints: &[IpAddr]) -> Result<(), TunError> {
        if self.up.as_ref().is_some_and(|up| up.config == *config) {
            return Ok(());
        }
        self.close()?;
        let up = self.open(config, endpoints)?;
        let interest = Interest::READABLE;
        let registered = self.registry.register(&mut SourceFd(&up.device.as_raw_fd()), self.token, interest);
        self.up = Some(up);
        self.readable = true;
        registered.map_err(network_error("the TUN device cannot be polled"))
    }

    fn open(&self, config: &NetConfig, endpoints: &[IpAddr]) -> Result<Up, TunError> {
        let Self { options, .. } = self;
        if repair_tun(options)? {
            tracing::info!("what an earlier run left behind was put back");
        }
        let servers = self.outside_servers();
        let mut netlink = Netlink::open().map_err(network_error("the routes cannot be changed"))?;
        if !options.force {
            self.check(&mut netlink, config, &servers)?;
        }
        let device_error = |error| TunError::Device { name: options.name.clone(), error };
        let device = DeviceBuilder::new()
            .name(options.name.clone())
            .mtu(config.mtu)
            .build_sync()
            .and_then(|device| device.set_nonblocking(true).map(|()| device))
            .map_err(device_error)?;
        let index = netlink.index(&options.name).map_err(device_error)?;
        for address in &config.addresses {
            match netlink.add_address(index, address) {
                // A machine without IPv6 still gets what it has.
                Err(error) if address.address().is_ipv6() => {
                    tracing::warn!(%address, %error, "the address is left out");
                }
                other => other.map_err(network_error(&format!("the address {address} cannot be added")))?,
            }
        }
        let has_v6 = config.addresses.iter().any(|address| address.address().is_ipv6());
        let (prefixes, closed) =
            config.carved_routes().into_iter().partition(|route| has_v6 || route.address().is_ipv4());
        let mut routes = Routes::guard(netlink, &options.state, index, prefixes, closed)?;
        for endpoint in endpoints {
            routes.protect(*endpoint)?;
        }
        routes.lead()?;
        let resolv = match &options.resolv_conf {
            Some(path) if !config.dns.servers.is_empty() => Some(
                Resolv::replace(path, &options.state, &config.dns)
                    .map_err(|error| file_error(path, error))?,
            ),
            _ => None,
        };
        Ok(Up { device, routes, resolv, servers, config: config.clone() })
    }

    fn check(&self, netlink: &mut Netlink, config: &NetConfig, servers: &[IpAddr]) -> Result<(), TunError> {
        let error = || network_error("the networks of this machine cannot be read");
        let loopbacks = netlink.loopbacks().map_err(error())?;
        let addresses = netlink.addresses().map_err(error())?;
        let networks: Vec<_> = addresses
            .into_iter()
            .filter(|address| !loopbacks.contains(&address.interface))
            .map(|address| (address.prefix, netlink.name(address.interface)))
            .filter(|(_, name)| *name != self.options.name)
            .collect();
        let outside: Vec<IpAddr> = servers.iter().filter(|server| !server.is_loopback()).copied().collect();
        routes::check(&config.carved_routes(), &networks, &outside)
    }

    /// The machine's own DNS servers, whether its `resolv.conf` is replaced or about to be.
    pub(crate) fn outside_servers(&self) -> Vec<IpAddr> {
        match (&self.up, &self.options.resolv_conf) {
            (Some(up), _) => up.servers.clone(),
            (None, Some(path)) => resolv::servers(path, &self.options.state),
            (None, None) => Vec::new(),
        }
    }

    /// Keeps the way to an endpoint outside of the tunnel.
    pub(crate) fn protect(&mut self, endpoint: IpAddr) {
        if let Some(up) = &mut self.up
            && let Err(error) = up.routes.protect(endpoint)
        {
            tracing::error!(%endpoint, %error, "the tunnel's endpoint may be routed into the tunnel");
        }
    }

    pub(crate) fn network_changed(&mut self) {
        if let Some(up) = &mut self.up
            && let Err(error) = up.routes.network_changed()
        {
            tracing::warn!(%error, "the way to the tunnel's endpoint may be an old one");
        }
    }

    pub(crate) fn ready(&mut self) {
        self.readable = true;
    }

    /// Hands a packet from the tunnel to the kernel.
    pub(crate) fn handle_packet(&mut self, packet: HostPacket<'_>) -> Result<(), Dropped> {
        let Some(up) = &self.up else { return Err(Dropped::NotReady) };
        if packet.segment().is_none() {
            return write(&up.device, packet.bytes());
        }
        let mut result = Ok(());
        let mut buffer = [0; 2048];
        for segment in packet.segments()? {
            if segment.len() > buffer.len() {
                return Err(Dropped::TooBig);
            }
            let len = segment.write(&mut buffer);
            result = result.and(write(&up.device, &buffer[..len]));
        }
        result
    }

    /// Hands packets of the kernel to `send` until there are none, it takes no more, or a quantum is through. Returns
    /// whether there may be more at once.
    pub(crate) fn transmit(&mut self, send: &mut dyn FnMut(HostPacket<'_>) -> bool) -> bool {
        let Some(up) = &self.up else { return false };
        for _ in 0..QUANTUM {
            if self.waiting == 0 {
                if !self.readable {
                    return false;
                }
                match up.device.recv(&mut self.buffer) {
                    Ok(len) => self.waiting = len,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => {
                        self.readable = false;
                        return false;
                    }
                }
            }
            if !send(HostPacket::new(&self.buffer[..self.waiting])) {
                return true;
            }
            self.waiting = 0;
        }
        true
    }

    /// Puts everything back as it was.
    pub(crate) fn close(&mut self) -> Result<(), TunError> {
        let Some(mut up) = self.up.take() else { return Ok(()) };
        let _ = self.registry.deregister(&mut SourceFd(&up.device.as_raw_fd()));
        let restored = match (&up.resolv, &self.options.resolv_conf) {
            (Some(resolv), Some(path)) => resolv.restore().map_err(|error| file_error(path, error)),
            _ => Ok(()),
        };
        // The device goes before its guards, so that nothing leaks in between.
        drop(up.device);
        restored.and(up.routes.clear())
    }
}

fn write(device: &SyncDevice, packet: &[u8]) -> Result<(), Dropped> {
    match device.send(packet) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Dropped::Backpressure),
        Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
            Err(Dropped::Backpressure)
        }
        Err(_) => Err(Dropped::Malformed),
    }
}
