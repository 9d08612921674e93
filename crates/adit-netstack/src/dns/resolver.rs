//! The state machine: questions in, exchanges with servers out, answers back.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_tunnel::{Deadline, NetConfig};

use super::cache::Cache;
use super::message::{self, Reply};
use super::rules::{self, Candidate};
use super::{Action, DNS_PORT, DnsAnswer, DnsFailure, QueryId, Question};

/// Questions that may wait at once; a program that asks more is told so at once.
const MAX_QUERIES: usize = 512;
/// The longest text that is taken for a name (RFC 1035 §2.3.4: 255 octets on the wire).
const MAX_NAME: usize = 254;
/// The first wait for a reply; it doubles each time that all servers were asked (resolv.conf(5) waits 5 s).
const FIRST_WAIT: Duration = Duration::from_secs(1);
const A: u16 = 1;
const AAAA: u16 = 28;

/// The private resolver.
///
/// After any call, drain [`poll_action`](Self::poll_action) and [`poll_event`](Self::poll_event) and re-arm
/// [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Resolver {
    random: u64,
    config: NetConfig,
    allow_unrouted: bool,
    queries: BTreeMap<QueryId, Pending>,
    exchanges: BTreeMap<u64, Exchange>,
    next: u64,
    actions: VecDeque<Action>,
    events: VecDeque<(QueryId, Result<DnsAnswer, DnsFailure>)>,
    cache: Cache,
}

/// A question on its way through its candidates.
#[derive(Debug)]
struct Pending {
    question: Question,
    started: Instant,
    deadline: Instant,
    candidates: VecDeque<Candidate>,
    name: String,
    asked: Vec<IpAddr>,
    rule: String,
    parts: Vec<Part>,
    first_failure: Option<DnsFailure>,
}

/// One record type of the current candidate.
#[derive(Debug)]
struct Part {
    record: u16,
    outcome: Option<Result<(Reply, IpAddr), DnsFailure>>,
}

/// One query to one server.
#[derive(Debug)]
struct Exchange {
    query: QueryId,
    name: String,
    record: u16,
    id: u16,
    servers: Vec<IpAddr>,
    attempt: usize,
    tcp: bool,
    retry_at: Instant,
    last_error: Option<(IpAddr, String)>,
}

impl Exchange {
    fn server(&self) -> IpAddr {
        self.servers[self.attempt % self.servers.len()]
    }

    /// Whether every server has answered with an error, or cannot be asked again.
    fn exhausted(&self) -> bool {
        self.attempt >= self.servers.len() && self.last_error.is_some()
    }
}

impl Resolver {
    /// A resolver without servers. `seed` is where message ids come from: it must be unpredictable to others.
    pub fn new(seed: u64) -> Self {
        Self {
            random: seed,
            config: NetConfig::default(),
            allow_unrouted: false,
            queries: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            next: 0,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            cache: Cache::default(),
        }
    }

    /// Takes servers, search domains, split rules and routes; forgets what was learned under other ones.
    pub fn configure(&mut self, config: &NetConfig) {
        if self.config != *config {
            self.config = config.clone();
            self.cache.clear();
        }
    }

    /// Whether answers outside the tunnel's routes are passed on. They are not by default: such an address
    /// would lead a program past the tunnel.
    pub fn allow_unrouted_answers(&mut self, allow: bool) {
        self.allow_unrouted = allow;
        self.cache.clear();
    }

    /// Asks a question; its answer comes from [`poll_event`](Self::poll_event).
    pub fn query(&mut self, now: Instant, question: Question) -> QueryId {
        let id = QueryId(self.fresh());
        if self.queries.len() >= MAX_QUERIES {
            self.events.push_back((id, Err(DnsFailure::OverBudget)));
            return id;
        }
        if question.name.len() > MAX_NAME || message::query(0, &question.name, A).is_none() {
            self.events.push_back((id, Err(DnsFailure::BadName { name: question.name })));
            return id;
        }
        let pending = Pending {
            candidates: rules::candidates(&self.config, &question.name).into(),
            started: now,
            deadline: now + question.timeout,
            question,
            name: String::new(),
            asked: Vec::new(),
            rule: String::new(),
            parts: Vec::new(),
            first_failure: None,
        };
        self.queries.insert(id, pending);
        self.try_next_candidate(now, id);
        id
    }

    /// Forgets a question; no event will come for it.
    pub fn cancel(&mut self, id: QueryId) {
        self.queries.remove(&id);
        self.close_exchanges(id);
        self.events.retain(|(other, _)| *other != id);
    }

    /// The next thing to send.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next answer.
    pub fn poll_event(&mut self) -> Option<(QueryId, Result<DnsAnswer, DnsFailure>)> {
        self.events.pop_front()
    }

