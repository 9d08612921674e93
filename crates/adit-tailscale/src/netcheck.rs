//! What the network between us and the relays is like: whether UDP passes, how we look from outside, which region is
//! nearest. Asked of the STUN servers of the map, from the socket that packets use.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_tunnel::{Deadline, Event, LinkId, NetQueue};

use crate::names::{Lookup, Names};
use crate::netmap::{DerpRegion, RegionId};
use crate::seal::Random;
use crate::{NetInfo, NodeKey, Problem, stun};

/// An unanswered request is repeated after this time, and again after twice of it.
const RETRY: Duration = Duration::from_millis(200);
/// Requests to one server.
const TRIES: u32 = 4;
/// Once somebody has answered, the others have this long.
const GRACE: Duration = Duration::from_millis(1000);
/// Nobody is waited for longer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Without any answer for this long, a home is chosen without measuring: where UDP is blocked nobody waits.
const NO_MEASURE: Duration = Duration::from_millis(200);
/// Latencies of this time count.
const HISTORY: Duration = Duration::from_secs(300);
/// Results that are kept per region.
const MAX_HISTORY: usize = 32;
/// Another region becomes home only if it is nearer by this much, and by a third.
const MIN_GAIN: Duration = Duration::from_millis(10);
/// Regions that are asked when all were asked lately.
const INCREMENTAL: usize = 3;
/// All regions are asked this often.
const FULL_INTERVAL: Duration = Duration::from_secs(300);
/// Requests of one measurement.
const MAX_PROBES: usize = 128;

#[derive(Debug)]
struct Probe {
    region: RegionId,
    to: SocketAddr,
    transaction: stun::Transaction,
    /// When it was sent first, and last.
    sent: Option<(Instant, Instant)>,
    tries: u32,
    answer: Option<(Duration, SocketAddr)>,
}

#[derive(Debug)]
struct Run {
    started: Instant,
    probes: Vec<Probe>,
    first_answer: Option<Instant>,
    /// Whether a home was chosen without an answer.
    chosen_blind: bool,
}

/// What became of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It goes on, or there is none.
    Nothing,
    /// The first answer came: its region is the nearest as far as is known.
    First(RegionId),
    /// Nobody answers so far: choose a home without measuring.
    Blind,
    /// It is over.
    Done,
}

/// The measurements.
#[derive(Debug, Default)]
pub(crate) struct NetCheck {
    run: Option<Run>,
    latencies: BTreeMap<RegionId, VecDeque<(Instant, Duration)>>,
    by_family: BTreeMap<(RegionId, u8), Duration>,
    /// What servers saw in the last measurement: server and our address.
    seen: Vec<(SocketAddr, SocketAddr)>,
    last_full: Option<Instant>,
    last_done: Option<Instant>,
    udp: Option<bool>,
}

