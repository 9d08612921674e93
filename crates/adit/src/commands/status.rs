//! `adit status`

use std::fmt::Write as _;
use std::time::Duration;

use adit_path::{Network as _, Phase, Status};
use adit_tunnel::{PeerStatus, Prefix, Prompt};
use serde_json::json;

use crate::access;
use crate::cli::{Context, HealthCheck, StatusArgs};
use crate::control::{Client, Info};
use crate::daemon::Health;
use crate::session::runtime;
use crate::{Exit, Failure, failure};

/// Shows a running `adit up`, answers one question about it, or follows it.
pub(crate) fn run(context: &mut Context, args: &StatusArgs) -> Result<Exit, Failure> {
    runtime()?.block_on(async {
        let client = match access::attach(&context.global).await? {
            Some(client) => client,
            None if context.global.json && args.check.is_none() => {
                context.ui.json(&json!({ "schema": "adit.status/1", "running": false }))?;
                return Ok(Exit::Environment);
            }
            None => return Err(access::not_running(&context.global)),
        };
        let info = client.info().await.map_err(|error| access::failed(&error))?;
        if let Some(check) = args.check {
            return judge(check, &info, &client.status().borrow());
        }
        show(context, &client, &info)?;
        if args.watch {
            follow(context, &client).await?;
        }
        Ok(Exit::Ok)
    })
}

fn judge(check: HealthCheck, info: &Info, status: &Status) -> Result<Exit, Failure> {
    let health = match check {
        HealthCheck::Live => Health::Live,
        HealthCheck::Ready => Health::Ready,
        HealthCheck::Startup => Health::Startup,
    };
    health.judge(info, status.phase).map(|()| Exit::Ok).map_err(|why| {
        let fault = status.fault.as_ref().filter(|_| status.phase != Phase::Up);
        let class = fault.map_or("tunnel.down", |fault| fault.class.as_str());
        let failure =
            failure::of(class, format!("{} is not {check:?}", info.profile).to_lowercase()).seen(why);
        match fault {
            Some(fault) => failure.seen(fault.summary.clone()),
            None => failure,
        }
    })
}

fn show(context: &Context, client: &Client, info: &Info) -> Result<(), Failure> {
    let status = client.status().borrow().clone();
    if context.global.json {
        return context.ui.json(&json(info, &status));
    }
    context.ui.result(text(info, &status).trim_end())
}

fn json(info: &Info, status: &Status) -> serde_json::Value {
    json!({
        "schema": "adit.status/1",
        "running": true,
        "version": info.version,
        "pid": info.pid,
        "profile": info.profile,
        "file": info.file,
        "provider": info.provider,
        "mode": info.mode,
        "device": info.device,
        "uptime_s": info.uptime.as_secs(),
        "network": status,
        "fronts": info.fronts,
        "verified": {
            "ok": info.verification.ok,
            "age_s": info.verification.age.map(|age| age.as_secs()),
            "failures": info.verification.failures,
        },
        "last_verify": info.verification.report,
    })
}

/// Prints a line per change until the network ends.
async fn follow(context: &Context, client: &Client) -> Result<(), Failure> {
    let mut status = client.status();
    let mut last = line(&status.borrow_and_update());
    while status.changed().await.is_ok() {
        let (phase, now, value) = {
            let status = status.borrow_and_update();
            (status.phase, line(&status), context.global.json.then(|| json!({ "network": &*status })))
        };
        // Counters change all the time; a line says something new.
        if now != last {
            match value {
                Some(value) => context.ui.result(&value.to_string())?,
                None => context.ui.result(&now)?,
            }
            last = now;
        }
        if phase == Phase::Closed {
            return Ok(());
        }
    }
    Ok(())
}

fn line(status: &Status) -> String {
    let mut line = phase(status.phase).to_owned();
    if let Some(fault) = &status.fault {
        let _ = write!(line, "  {} [{}]", fault.summary, fault.class);
    }
    for endpoint in status.peers.iter().filter_map(|peer| peer.endpoint) {
        let _ = write!(line, "  via {endpoint}");
    }
    line
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Connecting => "connecting",
        Phase::Up => "up",
        Phase::Reconnecting => "reconnecting",
        Phase::Failed => "failed",
        Phase::Closed => "closed",
    }
}

