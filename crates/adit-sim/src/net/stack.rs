//! The netstack as a packet end, so that flows can be watched while the network below misbehaves.

use std::time::Instant;

use adit_netstack::Stack;
use adit_tunnel::{Deadline, HostPacket, Prefix};

use crate::net::PacketEnd;

impl PacketEnd for Stack {
    fn handle_packet(&mut self, now: Instant, packet: HostPacket<'_>) {
        // What the stack drops is what a real driver would count.
        let _ = Self::handle_packet(self, now, packet);
    }

    fn set_queue(&mut self, to: &[Prefix], packets: Option<u16>) {
        Self::set_queue(self, to, packets);
    }

    fn handle_timeout(&mut self, now: Instant) {
        Self::handle_timeout(self, now);
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        Self::poll_timeout(self)
    }

    fn poll_transmit(&mut self, now: Instant, send: &mut dyn FnMut(HostPacket<'_>) -> bool) {
        Self::poll_transmit(self, now, send);
    }
}
