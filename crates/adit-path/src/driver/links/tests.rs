//! TCP links against a far end that reads, writes and leaves as each test says.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use adit_tunnel::Outbox;
use mio::{Events, Poll};

use super::*;
use crate::driver::token::Source;

const LINK: LinkId = LinkId(3);

/// The links of a loop that a test turns by hand.
struct Loop {
    poll: Poll,
    registry: Registry,
    links: Links,
    out: Outbox,
    arena: Arena,
    received: Vec<u8>,
    reports: Vec<String>,
}

impl Loop {
    fn new() -> Self {
        let poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let out = Outbox::with_capacity(512 * 1024, 0);
        let (received, reports) = (Vec::new(), Vec::new());
        Self { poll, registry, links: Links::new(), out, arena: Arena::new(), received, reports }
    }

    /// A loop whose one link is connected, and the far end.
    fn connected() -> (Self, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut this = Self::new();
        let to = listener.local_addr().unwrap();
        this.links.open(&this.registry, LINK, &LinkSpec::Tcp { to });
        let (far, _) = listener.accept().unwrap();
        far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        this.until(|this| !this.reports.is_empty());
        assert_eq!(this.reports, ["opened"]);
        this.reports.clear();
        (this, far)
    }

    /// Waits for readiness and notes it, as the driver does before anything else.
    fn wait(&mut self) {
        let mut events = Events::with_capacity(8);
        self.poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        assert!(!events.is_empty(), "nothing happened within ten seconds");
        for event in &events {
            let Some(Source::Link(key)) = Source::of(event.token()) else { panic!("{event:?}") };
            self.links.ready(&self.registry, key, event);
        }
        self.report();
    }

    fn receive(&mut self) {
        let Self { links, registry, arena, received, .. } = self;
        for index in 0..links.ids() {
            links.receive(registry, index, arena, &mut |_, from, data| {
                assert_eq!(from, None);
                received.extend_from_slice(data);
            });
        }
        self.report();
    }

    fn report(&mut self) {
        while let Some(report) = self.links.report() {
            let said = match report {
                Report::Opened(LINK, _) => "opened".to_owned(),
                Report::Closed(LINK, why) => format!("closed: {why:?}"),
                Report::Writable(LINK) => {
                    self.out.net.unblock(LINK);
                    "writable".to_owned()
                }
                other => format!("{other:?}"),
            };
            self.reports.push(said);
        }
    }

    fn until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        while !done(self) {
            // An edge tells once that there is something; what it told of is read to its end first.
            if !self.links.readable() {
                self.wait();
            }
            self.receive();
        }
    }

    /// Gives the link bytes, as a tunnel does. Returns how many the queue took.
    fn give(&mut self, bytes: &[u8]) -> usize {
        let mut given = 0;
        for piece in bytes.chunks(1400) {
            let Some(mut slot) = self.out.net.reserve(LINK, None, piece.len()) else { break };
            slot.copy_from_slice(piece);
            slot.commit(piece.len());
            given += piece.len();
        }
        given
    }

    /// Bytes that wait in the link.
    fn waiting(&mut self) -> usize {
        let key = lookup(&self.links.keys, LINK).unwrap();
        match self.links.table.get_mut(key) {
            Some((_, Link::Tcp(tcp))) => tcp.waiting(),
            other => panic!("{other:?}"),
        }
    }

    fn flush(&mut self) -> bool {
        self.links.flush(&mut self.out.net, &mut |_| {})
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8).collect()
}