/// The status for people.
fn text(info: &Info, status: &Status) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    let Info { profile, provider, mode, pid, .. } = info;
    row("profile", format!("{profile}  ({provider}, {mode}, pid {pid}, for {})", span(info.uptime)));
    if let Some(file) = &info.file {
        row("file", file.display().to_string());
    }
    row("state", format!("{}  for {}", phase(status.phase), span(status.since)));
    if let Some(fault) = &status.fault {
        row("reason", format!("{}  [{}]", fault.summary, fault.class));
    }
    match &status.prompt {
        Some(Prompt::Open { url, .. }) => row("login", format!("somebody must sign in at {url}")),
        Some(Prompt::Answer { text, .. }) => row("login", format!("somebody must answer: {text}")),
        None => {}
    }
    for warning in &status.warnings {
        row("warning", format!("{}  [{}]", warning.summary, warning.class));
    }
    if let Some(device) = &info.device {
        row("device", device.clone());
    }
    if let Some(own) = &status.own {
        row("name", [std::slice::from_ref(&own.name), own.tags.as_slice()].concat().join("  "));
    }
    if let Some(config) = &status.config {
        row("address", list(&config.addresses));
        row("routes", list(&config.routes));
        if !config.excluded.is_empty() {
            row("outside", list(&config.excluded));
        }
        if !config.dns.servers.is_empty() {
            let servers: Vec<_> = config.dns.servers.iter().map(ToString::to_string).collect();
            let search = config.dns.search.iter().map(|domain| format!(" .{domain}"));
            row("dns", servers.join(", ") + &search.collect::<String>());
        }
    }
    for peer in &status.peers {
        row("peer", describe(peer));
        if let Some(symptom) = &peer.symptom {
            row("suffers", format!("{}  [{}]", symptom.summary, symptom.class));
        }
    }
    row("verified", verified(info));
    for (kind, fronts) in &info.fronts {
        for front in fronts {
            row(kind, front.clone());
        }
    }
    let counters = &status.counters;
    row("flows", format!("{} TCP, {} UDP", counters.tcp_flows, counters.udp_flows));
    text
}

fn verified(info: &Info) -> String {
    let verification = &info.verification;
    let age = verification.age.map(|age| format!(", {} ago", span(age))).unwrap_or_default();
    let failures = match verification.failures {
        0 => String::new(),
        1 => "; the last check failed".to_owned(),
        failures => format!("; the last {failures} checks failed"),
    };
    match (&verification.report, verification.ok) {
        (None, _) => "not yet".to_owned(),
        (Some(_), ok) => format!("{}{age}{failures}", if ok { "yes" } else { "no" }),
    }
}

fn describe(peer: &PeerStatus) -> String {
    let addresses: Vec<_> = peer.addresses.iter().map(ToString::to_string).collect();
    let online = match peer.online {
        _ if peer.expired => Some("expired".to_owned()),
        Some(true) => Some("online".to_owned()),
        Some(false) => Some("offline".to_owned()),
        None => None,
    };
    let exit = peer.offers_exit.then(|| "exit node".to_owned());
    let path = match (peer.endpoint, &peer.relay) {
        // Only where there is a coordination server there is another way than the direct one.
        (Some(endpoint), _) if peer.online.is_some() => format!("direct {endpoint}"),
        (Some(endpoint), _) => endpoint.to_string(),
        (None, Some(relay)) => format!("relay {relay}"),
        (None, None) => "no endpoint".to_owned(),
    };
    let rtt = peer.rtt.map(|rtt| format!("{:.1} ms", rtt.as_secs_f64() * 1e3));
    let handshake = match peer.handshake_age {
        Some(age) => format!("handshake {} ago", span(age)),
        None => "no handshake yet".to_owned(),
    };
    let (received, sent) = (bytes(peer.received), bytes(peer.sent));
    let known = [(!addresses.is_empty()).then(|| addresses.join(", ")), online, exit, Some(path), rtt];
    let known: String = known.into_iter().flatten().map(|fact| format!("  {fact}")).collect();
    format!("{}{known}  {handshake}  received {received}, sent {sent}", peer.name)
}

fn list(prefixes: &[Prefix]) -> String {
    prefixes.iter().map(Prefix::to_string).collect::<Vec<_>>().join(", ")
}

