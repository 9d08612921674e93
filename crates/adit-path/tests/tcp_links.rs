//! A tunnel over a TCP link: frames of packets in a byte stream, as OpenVPN over TCP has them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use adit_path::{Connect, Engine, EngineOptions, Listen, Network, Phase};
use adit_tunnel::{
    Deadline, Dropped, Event, HostPacket, LinkId, LinkSpec, NetConfig, NetInput, Outbox, PeerStatus, Tunnel,
    TunnelError,
};
use common::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

const LINK: LinkId = LinkId(9);

/// The smallest tunnel over a stream: a length of two bytes before each packet, no cipher.
struct Framed {
    to: SocketAddr,
    config: NetConfig,
    stream: Vec<u8>,
    events: VecDeque<Event<Ended>>,
    log: Arc<Log>,
}

/// What the tests look at from outside.
#[derive(Default)]
struct Log {
    packets: AtomicU64,
    bytes: AtomicU64,
    waits: AtomicU64,
    writable: AtomicU64,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the link ended: {0:?}")]
struct Ended(Option<io::ErrorKind>);

impl TunnelError for Ended {
    fn class(&self) -> &'static str {
        "test.link-ended"
    }

    fn evidence(&self) -> Vec<String> {
        Vec::new()
    }
}

enum Order {
    /// Close the link and open another of the same name.
    Reopen,
    /// Say a last word and close the link.
    Farewell(&'static [u8]),
}

impl Framed {
    fn new(to: SocketAddr, address: &str, log: Arc<Log>) -> Self {
        let config = NetConfig {
            addresses: vec![format!("{address}/24").parse().unwrap()],
            routes: vec!["10.77.0.0/24".parse().unwrap()],
            mtu: 1400,
            ..NetConfig::default()
        };
        let events = VecDeque::from([Event::OpenLink(LINK, LinkSpec::Tcp { to })]);
        Self { to, config, stream: Vec::new(), events, log }
    }

    fn frames(&mut self, out: &mut Outbox) -> Result<(), Dropped> {
        let mut rest = &self.stream[..];
        while let Some((len, tail)) = rest.split_first_chunk() {
            let Some(packet) = tail.get(..usize::from(u16::from_be_bytes(*len))) else { break };
            let mut slot = out.host.reserve(packet.len()).ok_or(Dropped::Backpressure)?;
            slot.copy_from_slice(packet);
            slot.commit(packet.len());
            rest = &tail[packet.len()..];
        }
        let done = self.stream.len() - rest.len();
        self.stream.drain(..done);
        Ok(())
    }
}

impl Tunnel for Framed {
    type Command = Order;
    type Error = Ended;

    fn handle_net(&mut self, _: Instant, input: NetInput<'_>, out: &mut Outbox) -> Result<(), Dropped> {
        match input {
            NetInput::Stream { link: LINK, data } => {
                self.stream.extend_from_slice(data);
                return self.frames(out);
            }
            NetInput::Opened { link: LINK, .. } => {
                self.events.extend([Event::Configured(self.config.clone()), Event::Up]);
            }
            NetInput::Closed { link: LINK, error } => self.events.push_back(Event::Down(Ended(error))),
            NetInput::Writable { link: LINK } => {
                self.log.writable.fetch_add(1, Ordering::Relaxed);
            }
            _ => return Err(Dropped::Unexpected),
        }
        Ok(())
    }

