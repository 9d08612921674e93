//! The packet path allocates nothing per packet: counted, not claimed.

#![expect(unsafe_code, reason = "a global allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use adit_benches::Path;
use adit_sim::net::udp_packet;
use adit_tunnel::HostPacket;

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

/// Sends a packet from one interface to the other `times` times, slowly enough for the timers to run too; returns packets
/// and bytes that came out.
fn run(path: &mut Path, packet: HostPacket<'_>, times: usize) -> (usize, usize) {
    let mut arrived = (0, 0);
    for _ in 0..times {
        path.wait(Duration::from_micros(500));
        let (packets, bytes) = path.run(packet, 1);
        arrived = (arrived.0 + packets, arrived.1 + bytes);
    }
    arrived
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
        run(&mut path, HostPacket::new(&packet), 10);
        let count = allocations(|| {
            assert_eq!(run(&mut path, HostPacket::new(&packet), 5000), (5000, 5000 * size));
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
    run(&mut path, packet, 3);
    let count = allocations(|| {
        // Forty packets each, joined to one again.
        assert_eq!(run(&mut path, packet, 300), (300, 300 * (40 + 1380 * 40)));
    });
    assert_eq!(count, 0, "allocations for 12000 packets out of super-segments");
}

mod openvpn {
    use std::time::Instant;

    use adit_openvpn::data::{Channel, DataKeys, Inner, KeyMaterial, Parameters, Role, Shape, Suite};
    use adit_openvpn::{Algorithm, Cipher, Compression, MssFix, Transport};
    use adit_tunnel::{LinkId, Outbox};

    use super::*;

    /// Sends `times` packets of 1400 bytes through the data channel; returns how many arrived.
    fn run(ends: &mut [(Channel, DataKeys); 2], out: &mut Outbox, wire: &mut [u8], times: usize) -> usize {
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 9);
        let packet = udp_packet(at("10.0.0.1"), at("10.0.0.2"), &[1; 1372]);
        let to = (LinkId(0), Some(SocketAddr::from(([127, 0, 0, 1], 1194))));
        let (now, mut arrived) = (Instant::now(), 0);
        let [(near, sealing), (far, opening)] = ends;
        let mut work = || {
            for _ in 0..times {
                near.send(sealing, HostPacket::new(&packet), to, &mut out.net).unwrap();
                out.net.drain(|batch| {
                    for message in batch.data.chunks(batch.segment) {
                        let copy = &mut wire[..message.len()];
                        copy.copy_from_slice(message);
                        let inner = far.receive(now, opening, copy).unwrap();
                        arrived +=
                            usize::from(matches!(inner, Inner::Packet(packet) if packet.len() == 1400));
                    }
                });
            }
        };
        if times == 1 {
            work();
        } else {
            assert_eq!(allocations(work), 0);
        }
        arrived
    }

    #[test]
    fn no_cipher_and_no_framing_allocates_for_a_packet() {
        let compressions = [Compression::None, Compression::Lzo, Compression::Stub, Compression::StubV2];
        for (cipher, compression, fragment, epoch) in Cipher::ALL
            .into_iter()
            .flat_map(|cipher| compressions.map(|compression| (cipher, compression)))
            .flat_map(|(cipher, compression)| {
                [(cipher, compression, None, false), (cipher, compression, Some(700), true)]
            })
        {
            for auth in [Algorithm::Md5, Algorithm::Sha1, Algorithm::Sha512] {
                let suite = Suite { cipher, auth, epoch };
                let shape = Shape {
                    suite,
                    peer_id: true,
                    transport: Transport::Udp,
                    outside_v6: false,
                    compression,
                    fragment,
                    mssfix: MssFix::Default,
                    tun_mtu: 1500,
                    envelope: 0,
                };
                let mut ends = [Role::Client, Role::Server].map(|role| {
                    let parameters = Parameters { role, key_id: 0, peer_id: Some(1), replay_window: 64 };
                    let material = KeyMaterial::new([7; 256].into());
                    (Channel::new(shape), DataKeys::new(suite, &material, &parameters))
                });
                let (mut out, mut wire) = (Outbox::default(), vec![0; 2048]);
                run(&mut ends, &mut out, &mut wire, 1);
                assert_eq!(run(&mut ends, &mut out, &mut wire, 20), 20, "{shape:?}");
            }
        }
    }
}