/// A time for people.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A number of bytes for people, in binary units.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use adit_tunnel::{DnsConfig, Fault, NetConfig, OwnName};

    use super::*;
    use crate::control::Verification;

    fn sample() -> (Info, Status) {
        let info = Info {
            version: "0.1.0".to_owned(),
            pid: 42,
            profile: "lab".to_owned(),
            file: Some("/etc/adit/lab.conf".into()),
            provider: "wireguard".to_owned(),
            mode: "tun".to_owned(),
            device: Some("adit0".to_owned()),
            uptime: Duration::from_secs(3725),
            fronts: [("proxy".to_owned(), vec!["127.0.0.1:1055".to_owned()])].into(),
            verification: Verification {
                report: Some(json!({ "ok": true })),
                ok: true,
                age: Some(Duration::from_secs(12)),
                failures: 0,
                started: true,
            },
        };
        let config = NetConfig {
            addresses: vec!["10.8.0.5/32".parse().unwrap()],
            routes: vec!["10.8.0.0/16".parse().unwrap(), "fd08::/32".parse().unwrap()],
            excluded: Vec::new(),
            dns: DnsConfig {
                servers: vec!["10.8.0.1".parse().unwrap()],
                search: vec!["corp.internal".to_owned()],
                routes: Vec::new(),
            },
            mtu: 1420,
        };
        let peer = PeerStatus {
            name: "kEY=".to_owned(),
            endpoint: Some("203.0.113.1:51820".parse().unwrap()),
            handshake_age: Some(Duration::from_secs(75)),
            received: 1_500_000,
            sent: 900,
            ..PeerStatus::default()
        };
        let status = Status {
            phase: Phase::Up,
            config: Some(config),
            peers: vec![peer],
            since: Duration::from_secs(60),
            ..Status::default()
        };
        (info, status)
    }

    #[test]
    fn people_see_one_fact_a_line() {
        let (info, status) = sample();
        assert_eq!(
            text(&info, &status),
            "\
profile    lab  (wireguard, tun, pid 42, for 1 h 2 min)
file       /etc/adit/lab.conf
state      up  for 1 min 0 s
device     adit0
address    10.8.0.5/32
routes     10.8.0.0/16, fd08::/32
dns        10.8.0.1 .corp.internal
peer       kEY=  203.0.113.1:51820  handshake 1 min 15 s ago  received 1.4 MiB, sent 900 B
verified   yes, 12 s ago
proxy      127.0.0.1:1055
flows      0 TCP, 0 UDP
"
        );
    }

    #[test]
    fn a_reason_is_shown_while_the_network_is_not_up() {
        let (mut info, mut status) = sample();
        status.phase = Phase::Reconnecting;
        let summary = "the server does not answer".to_owned();
        status.fault = Some(Fault { class: "wg.silent".to_owned(), summary, evidence: Vec::new() });
        info.verification.failures = 3;
        let text = text(&info, &status);
        assert!(text.contains("reason     the server does not answer  [wg.silent]\n"), "{text}");
        assert!(text.contains("verified   yes, 12 s ago; the last 3 checks failed\n"), "{text}");
        let failure = judge(HealthCheck::Ready, &info, &status).unwrap_err();
        assert_eq!(failure.class, "wg.silent");
        assert_ne!(failure.exit, Exit::Ok);
        assert!(judge(HealthCheck::Live, &info, &status).is_ok());
    }

    #[test]
    fn warnings_of_a_network_that_works_are_shown() {
        let (info, mut status) = sample();
        let summary = "the server pushed `x`: refused".to_owned();
        status.warnings.push(Fault { class: "ovpn.push.refused".to_owned(), summary, evidence: Vec::new() });
        let text = text(&info, &status);
        assert!(text.contains("warning    the server pushed `x`: refused  [ovpn.push.refused]\n"), "{text}");
        assert_eq!(json(&info, &status)["network"]["warnings"][0]["class"], "ovpn.push.refused");
    }

    #[test]
    fn a_node_of_a_tailnet_has_a_name_and_its_peers_a_way() {
        let (info, mut status) = sample();
        let (name, tags) = ("me.tail.example".to_owned(), vec!["tag:agent".to_owned()]);
        status.own = Some(OwnName { name, tags, ..OwnName::default() });
        let direct = PeerStatus {
            name: "db.tail.example".to_owned(),
            addresses: vec!["100.64.0.2".parse().unwrap()],
            online: Some(true),
            rtt: Some(Duration::from_millis(12)),
            ..status.peers.remove(0)
        };
        let relayed = PeerStatus {
            name: "web.tail.example".to_owned(),
            online: Some(false),
            relay: Some("fra".to_owned()),
            ..PeerStatus::default()
        };
        status.peers = vec![direct, relayed];
        let text = text(&info, &status);
        for line in [
            "name       me.tail.example  tag:agent\n",
            "peer       db.tail.example  100.64.0.2  online  direct 203.0.113.1:51820  12.0 ms  handshake",
            "peer       web.tail.example  offline  relay fra  no handshake yet",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let value = json(&info, &status);
        assert_eq!(value["network"]["own"]["tags"][0], "tag:agent");
        assert_eq!(value["network"]["peers"][1]["relay"], "fra");
    }

    #[test]
    fn programs_see_the_last_report() {
        let (info, status) = sample();
        let value = json(&info, &status);
        assert_eq!(value["schema"], "adit.status/1");
        assert_eq!(value["last_verify"]["ok"], true);
        assert_eq!(value["network"]["phase"], "up");
    }
}
