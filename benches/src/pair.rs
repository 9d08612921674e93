//! Two network stacks back to back in memory.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_netstack::{Budget, CongestionControl, FlowId, Stack, StackConfig, StackEvent, TcpOptions};
use adit_tunnel::{HostPacket, NetConfig, Outbox, Prefix};

/// How packets get from one stack to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Super-segments stay whole, as if the tunnel were free: what the stack itself costs.
    Whole,
    /// Cut into packets and merged again, as a tunnel does on both sides.
    Merged,
    /// Cut into packets that stay single: a tunnel without offload.
    Single,
}

/// Two stacks and a clock that moves a little with every exchange.
#[derive(Debug)]
pub struct Pair {
    /// The client and the server.
    pub stacks: [Stack; 2],
    /// Packets that crossed, counted as on the wire.
    pub packets: u64,
    now: Instant,
    wire: Wire,
    outbox: Outbox,
    accepted: Vec<FlowId>,
}

/// Where the server listens.
pub const SERVER: ([u8; 4], u16) = ([10, 0, 0, 2], 80);

impl Pair {
    /// Two stacks with an MTU of 1420 bytes.
    pub fn new(wire: Wire) -> Self {
        let now = Instant::now();
        let stack = |last: u8| {
            let config =
                StackConfig { seed: u64::from(last), budget: Budget { bytes: 1 << 30, max_flow: 2 << 20 } };
            let mut stack = Stack::new(config, now);
            let address = Prefix::new([10, 0, 0, last].into(), 24).expect("24 bits fit into an address");
            let net = NetConfig {
                addresses: vec![address],
                routes: vec![address],
                mtu: 1420,
                ..NetConfig::default()
            };
            stack.configure(now, &net);
            stack
        };
        let mut stacks = [stack(1), stack(2)];
        stacks[1].tcp_listen(SERVER.1).expect("nothing listens yet");
        let mut outbox = Outbox::with_capacity(0, 1 << 20);
        outbox.host.set_coalesce(wire == Wire::Merged);
        Self { stacks, packets: 0, now, wire, outbox, accepted: Vec::new() }
    }

    /// Opens a connection; returns both ends.
    pub fn connect(&mut self) -> (FlowId, FlowId) {
        self.connect_with(CongestionControl::default())
    }

    /// Opens a connection whose client has a certain congestion control.
    pub fn connect_with(&mut self, congestion: CongestionControl) -> (FlowId, FlowId) {
        let to = SocketAddr::from(SERVER);
        let options = TcpOptions { congestion, ..TcpOptions::default() };
        let client = self.stacks[0].tcp_connect(self.now, to, options).expect("the budget suffices");
        loop {
            self.exchange();
            if let Some(server) = self.accepted.pop() {
                self.exchange();
                self.exchange();
                return (client, server);
            }
        }
    }

    /// One turn of both stacks: what each sends, the other takes.
    pub fn exchange(&mut self) {
        self.now += Duration::from_micros(20);
        for from in 0..2 {
            let [first, second] = &mut self.stacks;
            let (sender, receiver) = if from == 0 { (first, second) } else { (second, first) };
            sender.handle_timeout(self.now);
            let (wire, now, outbox) = (self.wire, self.now, &mut self.outbox);
            let mut packets = 0;
            sender.poll_transmit(now, &mut |packet| {
                let segments = packet.segments().expect("the stack writes what can be cut");
                packets += segments.len() as u64;
                if wire == Wire::Whole {
                    deliver(receiver, now, packet);
                    return true;
                }
                if outbox.host.free() < 128 * 1024 || outbox.host.len() > 512 {
                    outbox.host.drain(|packet| deliver(receiver, now, packet));
                }
                for segment in segments {
                    let mut slot = outbox.host.reserve(segment.len()).expect("room was made");
                    let len = segment.write(&mut slot);
                    slot.commit(len);
                }
                true
            });
            outbox.host.drain(|packet| deliver(receiver, now, packet));
            self.packets += packets;
        }
        while self.stacks[0].poll_event().is_some() {}
        while let Some(event) = self.stacks[1].poll_event() {
            if let StackEvent::Incoming { pending, .. } = event {
                let flow = self.stacks[1].tcp_accept(self.now, pending).expect("the budget suffices");
                self.accepted.push(flow);
            }
        }
    }

    /// Fills the client's send buffer up to `limit` bytes; returns how many went in.
    pub fn write(&mut self, client: FlowId, limit: usize) -> usize {
        let mut written = 0;
        loop {
            let [room, _] = self.stacks[0].tcp_send_space(client);
            let n = room.len().min(limit - written);
            if n == 0 {
                return written;
            }
            room[..n].fill(7);
            self.stacks[0].tcp_sent(self.now, client, n);
            written += n;
        }
    }

    /// Reads what the server has; returns how much.
    pub fn read(&mut self, server: FlowId) -> usize {
        let mut read = 0;
        loop {
            let n = self.stacks[1].tcp_recv_data(server)[0].len();
            if n == 0 {
                return read;
            }
            self.stacks[1].tcp_consumed(self.now, server, n);
            read += n;
        }
    }

    /// Moves so many bytes.
    pub fn transfer(&mut self, (client, server): (FlowId, FlowId), bytes: usize) {
        let (mut sent, mut received) = (0, 0);
        while received < bytes {
            sent += self.write(client, bytes - sent);
            self.exchange();
            received += self.read(server);
        }
    }

    /// Ends a connection on both sides.
    pub fn close(&mut self, (client, server): (FlowId, FlowId)) {
        self.stacks[0].tcp_release(client);
        self.exchange();
        self.stacks[1].tcp_release(server);
        self.exchange();
    }
}

fn deliver(stack: &mut Stack, now: Instant, packet: HostPacket<'_>) {
    stack.handle_packet(now, packet).expect("what one stack sends, the other takes");
}