    fn handle_packet(&mut self, _: Instant, packet: HostPacket<'_>, out: &mut Outbox) -> Result<(), Dropped> {
        for segment in packet.segments()? {
            let mut slot = out.net.reserve(LINK, None, segment.len() + 2).ok_or(Dropped::Backpressure)?;
            slot[..2].copy_from_slice(&(segment.len() as u16).to_be_bytes());
            segment.write(&mut slot[2..]);
            slot.commit(segment.len() + 2);
            self.log.packets.fetch_add(1, Ordering::Relaxed);
            self.log.bytes.fetch_add(segment.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn handle_timeout(&mut self, _: Instant, _: &mut Outbox) {}

    fn handle_command(&mut self, _: Instant, order: Order, out: &mut Outbox) {
        match order {
            Order::Reopen => {
                let spec = LinkSpec::Tcp { to: self.to };
                self.events.extend([Event::CloseLink(LINK), Event::OpenLink(LINK, spec)]);
            }
            Order::Farewell(word) => {
                let mut slot = out.net.reserve(LINK, None, word.len()).unwrap();
                slot.copy_from_slice(word);
                slot.commit(word.len());
                self.events.push_back(Event::CloseLink(LINK));
            }
        }
    }

    fn close(&mut self, now: Instant, out: &mut Outbox) {
        self.handle_command(now, Order::Farewell(b"\0\x02ME"), out);
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        self.log.waits.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn poll_event(&mut self) -> Option<Event<Ended>> {
        self.events.pop_front()
    }

    fn peers(&self, _: Instant) -> Vec<PeerStatus> {
        Vec::new()
    }
}

/// A far end whose system takes little for a program that does not read.
fn narrow_listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 16 * 1024).unwrap();
    listener
}

fn start(to: SocketAddr, address: &str) -> (Arc<Engine<Framed>>, Arc<Log>) {
    let log = Arc::new(Log::default());
    let tunnel = Framed::new(to, address, log.clone());
    (Arc::new(Engine::start(tunnel, EngineOptions::default()).unwrap()), log)
}

/// Joins two connections: whatever one says, the other hears. It can stop listening to the first.
#[derive(Default)]
struct Hub {
    paused: Mutex<bool>,
    changed: Condvar,
    /// Odd pieces, so that frames are torn.
    small: AtomicBool,
}

impl Hub {
    fn pause(&self, paused: bool) {
        *self.paused.lock().unwrap() = paused;
        self.changed.notify_all();
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream, may_pause: bool) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            if may_pause {
                drop(self.changed.wait_while(self.paused.lock().unwrap(), |paused| *paused).unwrap());
            }
            let len = if self.small.load(Ordering::Relaxed) { 997 } else { buffer.len() };
            match from.read(&mut buffer[..len]) {
                Ok(n) if n > 0 && to.write_all(&buffer[..n]).is_ok() => {}
                _ => break,
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

/// Two engines whose only link is a TCP connection to a hub between them.
struct Joined {
    hub: Arc<Hub>,
    client: Arc<Engine<Framed>>,
    server: Arc<Engine<Framed>>,
    log: Arc<Log>,
}

async fn joined() -> Joined {
    let listener = narrow_listener();
    let to = listener.local_addr().unwrap();
    let hub = Arc::new(Hub::default());
    let (client, log) = start(to, CLIENT);
    let (a, _) = listener.accept().unwrap();
    let (server, _) = start(to, SERVER);
    let (b, _) = listener.accept().unwrap();
    for (from, to, may_pause) in [(&a, &b, true), (&b, &a, false)] {
        let (hub, from, to) = (hub.clone(), from.try_clone().unwrap(), to.try_clone().unwrap());
        thread::spawn(move || hub.carry(from, to, may_pause));
    }
    wait_for(&*client, Phase::Up).await;
    wait_for(&*server, Phase::Up).await;
    Joined { hub, client, server, log }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8).collect()
}

fn dropped(network: &dyn Network) -> Vec<(String, u64)> {
    network.status().borrow().counters.dropped.clone()
}

#[tokio::test]
async fn megabytes_pass_both_ways_at_once_however_the_stream_is_torn() {
    for small in [false, true] {
        let joined = joined().await;
        joined.hub.small.store(small, Ordering::Relaxed);
        let mut listener = within(joined.server.listen(80, Listen::default())).await.unwrap();
        let connect = joined.client.connect(at(SERVER, 80), Connect::default());
        let (flow, accepted) = within(async { tokio::join!(connect, listener.accept()) }).await;
        let echo = tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(accepted.unwrap().into_stream().unwrap());
            tokio::io::copy(&mut from, &mut to).await.unwrap();
            to.shutdown().await.unwrap();
        });
        let sent = pattern(2 << 20);
        let (mut from, mut to) = tokio::io::split(flow.unwrap().into_stream().unwrap());
        let copy = sent.clone();
        let writer = tokio::spawn(async move {
            to.write_all(&copy).await.unwrap();
            to.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        within(from.read_to_end(&mut received)).await.unwrap();
        assert!(received == sent, "{} of {} bytes came back, or they changed", received.len(), sent.len());
        within(writer).await.unwrap();
        within(echo).await.unwrap();
        assert_eq!((dropped(&*joined.client), dropped(&*joined.server)), (vec![], vec![]));
    }
}

#[tokio::test]
async fn a_stalled_carrier_stops_the_senders_inside_loses_nothing_and_costs_no_cpu() {
    let joined = joined().await;
    let mut listener = within(joined.server.listen(80, Listen::default())).await.unwrap();
    let sent = pattern(4 << 20);
    let (pause_at, len) = (1 << 20, sent.len());
    let (mut readers, mut writers) = (JoinSet::new(), JoinSet::new());
    let mut flows = Vec::new();
    for _ in 0..8 {
        let connect = joined.client.connect(at(SERVER, 80), Connect::default());
        flows.push(within(async { tokio::join!(connect, listener.accept()) }).await);
    }
    let stalled = Arc::new(AtomicBool::new(false));
    for (near, far) in flows {
        let stalled = stalled.clone();
        let (expected, hub) = (sent.clone(), joined.hub.clone());
        readers.spawn(async move {
            let mut stream = far.unwrap().into_stream().unwrap();
            let mut received = vec![0; len];
            stream.read_exact(&mut received[..pause_at]).await.unwrap();
            // The carrier stalls in full flight, when the senders' windows are open far.
            if !stalled.swap(true, Ordering::Relaxed) {
                hub.pause(true);
            }
            stream.read_exact(&mut received[pause_at..]).await.unwrap();
            assert!(received == expected, "the bytes changed");
        });
        let (mut stream, sent) = (near.unwrap().into_stream().unwrap(), sent.clone());
        writers.spawn(async move {
            stream.write_all(&sent).await.unwrap();
            stream
        });
    }
    within(tokio::task::spawn_blocking({
        let hub = joined.hub.clone();
        move || drop(hub.changed.wait_while(hub.paused.lock().unwrap(), |paused| !*paused).unwrap())
    }))
    .await
    .unwrap();

    // Half a second of standing still: the loop waits, and what it was given stays bounded.
    let before = (joined.log.waits.load(Ordering::Relaxed), joined.log.bytes.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let turns = joined.log.waits.load(Ordering::Relaxed) - before.0;
    let bytes = joined.log.bytes.load(Ordering::Relaxed) - before.1;
    let given = joined.log.bytes.load(Ordering::Relaxed);
    let waiting = given - joined.server.status().borrow().counters.net_received_bytes.min(given);
    assert!(
        waiting < 640 * 1024,
        "{waiting} bytes wait in the carrier: all of it is delay for whoever comes next"
    );
    assert!(turns < 2000, "{turns} turns of the loop with nothing to do");
    assert!(bytes < 8 << 20, "{bytes} bytes into a link that takes none");
    assert!(writers.try_join_next().is_none(), "the carrier stood still before everything was written");

    joined.hub.pause(false);
    while let Some(reader) = within(readers.join_next()).await {
        reader.unwrap();
    }
    while let Some(writer) = within(writers.join_next()).await {
        drop(writer.unwrap());
    }
    assert_eq!((dropped(&*joined.client), dropped(&*joined.server)), (vec![], vec![]));
}

#[tokio::test]
async fn a_refused_carrier_is_a_fault_with_its_reason() {
    let to = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (client, _) = start(to, CLIENT);
    let mut status = client.status();
    let status = within(status.wait_for(|status| status.fault.is_some())).await.unwrap();
    assert_eq!(status.fault.as_ref().unwrap().summary, "the link ended: Some(ConnectionRefused)");
}

#[tokio::test]
async fn a_carrier_that_ends_is_told_with_how_it_ended() {
    for (reset, expected) in
        [(false, "the link ended: None"), (true, "the link ended: Some(ConnectionReset)")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (client, _) = start(listener.local_addr().unwrap(), CLIENT);
        let (far, _) = listener.accept().unwrap();
        wait_for(&*client, Phase::Up).await;
        if reset {
            rustix::net::sockopt::set_socket_linger(&far, Some(Duration::ZERO)).unwrap();
        }
        drop(far);
        let mut status = client.status();
        let status = within(status.wait_for(|status| status.fault.is_some())).await.unwrap();
        assert_eq!(status.fault.as_ref().unwrap().summary, expected);
    }
}

#[tokio::test]
async fn a_new_link_of_the_same_name_begins_with_nothing_of_the_old_one() {
    let listener = narrow_listener();
    let (client, log) = start(listener.local_addr().unwrap(), CLIENT);
    // Nobody reads the first connection; datagrams inside fill it.
    let (old, _) = listener.accept().unwrap();
    wait_for(&*client, Phase::Up).await;
    let udp = within(client.udp(adit_path::Udp { port: 0, peer: Some(at(SERVER, 9)) })).await.unwrap();
    let udp = udp.into_socket().unwrap();
    let mut seen = u64::MAX;
    while seen != log.bytes.load(Ordering::Relaxed) {
        seen = log.bytes.load(Ordering::Relaxed);
        for _ in 0..64 {
            let datagram = udp.send_to(&[7; 1300], at(SERVER, 9));
            // The program is held up at last, or the stack has no more room.
            if tokio::time::timeout(Duration::from_millis(300), datagram).await.is_err() {
                break;
            }
        }
    }
    client.command(Order::Reopen).ok().unwrap();
    let (mut new, _) = listener.accept().unwrap();
    new.set_read_timeout(Some(PATIENCE)).unwrap();
    tokio::spawn(async move {
        loop {
            let _ = udp.send_to(&[8; 1300], at(SERVER, 9)).await;
        }
    });
    let first = tokio::task::spawn_blocking(move || {
        let mut head = [0; 22];
        new.read_exact(&mut head).unwrap();
        head
    });
    let head = within(first).await.unwrap();
    // A frame begins where the stream begins: 1300 bytes behind IPv4 and UDP headers.
    assert_eq!((&head[..2], head[2]), (&1328u16.to_be_bytes()[..], 0x45));
    drop(old);
}

#[tokio::test]
async fn what_the_tunnel_says_last_is_sent_before_the_link_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (client, _) = start(listener.local_addr().unwrap(), CLIENT);
    let (mut far, _) = listener.accept().unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    wait_for(&*client, Phase::Up).await;
    client.command(Order::Farewell(b"bye")).ok().unwrap();
    let all = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        far.read_to_end(&mut all).unwrap();
        all
    });
    assert_eq!(within(all).await.unwrap(), b"bye");
}

#[tokio::test]
async fn a_tunnel_that_is_shut_down_takes_leave_of_the_far_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (client, _) = start(listener.local_addr().unwrap(), CLIENT);
    let (mut far, _) = listener.accept().unwrap();
    far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    wait_for(&*client, Phase::Up).await;
    client.shutdown();
    let mut said = Vec::new();
    far.read_to_end(&mut said).unwrap();
    assert!(said.ends_with(b"\0\x02ME"), "{said:?}");
}
