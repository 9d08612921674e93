//! The packet path allocates nothing per packet: counted, not claimed.

#![expect(unsafe_code, reason = "a global allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_sim::net::udp_packet;
use adit_tunnel::{HostPacket, HostPort, LinkId, NetInput, Outbox, Tunnel};
use adit_wireguard::{Config, PeerConfig, PrivateKey, WireGuard};

struct Counting;

thread_local!(static ALLOCATIONS: Cell<u64> = const { Cell::new(0) });

fn count() {
    // A thread that is ending has no counter any more, and nothing to measure.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every method hands its arguments unchanged to the system's allocator, whose contract is the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as for the whole.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as for the whole.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as for the whole.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const ADDRESSES: [&str; 2] = ["192.0.2.1:1", "192.0.2.2:2"];

/// Two interfaces with a session, and what lies between them: a buffer that is used over and over.
struct Path {
    sides: [WireGuard; 2],
    out: [Outbox; 2],
    wire: Vec<u8>,
    now: Instant,
}

impl Path {
    fn new() -> Self {
        let now = Instant::now();
        let key = |n: usize| PrivateKey::from_bytes([n as u8 + 1; 32]);
        let side = |n: usize| {
            let address: SocketAddr = ADDRESSES[1 - n].parse().unwrap();
            let peer = PeerConfig {
                endpoint: Some(HostPort { host: address.ip().to_string(), port: address.port() }),
                allowed_ips: vec!["10.0.0.0/24".parse().unwrap()],
                ..PeerConfig::new(key(1 - n).public_key())
            };
            WireGuard::new(Config { peers: vec![peer], ..Config::new(key(n)) }, n as u64, now)
        };
        let mut path = Self {
            sides: [side(0), side(1)],
            out: [Outbox::default(), Outbox::default()],
            wire: vec![0; 65_536],
            now,
        };
        let opened = NetInput::Opened { link: LinkId(0), local: ADDRESSES[0].parse().unwrap() };
        path.sides[0].handle_net(now, opened, &mut path.out[0]).unwrap();
        let opened = NetInput::Opened { link: LinkId(0), local: ADDRESSES[1].parse().unwrap() };
        // Only one of them calls, so that there is one handshake.
        path.sides[1].handle_net(now, opened, &mut path.out[1]).unwrap();
        path.out[1].net.drain(|_| ());
        for from in [0, 1, 0, 1] {
            path.carry(from);
        }
        path
    }

    /// Carries all datagrams from one side to the other.
    fn carry(&mut self, from: usize) {
        let ([a, b], [out_a, out_b]) = (&mut self.sides, &mut self.out);
        let (to, out_from, out_to) = if from == 0 { (b, out_a, out_b) } else { (a, out_b, out_a) };
        let source: SocketAddr = ADDRESSES[from].parse().unwrap();
        let (wire, now) = (&mut self.wire, self.now);
        out_from.net.drain(|batch| {
            for datagram in batch.data.chunks(batch.segment) {
                let data = &mut wire[..datagram.len()];
                data.copy_from_slice(datagram);
                let input = NetInput::Datagram { link: LinkId(0), from: source, data };
                to.handle_net(now, input, out_to).unwrap();
            }
        });
    }

    /// Sends a packet from the first side to the second `times` times; returns packets and bytes that came out.
    fn run(&mut self, packet: HostPacket<'_>, times: usize) -> (usize, usize) {
        let mut arrived = (0, 0);
        for _ in 0..times {
            // Slow enough for the timers to run too.
            self.now += Duration::from_micros(500);
            self.sides[0].handle_packet(self.now, packet, &mut self.out[0]).unwrap();
            self.carry(0);
            self.out[1].host.drain(|packet| {
                arrived.0 += 1;
                arrived.1 += packet.bytes().len();
            });
        }
        arrived
    }
}

/// Allocations of this thread during `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(10)))), 1);
}

#[test]
fn sealing_and_opening_a_packet_allocates_nothing() {
    let mut path = Path::new();
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 9);
    for size in [64, 576, 1420] {
        let packet = udp_packet(at("10.0.0.1"), at("10.0.0.2"), &vec![1; size - 28]);
        path.run(HostPacket::new(&packet), 10);
        let count = allocations(|| {
            assert_eq!(path.run(HostPacket::new(&packet), 5000), (5000, 5000 * size));
        });
        assert_eq!(count, 0, "allocations for 5000 packets of {size} bytes");
    }
}

#[test]
fn cutting_and_joining_a_super_segment_allocates_nothing() {
    let mut path = Path::new();
    // A TCP segment: the headers of a UDP packet, overwritten.
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 9);
    let mut packet = udp_packet(at("10.0.0.1"), at("10.0.0.2"), &vec![1; 12 + 1380 * 40]);
    packet[9] = 6;
    packet[24..40].fill(0);
    packet[32] = 5 << 4;
    packet[33] = 0x10;
    let packet = HostPacket::segmented(&packet, 1380);
    path.run(packet, 3);
    let count = allocations(|| {
        // Forty packets each, joined to one again.
        assert_eq!(path.run(packet, 300), (300, 300 * (40 + 1380 * 40)));
    });
    assert_eq!(count, 0, "allocations for 12000 packets out of super-segments");
}
