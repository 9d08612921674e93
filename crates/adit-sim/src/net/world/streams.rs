//! Streams between nodes and servers. They lose nothing, since TCP repeats what is lost, and so stand outside the links.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_tunnel::{LinkId, NetInput, Tunnel};

use super::{Happening, NodeId, PacketEnd, World, parse};
use crate::net::{Served, Server};

/// Whatever passes over a stream takes this long, unless it is told otherwise.
const STREAM_DELAY: Duration = Duration::from_millis(15);

/// The servers, and their connections by number.
pub(super) struct Servers {
    list: Vec<(IpAddr, Box<dyn Server>)>,
    streams: BTreeMap<u64, Stream>,
    delay: Duration,
}

impl Default for Servers {
    fn default() -> Self {
        Self { list: Vec::new(), streams: BTreeMap::new(), delay: STREAM_DELAY }
    }
}

/// A connection between a node and a server.
struct Stream {
    node: NodeId,
    link: LinkId,
    server: usize,
    to: SocketAddr,
}

impl<T: Tunnel, E: PacketEnd> World<T, E> {
    /// Adds a server at an address; it takes streams and datagrams on every port.
    pub fn add_server(&mut self, address: &str, server: impl Server + 'static) {
        self.servers.list.push((parse(address), Box::new(server)));
    }

    /// How long whatever passes over a stream takes from now on, one way.
    pub fn set_stream_delay(&mut self, delay: Duration) {
        self.servers.delay = delay;
    }

    /// Ends the process of the server at an address: its streams end, and nobody listens there until another is added.
    pub fn stop_server(&mut self, address: &str) {
        let address = parse(address);
        let Some(index) = self.servers.list.iter().position(|(at, _)| *at == address) else { return };
        let ended: Vec<u64> =
            self.servers.streams.iter().filter(|(_, s)| s.server == index).map(|(id, _)| *id).collect();
        for stream in ended {
            self.push(
                self.now + self.servers.delay,
                Happening::AtNode { stream, begins: false, data: Vec::new() },
            );
        }
        // The place stays, so that streams of other servers keep theirs.
        self.servers.list[index].0 = IpAddr::from([0, 0, 0, 0]);
    }

    pub(super) fn at_server(&mut self, id: u64, begins: bool, data: &[u8]) {
        let Some(stream) = self.servers.streams.get(&id) else { return };
        let (to, (_, server)) = (stream.to, &mut self.servers.list[stream.server]);
        let mut replies = Vec::new();
        let mut reply = |to: u64, after: Duration, data: Vec<u8>| replies.push((to, after, data));
        match (begins, data) {
            (true, _) => server.handle(self.now, Served::Opened { stream: id, at: to }, &mut reply),
            (false, []) => server.handle(self.now, Served::Closed { stream: id }, &mut reply),
            (false, data) => server.handle(self.now, Served::Data { stream: id, data }, &mut reply),
        }
        if !begins && data.is_empty() {
            self.servers.streams.remove(&id);
        }
        for (stream, after, data) in replies {
            self.push(
                self.now + after + self.servers.delay,
                Happening::AtNode { stream, begins: false, data },
            );
        }
    }

    pub(super) fn at_node(&mut self, id: u64, begins: bool, mut data: Vec<u8>) {
        let Some(Stream { node, link, .. }) = self.servers.streams.get(&id) else { return };
        let (node, link) = (*node, *link);
        if !self.nodes[node.0].streams.contains(&(link, id)) {
            return;
        }
        if begins {
            let ip = self.nodes[node.0].addresses.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0]));
            self.net_input(node, |_| NetInput::Opened { link, local: SocketAddr::new(ip, 50_000) });
        } else if data.is_empty() {
            self.servers.streams.remove(&id);
            self.nodes[node.0].streams.retain(|(_, stream)| *stream != id);
            self.net_input(node, |_| NetInput::Closed { link, error: None });
        } else {
            self.net_input(node, |_| NetInput::Stream { link, data: &mut data });
        }
    }

    /// Opens a stream to a server, if one is there.
    pub(super) fn connect(&mut self, node: NodeId, link: LinkId, to: SocketAddr) {
        let Some(server) = self.servers.list.iter().position(|(at, _)| *at == to.ip()) else {
            let error = Some(std::io::ErrorKind::ConnectionRefused);
            return self.net_input(node, |_| NetInput::Closed { link, error });
        };
        self.made += 1;
        let id = self.made;
        self.servers.streams.insert(id, Stream { node, link, server, to });
        self.nodes[node.0].streams.push((link, id));
        self.push(
            self.now + self.servers.delay,
            Happening::AtServer { stream: id, begins: true, data: Vec::new() },
        );
        self.push(
            self.now + 2 * self.servers.delay,
            Happening::AtNode { stream: id, begins: true, data: Vec::new() },
        );
    }

    pub(super) fn put_on_stream(&mut self, node: NodeId, link: LinkId, data: Vec<u8>) {
        let stream = self.nodes[node.0].streams.iter().find(|(of, _)| *of == link).map(|(_, id)| *id);
        if let Some(stream) = stream {
            self.push(self.now + self.servers.delay, Happening::AtServer { stream, begins: false, data });
        }
    }

    /// A server answers a datagram, or it meets nobody.
    pub(super) fn serve_datagram(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        let Some((_, server)) = self.servers.list.iter_mut().find(|(at, _)| *at == to.ip()) else { return };
        if let Some(data) = server.handle_datagram(from, data) {
            self.push(self.now, Happening::Arrival { from: to, to: from, data });
        }
    }

    /// The node has closed its end.
    pub(super) fn hang_up(&mut self, stream: u64) {
        self.push(
            self.now + self.servers.delay,
            Happening::AtServer { stream, begins: false, data: Vec::new() },
        );
    }
}
