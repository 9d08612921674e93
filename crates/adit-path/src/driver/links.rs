//! The links of a tunnel: sockets of the machine's own network.

use std::io;
use std::net::{IpAddr, SocketAddr};

use adit_tunnel::{LinkId, LinkSpec, NetQueue, Transmit, Unreachable};
use mio::Registry;
use mio::event::Event;

use super::slab::Slab;
use super::tcp::{Opening, TcpLink};
use super::udp::{Arena, Sent, UdpLink};

/// Reports of unreachable destinations that may wait; more of them say nothing new.
const MAX_REPORTS: usize = 32;

/// Destinations that are remembered.
const MAX_DESTINATIONS: usize = 64;

#[derive(Debug)]
enum Link {
    Udp(UdpLink),
    Tcp(TcpLink),
}

/// Something that the tunnel must hear of a link.
#[derive(Debug)]
pub(crate) enum Report {
    Opened(LinkId, SocketAddr),
    Closed(LinkId, Option<io::ErrorKind>),
    Writable(LinkId),
    Unreachable(LinkId, SocketAddr, Unreachable),
}

/// What passed over the links.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    /// Datagrams that the system did not take.
    pub(crate) lost: u64,
}

/// The open links.
#[derive(Debug)]
pub(crate) struct Links {
    table: Slab<(LinkId, Link)>,
    keys: Vec<(LinkId, usize)>,
    reports: Vec<Report>,
    /// Destinations of datagrams so far, the last first.
    destinations: Vec<IpAddr>,
    pub(crate) traffic: Traffic,
}

impl Links {
    pub(crate) fn new() -> Self {
        Self {
            table: Slab::new(),
            keys: Vec::new(),
            reports: Vec::with_capacity(MAX_REPORTS),
            destinations: Vec::with_capacity(MAX_DESTINATIONS),
            traffic: Traffic::default(),
        }
    }

    /// Opens a link; the outcome comes as a [`Report`].
    pub(crate) fn open(&mut self, registry: &Registry, id: LinkId, spec: &LinkSpec) {
        let result = match spec {
            LinkSpec::Udp { port } => UdpLink::open(*port).map(Link::Udp),
            LinkSpec::Tcp { to } => TcpLink::open(*to).map(Link::Tcp),
        };
        let registered = result.and_then(|mut link| {
            let key = self.table.next_key();
            match &mut link {
                Link::Udp(udp) => {
                    udp.register(registry, key)?;
                    if let Some(local) = udp.local() {
                        self.reports.push(Report::Opened(id, local));
                    }
                }
                Link::Tcp(tcp) => tcp.register(registry, key)?,
            }
            Ok(self.table.insert((id, link)))
        });
        match registered {
            Ok(key) => self.keys.push((id, key)),
            Err(error) => self.reports.push(Report::Closed(id, Some(error.kind()))),
        }
    }

    pub(crate) fn close(&mut self, registry: &Registry, id: LinkId) {
        let Some(at) = self.keys.iter().position(|(link, _)| *link == id) else { return };
        let (_, key) = self.keys.swap_remove(at);
        match self.table.remove(key) {
            Some((_, Link::Udp(udp))) => udp.deregister(registry),
            Some((_, Link::Tcp(mut tcp))) => tcp.deregister(registry),
            None => {}
        }
    }

    /// Notes a readiness event; `key` is the table key and, in the lowest bit, the socket of the link.
    pub(crate) fn ready(&mut self, registry: &Registry, key: usize, event: &Event) {
        let (readable, writable) = (event.is_readable() || event.is_read_closed(), event.is_writable());
        match self.table.get_mut(key >> 1) {
            Some((_, Link::Udp(udp))) => udp.ready(key & 1 == 1, readable, writable, event.is_error()),
            Some((id, Link::Tcp(tcp))) => {
                let id = *id;
                tcp.ready(readable, writable);
                match tcp.opening() {
                    Opening::Waiting => {}
                    Opening::Opened(local) => self.reports.push(Report::Opened(id, local)),
                    Opening::Failed(error) => return self.fail(registry, id, Some(error.kind())),
                }
                let Some((_, Link::Tcp(tcp))) = self.table.get_mut(key >> 1) else { return };
                if tcp.flush() {
                    self.reports.push(Report::Writable(id));
                }
            }
            None => {}
        }
    }

    /// The next thing to tell the tunnel.
    pub(crate) fn report(&mut self) -> Option<Report> {
        if self.reports.is_empty() { None } else { Some(self.reports.remove(0)) }
    }

    /// Whether a receive call may find something.
    pub(crate) fn readable(&mut self) -> bool {
        let Self { table, keys, .. } = self;
        keys.iter().any(|(_, key)| match table.get_mut(*key) {
            Some((_, Link::Udp(udp))) => udp.readable(),
            Some((_, Link::Tcp(tcp))) => tcp.readable(),
            None => false,
        })
    }

