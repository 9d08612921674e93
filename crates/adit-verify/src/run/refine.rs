//! What a few observations after a failure say about its place.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use adit_path::{BoxFuture, Destination, Query};
use tokio::time::timeout;

use super::quality::{SURE, Sizes};
use super::{Run, gateway_candidates};
use crate::catalogue::Words;
use crate::infer::{Facts, MTU, infer};
use crate::{Failure, Probe, Stage, StageStatus, join};

/// Addresses that are asked for an echo after a failure, at most.
const MOST_ASKED: usize = 16;

/// What was observed after a failure.
#[derive(Default)]
struct Found {
    facts: Facts,
    seen: Vec<String>,
    sizes: Sizes,
    /// Who answered an echo, and after what time.
    answers: BTreeMap<IpAddr, Duration>,
    /// The silent hosts of a failure, by its target's position.
    hosts: BTreeMap<usize, Vec<IpAddr>>,
}

impl Found {
    /// What the silent hosts themselves do with an echo.
    fn about(&self, hosts: &[IpAddr]) -> Vec<String> {
        let line = |host: &IpAddr| match self.answers.get(host) {
            Some(rtt) => {
                format!("{host} is there: it answers echoes in {:.1} ms", rtt.as_secs_f64() * 1e3)
            }
            None => format!("{host} does not answer echoes either"),
        };
        hosts.iter().take(2).map(line).collect()
    }
}

