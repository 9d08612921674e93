//! The verification itself: stages in order, targets in parallel, one deadline over all.

mod connect;
mod quality;
mod refine;
mod settling;
mod surroundings;
mod tailnet;
mod targets;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use adit_path::{Network, Phase, Status};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout_at};

use crate::catalogue::Words;
use crate::check::Evidence;
use crate::dialer::Dialer;
use crate::event::{Event, Observer, ms};
use crate::failure::seconds;
use crate::plan::{Plan, Requirement};
use crate::{
    Context, Exit, Failure, Node, PathReport, Report, SCHEMA, Stage, StageReport, StageStatus, Verified,
    Warning,
};

/// How often a stage that runs says so.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Verifies `network`, reaching targets through `dialer`.
///
/// Success means that every target of the plan passed its deepest stage; without targets, that a packet went
/// through the tunnel and back. It returns when that is known, at the plan's deadline at the latest (a few
/// seconds later when observations are still gathered for a failure). Dropping the future stops it.
pub async fn verify(
    network: &dyn Network,
    dialer: &dyn Dialer,
    plan: &Plan,
    observer: &dyn Observer,
) -> Report {
    let began = Instant::now();
    let status = network.status();
    let (settled, log) = (OnceLock::new(), Mutex::default());
    let run = Run { network, status, dialer, plan, observer, began, settled, log };
    observer.notice(Event::Connecting { profile: plan.profile.clone(), provider: plan.provider.clone() });
    let verified = match timeout_at(began + plan.timeout, run.stages()).await {
        Ok(Ok(verified)) => verified,
        Ok(Err(Stopped)) => Verified::None,
        Err(_) => {
            run.out_of_time();
            Verified::None
        }
    };
    run.survey().await;
    run.refine().await;
    run.report(verified)
}

/// A stage failed; the failure is in the log.
#[derive(Debug)]
struct Stopped;

struct Run<'a> {
    network: &'a dyn Network,
    /// Kept from the start: asking the network for it may make it publish, which would wake whoever waits for a
    /// change.
    status: watch::Receiver<Status>,
    dialer: &'a dyn Dialer,
    plan: &'a Plan,
    observer: &'a dyn Observer,
    began: Instant,
    /// Until when what is missing may still be on its way.
    settled: OnceLock<Instant>,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    /// Finished stages with the target's position (0 where there is none).
    stages: Vec<(Stage, usize, StageReport)>,
    failures: Vec<(usize, Failure)>,
    warnings: Vec<Warning>,
    running: BTreeMap<(Stage, Option<usize>), Running>,
    path: Option<PathReport>,
}

/// A stage that runs.
struct Running {
    since: Instant,
    /// How long it may take.
    limit: Duration,
    /// Why it has not succeeded yet.
    last: Option<Failure>,
    /// Whether it was told that what is missing may still be on its way.
    provisional: bool,
}

/// What a stage found when it passed.
struct Passed<T> {
    value: T,
    evidence: Evidence,
    attempts: u32,
    provisional: u32,
    warning: Option<Warning>,
}

impl<T> Passed<T> {
    fn new(value: T) -> Self {
        Self { value, evidence: Evidence::new(), attempts: 1, provisional: 0, warning: None }
    }

    fn seen(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.evidence.insert(name.to_owned(), value.into());
        self
    }
}

/// A stage that did not pass, and how often it was tried.
struct Missed {
    failure: Failure,
    attempts: u32,
    provisional: u32,
}

impl From<Failure> for Missed {
    fn from(failure: Failure) -> Self {
        Self { failure, attempts: 1, provisional: 0 }
    }
}