impl NetCheck {
    /// Begins to measure, unless that is under way. Without any server to ask it is over at once.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        map: &BTreeMap<RegionId, DerpRegion>,
        home: Option<RegionId>,
        names: &mut Names,
        events: &mut VecDeque<Event<Problem>>,
        random: &mut Random,
    ) {
        if self.run.is_some() {
            return;
        }
        let full = self.latencies.is_empty() || self.last_full.is_none_or(|at| now >= at + FULL_INTERVAL);
        if full {
            self.last_full = Some(now);
        }
        let mut nearest: Vec<(Duration, RegionId)> =
            map.keys().filter_map(|id| Some((self.latency(now, *id)?, *id))).collect();
        nearest.sort();
        nearest.truncate(INCREMENTAL);
        let wanted = |id: RegionId| full || home == Some(id) || nearest.iter().any(|(_, near)| *near == id);
        let mut probes = Vec::new();
        for (id, region) in map.iter().filter(|(id, _)| wanted(**id)) {
            let Some((node, port)) = region.nodes.iter().find_map(|node| Some((node, node.stun_port?)))
            else {
                continue;
            };
            let addresses = match node.stun_address {
                Some(address) => vec![address],
                None => match names.node(now, node, events) {
                    Lookup::Known(addresses) => addresses,
                    Lookup::Pending => continue,
                },
            };
            for v4 in [true, false] {
                if let Some(ip) = addresses.iter().find(|ip| ip.is_ipv4() == v4)
                    && probes.len() < MAX_PROBES
                {
                    probes.push(Probe {
                        region: *id,
                        to: SocketAddr::new(*ip, port),
                        transaction: random.bytes(),
                        sent: None,
                        tries: 0,
                        answer: None,
                    });
                }
            }
        }
        self.run = Some(Run { started: now, probes, first_answer: None, chosen_blind: false });
    }

    /// Whether nobody could be asked because names are not known yet.
    pub(crate) fn is_empty_run(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.probes.is_empty())
    }

    /// Forgets a measurement under way.
    pub(crate) fn cancel(&mut self) {
        self.run = None;
    }

    /// The machine is in another network.
    pub(crate) fn network_changed(&mut self) {
        *self = Self::default();
    }

    /// What was measured may not hold any more: the next call waits for a new measurement.
    pub(crate) fn distrust(&mut self) {
        self.last_done = None;
    }

    /// Sends requests that are due.
    pub(crate) fn send(&mut self, now: Instant, link: LinkId, net: &mut NetQueue) {
        let Some(run) = &mut self.run else { return };
        for probe in run.probes.iter_mut().filter(|probe| probe.answer.is_none() && probe.tries < TRIES) {
            let due = probe.sent.is_none_or(|(_, last)| now >= last + RETRY * probe.tries);
            if due && let Some(mut slot) = net.reserve(link, Some(probe.to), stun::REQUEST_LEN) {
                slot.copy_from_slice(&stun::request(&probe.transaction));
                slot.commit(stun::REQUEST_LEN);
                let first = probe.sent.map_or(now, |(first, _)| first);
                probe.sent = Some((first, now));
                probe.tries += 1;
            }
        }
    }

    /// Takes an answer.
    pub(crate) fn handle_response(&mut self, now: Instant, packet: &[u8]) -> Progress {
        let Some((transaction, seen)) = stun::parse_response(packet) else { return Progress::Nothing };
        let Some(run) = &mut self.run else { return Progress::Nothing };
        let waiting = |probe: &&mut Probe| probe.transaction == transaction && probe.answer.is_none();
        let Some(probe) = run.probes.iter_mut().find(waiting) else { return Progress::Nothing };
        let Some((first, last)) = probe.sent else { return Progress::Nothing };
        // An answer to a repeated request may belong to either: the time since the last is too short at worst.
        let rtt = now.saturating_duration_since(if probe.tries > 1 { last } else { first });
        probe.answer = Some((rtt, seen));
        let region = probe.region;
        if run.first_answer.replace(run.first_answer.unwrap_or(now)).is_none() {
            self.udp = Some(true);
            return if self.is_complete() { self.finish(now) } else { Progress::First(region) };
        }
        if self.is_complete() { self.finish(now) } else { Progress::Nothing }
    }

    fn is_complete(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.probes.iter().all(|probe| probe.answer.is_some()))
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Progress {
        let Some(run) = &mut self.run else { return Progress::Nothing };
        if now >= Self::end(run) {
            return self.finish(now);
        }
        if run.first_answer.is_none() && !run.chosen_blind && now >= run.started + NO_MEASURE {
            run.chosen_blind = true;
            return Progress::Blind;
        }
        Progress::Nothing
    }

    fn end(run: &Run) -> Instant {
        let patience = run.started + PATIENCE;
        run.first_answer.map_or(patience, |first| patience.min(first + GRACE))
    }

    fn finish(&mut self, now: Instant) -> Progress {
        let Some(run) = self.run.take() else { return Progress::Nothing };
        self.last_done = Some(now);
        if !run.probes.is_empty() {
            self.udp = Some(run.first_answer.is_some());
        }
        self.seen.clear();
        let mut best: BTreeMap<RegionId, Duration> = BTreeMap::new();
        for probe in run.probes {
            let Some((rtt, seen)) = probe.answer else { continue };
            self.seen.push((probe.to, seen));
            let family = if probe.to.is_ipv4() { 4 } else { 6 };
            self.by_family.insert((probe.region, family), rtt);
            best.entry(probe.region).and_modify(|best| *best = rtt.min(*best)).or_insert(rtt);
        }
        for (region, rtt) in best {
            let history = self.latencies.entry(region).or_default();
            history.push_back((now, rtt));
            if history.len() > MAX_HISTORY {
                history.pop_front();
            }
        }
        Progress::Done
    }

    fn latency(&self, now: Instant, region: RegionId) -> Option<Duration> {
        let history = self.latencies.get(&region)?;
        history.iter().filter(|(at, _)| now < *at + HISTORY).map(|(_, rtt)| *rtt).min()
    }

    /// The region that should be home, by what was measured.
    pub(crate) fn nearest(
        &self,
        now: Instant,
        map: &BTreeMap<RegionId, DerpRegion>,
        scores: &BTreeMap<RegionId, f64>,
        home: Option<RegionId>,
    ) -> Option<RegionId> {
        let scaled = |id: RegionId| {
            let score = scores.get(&id).copied().filter(|score| *score > 0.0 && score.is_finite());
            Some(self.latency(now, id)?.mul_f64(score.unwrap_or(1.0).min(1000.0)))
        };
        let eligible = map.iter().filter(|(_, region)| !region.avoid && has_relay(region));
        let (best, id) = eligible.filter_map(|(id, _)| Some((scaled(*id)?, *id))).min()?;
        match home.filter(|home| *home != id && map.contains_key(home)) {
            None => Some(id),
            Some(home) => match scaled(home) {
                // The home that does not answer any more: the relay itself tells whether it is there.
                None => Some(home),
                Some(old) => {
                    let nearer = best + MIN_GAIN < old && best < old * 2 / 3;
                    Some(if nearer { id } else { home })
                }
            },
        }
    }

    /// The addresses that servers saw: without repetitions, IPv4 first.
    pub(crate) fn mapped(&self) -> Vec<SocketAddr> {
        let mut mapped: Vec<SocketAddr> = self.seen.iter().map(|(_, seen)| *seen).collect();
        mapped.sort_by_key(|address| (address.is_ipv6(), *address));
        mapped.dedup();
        mapped
    }

    /// Whether destinations see different addresses of us; `None` with fewer than two witnesses.
    pub(crate) fn mapping_varies(&self) -> Option<bool> {
        let v4: Vec<_> = self.seen.iter().filter(|(to, _)| to.is_ipv4()).collect();
        let (first, others) = v4.split_first()?;
        (!others.is_empty()).then(|| others.iter().any(|(_, seen)| *seen != first.1))
    }

    /// When the last measurement ended.
    pub(crate) fn last_done(&self) -> Option<Instant> {
        self.last_done
    }

    /// Whether a measurement is under way.
    pub(crate) fn is_running(&self) -> bool {
        self.run.is_some()
    }

    /// Whether UDP passes, as far as is known.
    pub(crate) fn udp(&self) -> Option<bool> {
        self.udp
    }

    /// What the server is to know.
    pub(crate) fn info(&self, home: RegionId) -> NetInfo {
        let families = |v4: bool| self.seen.iter().any(|(to, _)| to.is_ipv4() == v4);
        NetInfo {
            preferred_derp: home,
            udp: self.udp,
            ipv6: self.udp.map(|_| families(false)),
            mapping_varies: self.mapping_varies(),
            latencies: self.by_family.iter().map(|((id, family), rtt)| (*id, *family, *rtt)).collect(),
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Deadline> {
        let run = self.run.as_ref()?;
        let waiting = run.probes.iter().filter(|probe| probe.answer.is_none() && probe.tries < TRIES);
        let retry = waiting.filter_map(|probe| Some(probe.sent?.1 + RETRY * probe.tries)).min();
        let blind = (run.first_answer.is_none() && !run.chosen_blind).then(|| run.started + NO_MEASURE);
        let end = Deadline { at: Self::end(run), why: "end of the measurement" };
        let retry = retry.map(|at| Deadline { at, why: "STUN request" });
        let blind = blind.map(|at| Deadline { at, why: "choose a relay without measuring" });
        [retry, blind].into_iter().fold(Some(end), Deadline::earlier)
    }
}

/// Whether the region relays anything.
fn has_relay(region: &DerpRegion) -> bool {
    region.nodes.iter().any(|node| !node.stun_only)
}

/// The region to begin with where nothing was measured: by our key, so that every start chooses the same and nodes
/// spread over the regions.
pub(crate) fn blind_choice(map: &BTreeMap<RegionId, DerpRegion>, key: &NodeKey) -> Option<RegionId> {
    let usable = |avoid: bool| -> Vec<RegionId> {
        map.iter()
            .filter(|(_, region)| (avoid || !region.avoid) && has_relay(region))
            .map(|(id, _)| *id)
            .collect()
    };
    let regions = Some(usable(false)).filter(|some| !some.is_empty()).unwrap_or_else(|| usable(true));
    let drawn = key.0.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let index = usize::try_from(drawn.checked_rem(regions.len() as u64)?).ok()?;
    regions.get(index).copied()
}

/// The only region that can be home, if there is one.
pub(crate) fn only_choice(map: &BTreeMap<RegionId, DerpRegion>) -> Option<RegionId> {
    let mut usable = map.iter().filter(|(_, region)| has_relay(region));
    let (id, _) = usable.next()?;
    usable.next().is_none().then_some(*id)
}

/// Addresses of this machine that peers on the same network may use.
pub(crate) fn is_candidate(ip: IpAddr, ours: impl Fn(IpAddr) -> bool) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_unspecified() || ip.is_multicast() || link_local || ours(ip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netmap::{DerpAddress, DerpNode};

    const LINK: LinkId = LinkId(0);

    fn map(count: u16) -> BTreeMap<RegionId, DerpRegion> {
        let node = |id: u16| DerpNode {
            v4: DerpAddress::Fixed(IpAddr::from([192, 0, 2, id as u8])),
            derp_port: 443,
            stun_port: Some(3478),
            ..DerpNode::default()
        };
        (1..=count)
            .map(|id| (RegionId(id), DerpRegion { nodes: vec![node(id)], ..Default::default() }))
            .collect()
    }

    struct Bench {
        check: NetCheck,
        out: adit_tunnel::Outbox,
        random: Random,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let out = adit_tunnel::Outbox::with_capacity(10_000, 0);
            Self { check: NetCheck::default(), out, random: Random::new(1), now: Instant::now() }
        }

        /// Measures; a region answers after its latency in milliseconds, with the port that it sees.
        fn measure(
            &mut self,
            map: &BTreeMap<RegionId, DerpRegion>,
            answers: &[(u16, u64, u16)],
        ) -> Vec<Progress> {
            let (mut names, mut events) = (Names::default(), VecDeque::new());
            self.check.start(self.now, map, None, &mut names, &mut events, &mut self.random);
            let mut due: Vec<(Instant, Vec<u8>)> = Vec::new();
            let mut seen = Vec::new();
            loop {
                self.check.send(self.now, LINK, &mut self.out.net);
                let now = self.now;
                self.out.net.drain(|sent| {
                    for request in sent.data.chunks(sent.segment) {
                        let transaction = stun::parse_request(request).unwrap();
                        let IpAddr::V4(ip) = sent.to.unwrap().ip() else { panic!() };
                        let region = u16::from(ip.octets()[3]);
                        if let Some((_, ms, port)) = answers.iter().find(|(id, ..)| *id == region) {
                            let response =
                                stun::response(&transaction, SocketAddr::from(([203, 0, 113, 1], *port)));
                            due.push((now + Duration::from_millis(*ms), response));
                        }
                    }
                });
                let Some(deadline) = self.check.poll_timeout() else { return seen };
                due.sort();
                self.now = match due.first() {
                    Some((at, _)) if *at <= deadline.at => {
                        let (at, response) = due.remove(0);
                        seen.push(self.check.handle_response(at, &response));
                        at
                    }
                    _ => {
                        seen.push(self.check.handle_timeout(deadline.at));
                        deadline.at
                    }
                };
                seen.retain(|progress| *progress != Progress::Nothing);
            }
        }
    }

    #[test]
    fn the_nearest_region_is_home_and_stays_it_without_a_clear_gain() {
        let (mut bench, map) = (Bench::new(), map(3));
        let seen = bench.measure(&map, &[(1, 60, 9), (2, 20, 9), (3, 100, 9)]);
        assert_eq!(seen, [Progress::First(RegionId(2)), Progress::Done]);
        let scores = BTreeMap::new();
        let nearest = |bench: &Bench, home| bench.check.nearest(bench.now, &map, &scores, home);
        assert_eq!(nearest(&bench, None), Some(RegionId(2)));
        assert_eq!(nearest(&bench, Some(RegionId(1))), Some(RegionId(2)));
        bench.measure(&map, &[(1, 15, 9), (2, 20, 9), (3, 100, 9)]);
        assert_eq!(nearest(&bench, Some(RegionId(2))), Some(RegionId(2)), "5 ms are no reason to move");
        let scores = BTreeMap::from([(RegionId(2), 10.0)]);
        assert_eq!(bench.check.nearest(bench.now, &map, &scores, None), Some(RegionId(1)));
        assert_eq!(bench.check.mapping_varies(), Some(false));
        assert_eq!(bench.check.mapped(), ["203.0.113.1:9".parse().unwrap()]);
    }

    #[test]
    fn where_udp_is_blocked_a_home_is_chosen_at_once_and_by_the_key() {
        let (mut bench, map) = (Bench::new(), map(5));
        let start = bench.now;
        let seen = bench.measure(&map, &[]);
        assert_eq!(seen, [Progress::Blind, Progress::Done]);
        assert_eq!((bench.check.udp(), bench.now - start), (Some(false), PATIENCE));
        let chosen = blind_choice(&map, &NodeKey([7; 32]));
        assert!(chosen.is_some() && chosen == blind_choice(&map, &NodeKey([7; 32])));
        assert_eq!(only_choice(&map), None);
        assert_eq!(bench.check.nearest(bench.now, &map, &BTreeMap::new(), None), None);
    }

    #[test]
    fn a_nat_that_shows_every_server_another_port_is_found() {
        let (mut bench, map) = (Bench::new(), map(2));
        bench.measure(&map, &[(1, 10, 1000), (2, 10, 1001)]);
        assert_eq!(bench.check.mapping_varies(), Some(true));
        assert_eq!(bench.check.mapped().len(), 2);
        let info = bench.check.info(RegionId(1));
        assert_eq!((info.udp, info.ipv6, info.latencies.len()), (Some(true), Some(false), 2));
    }
}
