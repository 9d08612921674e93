//! The packet path: one thread that moves packets, flows and attached sockets, and never waits for anything but
//! readiness.
//!
//! ```text
//! links ⇄ Tunnel ⇄ Outbox ⇄ packet end (netstack with attached sockets, or TUN device)
//! ```
//!
//! A turn of the loop receives a bounded batch, feeds it to the packet end at once, lets flows with work move bytes,
//! seals what the packet end has to send, and flushes. Nothing is done on a fixed tick: the next deadline of the
//! tunnel or the packet end bounds the wait for readiness.

mod bootstrap;
mod commands;
mod datagrams;
mod end;
mod endpoints;
mod flows;
mod handles;
mod links;
mod names;
mod publish;
mod slab;
mod stack_end;
mod stream;
mod tcp;
mod token;
mod udp;
mod watch;
mod ways;

use std::io;
use std::net::IpAddr;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use adit_netstack::{Stack, StackConfig};
use adit_tunnel::{Deadline, Event, Fault, LinkSpec, NetInput, Outbox, PrefixTable, Tunnel, Way};
use mio::{Events, Poll, Registry, Waker};
use tokio::sync::{mpsc, oneshot, watch as watch_channel};

use self::bootstrap::Bootstrap;
use self::commands::{Bell, MAX_REQUESTS};
pub(crate) use self::commands::{Mailbox, Notice, Request, Ticket};
use self::end::End;
use self::links::{Links, Report};
use self::publish::Publisher;
pub(crate) use self::stack_end::Gone;
use self::stack_end::StackEnd;
use self::token::Source;
use self::udp::Arena;
use self::watch::Watch;
use self::ways::Ways;
use crate::engine;
use crate::tun::TunEnd;
use crate::{Ownership, Status, WayFailure};

/// Capacity of the two sides of the outbox. One receive call while the kernel merges brings 256 KiB.
const OUTBOX: usize = 512 * 1024;
/// Space that must be free for one more super-segment: 64 KiB of payload in datagrams of a tunnel, and the answers
/// that the tunnel itself has to give.
const MARGIN: usize = 112 * 1024;
const _: () = assert!(OUTBOX > 3 * MARGIN, "several super-segments go into one flush");
/// Commands and notices that are followed between two looks at the network.
const MAX_NOTICES: usize = 256;
/// Rounds of events that the tunnel and the links may cause each other in one turn.
const MAX_ROUNDS: usize = 32;
/// The shortest wait for a deadline that is over but was not moved by handling it.
const STALE: Duration = Duration::from_millis(1);

/// What the engine keeps of a driver.
pub(crate) struct Parts<C> {
    pub(crate) mailbox: Mailbox,
    pub(crate) commands: mpsc::Sender<C>,
    pub(crate) status: watch_channel::Receiver<Status>,
    pub(crate) ownership: watch_channel::Receiver<Ownership>,
}

/// The event loop of one tunnel.
pub(crate) struct Driver<T: Tunnel> {
    tunnel: T,
    poll: Poll,
    registry: Registry,
    links: Links,
    out: Outbox,
    arena: Arena,
    end: End,
    bootstrap: Bootstrap,
    watch: Watch,
    bell: Bell,
    requests: mpsc::Receiver<Request>,
    notices: mpsc::UnboundedReceiver<Notice>,
    commands: mpsc::Receiver<T::Command>,
    ownership: watch_channel::Sender<Ownership>,
    publisher: Publisher,
    ways: Ways,
    ended: bool,
    failed: bool,
    /// The packet end had more to send than one turn takes.
    limited: bool,
    /// The tunnel answered a packet of the packet end itself.
    answered: bool,
}