impl Run<'_> {
    /// After a failure: a few seconds of observations that may name the place of the fault.
    pub(super) async fn refine(&self) {
        let open: Vec<(usize, Failure)> = {
            let log = self.log();
            let silent = |class: &str| class.ends_with(".silent") && class != "wg.silent";
            log.failures.iter().filter(|(_, failure)| silent(&failure.class)).cloned().collect()
        };
        self.refine_tailnet().await;
        // Of OpenVPN, only the size of packets is a matter of silence.
        let worthwhile = match self.plan.provider.as_deref() {
            Some("wireguard") => !open.is_empty(),
            Some("openvpn") => open.iter().any(|(_, failure)| failure.class == "app.silent"),
            _ => false,
        };
        if !worthwhile || self.status().ups == 0 {
            return;
        }
        let Ok(found) = timeout(Duration::from_secs(5), self.facts(&open)).await else { return };
        for (index, old) in open {
            let Some(stage) = old.stage else { continue };
            let hosts = found.hosts.get(&index).map_or(&[] as &[_], Vec::as_slice);
            let host = hosts.iter().map(|host| found.answers.contains_key(host)).reduce(|a, b| a || b);
            let about = found.about(hosts);
            match infer(&Facts { host, ..found.facts }, stage, &old.class) {
                Some(MTU) => self.replace(index, &old, self.own().mtu, &found, &about),
                Some(class) => self.replace(index, &old, class, &found, &about),
                None => self.amend(index, &old, &about),
            }
        }
    }

    fn replace(&self, index: usize, old: &Failure, class: &str, found: &Found, about: &[String]) {
        let mut words = match self.plan.targets.get(index) {
            Some(target) => self.context().words.with("target", target),
            None => self.context().words,
        };
        if let Some(lost) = found.sizes.lost {
            words = words.with("size", lost).with("mtu", found.sizes.passes);
        }
        self.exchange(index, old, class, &words, &[found.seen.as_slice(), about].concat());
    }

    /// Puts a more precise class in the place of a failure's.
    pub(super) fn exchange(&self, index: usize, old: &Failure, class: &str, words: &Words, seen: &[String]) {
        let mut new = Failure::of(class, words);
        new.stage = old.stage;
        new.target.clone_from(&old.target);
        new.evidence = [old.evidence.as_slice(), seen].concat();
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

    /// The class stays; what was seen of the host helps all the same.
    pub(super) fn amend(&self, index: usize, old: &Failure, about: &[String]) {
        let mut log = self.log();
        let meant = log.failures.iter_mut().filter(|(at, failure)| *at == index && failure == old);
        for (_, failure) in meant {
            failure.evidence.extend_from_slice(about);
        }
    }

    async fn facts(&self, open: &[(usize, Failure)]) -> Found {
        let status = self.status();
        let servers = status.config.as_ref().map(|config| config.dns.servers.clone()).unwrap_or_default();
        let gateways = gateway_candidates(&status);
        let mut found = Found::default();
        for (index, failure) in open {
            found.hosts.insert(*index, self.silent_hosts(*index, failure, &servers).await);
        }
        let mut asked = gateways.clone();
        for address in servers.iter().chain(found.hosts.values().flatten()) {
            if !asked.contains(address) && asked.len() < MOST_ASKED {
                asked.push(*address);
            }
        }
        let echoes = asked.iter().map(|to| {
            Box::pin(async move { self.echoes(*to, 16).await.map(|rtt| (*to, rtt)) }) as BoxFuture<'_, _>
        });
        found.answers = join::all(echoes.collect()).await.into_iter().flatten().collect();
        found.facts = Facts {
            wireguard: self.plan.provider.as_deref() == Some("wireguard"),
            handshake: true,
            others_answer: self.somebody_behind(&gateways, &asked, &found.answers),
            ..Facts::default()
        };
        if let Some(gateway) = gateways.iter().find(|gateway| found.answers.contains_key(gateway)) {
            found.facts.gateway = Some(true);
            found.seen.push(format!(
                "the gateway {gateway} answers echoes in {:.1} ms",
                found.answers[gateway].as_secs_f64() * 1e3
            ));
        } else if !gateways.is_empty() {
            found.facts.gateway = Some(false);
            let gateways: Vec<_> = gateways.iter().map(IpAddr::to_string).collect();
            found.seen.push(format!("no answer to echoes from {}", gateways.join(", ")));
        }
        if open.iter().any(|(_, failure)| failure.class == "app.silent")
            && let Some(witness) = asked.iter().find(|to| found.answers.contains_key(to))
        {
            self.look_for_a_hole(*witness, &mut found).await;
        }
        found.facts.received = self.fresh_status().counters.host_received > 0 || !found.answers.is_empty();
        if !found.facts.received {
            found.seen.push(
                "the handshake was completed, and no packet from inside the tunnel has arrived".to_owned(),
            );
        }
        found
    }

    /// The addresses that a failure calls silent.
    pub(super) async fn silent_hosts(
        &self,
        index: usize,
        failure: &Failure,
        servers: &[IpAddr],
    ) -> Vec<IpAddr> {
        let Some(target) = self.plan.targets.get(index) else { return Vec::new() };
        match (failure.class.as_str(), &target.probe, target.host()) {
            (_, Probe::Dns { server: Some(server), .. }, _) => vec![*server],
            ("dns.silent" | "ts.dns.split", ..) => servers.to_vec(),
            (_, _, Some(Destination::Address(address))) => vec![address],
            (_, _, Some(Destination::Name(name))) => {
                // It was resolved a moment ago, so the answer is in the cache.
                let query = Query { timeout: Duration::from_secs(1), ..Query::addresses(name) };
                self.network.resolve(query).await.map(|answer| answer.addresses).unwrap_or_default()
            }
            (_, _, None) => Vec::new(),
        }
    }

    /// Whether anything but the gateway has answered anything, which only a gateway that forwards makes possible.
    fn somebody_behind(
        &self,
        gateways: &[IpAddr],
        asked: &[IpAddr],
        answers: &BTreeMap<IpAddr, Duration>,
    ) -> bool {
        if asked.iter().any(|address| !gateways.contains(address) && answers.contains_key(address)) {
            return true;
        }
        let behind = |address: &str| address.parse().is_ok_and(|address| !gateways.contains(&address));
        let log = self.log();
        let stages = log.stages.iter().any(|(stage, _, report)| {
            let evidence = |name: &str| report.evidence.get(name).and_then(|value| value.as_str());
            report.status == StageStatus::Ok
                && match stage {
                    Stage::Target => report.target.is_some(),
                    Stage::Dns => evidence("server").is_some_and(behind),
                    _ => false,
                }
        });
        let refusals = |(_, failure): &(usize, Failure)| {
            matches!(failure.class.as_str(), "target.refused" | "target.reset")
        };
        stages || log.failures.iter().any(refusals)
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
