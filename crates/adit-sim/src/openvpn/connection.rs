//! One client.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_openvpn::data::{Channel, DataKeys, Inner, OCC_EXIT, PING, Shape, Suite, occ};
use adit_openvpn::km::{ClientMessage, DYNAMIC_TLS_CRYPT_LABEL, proto};
use adit_openvpn::wire::{Control, First, Opcode, SessionId, next_key_id};
use adit_openvpn::wrap::{Side, Wrapper};
use adit_openvpn::{Cipher, Transport, Wrap};
use adit_tunnel::{Deadline, Dropped, HostPacket, LinkId, NetQueue, PacketQueue};

use super::config::{Act, ServerConfig, Step};
use super::negotiation::{Derivation, Negotiation, OPTIONS, Progress};
use super::server::Seen;
use crate::net::Rng;

/// The largest control packet, as in the reference.
pub(super) const MAX_CONTROL: usize = 1250;
/// The server sends with a new key when the client has used it, or after this time.
const SWITCH_AFTER: Duration = Duration::from_secs(5);
/// The kinds of messages of the options consistency check that are spoken here.
const OCC_REQUEST: u8 = 0;
const OCC_REPLY: u8 = 1;
/// How long the key before the present one is taken.
const TRANSITION: Duration = Duration::from_secs(60);

/// The socket of the server.
pub(super) const LINK: LinkId = LinkId(0);

/// What all connections share.
pub(super) struct Shared<'a> {
    pub(super) config: &'a ServerConfig,
    pub(super) tls: &'a Arc<rustls::ServerConfig>,
    pub(super) rng: &'a mut Rng,
    pub(super) unix: u32,
    pub(super) seen: &'a mut Vec<Seen>,
}

/// Who begins a connection.
pub(super) struct Caller {
    pub(super) from: SocketAddr,
    pub(super) peer: SessionId,
    /// Which address of the pool it gets, and which peer id.
    pub(super) slot: u32,
    /// Our session, where the client knows it already: the resets were exchanged without state.
    pub(super) session: Option<SessionId>,
    /// The key that dynamic tls-crypt is mixed with.
    pub(super) fixed: Wrap,
    pub(super) wrapper: Wrapper,
}

pub(super) struct Connection {
    pub(super) from: SocketAddr,
    pub(super) inner: Ipv4Addr,
    pub(super) peer: SessionId,
    session: SessionId,
    peer_id: u32,
    fixed: Wrap,
    wrapper: Wrapper,
    dynamic: Option<Wrapper>,
    /// The oldest first. The last may not be finished.
    negotiations: VecDeque<Negotiation>,
    derivation: Option<Derivation>,
    channel: Option<Channel>,
    /// Whether packets pass.
    pub(super) open: bool,
    script: VecDeque<(Instant, Act)>,
    index: usize,
    last_packet: Vec<u8>,
    sent: Instant,
    pub(super) heard: Instant,
    /// The client wants to know our options string.
    asked: bool,
    /// The client has just said who it is: whoever had its address before is gone.
    pub(super) introduced: bool,
    pub(super) gone: bool,
}

impl Connection {
    pub(super) fn new(
        now: Instant,
        index: usize,
        caller: Caller,
        shared: &mut Shared<'_>,
    ) -> Result<Self, rustls::Error> {
        let mut negotiation = Negotiation::new(now, 0, shared.tls, shared.rng)?;
        if caller.session.is_some() {
            negotiation.resets_were_exchanged(now);
        }
        Ok(Self {
            from: caller.from,
            inner: Ipv4Addr::from(u32::from(shared.config.first_client).wrapping_add(caller.slot)),
            peer: caller.peer,
            // Zero is no session id.
            session: caller.session.unwrap_or_else(|| (shared.rng.next_u64() | 1).to_be_bytes()),
            peer_id: caller.slot,
            fixed: caller.fixed,
            wrapper: caller.wrapper,
            dynamic: None,
            negotiations: [negotiation].into(),
            derivation: None,
            channel: None,
            open: false,
            script: VecDeque::new(),
            index,
            last_packet: Vec::new(),
            sent: now,
            heard: now,
            asked: false,
            introduced: false,
            gone: false,
        })
    }