impl<T: Tunnel> Driver<T> {
    /// Makes the loop and what its handles need.
    pub(crate) fn new(
        tunnel: T,
        seed: u64,
        end: engine::End,
        allowed: Option<PrefixTable<()>>,
    ) -> io::Result<(Self, Parts<T::Command>)> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let bell = Bell::new(Waker::new(&registry, Source::Waker.token())?);
        let (request_sender, requests) = mpsc::channel(MAX_REQUESTS);
        let (notice_sender, notices) = mpsc::unbounded_channel();
        let (command_sender, commands) = mpsc::channel(64);
        let (ownership, ownership_receiver) = watch_channel::channel(Ownership::default());
        let now = Instant::now();
        let (publisher, status) = Publisher::new(now)?;
        let mailbox = Mailbox { requests: request_sender, notices: notice_sender, bell: bell.clone() };
        let ends_registry = registry.try_clone()?;
        let end = match end {
            engine::End::Stack(options) => {
                let config = StackConfig { seed, budget: options.budget };
                let stack = Stack::new(config, now);
                // The resolver's numbers must not follow from the stack's.
                let seed = seed.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15;
                End::Stack(Box::new(StackEnd::new(stack, seed, ends_registry, mailbox.clone(), allowed)))
            }
            engine::End::Tun(options) => {
                End::Tun(Box::new(TunEnd::new(options, ends_registry, Source::Tun.token())))
            }
        };
        let driver = Self {
            tunnel,
            watch: Watch::new(&registry),
            links: Links::new(),
            out: Outbox::with_capacity(OUTBOX, OUTBOX),
            arena: Arena::new(),
            end,
            bootstrap: Bootstrap::new(bell.clone()),
            poll,
            registry,
            bell,
            requests,
            notices,
            commands,
            ownership,
            publisher,
            ways: Ways::default(),
            ended: false,
            failed: false,
            limited: false,
            answered: false,
        };
        let parts = Parts { mailbox, commands: command_sender, status, ownership: ownership_receiver };
        Ok((driver, parts))
    }

    /// Runs until a notice says otherwise.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut busy = self.turn(Instant::now());
        while !self.ended {
            let before = Instant::now();
            let wait = if busy { Some(Duration::ZERO) } else { self.wait(before) };
            if let Err(error) = self.poll.poll(&mut events, wait)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "the event loop cannot wait for readiness and ends");
                break;
            }
            let now = Instant::now();
            if wait != Some(Duration::ZERO) {
                self.watch.waited(now, wait, now - before, watch::suspended());
            }
            for event in &events {
                self.ready(now, event);
            }
            busy = self.turn(now);
        }
        self.close();
    }

    fn wait(&self, now: Instant) -> Option<Duration> {
        let next = Deadline::earlier(self.tunnel.poll_timeout(), self.end.poll_timeout()).map(|next| next.at);
        let next = [next, self.watch.poll_timeout()].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(now).max(STALE))
    }

    fn ready(&mut self, now: Instant, event: &mio::event::Event) {
        match Source::of(event.token()) {
            Some(Source::Waker) | None => {}
            Some(Source::Watch) => self.watch.ready(now),
            Some(Source::Tun) => self.end.device_ready(),
            Some(Source::Link(key)) => self.links.ready(&self.registry, key, event),
            Some(Source::Stream(key)) => self.end.stream_ready(key, event),
            Some(Source::Datagrams(key)) => self.end.datagrams_ready(key, event),
        }
    }

    /// One bounded round of everything. Returns whether there is more to do at once.
    fn turn(&mut self, now: Instant) -> bool {
        let more_notices = self.hear(now);
        if self.watch.take_change(now) {
            tracing::debug!("the machine's network changed");
            self.end.network_changed();
            self.handle_net(now, NetInput::NetworkChanged);
        }
        self.receive(now);
        self.time_out(now);
        let more_events = self.settle(now);
        let more_work = self.end.run(now);
        let blocked = self.transmit(now);
        self.publisher.sent(now, &self.links.traffic);
        if self.publisher.is_due() {
            self.publish(now, None);
        }
        let answered = std::mem::take(&mut self.answered);
        more_notices
            || more_events
            || more_work
            || answered
            || (self.limited && !blocked)
            || self.links.readable()
    }

    /// Follows commands, questions and notices. Returns whether there may be more.
    fn hear(&mut self, now: Instant) -> bool {
        self.bell.hear();
        let mut count = 0;
        while count < MAX_NOTICES {
            count += 1;
            if let Ok(notice) = self.notices.try_recv() {
                match notice {
                    Notice::Shutdown => self.ended = true,
                    Notice::FindWay { to, timeout, reply } => self.find_way(now, to, timeout, reply),
                    Notice::Refresh(done) => self.publish(now, Some(done)),
                    // An asker that is gone reads no packets either.
                    Notice::Capture(tap, reply) => drop(reply.send(self.publisher.taps.add(tap))),
                    notice => self.end.notice(now, notice),
                }
            } else if let Ok(command) = self.commands.try_recv() {
                self.tunnel.handle_command(now, command, &mut self.out);
            } else if let Ok(request) = self.requests.try_recv() {
                self.end.request(now, request);
            } else {
                return false;
            }
        }
        true
    }

    /// Receives one batch per link and feeds what the tunnel opened to the packet end.
    fn receive(&mut self, now: Instant) {
        let Self { tunnel, out, end, publisher, links, arena, registry, .. } = self;
        for index in 0..links.ids() {
            links.receive(registry, index, arena, &mut |link, from, data| {
                if out.host.free() < MARGIN {
                    feed(end, publisher, now, out);
                }
                let input = match from {
                    Some(from) => NetInput::Datagram { link, from, data },
                    None => NetInput::Stream { link, data },
                };
                if let Err(reason) = tunnel.handle_net(now, input, out) {
                    publisher.drop(reason);
                }
            });
        }
        feed(end, publisher, now, out);
    }

    fn time_out(&mut self, now: Instant) {
        if self.tunnel.poll_timeout().is_some_and(|next| next.at <= now) {
            self.tunnel.handle_timeout(now, &mut self.out);
        }
        if self.end.poll_timeout().is_some_and(|next| next.at <= now) {
            self.end.handle_timeout(now);
        }
    }

    /// Lets the tunnel, the links and the system's resolver tell each other what happened. Returns whether they
    /// had not finished.
    fn settle(&mut self, now: Instant) -> bool {
        for _ in 0..MAX_ROUNDS {
            let mut quiet = true;
            while let Some(event) = self.tunnel.poll_event() {
                quiet = false;
                self.event(now, event);
            }
            while let Some(report) = self.links.report() {
                quiet = false;
                self.report(now, report);
            }
            while let Some((host, addresses)) = self.bootstrap.answer() {
                quiet = false;
                self.publisher.resolved(&host, &addresses);
                self.handle_net(now, NetInput::Resolved { host: &host, addresses: &addresses });
            }
            if quiet {
                return false;
            }
        }
        true
    }

    fn event(&mut self, now: Instant, event: Event<T::Error>) {
        match event {
            Event::OpenLink(id, spec) => {
                if let LinkSpec::Tcp { to } = &spec {
                    self.end.protect(to.ip());
                }
                self.links.open(&self.registry, id, &spec);
            }
            Event::CloseLink(id) => {
                // A farewell that the tunnel wrote first goes first.
                self.flush();
                self.links.close(&self.registry, id);
                self.out.net.forget(id);
            }
            Event::Resolve(name) => {
                let servers = self.end.outside_servers();
                for server in &servers {
                    self.end.protect(*server);
                }
                self.bootstrap.resolve(name, servers);
            }
            Event::Configured(config) => {
                self.ownership.send_replace(Ownership::new(&config));
                let endpoints: Vec<IpAddr> =
                    self.tunnel.peers(now).iter().filter_map(|peer| Some(peer.endpoint?.ip())).collect();
                let result = self.end.configure(now, &config, &endpoints);
                self.publisher.configured(now, config);
                if let Err(error) = result {
                    self.fail(now, Fault::from(&error));
                }
            }
            Event::Queue(to, packets) => self.end.set_queue(&to, packets),
            // What has failed for good does not come back by a handshake.
            Event::Way { token, way } => self.ways.answer(token, way),
            Event::Up | Event::Down(_) | Event::Prompt(_) if self.failed => {}
            Event::Prompt(prompt) => self.publisher.prompt(prompt),
            Event::Up => {
                self.publisher.up(now);
                self.end.nudge(now);
            }
            Event::Down(error) => self.publisher.down(now, Fault::from(&error)),
            Event::Failed(error) => {
                self.fail(now, Fault::from(&error));
            }
        }
    }

    fn find_way(
        &mut self,
        now: Instant,
        to: IpAddr,
        timeout: Duration,
        reply: oneshot::Sender<Result<Way, WayFailure>>,
    ) {
        let Some(token) = self.ways.ask(reply) else { return };
        if let Err(why) = self.tunnel.find_way(now, to, timeout, token, &mut self.out) {
            self.ways.refuse(token, WayFailure::of(why, to));
        }
    }

    fn fail(&mut self, now: Instant, fault: Fault) {
        self.publisher.failed(now, fault.clone());
        if !std::mem::replace(&mut self.failed, true) {
            self.end.close(now, &Gone::Down(fault));
        }
    }

    fn report(&mut self, now: Instant, report: Report) {
        let input = match report {
            Report::Opened(link, local) => NetInput::Opened { link, local },
            Report::Closed(link, error) => {
                self.out.net.forget(link);
                NetInput::Closed { link, error }
            }
            Report::Writable(link) => {
                self.out.net.unblock(link);
                NetInput::Writable { link }
            }
            Report::Unreachable(link, to, why) => NetInput::Unreachable { link, to, why },
        };
        self.handle_net(now, input);
    }

    fn handle_net(&mut self, now: Instant, input: NetInput<'_>) {
        if let Err(reason) = self.tunnel.handle_net(now, input, &mut self.out) {
            self.publisher.drop(reason);
        }
    }

    /// Seals what the packet end has to send, as far as outbox and links take it, and flushes. Returns whether a socket
    /// is full: there is nothing to do before it says otherwise.
    fn transmit(&mut self, now: Instant) -> bool {
        // What the tunnel opened while it handled something else must not stay here.
        feed(&mut self.end, &mut self.publisher, now, &mut self.out);
        let Self { tunnel, out, end, publisher, links, .. } = self;
        let most = if links.has_streams() { tcp::UNSENT } else { OUTBOX - MARGIN };
        let full = links.all_blocked(&out.net);
        let mut limited = false;
        let more = end.transmit(now, &mut |packet| {
            limited = full || out.net.waiting() > most;
            if limited {
                return false;
            }
            publisher.host_sent(packet);
            if let Err(reason) = tunnel.handle_packet(now, packet, out) {
                publisher.drop(reason);
            }
            true
        });
        self.limited = limited || more;
        end.take_drops(|reason| publisher.drop(reason));
        // What the tunnel answers itself must not wait for the next datagram.
        if !out.host.is_empty() {
            feed(end, publisher, now, out);
            self.answered = true;
        }
        let blocked = !self.flush();
        self.limited |= blocked;
        blocked || self.links.all_blocked(&self.out.net)
    }

    /// Sends what waits in the outbox. Returns whether everything is gone from there.
    fn flush(&mut self) -> bool {
        let Self { links, out, end, .. } = self;
        links.flush(&mut out.net, &mut |address| end.protect(address))
    }

    fn publish(&mut self, now: Instant, done: Option<SyncSender<()>>) {
        let peers = self.tunnel.peers(now);
        self.publisher.told(self.tunnel.warnings(), self.tunnel.own_name());
        self.publisher.publish(now, peers, &self.links.traffic, self.end.counts(), done);
    }

    /// Ends in order: flows are reset, what that makes is sent, the far ends and whoever waits are told.
    fn close(&mut self) {
        let now = Instant::now();
        self.end.close(now, &Gone::Closed);
        for _ in 0..MAX_ROUNDS {
            if self.transmit(now) || !self.limited {
                break;
            }
        }
        self.tunnel.close(now, &mut self.out);
        self.flush();
        self.settle(now);
        self.requests.close();
        while let Ok(request) = self.requests.try_recv() {
            request.fail(&Gone::Closed);
        }
        self.publisher.closed(now, &self.links.traffic);
    }
}

/// Hands opened packets to the packet end.
fn feed(end: &mut End, publisher: &mut Publisher, now: Instant, out: &mut Outbox) {
    out.host.drain(|packet| {
        publisher.host_received(packet);
        if let Err(reason) = end.handle_packet(now, packet) {
            publisher.drop(reason);
        }
    });
}