impl Run<'_> {
    async fn stages(&self) -> Result<Verified, Stopped> {
        let config = self.connect().await?;
        self.begin_to_settle();
        if self.plan.targets.is_empty() {
            self.tunnel_only(&config).await?;
            self.check_quality(None).await?;
            self.soak().await?;
            return Ok(Verified::TunnelOnly);
        }
        self.all_targets(&config).await?;
        self.check_quality(self.plan.targets.first()).await?;
        self.soak().await?;
        Ok(Verified::Targets)
    }

    /// Runs one stage: heartbeat while it lasts, a line in the log and an event when it ends.
    async fn stage<T>(
        &self,
        id: Stage,
        target: Option<usize>,
        limit: Duration,
        work: impl Future<Output = Result<Passed<T>, Missed>>,
    ) -> Result<T, Stopped> {
        let began = Instant::now();
        let name = target.map(|index| self.plan.targets[index].to_string());
        self.observer.began(id, name.as_deref(), limit);
        let running = Running { since: began, limit, last: None, provisional: false };
        self.log().running.insert((id, target), running);
        let outcome = self.with_heartbeat(id, target, work).await;
        self.log().running.remove(&(id, target));
        let took = ms(began.elapsed());
        let mut report = StageReport::new(id, StageStatus::Ok, took);
        report.target = name;
        let more_than_one = |count: u32| (count > 1).then_some(count);
        let result = match outcome {
            Ok(passed) => {
                report.attempts = more_than_one(passed.attempts);
                report.provisional_retries = (passed.provisional > 0).then_some(passed.provisional);
                report.evidence = passed.evidence;
                if let Some(warning) = passed.warning {
                    report.status = StageStatus::Warn;
                    report.class = Some(warning.class.clone());
                    self.log().warnings.push(warning);
                }
                Ok(passed.value)
            }
            Err(missed) => {
                report.status = StageStatus::Fail;
                report.attempts = more_than_one(missed.attempts);
                report.provisional_retries = (missed.provisional > 0).then_some(missed.provisional);
                report.class = Some(missed.failure.class.clone());
                let mut failure = missed.failure.at(id);
                failure.target.clone_from(&report.target);
                self.log().failures.push((target.unwrap_or(0), failure));
                Err(Stopped)
            }
        };
        self.record(target, report);
        result
    }

    async fn with_heartbeat<T>(&self, id: Stage, target: Option<usize>, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let mut beat = interval_at(began + HEARTBEAT, HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                value = &mut work => return value,
                _ = beat.tick() => {
                    let limit = self.log().running.get(&(id, target)).map(|running| running.limit);
                    self.observer.notice(Event::Waiting {
                        id,
                        target: target.map(|index| self.plan.targets[index].to_string()),
                        elapsed_ms: ms(began.elapsed()),
                        limit_ms: ms(limit.unwrap_or_default()),
                    });
                }
            }
        }
    }

    fn skip(&self, id: Stage, why: &str) {
        self.record(None, StageReport::new(id, StageStatus::Skipped, 0).seen("why", why));
    }

    fn record(&self, target: Option<usize>, report: StageReport) {
        self.observer.notice(Event::Verifying(report.clone()));
        self.log().stages.push((report.id, target.unwrap_or(0), report));
    }

    /// Remembers why a running stage has not succeeded yet, for the case that the deadline ends it.
    fn not_yet(&self, id: Stage, target: Option<usize>, failure: Failure) {
        if let Some(running) = self.log().running.get_mut(&(id, target)) {
            running.last = Some(failure);
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state as last published.
    fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The state with fresh counters.
    fn fresh_status(&self) -> Status {
        self.network.status().borrow().clone()
    }

    /// The words that every failure of this network may use.
    fn context(&self) -> Context {
        let status = self.status();
        let mut words = Words::default();
        if let Some(config) = &status.config {
            let addresses: Vec<_> =
                config.addresses.iter().map(|prefix| prefix.address().to_string()).collect();
            if !addresses.is_empty() {
                words.set("address", addresses.join(", "));
            }
        }
        if let Some(endpoint) = endpoint(&status) {
            words.set("endpoint", endpoint);
        }
        if let Some(identity) = &self.plan.identity {
            words.set("our_key", identity);
        }
        if let Some(profile) = &self.plan.profile {
            words.set("profile", profile);
        }
        Context { provider: self.plan.provider.clone(), words }
    }

    /// The deadline passed: every stage that still runs becomes evidence.
    fn out_of_time(&self) {
        let running = std::mem::take(&mut self.log().running);
        let furthest = running.keys().map(|(stage, _)| *stage).max().unwrap_or(self.furthest());
        let words = self.context().words.with("timeout", seconds(self.plan.timeout)).with("stage", furthest);
        let mut failure = Failure::of("deadline", &words).at(furthest);
        let mut advised = 0;
        for ((stage, target), Running { since, last, .. }) in running {
            let name = target.map(|index| format!(" of {}", self.plan.targets[index])).unwrap_or_default();
            let waited = seconds(since.elapsed());
            failure = failure.seen(match &last {
                Some(last) => format!("{stage}{name}, after {waited}: {last}"),
                None => format!("{stage}{name} was still waited for after {waited}"),
            });
            // What mends the reason is worth more than general advice.
            if let Some(fix) = last.filter(|_| advised < 2).and_then(|last| last.fix.into_iter().next()) {
                failure.fix.insert(advised, fix);
                advised += 1;
            }
            let mut report = StageReport::new(stage, StageStatus::Fail, ms(since.elapsed()));
            report.target = target.map(|index| self.plan.targets[index].to_string());
            report.class = Some("deadline".to_owned());
            self.record(target, report);
        }
        // The deadline is the verdict, whatever failed on the way to it.
        self.log().failures.insert(0, (0, failure));
    }

    fn furthest(&self) -> Stage {
        let log = self.log();
        let tried = log.stages.iter().filter(|(_, _, report)| report.status != StageStatus::Skipped);
        tried
            .map(|(stage, ..)| *stage)
            .max()
            .or(self.plan.before.iter().map(|stage| stage.id).max())
            .unwrap_or(Stage::Env)
    }

    fn report(&self, verified: Verified) -> Report {
        let furthest_stage = self.furthest();
        let status = self.status();
        let mut log = std::mem::take(&mut *self.log());
        log.stages.sort_by_key(|(stage, target, _)| (*stage, *target));
        log.failures.sort_by_key(|(target, failure)| (failure.class != "deadline", *target));
        let mut failures = log.failures.into_iter().map(|(_, failure)| failure);
        let failure = failures.next();
        let mut warnings = self.plan.warnings.clone();
        warnings.append(&mut log.warnings);
        warnings.extend(status.peers.iter().filter_map(|peer| peer.symptom.as_ref()).map(|symptom| {
            Warning {
                class: symptom.class.clone(),
                summary: format!("{}: {}", symptom.summary, symptom.evidence.join("; ")),
            }
        }));
        let before: u64 = self.plan.before.iter().map(|stage| stage.ms).sum();
        let duration_ms = ms(self.began.elapsed()).saturating_add(before);
        let of_tunnel = status
            .warnings
            .iter()
            .map(|fault| Warning { class: fault.class.clone(), summary: fault.summary.clone() });
        warnings.extend(of_tunnel);
        let exit = failure.as_ref().map_or(Exit::Ok, |failure| failure.exit);
        let report = Report {
            schema: SCHEMA.to_owned(),
            adit: env!("CARGO_PKG_VERSION").to_owned(),
            ok: failure.is_none(),
            exit_code: exit.code(),
            profile: self.plan.profile.clone(),
            provider: self.plan.provider.clone(),
            mode: Some(self.dialer.mode()),
            started: self.plan.started.clone(),
            duration_ms,
            verified: if failure.is_none() { verified } else { Verified::None },
            furthest_stage,
            this: node(&status, self.plan.identity.as_deref()),
            path: log.path.or_else(|| path(&status)),
            stages: self
                .plan
                .before
                .iter()
                .cloned()
                .chain(log.stages.into_iter().map(|(.., stage)| stage))
                .collect(),
            failure,
            other_failures: failures.collect(),
            warnings,
        };
        self.observer.notice(match &report.failure {
            None => Event::Verified { verified: report.verified, duration_ms },
            Some(failure) => Event::Failed(failure.clone()),
        });
        report
    }

    /// Watches that nothing of what passed flips.
    async fn soak(&self) -> Result<(), Stopped> {
        let Some(duration) = self.plan.stable else { return Ok(()) };
        let work = async {
            let until = Instant::now() + duration;
            let ups = self.status().ups;
            let mut rounds = 0u32;
            while Instant::now() < until {
                rounds += 1;
                let status = self.status();
                if status.phase != Phase::Up || status.ups != ups {
                    let words =
                        self.context().words.with("target", "the tunnel").with("duration", seconds(duration));
                    let why = status.fault.map_or_else(|| "it reconnected".to_owned(), |fault| fault.summary);
                    return Err(Failure::of("soak.flapped", &words).seen(why).into());
                }
                self.ask_again(duration).await?;
                let pause = Duration::from_secs(1).min(until.saturating_duration_since(Instant::now()));
                tokio::time::sleep(pause).await;
            }
            Ok(Passed::new(()).seen("rounds", rounds))
        };
        self.stage(Stage::Soak, None, duration, work).await
    }
}

/// Where packets go outside, as text.
fn endpoint(status: &Status) -> Option<String> {
    let resolved = status.resolved.first().map(|(host, addresses)| match addresses.first() {
        Some(address) if address.ip().to_string() != host.host => format!("{host} ({address})"),
        _ => host.to_string(),
    });
    resolved
        .or_else(|| status.peers.iter().find_map(|peer| peer.endpoint).map(|endpoint| endpoint.to_string()))
}

fn node(status: &Status, identity: Option<&str>) -> Option<Node> {
    let config = status.config.as_ref()?;
    let own = status.own.clone().unwrap_or_default();
    let named = Some(own.name).filter(|name| !name.is_empty());
    Some(Node {
        // A key names a node that has no other name.
        name: named.or(identity.map(str::to_owned)),
        tags: own.tags,
        addresses: config.addresses.iter().map(adit_tunnel::Prefix::address).collect(),
        ..Node::default()
    })
}

/// Relayed where packets to a peer go through a relay at present.
fn path(status: &Status) -> Option<PathReport> {
    let config = status.config.as_ref().filter(|_| status.ups > 0)?;
    let relay = status.peers.iter().find_map(|peer| peer.relay.clone());
    let kind = if relay.is_some() { "relay" } else { "direct" };
    Some(PathReport { kind: kind.to_owned(), relay, mtu: Some(config.mtu), ..PathReport::default() })
}

/// Inner addresses that may answer for the gateway: [`gateway_candidates`], and the DNS servers.
fn gateways(status: &Status) -> Vec<IpAddr> {
    let mut found = gateway_candidates(status);
    if let Some(config) = &status.config {
        let routed = |address: &IpAddr| config.routes_to(*address);
        let servers = config.dns.servers.iter().filter(|server| routed(server) && !found.contains(server));
        let servers: Vec<_> = servers.copied().collect();
        found.extend(servers);
    }
    found.truncate(4);
    found
}

/// Inner addresses that probably belong to the gateway itself: what the protocol says, else the first host of our
/// own subnet or of a route.
fn gateway_candidates(status: &Status) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> =
        status.peers.iter().flat_map(|peer| peer.addresses.iter().copied()).collect();
    if let Some(config) = &status.config {
        let ours: Vec<_> = config.addresses.iter().map(adit_tunnel::Prefix::address).collect();
        found.extend(config.addresses.iter().chain(&config.routes).filter_map(first_host));
        let routed = |address: &IpAddr| config.routes_to(*address);
        found.retain(|address| routed(address) && !ours.contains(address));
    }
    let mut seen = Vec::new();
    found.retain(|address| {
        let fresh = !seen.contains(address);
        seen.push(*address);
        fresh
    });
    found.truncate(4);
    found
}

/// The first host of a subnet, or the address of a single-host prefix. A default route has none.
fn first_host(prefix: &adit_tunnel::Prefix) -> Option<IpAddr> {
    match (prefix.network().address(), prefix.length()) {
        (_, 0) => None,
        (address @ IpAddr::V4(_), 32) | (address @ IpAddr::V6(_), 128) => Some(address),
        (IpAddr::V4(network), _) => Some(IpAddr::V4((network.to_bits() | 1).into())),
        (IpAddr::V6(network), _) => Some(IpAddr::V6((network.to_bits() | 1).into())),
    }
}

impl Plan {
    fn requires_target(&self) -> bool {
        self.require.contains(&Requirement::Target)
    }
}
