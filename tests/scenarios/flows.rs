//! TCP flows of the netstack over a tunnel that is lost and found.

use std::time::Duration;

use adit_netstack::{Budget, CloseReason, FlowEvent, FlowId, Stack, StackConfig, StackEvent, TcpOptions};
use adit_sim::net::{Link, Nat, NatKind};
use adit_wireguard::Config;

use crate::lab::{INNER_SERVER, Lab, client_config, each_seed, millis, secs, server_config};

/// A transfer from the client to the server, with what has been written and read.
struct Transfer {
    lab: Lab<Stack>,
    sender: FlowId,
    receiver: Option<FlowId>,
    written: usize,
    read: Vec<u8>,
    closed: Option<CloseReason>,
}

fn stack(config: &Config, seed: u64) -> Stack {
    let now = std::time::Instant::now();
    let mut stack = Stack::new(StackConfig { seed, budget: Budget::default() }, now);
    stack.configure(now, &config.net_config());
    stack
}

fn byte(at: usize) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 11) as u8
}

impl Transfer {
    fn start(seed: u64) -> Self {
        let (client, server) = (client_config(), server_config());
        let ends = (stack(&client, seed), stack(&server, seed + 1));
        let mut lab = Lab::with_ends(seed, client, server, ends.0, ends.1);
        let (now, to) = (lab.world.now(), format!("{INNER_SERVER}:80").parse().unwrap());
        lab.world.end(lab.server).tcp_listen(80).unwrap();
        let sender = lab.world.end(lab.client).tcp_connect(now, to, TcpOptions::default()).unwrap();
        lab.world.wake(lab.client);
        Self { lab, sender, receiver: None, written: 0, read: Vec::new(), closed: None }
    }

    /// Runs for `span`, writing at most `rate` bytes per 10 ms and reading whatever comes.
    fn run(&mut self, span: Duration, rate: usize) {
        let end = self.lab.world.elapsed() + span;
        while self.lab.world.elapsed() < end {
            self.write(rate);
            self.lab.world.wake(self.lab.client);
            self.lab.world.run_for(millis(10));
            self.serve();
        }
    }

    fn write(&mut self, most: usize) {
        let now = self.lab.world.now();
        let stack = self.lab.world.end(self.lab.client);
        let mut count = 0;
        for space in stack.tcp_send_space(self.sender) {
            for slot in space.iter_mut().take(most - count) {
                *slot = byte(self.written + count);
                count += 1;
            }
        }
        stack.tcp_sent(now, self.sender, count);
        self.written += count;
        while let Some(event) = stack.poll_event() {
            if let StackEvent::Tcp(flow, FlowEvent::Closed(why)) = event
                && flow == self.sender
            {
                self.closed = Some(why);
            }
        }
    }

    fn serve(&mut self) {
        let now = self.lab.world.now();
        let stack = self.lab.world.end(self.lab.server);
        while let Some(event) = stack.poll_event() {
            if let StackEvent::Incoming { pending, .. } = event {
                self.receiver = Some(stack.tcp_accept(now, pending).unwrap());
            }
        }
        if let Some(flow) = self.receiver {
            let mut count = 0;
            for part in stack.tcp_recv_data(flow) {
                self.read.extend_from_slice(part);
                count += part.len();
            }
            stack.tcp_consumed(now, flow, count);
        }
        self.lab.world.wake(self.lab.server);
    }

    /// Gives what is on the way time to arrive; everything must be there, once, in order.
    fn finish(mut self) {
        for _ in 0..60 {
            if self.read.len() == self.written {
                break;
            }
            self.run(secs(1), 0);
        }
        assert_eq!(self.closed, None, "the flow lives");
        assert_eq!(self.read.len(), self.written, "bytes arrived");
        let wrong = self.read.iter().enumerate().find(|(at, got)| **got != byte(*at));
        assert!(wrong.is_none(), "the stream differs at {wrong:?}");
    }
}

#[test]
fn a_flow_goes_on_where_it_was_after_an_outage_of_30_seconds() {
    let mut transfer = Transfer::start(0);
    transfer.run(secs(3), 5000);
    let client = transfer.lab.client;
    transfer.lab.world.set_links(client, &Link { cut: true, ..Link::default() });
    transfer.run(secs(30), 5000);
    transfer.lab.world.set_links(client, &Link::default());
    transfer.run(secs(30), 500);
    let sent = transfer.written;
    assert!(sent > 1_000_000, "{sent} bytes were moved");
    transfer.finish();
}

#[test]
fn a_flow_outlives_a_restart_of_the_tunnel_at_the_other_end() {
    let mut transfer = Transfer::start(1);
    transfer.run(secs(3), 5000);
    transfer.lab.restart_server();
    transfer.run(secs(40), 1000);
    assert_eq!(transfer.lab.said(transfer.lab.client), ["up"]);
    transfer.finish();
}

#[test]
fn a_flow_outlives_moves_of_both_sides_and_a_reboot_of_the_router() {
    let mut transfer = Transfer::start(2);
    transfer.run(secs(2), 5000);
    let (client, server) = (transfer.lab.client, transfer.lab.server);
    transfer.lab.world.move_node(client, &["198.51.100.1"], true);
    transfer.run(secs(2), 5000);
    transfer.lab.world.move_node(server, &["198.51.100.2"], true);
    transfer.run(secs(20), 1000);
    let nat = Nat::new(NatKind::PortRestricted, "198.51.100.3".parse().unwrap(), secs(30));
    transfer.lab.world.set_nat(client, Some(nat));
    transfer.run(secs(2), 5000);
    transfer.lab.world.nat(client).unwrap().rebind();
    transfer.run(secs(20), 1000);
    transfer.finish();
}

#[test]
fn a_stream_over_a_bad_link_loses_doubles_and_reorders_nothing_while_keys_are_renewed() {
    each_seed(
        "flows::a_stream_over_a_bad_link_loses_doubles_and_reorders_nothing_while_keys_are_renewed",
        3,
        |seed| {
            let mut transfer = Transfer::start(seed);
            let bad =
                Link { loss: 0.01, duplicate: 0.01, reorder: 0.02, jitter: millis(3), ..Link::default() };
            transfer.lab.world.set_links(transfer.lab.client, &bad);
            transfer.run(secs(300), 300);
            transfer.finish();
        },
    );
}
