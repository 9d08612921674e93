//! Two engines, a real tunnel between them, and bulk data: counted allocations of every thread.

#![expect(unsafe_code, reason = "a global allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use adit_path::{Connect, Engine, EngineOptions, Flow, Listen, Network, Phase};
use adit_tunnel::HostPort;
use adit_wireguard::{Config, PeerConfig, PrivateKey, WireGuard};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every method hands its arguments unchanged to the system's allocator, whose contract is the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as for the whole.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
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

fn engine(n: u8, port: u16) -> Engine<WireGuard> {
    let key = |n: u8| PrivateKey::from_bytes([n; 32]);
    let mut peer = PeerConfig::new(key(3 - n).public_key());
    peer.allowed_ips = vec![format!("10.77.0.{}/32", 3 - n).parse().unwrap()];
    let mut config = Config::new(key(n));
    config.addresses = vec![format!("10.77.0.{n}/32").parse().unwrap()];
    if n == 1 {
        config.listen_port = Some(port);
    } else {
        peer.endpoint = Some(HostPort { host: "127.0.0.1".to_owned(), port });
    }
    config.peers = vec![peer];
    Engine::start(WireGuard::new(config, 7, Instant::now()), EngineOptions::default()).unwrap()
}

fn carried(flow: Flow) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    flow.attach(theirs.into()).unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    ours
}

/// Writes `chunk` again and again, `count` times, and reads it all at the other end.
fn pump(writer: &mut UnixStream, reader: &mut UnixStream, chunk: &[u8], count: usize) {
    std::thread::scope(|scope| {
        scope.spawn(|| (0..count).for_each(|_| writer.write_all(chunk).unwrap()));
        let mut buffer = [0; 16 * 1024];
        let mut left = chunk.len() * count;
        while left > 0 {
            left -= reader.read(&mut buffer).unwrap();
        }
    });
}

#[test]
fn bulk_data_through_two_engines_allocates_nothing_per_packet() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = engine(1, port);
    runtime.block_on(server.status().wait_for(|status| status.config.is_some())).unwrap();
    let client = engine(2, port);
    let (mut near, mut far) = runtime.block_on(async {
        client.status().wait_for(|status| status.phase == Phase::Up).await.unwrap();
        let mut listener = server.listen(7000, Listen::default()).await.unwrap();
        let to: SocketAddr = "10.77.0.1:7000".parse().unwrap();
        let (near, far) = tokio::join!(client.connect(to, Connect::default()), listener.accept());
        (carried(near.unwrap()), carried(far.unwrap()))
    });
    let chunk = vec![7; 256 * 1024];
    pump(&mut near, &mut far, &chunk, 16);
    pump(&mut far, &mut near, &chunk, 16);
    let packets = || {
        let counters = client.status().borrow().counters.clone();
        counters.host_sent + counters.host_received
    };
    let (before, packets_before) = (ALLOCATIONS.load(Ordering::Relaxed), packets());
    pump(&mut near, &mut far, &chunk, 64);
    pump(&mut far, &mut near, &chunk, 64);
    // What a question for the status costs is counted too, and threads of the test; neither depends on the packets.
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    let packets = packets() - packets_before;
    println!("{allocations} allocations for {packets} packets");
    assert!(packets > 22_000, "32 MiB are more than 22,000 packets: {packets}");
    assert!(allocations < 200, "{allocations} allocations for {packets} packets");
}