#[test]
fn a_far_end_that_does_not_read_blocks_the_link_and_is_told_when_it_reads_again() {
    let (mut this, mut far) = Loop::connected();
    let data = pattern(16 << 20);
    let mut given = 0;
    while !this.links.all_blocked(&this.out.net) {
        // As much as the driver seals between two flushes.
        given += this.give(&data[given..data.len().min(given + 64 * 1024)]);
        assert!(given < data.len(), "the system takes 16 MiB for a far end that does not read");
        assert!(this.flush(), "what the socket does not take waits in the link, not in front of other links");
    }
    assert_eq!(this.give(&data[given..]), 0, "a blocked link takes nothing");
    assert!(this.waiting() <= 64 * 1024, "{} bytes wait in the link", this.waiting());

    let mut read = vec![0; given];
    let (mut at, mut told) = (0, false);
    while at < given {
        // A little at a time, so that the socket takes parts of what waits.
        let n = far.read(&mut read[at..given.min(at + 8192)]).unwrap();
        at += n;
        if this.waiting() > 0 {
            let mut events = Events::with_capacity(8);
            this.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            for event in &events {
                let Some(Source::Link(key)) = Source::of(event.token()) else { panic!("{event:?}") };
                this.links.ready(&this.registry, key, event);
            }
            this.report();
        }
        told |= this.reports.iter().any(|report| report == "writable");
    }
    assert!(told && this.waiting() == 0, "{:?}", this.reports);
    assert_eq!(this.reports, ["writable"], "it is told once");
    assert!(read == data[..given], "the bytes changed");
    assert_eq!(this.give(b"goes on"), 7);
    assert!(this.flush());
    far.read_exact(&mut read[..7]).unwrap();
    assert_eq!(&read[..7], b"goes on");
}

#[test]
fn a_refused_connection_says_so() {
    let to = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut this = Loop::new();
    this.links.open(&this.registry, LINK, &LinkSpec::Tcp { to });
    this.until(|this| !this.reports.is_empty());
    assert_eq!(this.reports, ["closed: Some(ConnectionRefused)"]);
    assert_eq!(this.links.ids(), 0);
}

#[test]
fn the_end_of_the_stream_comes_after_its_bytes() {
    let (mut this, mut far) = Loop::connected();
    far.write_all(&pattern(300_000)).unwrap();
    drop(far);
    this.until(|this| !this.reports.is_empty());
    assert_eq!(
        (this.reports[..].to_vec(), this.received == pattern(300_000)),
        (vec!["closed: None".into()], true)
    );
}

#[test]
fn last_words_before_a_reset_are_heard_though_a_write_fails_first() {
    let (mut this, mut far) = Loop::connected();
    far.write_all(b"AUTH_FAILED").unwrap();
    rustix::net::sockopt::set_socket_linger(&far, Some(Duration::ZERO)).unwrap();
    drop(far);
    this.wait();
    // The driver may have something to send before it reads.
    this.give(b"ping");
    this.flush();
    while this.reports.is_empty() {
        this.receive();
    }
    assert_eq!(this.received, b"AUTH_FAILED");
    assert_eq!(this.reports.len(), 1, "{:?}", this.reports);
    assert!(this.reports[0].starts_with("closed: Some("), "{:?}", this.reports);
}

#[test]
fn bytes_given_before_the_connection_is_there_are_sent_when_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let mut this = Loop::new();
    this.links.open(&this.registry, LINK, &LinkSpec::Tcp { to });
    this.give(b"early");
    this.flush();
    this.until(|this| !this.reports.is_empty());
    let (mut far, _) = listener.accept().unwrap();
    let mut read = [0; 5];
    far.read_exact(&mut read).unwrap();
    assert_eq!((&read, &this.reports[0]), (b"early", &"opened".to_owned()));
}

#[test]
fn a_stalled_stream_does_not_hold_up_datagrams() {
    let (mut this, _far) = Loop::connected();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    this.links.open(&this.registry, LinkId(4), &LinkSpec::Udp { port: None });
    let data = pattern(64 * 1024);
    while !this.out.net.is_blocked(LINK) {
        this.give(&data);
        this.flush();
    }
    assert!(!this.links.all_blocked(&this.out.net), "one of the two links is open");
    let mut slot = this.out.net.reserve(LinkId(4), Some(udp.local_addr().unwrap()), 3).unwrap();
    slot.copy_from_slice(b"udp");
    slot.commit(3);
    assert!(this.flush());
    let mut buffer = [0; 16];
    assert_eq!(udp.recv(&mut buffer).unwrap(), 3);
}