    /// Takes a message that arrived for an exchange. What is no reply to its question is ignored (RFC 5452 §4.2).
    pub fn handle_message(&mut self, now: Instant, exchange: u64, from: SocketAddr, bytes: &[u8]) {
        let Some(known) = self.exchanges.get_mut(&exchange) else { return };
        let server = known.server();
        if from.ip() != server || from.port() != DNS_PORT {
            return;
        }
        let Some(reply) = message::reply(bytes, known.id, &known.name, known.record) else { return };
        if let Some(code) = reply.error {
            known.last_error = Some((server, code));
            self.retry(now, exchange);
        } else if reply.truncated && !known.tcp {
            known.tcp = true;
            self.resend(now, exchange);
        } else {
            let Some(known) = self.exchanges.remove(&exchange) else { return };
            self.actions.push_back(Action::Close { exchange });
            self.cache.put(now, &known.name, known.record, &reply, server);
            self.finish_part(now, known.query, known.record, Ok((reply, server)));
        }
    }

    /// An exchange's socket failed (refused, unreachable, closed): the next server is asked.
    pub fn handle_failure(&mut self, now: Instant, exchange: u64) {
        if self.exchanges.contains_key(&exchange) {
            self.retry(now, exchange);
        }
    }

    /// Asks again whom did not answer, and gives up on what is too late.
    pub fn handle_timeout(&mut self, now: Instant) {
        let late: Vec<_> =
            self.queries.iter().filter(|(_, q)| q.deadline <= now).map(|(&id, _)| id).collect();
        for id in late {
            self.give_up(id);
        }
        let due: Vec<_> =
            self.exchanges.iter().filter(|(_, e)| e.retry_at <= now).map(|(&id, _)| id).collect();
        for exchange in due {
            self.retry(now, exchange);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let deadline = |at: Option<Instant>, why| at.map(|at| Deadline { at, why });
        Deadline::earlier(
            deadline(self.queries.values().map(|query| query.deadline).min(), "dns deadline"),
            deadline(self.exchanges.values().map(|exchange| exchange.retry_at).min(), "dns retry"),
        )
    }

    fn try_next_candidate(&mut self, now: Instant, id: QueryId) {
        let Some(pending) = self.queries.get_mut(&id) else { return };
        let Some(candidate) = pending.candidates.pop_front() else {
            let name = pending.question.name.clone();
            let failure = pending.first_failure.take().unwrap_or(DnsFailure::NoServer { name });
            return self.finish(id, Err(failure));
        };
        let (servers, rule) = rules::servers(&self.config, &candidate);
        let routed: Vec<_> =
            servers.iter().copied().filter(|&server| self.config.routes_to(server)).collect();
        let failure = match (servers.first(), routed.is_empty()) {
            (None, _) => Some(DnsFailure::NoServer { name: candidate.name.clone() }),
            (Some(&server), true) => Some(DnsFailure::ServerUnrouted { server }),
            _ => None,
        };
        if let Some(failure) = failure {
            pending.first_failure.get_or_insert(failure);
            return self.try_next_candidate(now, id);
        }
        pending.rule = rule;
        pending.name.clone_from(&candidate.name);
        pending.asked.clone_from(&routed);
        let records = match pending.question.record {
            Some(record) => vec![record],
            None => address_records(&self.config),
        };
        pending.parts = records.iter().map(|&record| Part { record, outcome: None }).collect();
        for record in records {
            match self.cache.get(now, &candidate.name, record) {
                Some(cached) => self.finish_part(now, id, record, Ok(cached)),
                None => self.ask(now, id, &candidate.name, record, routed.clone()),
            }
        }
    }

    fn ask(&mut self, now: Instant, query: QueryId, name: &str, record: u16, servers: Vec<IpAddr>) {
        let exchange = Exchange {
            query,
            name: name.to_owned(),
            record,
            id: 0,
            servers,
            attempt: 0,
            tcp: false,
            retry_at: now,
            last_error: None,
        };
        self.send(now, exchange);
    }

    /// Sends under a fresh exchange, message id and (by the driver) port.
    fn send(&mut self, now: Instant, mut exchange: Exchange) {
        exchange.id = self.random_id();
        let rounds = (exchange.attempt / exchange.servers.len()).min(4);
        exchange.retry_at = now + FIRST_WAIT * (1 << rounds);
        let Some(message) = message::query(exchange.id, &exchange.name, exchange.record) else {
            let failure = DnsFailure::BadName { name: exchange.name };
            return self.finish_part(now, exchange.query, exchange.record, Err(failure));
        };
        let (number, to) = (self.fresh(), SocketAddr::new(exchange.server(), DNS_PORT));
        self.actions.push_back(match exchange.tcp {
            true => Action::Tcp { exchange: number, to, message },
            false => Action::Udp { exchange: number, to, message },
        });
        self.exchanges.insert(number, exchange);
    }

    fn resend(&mut self, now: Instant, number: u64) {
        if let Some(exchange) = self.exchanges.remove(&number) {
            self.actions.push_back(Action::Close { exchange: number });
            self.send(now, exchange);
        }
    }

    /// Goes on to the next server, unless all have answered with errors.
    fn retry(&mut self, now: Instant, number: u64) {
        let Some(exchange) = self.exchanges.get_mut(&number) else { return };
        exchange.attempt += 1;
        exchange.tcp = false;
        if !exchange.exhausted() {
            return self.resend(now, number);
        }
        let Some(exchange) = self.exchanges.remove(&number) else { return };
        self.actions.push_back(Action::Close { exchange: number });
        if let Some((server, code)) = exchange.last_error {
            let failure = DnsFailure::Failed { name: exchange.name, server, code };
            self.finish_part(now, exchange.query, exchange.record, Err(failure));
        }
    }

    fn finish_part(
        &mut self,
        now: Instant,
        id: QueryId,
        record: u16,
        outcome: Result<(Reply, IpAddr), DnsFailure>,
    ) {
        let Some(pending) = self.queries.get_mut(&id) else { return };
        if let Some(part) = pending.parts.iter_mut().find(|part| part.record == record) {
            part.outcome = Some(outcome);
        }
        if pending.parts.iter().all(|part| part.outcome.is_some()) {
            self.finish_candidate(now, id);
        }
    }

    fn finish_candidate(&mut self, now: Instant, id: QueryId) {
        let Some(pending) = self.queries.get_mut(&id) else { return };
        match combine(&self.config, self.allow_unrouted, pending) {
            Ok(answer) => self.finish(id, Ok(answer)),
            Err(failure @ DnsFailure::AnswerUnrouted { .. }) => self.finish(id, Err(failure)),
            Err(failure) => {
                pending.first_failure.get_or_insert(failure);
                self.try_next_candidate(now, id);
            }
        }
    }

    fn give_up(&mut self, id: QueryId) {
        let Some(pending) = self.queries.get(&id) else { return };
        let (name, after) = (pending.question.name.clone(), pending.deadline - pending.started);
        let error = self.exchanges.values().find(|e| e.query == id).and_then(|e| e.last_error.clone());
        let failure = match error {
            Some((server, code)) => DnsFailure::Failed { name, server, code },
            None => DnsFailure::Silent { name, servers: pending.asked.clone(), after },
        };
        self.finish(id, Err(failure));
    }

    fn finish(&mut self, id: QueryId, result: Result<DnsAnswer, DnsFailure>) {
        self.queries.remove(&id);
        self.close_exchanges(id);
        self.events.push_back((id, result));
    }

    fn close_exchanges(&mut self, id: QueryId) {
        let actions = &mut self.actions;
        self.exchanges.retain(|&exchange, known| {
            let keep = known.query != id;
            if !keep {
                actions.push_back(Action::Close { exchange });
            }
            keep
        });
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): ids need not be cryptographic inside an encrypted tunnel.
    fn random_id(&mut self) -> u16 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 48) as u16
    }
}