    /// Takes a control packet, without a wrapped key behind it.
    pub(super) fn control(
        &mut self,
        now: Instant,
        packet: &mut [u8],
        shared: &mut Shared<'_>,
    ) -> Result<(), Dropped> {
        let first = packet.first().and_then(|byte| First::parse(*byte)).ok_or(Dropped::Malformed)?;
        let wrapper = match &mut self.dynamic {
            Some(dynamic) if first.key_id > 0 => dynamic,
            _ => &mut self.wrapper,
        };
        let unwrapped = wrapper.unwrap(packet)?;
        if unwrapped.session != self.peer {
            return Err(Dropped::Unexpected);
        }
        let control = Control::parse(unwrapped.first.opcode, unwrapped.body)?;
        if control.peer.is_some_and(|peer| peer != self.session) {
            return Err(Dropped::Unexpected);
        }
        self.handle(now, first, &control, shared)
    }

    /// Takes the body of a control packet of this client.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        first: First,
        control: &Control<'_>,
        shared: &mut Shared<'_>,
    ) -> Result<(), Dropped> {
        if first.opcode == Opcode::SoftReset && !self.has(first.key_id) {
            let newest = self.negotiations.back().ok_or(Dropped::Unexpected)?;
            if newest.keys.is_none() || first.key_id != next_key_id(newest.key_id) {
                return Err(Dropped::Unexpected);
            }
            shared.seen.push(Seen::SoftReset(first.key_id));
            self.begin(now, first.key_id, shared)?;
        }
        let at = self.negotiations.iter().position(|negotiation| negotiation.key_id == first.key_id);
        let negotiation = at.and_then(|at| self.negotiations.get_mut(at)).ok_or(Dropped::Unexpected)?;
        negotiation.reliable.handle(now, first.opcode, control)?;
        self.heard = now;
        let mut progress = Vec::new();
        negotiation.advance(|step| progress.push(step));
        let key_id = negotiation.key_id;
        // As the reference does: what is said in a session of TLS that another one follows is not read.
        let is_newest = self.negotiations.back().is_some_and(|newest| newest.key_id == key_id);
        for step in progress {
            match step {
                Progress::Message(message) => self.said(now, key_id, *message, shared),
                Progress::Text(_) if !is_newest => {}
                Progress::Text(text) => {
                    self.gone |= text == "EXIT";
                    shared.seen.push(Seen::Text(text));
                }
                Progress::Failed(error) => shared.seen.push(Seen::Failed(error)),
            }
        }
        Ok(())
    }

    fn has(&self, key_id: u8) -> bool {
        self.negotiations.iter().any(|negotiation| negotiation.key_id == key_id)
    }

    fn begin(&mut self, now: Instant, key_id: u8, shared: &mut Shared<'_>) -> Result<(), Dropped> {
        let next = Negotiation::new(now, key_id, shared.tls, shared.rng).map_err(|_| Dropped::OverBudget)?;
        self.negotiations.push_back(next);
        while self.negotiations.len() > 3 {
            self.negotiations.pop_front();
        }
        Ok(())
    }

    /// The client has said who it is.
    fn said(&mut self, now: Instant, key_id: u8, message: ClientMessage, shared: &mut Shared<'_>) {
        if key_id == 0 {
            self.introduced = true;
            self.derivation = self.agree(&message, shared.config);
            if self.derivation.is_none() {
                let text = "AUTH_FAILED,Data channel cipher negotiation failed (no shared cipher)";
                self.script.push_back((now, Act::Say(text.to_owned())));
            } else {
                let steps = shared.config.script(self.index).0;
                self.script.extend(steps.into_iter().map(|Step { after, act }| (now + after, act)));
            }
            let bits = info(&message, "IV_PROTO").and_then(|bits| bits.parse().ok()).unwrap_or(0);
            if shared.config.dynamic_tls_crypt && bits & proto::DYNAMIC_TLS_CRYPT != 0 {
                self.make_dynamic(shared.unix);
            }
        }
        if let Some(derivation) = self.derivation
            && let Some(negotiation) =
                self.negotiations.iter_mut().find(|negotiation| negotiation.key_id == key_id)
            && let Err(error) = negotiation.derive(now, &derivation, &self.peer, &self.session)
        {
            shared.seen.push(Seen::Failed(error));
        }
        shared.seen.push(Seen::Client { key_id, message: Box::new(message) });
    }

    fn make_dynamic(&mut self, unix: u32) {
        let Some(negotiation) = self.negotiations.front_mut() else { return };
        if let Ok(key) = negotiation.tls.export_keying_material([0; 256], DYNAMIC_TLS_CRYPT_LABEL, None) {
            self.dynamic = Some(Wrapper::dynamic(&key, &self.fixed, Side::Server, unix));
        }
    }

    /// What is agreed with a client, from its peer information; `None` without a common cipher.
    fn agree(&self, message: &ClientMessage, config: &ServerConfig) -> Option<Derivation> {
        let bits: u32 = info(message, "IV_PROTO").and_then(|bits| bits.parse().ok()).unwrap_or(0);
        let offered = info(message, "IV_CIPHERS").unwrap_or_default();
        let cipher: Cipher = *config
            .ciphers
            .iter()
            .find(|cipher| offered.split(':').any(|name| name.eq_ignore_ascii_case(cipher.name())))?;
        let epoch = config.epoch && bits & proto::EPOCH != 0 && cipher.is_aead();
        Some(Derivation {
            suite: Suite { cipher, auth: config.auth, epoch },
            export: config.export_keys && bits & proto::TLS_KEY_EXPORT != 0,
            peer_id: (config.peer_id && bits & proto::DATA_V2 != 0).then_some(self.peer_id),
        })
    }

    /// The configuration as it is sent.
    fn push_reply(&self, config: &ServerConfig, how: &Derivation) -> String {
        let mut options = config.push.clone();
        if config.push_address {
            options.push("topology subnet".to_owned());
            options.push(format!("ifconfig {} 255.255.255.0", self.inner));
        }
        if let Some(id) = how.peer_id {
            options.push(format!("peer-id {id}"));
        }
        options.push(format!("cipher {}", how.suite.cipher.name()));
        let mut flags = vec!["cc-exit"];
        flags.extend(how.export.then_some("tls-ekm"));
        flags.extend(self.dynamic.is_some().then_some("dyn-tls-crypt"));
        flags.extend(how.suite.epoch.then_some("aead-epoch"));
        options.push(format!("protocol-flags {}", flags.join(" ")));
        if config.tun_mtu != 1500 {
            options.push(format!("tun-mtu {}", config.tun_mtu));
        }
        format!("PUSH_REPLY,{}", options.join(","))
    }

    pub(super) fn act(&mut self, now: Instant, act: Act, shared: &mut Shared<'_>, net: &mut NetQueue) {
        match act {
            Act::Push => {
                self.open(shared.config);
                if let Some(derivation) = &self.derivation {
                    let text = self.push_reply(shared.config, derivation);
                    self.say(&text);
                }
            }
            Act::Say(text) => self.say(&text),
            Act::Tls(bytes) => self.write(&bytes),
            Act::Datagram(bytes) => self.put(&bytes, net),
            Act::Replay => {
                let bytes = self.last_packet.clone();
                self.put(&bytes, net);
            }
            Act::Renegotiate => {
                if let Some(newest) = self.negotiations.back().filter(|newest| newest.keys.is_some()) {
                    // What cannot begin now is not begun.
                    let _ = self.begin(now, next_key_id(newest.key_id), shared);
                }
            }
            Act::Epoch => {
                if let Some(keys) = sending(&mut self.negotiations, now) {
                    keys.advance_epoch();
                }
            }
            Act::Open => self.open(shared.config),
            Act::Forget => self.gone = true,
        }
    }

    fn say(&mut self, text: &str) {
        self.write(&[text.as_bytes(), &[0]].concat());
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(negotiation) = self.negotiations.iter_mut().rev().find(|one| one.keys.is_some()) {
            negotiation.write(bytes);
        } else if let Some(first) = self.negotiations.front_mut() {
            first.write(bytes);
        }
    }

    /// Lets packets pass.
    fn open(&mut self, config: &ServerConfig) {
        let Some(derivation) = self.derivation else { return };
        self.open = true;
        self.channel = Some(Channel::new(Shape {
            suite: derivation.suite,
            peer_id: derivation.peer_id.is_some(),
            transport: Transport::Udp,
            outside_v6: self.from.is_ipv6(),
            compression: config.compression,
            fragment: config.fragment,
            mssfix: config.mssfix,
            tun_mtu: config.tun_mtu,
            envelope: 0,
        }));
    }

    /// Takes a data packet; whether it was authentic.
    pub(super) fn data(
        &mut self,
        now: Instant,
        key_id: u8,
        packet: &mut [u8],
        host: &mut PacketQueue,
        seen: &mut Vec<Seen>,
    ) -> Result<(), Dropped> {
        let channel = self.channel.as_mut().filter(|_| self.open).ok_or(Dropped::NotReady)?;
        let negotiation = self
            .negotiations
            .iter_mut()
            .find(|negotiation| negotiation.key_id == key_id)
            .ok_or(Dropped::Unexpected)?;
        let keys = negotiation.keys.as_mut().ok_or(Dropped::NotReady)?;
        let inner = channel.receive(now, keys, packet)?;
        negotiation.used = true;
        self.heard = now;
        match inner {
            Inner::Packet(packet) => {
                let mut slot = host.reserve(packet.len()).ok_or(Dropped::Backpressure)?;
                slot.copy_from_slice(packet);
                slot.commit(packet.len());
            }
            Inner::Occ(OCC_EXIT) => {
                seen.push(Seen::Text("OCC_EXIT".to_owned()));
                self.gone = true;
            }
            // The question for the options string; the answer proves that the client is known here.
            Inner::Occ(OCC_REQUEST) => self.asked = true,
            Inner::Ping | Inner::Occ(_) | Inner::Piece | Inner::Other => {}
        }
        Ok(())
    }

    fn answer_occ(&mut self, now: Instant, net: &mut NetQueue) {
        if let (Some(channel), Some(keys)) = (self.channel.as_mut(), sending(&mut self.negotiations, now)) {
            let answer = [&occ(OCC_REPLY)[..], OPTIONS.as_bytes(), &[0]].concat();
            self.sent = now;
            // An answer that finds no room is asked for again.
            let _ = channel.send_inner(keys, &answer, (LINK, Some(self.from)), net);
        }
    }

    /// Sends a packet to the client.
    pub(super) fn packet(
        &mut self,
        now: Instant,
        packet: HostPacket<'_>,
        net: &mut NetQueue,
    ) -> Result<(), Dropped> {
        let channel = self.channel.as_mut().filter(|_| self.open).ok_or(Dropped::NotReady)?;
        let keys = sending(&mut self.negotiations, now).ok_or(Dropped::NotReady)?;
        channel.send(keys, packet, (LINK, Some(self.from)), net)?;
        self.sent = now;
        Ok(())
    }

    /// Does what is due.
    pub(super) fn timeout(&mut self, now: Instant, shared: &mut Shared<'_>, net: &mut NetQueue) {
        while self.script.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, act)) = self.script.pop_front()
        {
            self.act(now, act, shared, net);
        }
        if now >= self.heard + shared.config.ping_restart {
            self.gone = true;
        }
        if self.renegotiation_due(shared.config).is_some_and(|at| now >= at) {
            self.act(now, Act::Renegotiate, shared, net);
        }
        if self.open
            && now >= self.sent + shared.config.ping
            && let (Some(channel), Some(keys)) = (self.channel.as_mut(), sending(&mut self.negotiations, now))
        {
            self.sent = now;
            // A ping that finds no room is followed by another.
            let _ = channel.send_inner(keys, &PING, (LINK, Some(self.from)), net);
        }
        let established = self.negotiations.back().and_then(|newest| newest.established);
        if established.is_some_and(|at| now >= at + TRANSITION) {
            while self.negotiations.len() > 1 {
                self.negotiations.pop_front();
            }
        }
        if std::mem::take(&mut self.asked) {
            self.answer_occ(now, net);
        }
        self.transmit(now, net);
    }

    /// Sends what the negotiations have to say.
    pub(super) fn transmit(&mut self, now: Instant, net: &mut NetQueue) {
        for at in 0..self.negotiations.len() {
            while let Some(negotiation) = self.negotiations.get_mut(at) {
                let key_id = negotiation.key_id;
                let wrapper = match &mut self.dynamic {
                    Some(dynamic) if key_id > 0 => dynamic,
                    _ => &mut self.wrapper,
                };
                let room = MAX_CONTROL - wrapper.overhead();
                let Some(outgoing) = negotiation.reliable.poll_transmit(now, room, 0) else { break };
                let body = outgoing.body(Some(self.peer));
                let mut packet = Vec::with_capacity(MAX_CONTROL);
                let first = First { opcode: outgoing.opcode, key_id };
                wrapper.wrap(first, &self.session, &body, &mut packet);
                self.put(&packet, net);
                self.last_packet = packet;
            }
        }
    }

    fn put(&mut self, bytes: &[u8], net: &mut NetQueue) {
        // What finds no room is sent again when it is not acknowledged.
        let Some(mut slot) = net.reserve(LINK, Some(self.from), bytes.len()) else { return };
        slot.copy_from_slice(bytes);
        slot.commit(bytes.len());
    }

    fn renegotiation_due(&self, config: &ServerConfig) -> Option<Instant> {
        let newest = self.negotiations.back().filter(|_| self.open)?;
        Some(newest.established? + config.reneg_interval?)
    }

    pub(super) fn poll_timeout(&self, config: &ServerConfig) -> Option<Deadline> {
        let deadline = |at, why| Some(Deadline { at, why });
        let retransmissions = self.negotiations.iter().filter_map(|one| one.reliable.poll_timeout()).min();
        let all = [
            retransmissions.and_then(|at| deadline(at, "retransmission")),
            self.script.front().and_then(|(at, _)| deadline(*at, "script")),
            self.renegotiation_due(config).and_then(|at| deadline(at, "renegotiation")),
            deadline(self.sent + config.ping, "ping").filter(|_| self.open),
            deadline(self.heard + config.ping_restart, "silence"),
        ];
        all.into_iter().fold(None, Deadline::earlier)
    }

    pub(super) fn peer_id(&self) -> u32 {
        self.peer_id
    }
}

/// The key to send with: the newest that the client has used, or that is old enough.
fn sending(negotiations: &mut VecDeque<Negotiation>, now: Instant) -> Option<&mut DataKeys> {
    let ready = |one: &Negotiation| {
        one.key_id == 0 || one.used || one.established.is_some_and(|at| now >= at + SWITCH_AFTER)
    };
    let newest = negotiations.iter().rposition(|one| one.keys.is_some() && ready(one));
    let at = newest.or_else(|| negotiations.iter().position(|one| one.keys.is_some()))?;
    negotiations.get_mut(at)?.keys.as_mut()
}

/// A value of the peer information.
fn info<'a>(message: &'a ClientMessage, key: &str) -> Option<&'a str> {
    message.peer_info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}
