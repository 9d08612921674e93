//! How good the path is: round-trip time and the largest packet.

use std::net::IpAddr;
use std::time::Duration;

use adit_path::PingKind;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Missed, Passed, Run, Stopped, gateways, path};
use crate::plan::Requirement;
use crate::provider::Provider;
use crate::{Failure, Stage, Target, Warning};

/// The IPv4 or IPv6 header and the ICMP header: what an echo's payload leaves free of a packet.
fn overhead(address: IpAddr) -> u16 {
    if address.is_ipv4() { 28 } else { 48 }
}

/// The packet that every IPv6 link takes (RFC 8200 §5), and with it the payload that surely passes.
pub(super) const SURE: u16 = 1280;

/// How often a relayed path is looked at that must become direct, and what is left then to tell what it is.
const PACE: Duration = Duration::from_millis(250);
const MARGIN: Duration = Duration::from_millis(500);

/// What the path does to packets of different sizes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Packets of this size come back.
    pub(super) passes: u16,
    /// Packets of this size do not.
    pub(super) lost: Option<u16>,
}

impl Run<'_> {
    pub(super) async fn check_quality(&self, first: Option<&Target>) -> Result<(), Stopped> {
        if !self.plan.quality && self.plan.require.iter().all(|wish| *wish == Requirement::Target) {
            return Ok(());
        }
        let budget = Stage::Quality.budget();
        let work = async {
            let until = Instant::now() + budget;
            let measured = timeout(budget, self.measure(first)).await.unwrap_or_default();
            if self.plan.require.contains(&Requirement::Direct) {
                // What it found when its time is up is what the path is.
                let _ = timeout_at(until - MARGIN, self.until_direct(measured.address)).await;
            }
            self.judge(&measured)
        };
        self.stage(Stage::Quality, None, budget, work).await
    }

    /// A relayed path may become direct while packets pass.
    async fn until_direct(&self, echo: Option<IpAddr>) {
        while path(&self.status()).is_some_and(|path| path.relay.is_some()) {
            if let Some(address) = echo {
                self.echoes(address, 16).await;
            }
            sleep(PACE).await;
        }
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

    pub(super) async fn echoes(&self, to: IpAddr, payload: u16) -> Option<Duration> {
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
    pub(super) async fn sizes(&self, to: IpAddr, mtu: u16) -> Sizes {
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
}

#[derive(Default)]
struct Measured {
    address: Option<IpAddr>,
    rtt: Option<Duration>,
    sizes: Sizes,
}
