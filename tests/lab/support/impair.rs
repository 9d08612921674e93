//! A datagram forwarder that loses, delays and adds packets: what `netem` would do, in user space and by a seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::namespace::Namespace;

/// What is done to the packets of both directions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Impairment {
    /// How many in a hundred are lost.
    pub(crate) loss: u64,
    /// How many in a hundred are overtaken by those behind them.
    pub(crate) reorder: u64,
    /// How many hostile packets a client gets when it calls, before it hears the server.
    pub(crate) hostile: u64,
    /// How many in a hundred come twice.
    pub(crate) twice: u64,
    /// Everything about keys after the first ones is lost.
    pub(crate) no_renewal: bool,
    pub(crate) seed: u64,
}

/// Who is overtaken arrives this much later.
const LATE: Duration = Duration::from_millis(15);

/// A forwarder for one client. It ends when it is dropped.
pub(crate) struct Forwarder {
    over: Arc<AtomicBool>,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

/// What a forwarder did.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) passed: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) late: AtomicU64,
    pub(crate) hostile: AtomicU64,
}

impl Forwarder {
    /// Forwards between a client that calls `at` and the server.
    pub(crate) fn start(namespace: &Namespace, at: &str, server: &str, impairment: Impairment) -> Self {
        let (at, server): (SocketAddr, SocketAddr) = (at.parse().unwrap(), server.parse().unwrap());
        let sockets = namespace.enter(|| {
            let bound = |at: SocketAddr| UdpSocket::bind(at).unwrap_or_else(|error| panic!("{at}: {error}"));
            let outer = bound(at);
            let inner = bound(SocketAddr::new(at.ip(), 0));
            inner.connect(server).unwrap();
            // Somebody else, who knows where the client is.
            let stranger = bound("192.0.2.80:0".parse().unwrap());
            [outer, inner, stranger]
        });
        let over = Arc::new(AtomicBool::new(false));
        let counts = Arc::new(Counts::default());
        let mut link = Link {
            sockets,
            client: None,
            random: Random(impairment.seed),
            impairment,
            waiting: BinaryHeap::new(),
            counts: Arc::clone(&counts),
        };
        let flag = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                link.turn();
            }
        });
        Self { over, counts, thread: Some(thread) }
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Link {
    /// Towards the client, towards the server, and a stranger's.
    sockets: [UdpSocket; 3],
    client: Option<SocketAddr>,
    random: Random,
    impairment: Impairment,
    /// Packets that are overtaken: when they leave, whether to the client, and what they are.
    waiting: BinaryHeap<Reverse<(Instant, bool, Vec<u8>)>>,
    counts: Arc<Counts>,
}

impl Link {
    /// Waits for packets and moves those that are there.
    fn turn(&mut self) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let now = Instant::now();
        while let Some(Reverse((at, _, _))) = self.waiting.peek()
            && *at <= now
            && let Some(Reverse((_, to_client, packet))) = self.waiting.pop()
        {
            self.send(to_client, &packet);
        }
        let [outer, inner, _] = &self.sockets;
        let mut ready = [PollFd::new(outer, PollFlags::IN), PollFd::new(inner, PollFlags::IN)];
        let _ = poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 2_000_000 }));
        let [from_client, from_server] = ready.map(|fd| fd.revents().contains(PollFlags::IN));
        let mut buffer = [0; 2048];
        if from_client && let Ok((length, from)) = self.sockets[0].recv_from(&mut buffer) {
            if self.client.replace(from) != Some(from) {
                self.attack(from, &buffer[..length]);
            }
            self.pass(false, &buffer[..length]);
        }
        if from_server && let Ok(length) = self.sockets[1].recv(&mut buffer) {
            self.pass(true, &buffer[..length]);
        }
    }

    fn pass(&mut self, to_client: bool, packet: &[u8]) {
        let drawn = self.random.below(100);
        // A data packet is of DATA_V1 or DATA_V2; the key's number is in the last three bits.
        let renews = packet.first().is_some_and(|first| !matches!(first >> 3, 6 | 9) && first & 7 != 0);
        if drawn < self.impairment.loss || (renews && self.impairment.no_renewal) {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        } else if drawn < self.impairment.loss + self.impairment.reorder {
            self.counts.late.fetch_add(1, Ordering::Relaxed);
            self.waiting.push(Reverse((Instant::now() + LATE, to_client, packet.to_vec())));
        } else {
            self.send(to_client, packet);
            if self.random.below(100) < self.impairment.twice {
                self.send(to_client, packet);
            }
        }
    }

    fn send(&self, to_client: bool, packet: &[u8]) {
        self.counts.passed.fetch_add(1, Ordering::Relaxed);
        // A peer that is gone is the peer's business.
        let _ = match (to_client, self.client) {
            (true, Some(client)) => self.sockets[0].send_to(packet, client),
            (true, None) => return,
            (false, _) => self.sockets[1].send(packet),
        };
    }

    /// Sends what no honest server sends: from the server's address and from a stranger's, made of noise and of what the
    /// client itself sent, with every opcode.
    fn attack(&mut self, client: SocketAddr, first: &[u8]) {
        for number in 0..self.impairment.hostile {
            let opcode = self.random.below(32) as u8;
            let key_id = self.random.below(8) as u8;
            let mut packet = match self.random.below(4) {
                0 => first.to_vec(),
                1 => vec![opcode << 3],
                _ => (0..1 + self.random.below(1400)).map(|_| self.random.below(256) as u8).collect(),
            };
            packet[0] = opcode << 3 | key_id;
            if self.random.below(2) == 0 && packet.len() > 9 {
                let at = 1 + self.random.below(packet.len() as u64 - 1) as usize;
                packet[at] ^= 1 << self.random.below(8);
            }
            let from = &self.sockets[if number % 2 == 0 { 0 } else { 2 }];
            if from.send_to(&packet, client).is_ok() {
                self.counts.hostile.fetch_add(1, Ordering::Relaxed);
            }
            // Not faster than the client can read: what its kernel drops tests nothing.
            if number % 32 == 31 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}
