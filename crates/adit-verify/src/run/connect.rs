//! The stages until the tunnel carries packets: reach, auth, handshake, address; and, without targets, the proof
//! that one packet came back.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use adit_path::{Phase, PingKind, Query, RecordType, Status};
use adit_tunnel::{Fault, NetConfig, Prefix, Prompt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Missed, Passed, Run, Stopped, endpoint, gateways};
use crate::catalogue::{self, Words};
use crate::event::{Event, ms};
use crate::failure::seconds;
use crate::provider::Provider;
use crate::{Exit, Failure, Stage, Warning, join};

/// What a verdict at the deadline over everything needs.
const LAST_WORD: Duration = Duration::from_millis(200);

/// After the handshake's budget, the tunnel gets this much to say itself what is wrong.
const SLACK: Duration = Duration::from_secs(2);

impl Run<'_> {
    pub(super) async fn connect(&self) -> Result<NetConfig, Stopped> {
        let mut status = self.status.clone();
        let budget = Stage::Reach.budget();
        self.stage(Stage::Reach, None, budget, self.reach(&mut status, budget)).await?;
        if let Some(why) = self.own().no_auth {
            self.skip(Stage::Auth, why);
        }
        let budget = self.plan.handshake.unwrap_or(Stage::Handshake.budget());
        self.stage(Stage::Handshake, None, budget, self.handshake(&mut status, budget)).await?;
        let budget = Stage::Address.budget();
        let config = self.stage(Stage::Address, None, budget, self.address(&mut status, budget)).await?;
        let addresses = config.addresses.iter().map(Prefix::address).collect();
        self.observer.notice(Event::Connected { addresses });
        if let Some(at) = crate::health::key_expires_soon(&self.status(), SystemTime::now()) {
            self.observer.notice(Event::KeyExpiring { at });
        }
        Ok(config)
    }

    /// The server's address is known and datagrams leave towards it.
    async fn reach(
        &self,
        status: &mut watch::Receiver<Status>,
        budget: Duration,
    ) -> Result<Passed<()>, Missed> {
        let until = Instant::now() + budget;
        loop {
            let now = status.borrow_and_update().clone();
            if let Some(failure) = self.unanswered(&now) {
                return Err(failure.into());
            }
            let fault = now.fault.as_ref().filter(|fault| stage_of(fault) <= Stage::Reach);
            match now.phase {
                Phase::Failed | Phase::Closed => return Err(self.ended(&now, Stage::Reach).into()),
                Phase::Up => return Ok(self.reached(&now)),
                // Only a server that was reached can want somebody to do something.
                _ if now.prompt.is_some() => return Ok(self.reached(&now)),
                Phase::Connecting | Phase::Reconnecting if fault.is_none() => return Ok(self.reached(&now)),
                Phase::Starting | Phase::Connecting | Phase::Reconnecting => {}
            }
            if let Some(fault) = fault {
                let failure = self.of_fault(fault, Stage::Reach);
                if is_final(fault) {
                    return Err(failure.into());
                }
                self.not_yet(Stage::Reach, None, failure);
            }
            if !changed(status, until).await {
                return Err(self.ended(&now, Stage::Reach).into());
            }
        }
    }

    fn reached(&self, status: &Status) -> Passed<()> {
        let passed = Passed::new(());
        match endpoint(status) {
            Some(endpoint) => passed.seen("endpoint", endpoint),
            None => passed,
        }
    }

    /// Keys are agreed with a peer.
    async fn handshake(
        &self,
        status: &mut watch::Receiver<Status>,
        budget: Duration,
    ) -> Result<Passed<()>, Missed> {
        let mut until = Instant::now() + budget;
        let (mut slack, mut asked, mut told) = (false, None, None);
        loop {
            let now = status.borrow_and_update().clone();
            if let Some(Prompt::Open { url, timeout }) = &now.prompt {
                // A person takes longer than a server: what the deadline over everything leaves, but for a last word.
                until = self.began + self.plan.timeout.saturating_sub(LAST_WORD);
                if asked.as_ref() != Some(url) {
                    self.ask(url, *timeout);
                    asked = Some(url.clone());
                }
            }
            if let Some(failure) = self.unanswered(&now) {
                return Err(failure.into());
            }
            match now.phase {
                Phase::Up => {
                    let mut passed = Passed::new(());
                    if let Some(peer) = now.peers.iter().find(|peer| peer.handshake_age.is_some()) {
                        passed = passed.seen("peer", peer.name.clone());
                        if let Some(endpoint) = peer.endpoint {
                            passed = passed.seen("endpoint", endpoint.to_string());
                        }
                    }
                    return Ok(passed);
                }
                Phase::Failed | Phase::Closed => return Err(self.ended(&now, Stage::Handshake).into()),
                Phase::Starting | Phase::Connecting | Phase::Reconnecting => {}
            }
            if let Some(fault) = &now.fault {
                let failure = self.of_fault(fault, Stage::Handshake);
                if is_final(fault) || slack {
                    return Err(failure.into());
                }
                if is_for_a_person(fault) {
                    until = self.began + self.plan.timeout.saturating_sub(LAST_WORD);
                    if told.as_ref() != Some(&failure.class) {
                        told = Some(failure.class.clone());
                        self.observer.notice(Event::ActionRequired {
                            class: failure.class.clone(),
                            summary: failure.summary.clone(),
                            fix: failure.fix.clone(),
                            wait_ms: ms(until.saturating_duration_since(Instant::now())),
                        });
                    }
                }
                self.not_yet(Stage::Handshake, None, failure);
            }
            let limit = if slack { until + SLACK } else { until };
            if changed(status, limit).await {
                continue;
            }
            if let Some(url) = asked.as_ref().filter(|_| now.fault.is_none()) {
                return Err(Failure::of(self.own().pending, &self.context().words.with("url", url))
                    .seen(format!("the server waits for a sign-in at {url}"))
                    .into());
            }
            if slack || now.fault.is_some() {
                return Err(self.ended(&now, Stage::Handshake).into());
            }
            slack = true;
        }
    }

    /// Tells whoever watches that a page waits for somebody.
    fn ask(&self, url: &str, timeout: Option<Duration>) {
        self.observer.notice(Event::AuthRequired {
            url: url.to_owned(),
            qr: None,
            timeout_ms: timeout.map(ms),
        });
    }

    /// A question that nobody answers.
    fn unanswered(&self, status: &Status) -> Option<Failure> {
        match &status.prompt {
            Some(Prompt::Answer { text, .. }) if !self.plan.answered => {
                Some(Failure::of(self.own().challenge, &self.context().words.with("question", text)))
            }
            _ => None,
        }
    }

    pub(super) fn own(&self) -> &'static Provider {
        Provider::of(self.plan.provider.as_deref())
    }

    /// There is an address inside, and the tunnel's routes leave this machine's own networks alone.
    async fn address(
        &self,
        status: &mut watch::Receiver<Status>,
        budget: Duration,
    ) -> Result<Passed<NetConfig>, Missed> {
        let until = Instant::now() + budget;
        let config = loop {
            let now = status.borrow_and_update().clone();
            if let Some(config) = now.config.filter(|config| !config.addresses.is_empty()) {
                break config;
            }
            if !changed(status, until).await {
                return Err(Failure::of(self.own().no_address, &self.context().words).into());
            }
        };
        self.begin_to_settle();
        self.exit_node().await?;
        let addresses: Vec<_> = config.addresses.iter().map(Prefix::to_string).collect();
        let clash = self.clash(&config);
        let mut passed = Passed::new(config).seen("addresses", addresses);
        if let Some(clash) = clash {
            if self.plan.overlap_fails {
                return Err(clash.into());
            }
            passed.warning = Some(Warning { class: clash.class, summary: clash.summary });
        }
        Ok(passed)
    }

    /// An address or route of the tunnel that is a network of this machine too. A default route covers
    /// everything by intent; longer prefixes of the machine still win over it.
    fn clash(&self, config: &NetConfig) -> Option<Failure> {
        let words = |prefix: &Prefix, network: &Prefix| {
            self.context()
                .words
                .with("prefix", prefix)
                .with("network", network)
                .with("address", prefix.address())
        };
        for network in &self.plan.local_networks {
            if let Some(ours) = config.addresses.iter().find(|ours| ours.address() == network.address()) {
                let failure = Failure::of(self.own().address_clash, &words(ours, network));
                return Some(failure.seen(format!("an interface of this machine has {network}")));
            }
            let overlap = config.routes.iter().find(|route| !route.is_default() && route.overlaps(network));
            if let Some(route) = overlap {
                let failure = Failure::of(self.own().route_clash, &words(route, network));
                return Some(
                    failure.seen(format!("{route} of the tunnel and {network} of this machine overlap")),
                );
            }
        }
        None
    }

    /// What the network itself says of its state, or what its silence means.
    fn ended(&self, status: &Status, stage: Stage) -> Failure {
        if let Some(fault) = &status.fault {
            return self.of_fault(fault, stage);
        }
        let words = self.context().words;
        let (sent, received) = (status.counters.net_sent, status.counters.net_received);
        let seen = format!("{sent} datagrams sent, {received} received");
        if status.phase == Phase::Closed {
            return Failure::of("session.closed", &words);
        }
        let class = match stage {
            Stage::Handshake if received == 0 => self.own().silent,
            Stage::Reach => self.own().unresolved,
            _ => "tunnel.down",
        };
        let mut failure = Failure::of(class, &words).seen(seen);
        if class == "tunnel.down" {
            failure.exit = stage.exit();
        }
        let budget = match stage {
            Stage::Handshake => self.plan.handshake.unwrap_or(stage.budget()),
            _ => stage.budget(),
        };
        failure.seen(format!("waited {} for {}", seconds(budget), stage.waiting_for()))
    }

    fn of_fault(&self, fault: &Fault, stage: Stage) -> Failure {
        self.context().fault(fault, stage)
    }

    /// Without targets: one packet must have gone through the tunnel and back.
    pub(super) async fn tunnel_only(&self, config: &NetConfig) -> Result<(), Stopped> {
        let budget = Stage::Target.budget();
        let work = async {
            if self.plan.requires_target() {
                let words = Words::default().with("key", "target");
                let mut failure =
                    Failure::of("config.missing", &words).advise("Name a target: --target tcp://HOST:PORT.");
                failure.summary = "a target is required and none is named".to_owned();
                return Err(failure.into());
            }
            match self.round_trip(config, budget).await {
                Some(proof) => Ok(Passed::new(()).seen("proof", proof)),
                None => Err(self.no_round_trip().into()),
            }
        };
        self.stage(Stage::Target, None, budget, work).await
    }

    fn no_round_trip(&self) -> Failure {
        let status = self.status();
        let asked: Vec<_> = gateways(&status).iter().map(IpAddr::to_string).collect();
        let failure = Failure::of("tunnel.silent", &self.context().words);
        match asked.is_empty() {
            true => failure.seen("no address inside the tunnel is known that could be asked"),
            false => failure.seen(format!("no answer to pings and DNS questions from {}", asked.join(", "))),
        }
    }

    /// The first sign of life from inside: a packet that arrived anyway, an echo, any answer of a DNS server.
    async fn round_trip(&self, config: &NetConfig, budget: Duration) -> Option<String> {
        if self.fresh_status().counters.host_received > 0 {
            return Some("a packet came through the tunnel".to_owned());
        }
        // Its peers may all be asleep, which is none of its business.
        if let Some(proof) = self.own().proof
            && self.status().phase == Phase::Up
        {
            return Some(proof.to_owned());
        }
        let mut probes: Vec<adit_path::BoxFuture<'_, Option<String>>> = Vec::new();
        for gateway in gateways(&self.status()) {
            probes.push(Box::pin(self.echo(gateway, budget)));
        }
        for server in &config.dns.servers {
            probes.push(Box::pin(self.ask_dns(*server, budget)));
        }
        probes.push(Box::pin(self.any_packet(budget)));
        join::first(probes).await
    }

    async fn echo(&self, to: IpAddr, budget: Duration) -> Option<String> {
        let until = Instant::now() + budget;
        while Instant::now() < until {
            match self.network.ping(to, PingKind::Icmp { size: 16, timeout: Duration::from_secs(2) }).await {
                Ok(pong) => {
                    return Some(format!(
                        "echo from {} in {:.1} ms",
                        pong.from,
                        pong.rtt.as_secs_f64() * 1e3
                    ));
                }
                // An error that came through the tunnel is a packet from inside as well.
                Err(adit_path::PingFailure::Unreachable { from, .. }) => {
                    return Some(format!("ICMP error from {from}"));
                }
                Err(adit_path::PingFailure::TimedOut(_)) => {}
                Err(_) => return None,
            }
        }
        None
    }

    async fn ask_dns(&self, server: IpAddr, budget: Duration) -> Option<String> {
        let name = reverse_name(server);
        let query = Query { name, record: Some(RecordType::PTR), timeout: budget };
        match self.network.resolve(query).await {
            Ok(_)
            | Err(adit_path::ResolveFailure::NoSuchName { .. } | adit_path::ResolveFailure::Failed { .. }) => {
                Some(format!("DNS answer from {server}"))
            }
            Err(_) => None,
        }
    }

    async fn any_packet(&self, budget: Duration) -> Option<String> {
        let until = Instant::now() + budget;
        while Instant::now() < until {
            if self.fresh_status().counters.host_received > 0 {
                return Some("a packet came through the tunnel".to_owned());
            }
            sleep(Duration::from_millis(500)).await;
        }
        None
    }
}