    /// The links, for a turn of receiving.
    pub(crate) fn ids(&self) -> usize {
        self.keys.len()
    }

    /// Receives once on the `index`-th link and hands what came to `take`: datagrams with their source, pieces of a
    /// stream without.
    pub(crate) fn receive(
        &mut self,
        registry: &Registry,
        index: usize,
        arena: &mut Arena,
        take: &mut dyn FnMut(LinkId, Option<SocketAddr>, &mut [u8]),
    ) {
        let Some(&(id, key)) = self.keys.get(index) else { return };
        let traffic = &mut self.traffic;
        match self.table.get_mut(key) {
            Some((_, Link::Udp(udp))) => {
                let reports = &mut self.reports;
                let mut lost = |to, why| report_unreachable(reports, id, to, why);
                let Some(received) = udp.receive(arena, &mut lost) else { return };
                arena.datagrams(received, |from, datagram| {
                    traffic.received += 1;
                    traffic.received_bytes += datagram.len() as u64;
                    take(id, Some(from), datagram);
                });
            }
            Some((_, Link::Tcp(tcp))) if tcp.readable() => match tcp.receive(arena.scratch()) {
                Ok(0) => self.fail(registry, id, None),
                Ok(n) => {
                    traffic.received += 1;
                    traffic.received_bytes += n as u64;
                    take(id, None, &mut arena.scratch()[..n]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.fail(registry, id, Some(error.kind())),
            },
            _ => {}
        }
    }

    /// Sends what waits, as far as the sockets take it. `protect` hears of every new destination of datagrams before
    /// anything is sent to it. Returns whether everything is gone from the queue.
    pub(crate) fn flush(&mut self, queue: &mut NetQueue, protect: &mut dyn FnMut(IpAddr)) -> bool {
        let empty = queue.flush(|transmit| {
            let Some((_, link)) = lookup(&self.keys, transmit.link).and_then(|key| self.table.get_mut(key))
            else {
                self.traffic.lost += 1;
                return transmit.data.len();
            };
            match (link, transmit.to) {
                (Link::Udp(udp), Some(to)) => {
                    if !self.destinations.contains(&to.ip()) {
                        self.destinations.truncate(MAX_DESTINATIONS - 1);
                        self.destinations.insert(0, to.ip());
                        protect(to.ip());
                    }
                    send_datagrams(udp, to, &transmit, &mut self.reports, &mut self.traffic)
                }
                (Link::Tcp(tcp), None) => {
                    self.traffic.sent += 1;
                    self.traffic.sent_bytes += transmit.data.len() as u64;
                    tcp.send(transmit.data);
                    transmit.data.len()
                }
                _ => transmit.data.len(),
            }
        });
        for (id, key) in &self.keys {
            if matches!(self.table.get_mut(*key), Some((_, Link::Tcp(tcp))) if tcp.is_full()) {
                queue.block(*id);
            }
        }
        empty
    }

    /// Whether no link takes anything: streams whose far ends do not keep up. Whoever has packets keeps them then.
    pub(crate) fn all_blocked(&self, queue: &NetQueue) -> bool {
        !self.keys.is_empty() && self.keys.iter().all(|(id, _)| queue.is_blocked(*id))
    }

    /// Whether there is a TCP link.
    pub(crate) fn has_streams(&mut self) -> bool {
        let Self { table, keys, .. } = self;
        keys.iter().any(|(_, key)| matches!(table.get_mut(*key), Some((_, Link::Tcp(_)))))
    }

    fn fail(&mut self, registry: &Registry, id: LinkId, kind: Option<io::ErrorKind>) {
        self.close(registry, id);
        self.reports.push(Report::Closed(id, kind));
    }
}

fn lookup(keys: &[(LinkId, usize)], id: LinkId) -> Option<usize> {
    keys.iter().find(|(link, _)| *link == id).map(|(_, key)| *key)
}

fn report_unreachable(reports: &mut Vec<Report>, id: LinkId, to: SocketAddr, why: Unreachable) {
    if reports.len() < MAX_REPORTS {
        reports.push(Report::Unreachable(id, to, why));
    }
}

fn send_datagrams(
    udp: &mut UdpLink,
    to: SocketAddr,
    transmit: &Transmit<'_>,
    reports: &mut Vec<Report>,
    traffic: &mut Traffic,
) -> usize {
    let whole = transmit.data.len();
    match udp.send(to, transmit, &mut |to, why| report_unreachable(reports, transmit.link, to, why)) {
        Sent::Taken(taken) => {
            traffic.sent += taken.div_ceil(transmit.segment.max(1)) as u64;
            traffic.sent_bytes += taken as u64;
            taken
        }
        Sent::Unreachable(why) => {
            report_unreachable(reports, transmit.link, to, why);
            traffic.lost += 1;
            whole
        }
        Sent::Lost => {
            traffic.lost += 1;
            whole
        }
    }
}

#[cfg(test)]
mod tests;
