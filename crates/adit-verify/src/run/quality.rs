//! How good the path is: round-trip time and the largest packet; and what that says about a failure.

use std::net::IpAddr;
use std::time::Duration;

use adit_path::PingKind;
use tokio::time::{Instant, timeout};

use super::{Missed, Passed, Run, Stopped, gateways, path};
use crate::infer::{Facts, infer};
use crate::plan::Requirement;
use crate::provider::Provider;
use crate::{Failure, Stage, StageStatus, Target, Warning};

/// The IPv4 or IPv6 header and the ICMP header: what an echo's payload leaves free of a packet.
fn overhead(address: IpAddr) -> u16 {
    if address.is_ipv4() { 28 } else { 48 }
}

/// The packet that every IPv6 link takes (RFC 8200 §5), and with it the payload that surely passes.
const SURE: u16 = 1280;

/// What the path does to packets of different sizes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sizes {
    /// Packets of this size come back.
    passes: u16,
    /// Packets of this size do not.
    lost: Option<u16>,
}

impl Run<'_> {
    pub(super) async fn check_quality(&self, first: Option<&Target>) -> Result<(), Stopped> {
        if !self.plan.quality && self.plan.require.iter().all(|wish| *wish == Requirement::Target) {
            return Ok(());
        }
        let budget = Stage::Quality.budget();
        let work = async {
            let measured = timeout(budget, self.measure(first)).await.unwrap_or_default();
            self.judge(&measured)
        };
        self.stage(Stage::Quality, None, budget, work).await
    }

    async fn measure(&self, first: Option<&Target>) -> Measured {
        let Some((address, rtt)) = self.someone_who_echoes(first).await else { return Measured::default() };
        let mtu = self.status().config.map_or(SURE, |config| config.mtu);
        let sizes = self.sizes(address, mtu).await;
        Measured { address: Some(address), rtt: Some(rtt), sizes }
    }

    fn judge(&self, measured: &Measured) -> Result<Passed<()>, Missed> {
        let words = self.context().words;
        let mut report = path(&self.status()).unwrap_or_default();
        report.rtt_ms = measured.rtt.map(|rtt| (rtt.as_secs_f64() * 1e5).round() / 100.0);
        self.log().path = Some(report.clone());
        for wish in &self.plan.require {
            match wish {
                Requirement::Target => {}
                Requirement::Direct if report.kind == "direct" => {}
                Requirement::Direct => {
                    let words = words.with("found", &report.kind).with("required", "direct");
                    return Err(Failure::of("quality.path", &words).into());
                }
                Requirement::Rtt(limit) => match measured.rtt {
                    Some(rtt) if rtt <= *limit => {}
                    found => {
                        let found = found.map_or_else(
                            || "an unknown time".to_owned(),
                            |rtt| format!("{:.1} ms", rtt.as_secs_f64() * 1e3),
                        );
                        let words =
                            words.with("found", found).with("required", format!("{} ms", limit.as_millis()));
                        return Err(Failure::of("quality.rtt", &words).into());
                    }
                },
            }
        }
        let mut passed = Passed::new(()).seen("path", report.kind);
        if let Some(rtt) = report.rtt_ms {
            passed = passed.seen("rtt_ms", rtt);
        }
        if let Some(address) = measured.address {
            passed =
                passed.seen("echo_from", address.to_string()).seen("largest_packet", measured.sizes.passes);
        }
        if let Some(lost) = measured.sizes.lost {
            let words = words.with("size", lost).with("mtu", measured.sizes.passes);
            let hole = Failure::of(Provider::of(self.plan.provider.as_deref()).mtu, &words);
            passed.warning = Some(Warning { class: hole.class, summary: hole.summary });
        }
        Ok(passed)
    }

    /// An address that answers echoes: the first target's, else a gateway.
    async fn someone_who_echoes(&self, first: Option<&Target>) -> Option<(IpAddr, Duration)> {
        if let Some(host) = first.and_then(Target::host)
            && let Ok(pong) = self.dialer.ping(host, 16, Duration::from_secs(1)).await
        {
            return Some((pong.from, pong.rtt));
        }
        for gateway in gateways(&self.status()) {
            if let Some(rtt) = self.echoes(gateway, 16).await {
                return Some((gateway, rtt));
            }
        }
        None
    }

    async fn echoes(&self, to: IpAddr, payload: u16) -> Option<Duration> {
        // Twice, because a single loss says nothing.
        for _ in 0..2 {
            let kind = PingKind::Icmp { size: payload, timeout: Duration::from_millis(400) };
            if let Ok(pong) = self.network.ping(to, kind).await {
                return Some(pong.rtt);
            }
        }
        None
    }

    async fn packet(&self, to: IpAddr, size: u16) -> bool {
        self.echoes(to, size.saturating_sub(overhead(to))).await.is_some()
    }

    /// The largest packet that comes back, found by halving the range between what surely passes and the MTU.
    async fn sizes(&self, to: IpAddr, mtu: u16) -> Sizes {
        if self.packet(to, mtu).await {
            return Sizes { passes: mtu, lost: None };
        }
        let (mut passes, mut lost) = (SURE.min(mtu), mtu);
        if !self.packet(to, passes).await {
            (passes, lost) = (576.min(passes), passes);
        }
        while lost - passes > 16 {
            let middle = passes + (lost - passes) / 2;
            if self.packet(to, middle).await { passes = middle } else { lost = middle }
        }
        Sizes { passes, lost: Some(lost) }
    }

    /// After a failure: a few seconds of observations that may name the place of the fault.
    pub(super) async fn refine(&self) {
        let open: Vec<(usize, Failure)> = {
            let log = self.log();
            let silent = |class: &str| class.ends_with(".silent") && class != "wg.silent";
            log.failures.iter().filter(|(_, failure)| silent(&failure.class)).cloned().collect()
        };
        if open.is_empty() {
            return;
        }
        let facts = timeout(Duration::from_secs(5), self.facts(&open)).await.unwrap_or_default();
        for (index, old) in open {
            let Some(stage) = old.stage else { continue };
            let Some(class) = infer(&facts.facts, stage, &old.class) else { continue };
            self.replace(index, &old, class, &facts);
        }
    }

    fn replace(&self, index: usize, old: &Failure, class: &str, found: &Found) {
        let mut words = match self.plan.targets.get(index) {
            Some(target) => self.context().words.with("target", target),
            None => self.context().words,
        };
        if let Some(lost) = found.sizes.lost {
            words = words.with("size", lost).with("mtu", found.sizes.passes);
        }
        let mut new = Failure::of(class, &words);
        new.stage = old.stage;
        new.target.clone_from(&old.target);
        new.evidence = [old.evidence.as_slice(), found.seen.as_slice()].concat();
        let mut log = self.log();
        for (at, failure) in &mut log.failures {
            if *at == index && failure == old {
                *failure = new.clone();
            }
        }
        for (stage, at, report) in &mut log.stages {
            if *at == index && Some(*stage) == old.stage && report.status == StageStatus::Fail {
                report.class = Some(class.to_owned());
            }
        }
    }

    async fn facts(&self, open: &[(usize, Failure)]) -> Found {
        let began = Instant::now();
        let status = self.status();
        let mut found = Found::default();
        found.facts.wireguard = self.plan.provider.as_deref() == Some("wireguard");
        found.facts.handshake = status.ups > 0;
        found.facts.others_answer = {
            let log = self.log();
            log.stages.iter().any(|(stage, _, report)| {
                *stage == Stage::Target && report.target.is_some() && report.status == StageStatus::Ok
            }) || log
                .failures
                .iter()
                .any(|(_, failure)| matches!(failure.class.as_str(), "target.refused" | "target.reset"))
        };
        if !found.facts.wireguard || !found.facts.handshake {
            return found;
        }
        let hangs = open.iter().any(|(_, failure)| failure.class == "app.silent");
        for gateway in gateways(&status) {
            match self.echoes(gateway, 16).await {
                Some(rtt) => {
                    found.facts.gateway = Some(true);
                    found.seen.push(format!(
                        "the gateway {gateway} answers echoes in {:.1} ms",
                        rtt.as_secs_f64() * 1e3
                    ));
                    if hangs {
                        self.look_for_a_hole(gateway, &mut found).await;
                    }
                    break;
                }
                None => {
                    found.facts.gateway = Some(false);
                    found.seen.push(format!("{gateway} does not answer echoes"));
                }
            }
            if began.elapsed() > Duration::from_secs(3) {
                break;
            }
        }
        let received = self.fresh_status().counters.host_received;
        found.facts.received = received > 0 || found.facts.gateway == Some(true);
        if received == 0 && !found.facts.received {
            found.seen.push(
                "the handshake was completed, and no packet from inside the tunnel has arrived".to_owned(),
            );
        }
        found
    }

    async fn look_for_a_hole(&self, gateway: IpAddr, found: &mut Found) {
        let mtu = self.status().config.map_or(SURE, |config| config.mtu);
        found.sizes = self.sizes(gateway, mtu).await;
        if let Some(lost) = found.sizes.lost {
            found.facts.large_lost = true;
            found.seen.push(format!(
                "echoes of {} bytes come back, echoes of {lost} bytes do not",
                found.sizes.passes
            ));
        }
    }
}

#[derive(Default)]
struct Measured {
    address: Option<IpAddr>,
    rtt: Option<Duration>,
    sizes: Sizes,
}

/// What was observed after a failure.
#[derive(Default)]
struct Found {
    facts: Facts,
    seen: Vec<String>,
    sizes: Sizes,
}