/// The address records worth asking for: those of families that the tunnel routes.
fn address_records(config: &NetConfig) -> Vec<u16> {
    let v4 = config.routes.iter().any(|route| route.address().is_ipv4());
    let v6 = config.routes.iter().any(|route| route.address().is_ipv6());
    match (v4, v6) {
        (true, true) => vec![A, AAAA],
        (false, true) => vec![AAAA],
        _ => vec![A],
    }
}

/// Joins the parts of a candidate into one answer.
fn combine(config: &NetConfig, allow_unrouted: bool, pending: &Pending) -> Result<DnsAnswer, DnsFailure> {
    let name = pending.question.name.trim_end_matches('.').to_owned();
    let mut answer = DnsAnswer {
        name: pending.name.clone(),
        rule: pending.rule.clone(),
        ttl: Duration::MAX,
        ..DnsAnswer::default()
    };
    let (mut failure, mut unrouted, mut exists) = (None, None, false);
    for part in &pending.parts {
        match &part.outcome {
            Some(Ok((reply, server))) => {
                answer.server = Some(SocketAddr::new(*server, DNS_PORT));
                if reply.no_such_name {
                    failure.get_or_insert(DnsFailure::NoSuchName { name: name.clone(), server: *server });
                    continue;
                }
                exists = true;
                let routed = |address: &&IpAddr| allow_unrouted || config.routes_to(**address);
                let before = answer.addresses.len();
                answer.addresses.extend(reply.addresses.iter().filter(routed));
                let complete = answer.addresses.len() - before == reply.addresses.len();
                if !complete {
                    unrouted = unrouted.or(reply
                        .addresses
                        .iter()
                        .find(|address| !config.routes_to(**address))
                        .copied());
                }
                answer.names.extend_from_slice(&reply.names);
                answer.ttl = answer.ttl.min(reply.ttl.unwrap_or_default());
                if pending.parts.len() == 1 && complete {
                    answer.message.clone_from(&reply.message);
                }
            }
            Some(Err(error)) => failure = Some(error.clone()),
            None => {}
        }
    }
    if let Some(address) = unrouted
        && answer.addresses.is_empty()
        && config.routes.iter().any(|route| route.address().is_ipv4() == address.is_ipv4())
    {
        return Err(DnsFailure::AnswerUnrouted { name, address });
    }
    if answer.addresses.is_empty()
        && let Some(failure) = failure
        && !(exists && matches!(failure, DnsFailure::NoSuchName { .. }))
    {
        return Err(failure);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests;