/// Waits for a change of the status; false when `until` came first or the network is gone.
pub(super) async fn changed(status: &mut watch::Receiver<Status>, until: Instant) -> bool {
    // A network that publishes all the time must not postpone the end.
    Instant::now() < until && matches!(timeout_at(until, status.changed()).await, Ok(Ok(())))
}

/// The stage that a tunnel's verdict belongs to, by its exit code.
fn stage_of(fault: &Fault) -> Stage {
    match catalogue::find(&fault.class).map(|class| class.exit) {
        Some(Exit::ServerUnreachable | Exit::TransportBlocked) => Stage::Reach,
        Some(Exit::CredentialMissing) => Stage::Credential,
        Some(Exit::Route) => Stage::Address,
        Some(Exit::CredentialRejected | Exit::AuthorisationPending | Exit::PolicyDenied) => Stage::Auth,
        _ => Stage::Handshake,
    }
}

/// Whether trying longer cannot help.
fn is_final(fault: &Fault) -> bool {
    catalogue::find(&fault.class).is_some_and(|class| !class.retryable)
}

/// Whether somebody elsewhere can let this machine in while it waits.
fn is_for_a_person(fault: &Fault) -> bool {
    matches!(fault.class.as_str(), "ts.approval.pending" | "ts.lock.unsigned")
}

/// The name under which an address is looked up (RFC 1035 §3.5, RFC 3596 §2.5).
fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa."
        }
    }
}
