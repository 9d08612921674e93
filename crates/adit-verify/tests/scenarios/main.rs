//! Every class that verification can see from above a network, produced on a scripted one and checked: class,
//! exit code, evidence, advice, and that the report matches its schema.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod certificates;
mod settling;
mod surroundings;
mod tailnet;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_path::{
    Answer, BoxFuture, Connect, ConnectFailure, Destination, Flow, FlowStream, Listen, ListenFailure,
    Listener, Network, Phase, PingFailure, PingKind, Pong, Query, ResolveFailure, Status, Udp, UdpFailure,
    UdpFlow,
};
use adit_sim::{Host, ScriptedNetwork, Service, services};
use adit_tunnel::{Fault, OwnName, PeerStatus};
use adit_verify::{
    Event, Exit, JSON_SCHEMA, NetworkDialer, Plan, Report, Requirement, Stage, StageStatus, Target, Trust,
    Verified, format, verify,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::Instant;

const DB: [u8; 4] = [10, 77, 0, 5];
const STARTED: &str = "2026-11-23T08:00:00Z";

fn plan(targets: &[&str]) -> Plan {
    let targets = targets.iter().map(|text| text.parse::<Target>().unwrap()).collect();
    Plan { provider: Some("wireguard".to_owned()), ..Plan::new(targets, STARTED) }
}

async fn run(network: &ScriptedNetwork, plan: &Plan) -> Report {
    run_seen(network, plan).await.0
}

/// Verifies; returns the report and the events, and checks what holds for every report.
async fn run_seen(network: &ScriptedNetwork, plan: &Plan) -> (Report, Vec<Event>) {
    let events = Mutex::new(Vec::new());
    let dialer = NetworkDialer::new(Arc::new(network.clone()) as Arc<dyn Network>);
    let report = verify(network, &dialer, plan, &|event| events.lock().unwrap().push(event)).await;
    let schema = serde_json::from_str(JSON_SCHEMA).unwrap();
    let value = serde_json::from_str(&format::json(&report)).unwrap();
    let errors: Vec<_> = jsonschema::validator_for(&schema)
        .unwrap()
        .iter_errors(&value)
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:?}\n{value:#}");
    assert_eq!(report.ok, report.exit_code == 0);
    for failure in report.failures() {
        assert!(!failure.summary.contains('{') && !failure.fix.is_empty(), "{failure:?}");
        assert!(format::failure_text(failure, format::Style::default()).lines().count() <= 6);
    }
    (report, events.into_inner().unwrap())
}

fn failed(report: &Report) -> (&str, Exit, Stage) {
    let failure = report.failure.as_ref().unwrap_or_else(|| panic!("it did not fail: {report:#?}"));
    assert_eq!(report.exit_code, failure.exit.code());
    (&failure.class, failure.exit, failure.stage.unwrap())
}

fn network(host: Host) -> ScriptedNetwork {
    ScriptedNetwork::new().host(DB, host).name("db.internal", [IpAddr::from(DB)])
}

fn serving<F>(serve: impl Fn(FlowStream) -> F + Send + Sync + 'static) -> ScriptedNetwork
where
    F: Future<Output = ()> + Send + 'static,
{
    network(Host::new().tcp(5432, Service::serve(serve)))
}

#[tokio::test]
async fn a_postgres_server_that_answers_is_verified_to_its_deepest_stage() {
    let network = serving(|stream| async move {
        let _ended = services::postgres(stream, &services::Database::default()).await;
    });
    let (report, events) = run_seen(&network, &plan(&["tcp://db.internal:5432,postgres"])).await;
    assert_eq!((report.ok, report.verified), (true, Verified::Targets), "{report:#?}");
    assert_eq!(report.furthest_stage, Stage::App);
    let stages: Vec<_> = report.stages.iter().map(|stage| (stage.id, stage.status)).collect();
    assert_eq!(
        stages,
        [
            (Stage::Reach, StageStatus::Ok),
            (Stage::Auth, StageStatus::Skipped),
            (Stage::Handshake, StageStatus::Ok),
            (Stage::Address, StageStatus::Ok),
            (Stage::Dns, StageStatus::Ok),
            (Stage::Target, StageStatus::Ok),
            (Stage::App, StageStatus::Ok),
        ]
    );
    assert_eq!(report.stages[4].evidence["server"], "10.77.0.53");
    assert_eq!(report.stages[6].evidence["tls"], "not offered");
    assert!(matches!(events.first(), Some(Event::Connecting { .. })));
    assert!(matches!(events.last(), Some(Event::Verified { .. })), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_port_that_refuses_twice_is_refused_after_two_seconds() {
    let began = Instant::now();
    let report = run(&network(Host::new()), &plan(&["tcp://db.internal:5432"])).await;
    assert_eq!(failed(&report), ("target.refused", Exit::Target, Stage::Target));
    assert_eq!(report.stages.last().unwrap().attempts, Some(2));
    assert_eq!(began.elapsed().as_secs(), 2);
    assert!(report.failure.unwrap().fix[0].contains("port 5432"));
}

#[tokio::test(start_paused = true)]
async fn waiting_gives_a_refusing_port_more_time() {
    let waiting = Plan { wait: Some(Duration::from_secs(20)), ..plan(&["tcp://db.internal:5432"]) };
    let report = run(&network(Host::new()), &waiting).await;
    assert_eq!(failed(&report).0, "target.refused");
    assert!(report.stages.last().unwrap().attempts.unwrap() >= 10, "{report:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_is_silent_when_another_one_answers() {
    let network = network(Host::silent()).host([10, 77, 0, 6], Host::new().tcp(22, Service::Echo));
    let (report, events) = run_seen(&network, &plan(&["tcp://db.internal:5432", "tcp://10.77.0.6:22"])).await;
    assert_eq!(failed(&report), ("target.silent", Exit::Target, Stage::Target));
    let failure = report.failure.as_ref().unwrap();
    assert_eq!(failure.target.as_deref(), Some("tcp://db.internal:5432"));
    assert!(failure.evidence[0].contains("no answer to SYN"), "{failure:?}");
    let waits = |event: &&Event| matches!(event, Event::Waiting { id: Stage::Target, elapsed_ms: 5000, .. });
    assert_eq!(events.iter().filter(waits).count(), 1, "a heartbeat every five seconds: {events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_that_the_coordination_server_has_lost_is_offline() {
    let network = network(Host::silent());
    let (provider, identity) = (Some("tailscale".to_owned()), Some("nodekey:00".to_owned()));
    let tailnet = Plan { provider, identity, ..plan(&["tcp://db.internal:5432"]) };
    let peers = |online: Option<bool>, address: [u8; 4]| {
        network.set_status(move |status| {
            let tags = vec!["tag:ci".to_owned()];
            status.own = Some(OwnName { name: "me.tail".to_owned(), tags, ..OwnName::default() });
            let (name, addresses) = ("db.tail".to_owned(), vec![address.into()]);
            status.peers = vec![PeerStatus { name, addresses, online, ..PeerStatus::default() }];
        });
    };
    peers(Some(false), DB);
    let report = run(&network, &tailnet).await;
    assert_eq!(failed(&report), ("ts.peer.offline", Exit::Target, Stage::Target));
    let failure = report.failure.as_ref().unwrap();
    assert!(failure.summary.contains("db.tail is offline"), "{failure:?}");
    assert!(failure.evidence[0].contains("no answer to SYN"), "{failure:?}");
    assert_eq!(report.stages.last().unwrap().class.as_deref(), Some("ts.peer.offline"));
    let this = report.this.unwrap();
    assert_eq!((this.name.as_deref(), this.tags), (Some("me.tail"), vec!["tag:ci".to_owned()]));
    for (online, address) in [(Some(true), DB), (None, DB), (Some(false), [10, 77, 0, 9])] {
        peers(online, address);
        assert_eq!(failed(&run(&network, &tailnet).await).0, "target.silent", "{online:?} {address:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn when_nothing_ever_comes_back_the_server_drops_our_address() {
    let report = run(&network(Host::silent()), &plan(&["tcp://10.77.0.5:5432"])).await;
    assert_eq!(failed(&report), ("wg.allowedips.server", Exit::Target, Stage::Target));
    let failure = report.failure.unwrap();
    assert!(failure.fix[0].contains("AllowedIPs = 10.77.255.254"), "{failure:?}");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_answers_before_silent_hosts_does_not_forward() {
    let network = network(Host::silent()).host([10, 77, 0, 1], Host::new());
    let report = run(&network, &plan(&["tcp://10.77.0.5:5432"])).await;
    assert_eq!(failed(&report), ("wg.forwarding", Exit::Target, Stage::Target));
    let failure = report.failure.unwrap();
    assert!(
        failure.evidence.iter().any(|seen| seen.starts_with("the gateway 10.77.0.1 answers")),
        "{failure:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_icmp_error_names_its_sender() {
    let report =
        run(&network(Host::new().tcp(5432, Service::Unreachable(3, 1))), &plan(&["tcp://10.77.0.5:5432"]))
            .await;
    assert_eq!(failed(&report), ("wg.icmp.unreach", Exit::Target, Stage::Target));
    assert!(report.failure.unwrap().summary.starts_with("10.77.0.53 says"));
}

#[tokio::test(start_paused = true)]
async fn a_target_outside_the_tunnel_is_not_dialled() {
    let network = network(Host::new());
    let report = run(&network, &plan(&["tcp://192.0.2.9:22"])).await;
    assert_eq!(failed(&report), ("wg.allowedips.client", Exit::Route, Stage::Route));
    assert!(report.failure.unwrap().fix[0].contains("192.0.2.9/32"));
    assert!(network.connects().is_empty());
}

#[tokio::test(start_paused = true)]
async fn names_fail_with_the_class_of_the_answer() {
    let network = network(Host::new())
        .silent_name("slow.internal")
        .name("empty.internal", [])
        .name("public.internal", [IpAddr::from([203, 0, 113, 9])])
        .host([10, 77, 0, 1], Host::new());
    for (target, class) in [
        ("tcp://nowhere.internal:1", "dns.nxdomain"),
        ("tcp://empty.internal:1", "dns.empty"),
        ("dns://public.internal", "dns.unrouted"),
    ] {
        let report = run(&network, &plan(&[target])).await;
        assert_eq!(failed(&report), (class, Exit::Dns, Stage::Dns), "{target}");
    }
    let mut other = plan(&["tcp://slow.internal:1"]);
    other.provider = None;
    let report = run(&network, &other).await;
    assert_eq!(failed(&report), ("dns.silent", Exit::Dns, Stage::Dns));
}

#[tokio::test(start_paused = true)]
async fn a_resolver_whose_host_is_there_is_only_silent_and_one_behind_a_closed_gateway_is_not_blamed() {
    let gateway = || network(Host::new()).silent_name("slow.internal").host([10, 77, 0, 1], Host::new());
    let report = run(&gateway().host([10, 77, 0, 53], Host::new()), &plan(&["tcp://slow.internal:1"])).await;
    assert_eq!(failed(&report), ("dns.silent", Exit::Dns, Stage::Dns));
    let evidence = report.failure.unwrap().evidence;
    assert!(evidence.iter().any(|seen| seen.starts_with("10.77.0.53 is there")), "{evidence:?}");

    let report = run(&gateway(), &plan(&["tcp://slow.internal:1"])).await;
    assert_eq!(failed(&report), ("wg.forwarding", Exit::Target, Stage::Dns));
    let evidence = report.failure.unwrap().evidence;
    assert!(evidence.iter().any(|seen| seen.starts_with("10.77.0.53 does not answer")), "{evidence:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_whose_name_a_server_behind_the_gateway_knew_is_only_silent() {
    let network = network(Host::silent()).host([10, 77, 0, 1], Host::new());
    let report = run(&network, &plan(&["tcp://db.internal:5432"])).await;
    assert_eq!(failed(&report), ("target.silent", Exit::Target, Stage::Target));
    let evidence = report.failure.unwrap().evidence;
    assert!(evidence.contains(&"10.77.0.5 does not answer echoes either".to_owned()), "{evidence:?}");
}

/// What a server of another protocol says, with what is found to have been said.
#[tokio::test]
async fn a_server_of_another_protocol_is_recognised_by_its_first_bytes() {
    let ssh = || Service::Say(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec());
    let smtp = || Service::Say(b"220 mail ESMTP\r\n".to_vec());
    let http = || Service::serve(|stream| async move { drop(services::http(stream, "api").await) });
    let garbage = || Service::Say(vec![0xff; 200]);
    for (check, service, looks_like) in [
        ("postgres", ssh(), "SSH"),
        ("postgres", smtp(), "SMTP or FTP"),
        ("mysql", ssh(), "SSH"),
        ("ssh", smtp(), "SMTP or FTP"),
        ("smtp", ssh(), "SSH"),
        ("redis", http(), "HTTP"),
        ("redis", ssh(), "SSH"),
        ("tls", ssh(), ""),
        ("postgres", garbage(), ""),
    ] {
        let network = network(Host::new().tcp(5432, service));
        let report = run(&network, &plan(&[&format!("tcp://10.77.0.5:5432,{check}")])).await;
        let stage = if check == "tls" { Stage::Tls } else { Stage::App };
        let exit = Exit::Application;
        assert_eq!(failed(&report), ("app.protocol", exit, stage), "{check}: {report:#?}");
        let evidence = report.failure.unwrap().evidence.join("\n");
        assert!(
            looks_like.is_empty() || evidence.ends_with(&format!("looks like {looks_like}")),
            "{check}: {evidence}"
        );
        assert!(evidence.len() < 500, "{evidence}");
    }
    let http_on_ssh = network(Host::new().tcp(80, ssh()));
    let report = run(&http_on_ssh, &plan(&["http://10.77.0.5/"])).await;
    assert_eq!(failed(&report).0, "app.protocol");
}

#[tokio::test]
async fn each_protocol_is_recognised_on_its_own_server() {
    let greeting = b"\x05\x00\x00\x00\x0a8.0\x00".to_vec();
    let redis = Service::serve(|mut stream: FlowStream| async move {
        let mut request = [0; 6];
        let _read = stream.read_exact(&mut request).await;
        let _sent = stream.write_all(b"-NOAUTH Authentication required.\r\n").await;
    });
    for (check, service) in [
        ("mysql", Service::Say(greeting)),
        ("ssh", Service::Say(b"welcome\r\nSSH-2.0-dropbear\r\n".to_vec())),
        ("smtp", Service::Say(b"220 mail ESMTP\r\n".to_vec())),
        ("redis", redis),
    ] {
        let network = network(Host::new().tcp(5432, service));
        let report = run(&network, &plan(&[&format!("tcp://10.77.0.5:5432,{check}")])).await;
        assert!(report.ok, "{check}: {report:#?}");
    }
}

#[tokio::test]
async fn http_statuses_count_by_the_range_of_the_target() {
    let network = network(
        Host::new().tcp(80, Service::serve(|stream| async move { drop(services::http(stream, "x").await) })),
    );
    assert!(run(&network, &plan(&["http://db.internal/healthz"])).await.ok);
    assert!(run(&network, &plan(&["http://db.internal/none[404]"])).await.ok);
    let report = run(&network, &plan(&["http://db.internal/none"])).await;
    assert_eq!(failed(&report), ("app.http_status", Exit::Application, Stage::App));
    let failure = report.failure.unwrap();
    assert!(failure.summary.contains("HTTP 404") && failure.summary.contains("200-399"), "{failure}");
}

#[tokio::test]
async fn a_service_that_turns_us_away_is_told_from_one_that_is_not_there() {
    let too_many = b"E\0\0\0\x38SFATAL\0C53300\0Msorry, too many clients already\0\0".to_vec();
    let rejecting = network(Host::new().tcp(5432, Service::Say(too_many)));
    let report = run(&rejecting, &plan(&["tcp://db.internal:5432,postgres"])).await;
    assert_eq!(failed(&report).0, "app.rejected");
    assert!(report.failure.unwrap().evidence[0].contains("too many clients"));

    let closing = serving(|stream| async move { drop(stream) });
    let report = run(&closing, &plan(&["tcp://db.internal:5432,postgres"])).await;
    assert!(matches!(failed(&report).0, "app.closed" | "target.reset"), "{report:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_says_nothing_is_silent_and_tried_twice() {
    let network = network(Host::new().tcp(5432, Service::Say(Vec::new())));
    let report = run(&network, &plan(&["tcp://10.77.0.5:5432,ssh"])).await;
    assert_eq!(failed(&report), ("app.silent", Exit::Application, Stage::App));
    assert_eq!(report.stages.last().unwrap().attempts, Some(2));
}

#[tokio::test]
async fn datagrams_echoes_and_names_are_targets_too() {
    let network = network(Host::new().udp_echo(7));
    let report =
        run(&network, &plan(&["udp://db.internal:7", "icmp://db.internal", "dns://db.internal"])).await;
    assert!(report.ok, "{report:#?}");
    // The resolver that programs ask is the last to say so.
    let told = report.stages.iter().rev().find(|stage| stage.target.as_deref() == Some("dns://db.internal"));
    let told = told.map(|stage| (stage.id, stage.evidence["answer"].to_string()));
    assert_eq!(told, Some((Stage::Target, "[\"10.77.0.5\"]".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_datagram_without_answer_is_no_success() {
    let network = network(Host::new().udp_echo(7)).host([10, 77, 0, 6], Host::new().tcp(1, Service::Echo));
    let report = run(&network, &plan(&["udp://db.internal:9", "tcp://10.77.0.6:1"])).await;
    assert_eq!(failed(&report).0, "target.silent");
}

#[tokio::test(start_paused = true)]
async fn a_command_needs_a_mode_that_runs_programs() {
    let report = run(&network(Host::new()), &plan(&["command=pg_isready"])).await;
    assert_eq!(failed(&report), ("env.mode", Exit::Environment, Stage::App));
}

#[tokio::test(start_paused = true)]
async fn without_targets_a_packet_must_come_back() {
    let answering = ScriptedNetwork::new().host([10, 77, 0, 1], Host::new());
    let report = run(&answering, &plan(&[])).await;
    assert_eq!((report.ok, report.verified), (true, Verified::TunnelOnly));
    assert!(report.stages.last().unwrap().evidence["proof"].as_str().unwrap().contains("10.77.0.1"));

    let required = Plan { require: vec![Requirement::Target], ..plan(&[]) };
    let report = run(&answering, &required).await;
    assert!(!report.ok && report.verified == Verified::None);
}

#[tokio::test(start_paused = true)]
async fn the_overall_deadline_names_the_furthest_stage_and_what_it_waited_for() {
    let short = Plan { timeout: Duration::from_secs(3), ..plan(&["tcp://10.77.0.5:5432"]) };
    let report = run(&network(Host::silent()), &short).await;
    assert_eq!(failed(&report), ("deadline", Exit::Deadline, Stage::Target));
    assert_eq!(report.furthest_stage, Stage::Target);
    let failure = report.failure.unwrap();
    assert!(failure.evidence[0].contains("target of tcp://10.77.0.5:5432"), "{failure:?}");
}

fn down(phase: Phase, class: &str) -> ScriptedNetwork {
    let network = ScriptedNetwork::new();
    network.set_status(|status| {
        status.phase = phase;
        status.ups = 0;
        status.fault = (!class.is_empty()).then(|| Fault {
            class: class.to_owned(),
            summary: format!("the sentence of {class}"),
            evidence: vec!["3 initiations were sent".to_owned()],
        });
    });
    network
}

#[tokio::test(start_paused = true)]
async fn the_verdicts_of_the_tunnel_keep_their_class_and_take_its_exit_code() {
    for (class, exit, stage) in [
        ("wg.silent", Exit::Handshake, Stage::Handshake),
        ("wg.psk.mismatch", Exit::Handshake, Stage::Handshake),
        ("wg.ourkey.unknown", Exit::Handshake, Stage::Handshake),
        ("wg.clock", Exit::Handshake, Stage::Handshake),
        ("wg.udp.refused", Exit::ServerUnreachable, Stage::Reach),
        ("wg.udp.blocked", Exit::TransportBlocked, Stage::Reach),
        ("wg.endpoint.dns", Exit::ServerUnreachable, Stage::Reach),
        ("wg.endpoint.family", Exit::ServerUnreachable, Stage::Reach),
    ] {
        let report = run(&down(Phase::Connecting, class), &plan(&["tcp://10.77.0.5:1"])).await;
        assert_eq!(failed(&report), (class, exit, stage));
        let failure = report.failure.unwrap();
        assert_eq!(failure.summary, format!("the sentence of {class}"));
        assert_eq!(failure.evidence, ["3 initiations were sent"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_no_retry_heals_ends_the_run_at_once() {
    let began = Instant::now();
    let report = run(&down(Phase::Connecting, "wg.psk.mismatch"), &plan(&[])).await;
    assert_eq!(failed(&report).0, "wg.psk.mismatch");
    assert!(began.elapsed() < Duration::from_secs(1));
    let report = run(&down(Phase::Failed, "wg.udp.refused"), &plan(&[])).await;
    assert_eq!(failed(&report).0, "wg.udp.refused");
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_says_nothing_itself_is_silent_after_the_handshakes_budget() {
    let network = down(Phase::Connecting, "");
    network.set_status(|status| status.counters.net_sent = 4);
    let keyed = Plan { identity: Some("OURKEY=".to_owned()), ..plan(&[]) };
    let report = run(&network, &keyed).await;
    assert_eq!(failed(&report), ("wg.silent", Exit::Handshake, Stage::Handshake));
    let failure = report.failure.unwrap();
    assert!(
        failure.fix[0].contains("OURKEY=") && failure.evidence[0].contains("4 datagrams sent, 0 received"),
        "{failure:?}"
    );
}

/// A network that publishes its state whenever it is asked for it, as the live engine does.
struct Restless(ScriptedNetwork);

impl Network for Restless {
    fn owns(&self, destination: &Destination) -> bool {
        self.0.owns(destination)
    }

    fn resolve(&self, query: Query) -> BoxFuture<'_, Result<Answer, ResolveFailure>> {
        self.0.resolve(query)
    }

    fn connect(&self, to: SocketAddr, options: Connect) -> BoxFuture<'_, Result<Flow, ConnectFailure>> {
        self.0.connect(to, options)
    }

    fn udp(&self, options: Udp) -> BoxFuture<'_, Result<UdpFlow, UdpFailure>> {
        self.0.udp(options)
    }

    fn listen(&self, port: u16, options: Listen) -> BoxFuture<'_, Result<Listener, ListenFailure>> {
        self.0.listen(port, options)
    }

    fn ping(&self, to: IpAddr, kind: PingKind) -> BoxFuture<'_, Result<Pong, PingFailure>> {
        self.0.ping(to, kind)
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.0.set_status(|status| status.counters.net_sent += 1);
        self.0.status()
    }
}

#[tokio::test]
async fn a_network_that_publishes_whenever_it_is_asked_does_not_keep_a_stage_busy() {
    let inner = down(Phase::Connecting, "wg.udp.refused");
    let network = Restless(inner.clone());
    let dialer = NetworkDialer::new(Arc::new(inner.clone()));
    let short = Plan { timeout: Duration::from_millis(300), ..plan(&[]) };
    let report = verify(&network, &dialer, &short, &|_| {}).await;
    assert_eq!(failed(&report).0, "deadline");
    let asked = inner.status().borrow().counters.net_sent;
    assert!(asked < 20, "the state was asked for {asked} times");
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_comes_up_late_is_waited_for() {
    let network = down(Phase::Connecting, "wg.silent");
    let later = network.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(8)).await;
        later.set_status(|status| {
            status.phase = Phase::Up;
            status.fault = None;
            status.ups = 1;
            status.peers = vec![PeerStatus {
                name: "PEER=".to_owned(),
                handshake_age: Some(Duration::ZERO),
                ..PeerStatus::default()
            }];
            status.counters.host_received = 1;
        });
    });
    let report = run(&network, &plan(&[])).await;
    assert!(report.ok, "{report:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_network_of_this_machine_inside_the_tunnels_routes_is_a_warning_or_ends_the_run() {
    let network = ScriptedNetwork::new().host([10, 77, 0, 1], Host::new());
    let mut overlapping = Plan { local_networks: vec!["10.77.3.0/24".parse().unwrap()], ..plan(&[]) };
    let report = run(&network, &overlapping).await;
    assert!(report.ok);
    assert_eq!(report.warnings[0].class, "wg.allowedips.clash");
    overlapping.overlap_fails = true;
    assert_eq!(
        failed(&run(&network, &overlapping).await),
        ("wg.allowedips.clash", Exit::Route, Stage::Address)
    );
    overlapping.local_networks = vec!["10.77.255.254/30".parse().unwrap()];
    assert_eq!(failed(&run(&network, &overlapping).await).0, "wg.address.clash");
    overlapping.local_networks = vec!["192.168.0.0/24".parse().unwrap()];
    assert!(run(&network, &overlapping).await.ok);
}

#[tokio::test(start_paused = true)]
async fn what_flips_within_the_time_of_stable_fails_the_run() {
    let network = network(Host::new().tcp(5432, Service::Echo));
    let stable = Plan { stable: Some(Duration::from_secs(10)), ..plan(&["tcp://10.77.0.5:5432"]) };
    let report = run(&network, &stable).await;
    assert!(report.ok && report.furthest_stage == Stage::Soak, "{report:#?}");
    let later = network.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        later.take_down("wg.rekey.lost");
    });
    let report = run(&network, &stable).await;
    assert_eq!(failed(&report), ("soak.flapped", Exit::Lost, Stage::Soak));
}

#[tokio::test(start_paused = true)]
async fn quality_measures_the_path_and_requirements_can_fail() {
    let network = network(Host::new().tcp(5432, Service::Echo).delay(Duration::from_millis(30)));
    let measuring = Plan { quality: true, ..plan(&["tcp://10.77.0.5:5432"]) };
    let report = run(&network, &measuring).await;
    assert!(report.ok, "{report:#?}");
    let path = report.path.unwrap();
    assert_eq!((path.rtt_ms, path.mtu), (Some(30.0), Some(1420)));
    let demanding = Plan { require: vec![Requirement::Rtt(Duration::from_millis(10))], ..measuring };
    assert_eq!(failed(&run(&network, &demanding).await), ("quality.rtt", Exit::Quality, Stage::Quality));
}

#[tokio::test(start_paused = true)]
async fn a_relayed_path_is_told_and_may_become_direct_where_that_is_required() {
    let network = network(Host::new().tcp(5432, Service::Echo));
    let relayed = |relay: Option<&str>| {
        let relay = relay.map(str::to_owned);
        network.set_status(move |status| {
            status.peers = vec![PeerStatus { relay, ..PeerStatus::default() }];
        });
    };
    relayed(Some("fra"));
    let measuring = Plan { quality: true, ..plan(&["tcp://10.77.0.5:5432"]) };
    let path = run(&network, &measuring).await.path.unwrap();
    assert_eq!((path.kind.as_str(), path.relay.as_deref()), ("relay", Some("fra")));

    let demanding = Plan { require: vec![Requirement::Direct], ..measuring };
    let report = run(&network, &demanding).await;
    assert_eq!(failed(&report), ("quality.path", Exit::Quality, Stage::Quality));
    assert_eq!(report.path.unwrap().kind, "relay");

    let upgrade = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        relayed(None);
    };
    let (report, ()) = tokio::join!(run(&network, &demanding), upgrade);
    assert!(report.ok, "{report:#?}");
    assert_eq!(report.path.unwrap().kind, "direct");
}

#[tokio::test(start_paused = true)]
async fn a_packet_size_that_does_not_come_back_is_a_warning_and_explains_a_service_that_hangs() {
    let hole = |service| {
        network(Host::new().tcp(5432, service).largest_packet(1300))
            .host([10, 77, 0, 1], Host::new().largest_packet(1300))
    };
    let measuring = Plan { quality: true, ..plan(&["tcp://10.77.0.5:5432"]) };
    let report = run(&hole(Service::Echo), &measuring).await;
    assert!(report.ok, "{report:#?}");
    assert_eq!(report.warnings[0].class, "wg.mtu", "{report:#?}");
    let largest = report.stages.last().unwrap().evidence["largest_packet"].as_u64().unwrap();
    assert!((1284..=1300).contains(&largest), "{largest}");

    let report = run(&hole(Service::Say(Vec::new())), &plan(&["tcp://10.77.0.5:5432,ssh"])).await;
    assert_eq!(failed(&report), ("wg.mtu", Exit::Target, Stage::App));
    assert!(report.failure.unwrap().fix[0].contains("MTU = 12"));
}
