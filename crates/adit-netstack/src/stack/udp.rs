//! UDP endpoints.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use adit_tunnel::Dropped;
use adit_tunnel::view::{IpView, protocol};

use super::{Stack, ephemeral_port};
use crate::datagrams::Datagrams;
use crate::emit;
use crate::{OpenError, StackEvent, UdpId};

/// What an endpoint holds until it is read: at least one datagram of any size.
const QUEUE: usize = 128 * 1024;
const MAX_QUEUE: usize = 256;
const MAX_ENDPOINTS: usize = 4096;
/// The largest payload (RFC 768, and 65,535 bytes of IPv4 packet).
const MAX_PAYLOAD: usize = 65_507;

/// Every UDP endpoint.
#[derive(Debug)]
pub(super) struct Endpoints {
    slots: Vec<(u32, Option<Endpoint>)>,
    free: Vec<u32>,
    /// Ports are our own choice, so no peer can make them collide.
    by_port: HashMap<u16, u32, std::hash::BuildHasherDefault<std::hash::DefaultHasher>>,
    message: Vec<u8>,
}

#[derive(Debug)]
struct Endpoint {
    port: u16,
    peer: Option<SocketAddr>,
    queue: Datagrams<SocketAddr>,
}

impl Endpoints {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), by_port: HashMap::default(), message: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.by_port.len()
    }

    fn get(&mut self, id: UdpId) -> Option<&mut Endpoint> {
        let (generation, endpoint) = self.slots.get_mut(id.index as usize)?;
        endpoint.as_mut().filter(|_| *generation == id.generation)
    }

    /// The endpoint that datagrams from `peer` to `port` belong to.
    fn find(&mut self, port: u16, peer: SocketAddr) -> Option<(UdpId, &mut Endpoint)> {
        let index = *self.by_port.get(&port)?;
        let (generation, endpoint) = self.slots.get_mut(index as usize)?;
        let endpoint = endpoint.as_mut().filter(|found| found.peer.is_none_or(|only| only == peer))?;
        Some((UdpId { index, generation: *generation }, endpoint))
    }
}

impl Stack {
    pub(super) fn handle_udp(&mut self, now: Instant, ip: &IpView<'_>) -> Result<(), Dropped> {
        let udp = ip.udp().ok_or(Dropped::Malformed)?;
        let peer = SocketAddr::new(ip.source(), udp.source_port());
        let Some((id, endpoint)) = self.udp.find(udp.destination_port(), peer) else {
            self.send_port_unreachable(now, ip);
            return Err(Dropped::Unexpected);
        };
        let first = endpoint.queue.is_empty();
        let place = endpoint.queue.push(peer, udp.payload().len()).ok_or(Dropped::Backpressure)?;
        place.copy_from_slice(udp.payload());
        if first {
            self.push_event(StackEvent::UdpReadable(id));
        }
        Ok(())
    }

    /// An ICMP error about a datagram of ours.
    pub(super) fn udp_unreachable(
        &mut self,
        local_port: u16,
        to: SocketAddr,
        from: IpAddr,
        kind: u8,
        code: u8,
    ) -> Result<(), Dropped> {
        let (id, _) = self.udp.find(local_port, to).ok_or(Dropped::Unexpected)?;
        self.push_event(StackEvent::UdpUnreachable { id, to, from, kind, code });
        Ok(())
    }

    /// Opens an endpoint on `port` of all our addresses, or on a random port if it is 0. With a `peer`, datagrams
    /// of nobody else are received.
    ///
    /// # Errors
    /// [`OpenError::NoRoute`] to the peer, [`OpenError::PortInUse`], [`OpenError::NoPort`] or [`OpenError::OverBudget`].
    pub fn udp_open(&mut self, port: u16, peer: Option<SocketAddr>) -> Result<UdpId, OpenError> {
        if let Some(peer) = peer {
            self.route_to(peer.ip())?;
        }
        let taken = &self.udp.by_port;
        let port = match port {
            0 => ephemeral_port(&mut self.random, |port| !taken.contains_key(&port))
                .ok_or(OpenError::NoPort)?,
            port if taken.contains_key(&port) => return Err(OpenError::PortInUse(port)),
            port => port,
        };
        if self.udp.len() >= MAX_ENDPOINTS || !self.memory.reserve(QUEUE) {
            return Err(OpenError::OverBudget);
        }
        let index = self.udp.free.pop().unwrap_or_else(|| {
            self.udp.slots.push((0, None));
            self.udp.slots.len() as u32 - 1
        });
        let peer = peer.map(|peer| SocketAddr::new(peer.ip(), peer.port()));
        let slot = &mut self.udp.slots[index as usize];
        slot.1 = Some(Endpoint { port, peer, queue: Datagrams::new(QUEUE, MAX_QUEUE) });
        let generation = slot.0;
        self.udp.by_port.insert(port, index);
        Ok(UdpId { index, generation })
    }

    /// The endpoint's address: towards its peer if it has one, else our first. None if the endpoint was closed, or
    /// we have no address.
    pub fn udp_local(&self, id: UdpId) -> Option<SocketAddr> {
        let (generation, endpoint) = self.udp.slots.get(id.index as usize)?;
        let endpoint = endpoint.as_ref().filter(|_| *generation == id.generation)?;
        let address = match endpoint.peer {
            Some(peer) => self.source_for(peer.ip())?,
            None => self.net.addresses.first()?.address(),
        };
        Some(SocketAddr::new(address, endpoint.port))
    }

    /// Sends a datagram, in fragments if it is larger than the tunnel takes.
    ///
    /// # Errors
    /// [`Dropped::Unexpected`] if the endpoint is closed, [`Dropped::NoRoute`], [`Dropped::TooBig`] beyond 65,507
    /// bytes, [`Dropped::Backpressure`] when too much waits to leave.
    pub fn udp_send(
        &mut self,
        _now: Instant,
        id: UdpId,
        to: SocketAddr,
        payload: &[u8],
    ) -> Result<(), Dropped> {
        let port = self.udp.get(id).ok_or(Dropped::Unexpected)?.port;
        let source = self.route_to(to.ip()).map_err(|_| Dropped::NoRoute)?;
        if payload.len() > MAX_PAYLOAD {
            return Err(Dropped::TooBig);
        }
        let mut message = std::mem::take(&mut self.udp.message);
        message.clear();
        message.extend(port.to_be_bytes());
        message.extend(to.port().to_be_bytes());
        message.extend((8 + payload.len() as u16).to_be_bytes());
        message.extend([0; 2]);
        message.extend(payload);
        emit::fill_transport_checksum(&mut message, 6, source, to.ip(), protocol::UDP);
        let sent = self.send_message(source, to.ip(), protocol::UDP, &message);
        self.udp.message = message;
        sent
    }

    /// Hands received datagrams to `take`, with their senders, until it returns `false`: that one and the rest
    /// stay. [`StackEvent::UdpReadable`] comes again only for an endpoint that was emptied.
    pub fn udp_recv(&mut self, id: UdpId, take: &mut dyn FnMut(SocketAddr, &[u8]) -> bool) {
        if let Some(endpoint) = self.udp.get(id) {
            endpoint.queue.drain(take);
        }
    }

    /// Closes an endpoint; what it received and nobody read is gone.
    pub fn udp_close(&mut self, id: UdpId) {
        let Some(endpoint) = self.udp.get(id) else { return };
        let port = endpoint.port;
        self.udp.by_port.remove(&port);
        self.udp.slots[id.index as usize] = (id.generation.wrapping_add(1), None);
        self.udp.free.push(id.index);
        self.memory.release(QUEUE);
    }
}
