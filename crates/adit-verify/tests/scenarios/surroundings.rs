//! A server that is out of reach, in sandboxes that let some, or nothing, through.

use std::sync::Arc;

use adit_path::{BoxFuture, Phase};
use adit_sim::ScriptedNetwork;
use adit_tunnel::{Fault, HostPort, PeerStatus};
use adit_verify::{Exit, Lookup, Outside, Plan, Report, Stage};

use crate::{failed, network, plan, run};

/// A machine whose own network answers as it is told.
#[derive(Clone, Debug, Default)]
struct Sandbox {
    names: Option<Lookup>,
    open: Vec<&'static str>,
    stun: bool,
    proxy: Option<&'static str>,
}

impl Outside for Sandbox {
    fn resolve<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Lookup> {
        Box::pin(async { self.names.clone().unwrap_or(Lookup::Found) })
    }

    fn tcp<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, bool> {
        assert_eq!(port, 443);
        Box::pin(async move { self.open.contains(&"*") || self.open.contains(&host) })
    }

    fn stun<'a>(&'a self, _host: &'a str, _port: u16) -> BoxFuture<'a, bool> {
        Box::pin(async { self.stun })
    }

    fn proxy(&self) -> Option<(String, String)> {
        self.proxy.map(|proxy| ("HTTPS_PROXY".to_owned(), proxy.to_owned()))
    }
}

/// A network that never came up, for a reason that its tunnel gave.
fn down(class: &str) -> ScriptedNetwork {
    let network = network(adit_sim::Host::new());
    let (class, host) = (class.to_owned(), HostPort { host: "vpn.example.test".to_owned(), port: 51820 });
    network.set_status(move |status| {
        status.phase = Phase::Connecting;
        status.ups = 0;
        status.peers = vec![PeerStatus::default()];
        status.resolved = vec![(host, Vec::new())];
        status.fault = Some(Fault { class, summary: "as it seemed".to_owned(), evidence: Vec::new() });
    });
    network
}

async fn verified(class: &str, sandbox: Sandbox) -> Report {
    let outside: Arc<dyn Outside> = Arc::new(sandbox);
    run(&down(class), &Plan { outside: Some(outside), ..plan(&["tcp://db.internal:5432"]) }).await
}

fn evidence(report: &Report) -> String {
    report.failure.as_ref().map(|failure| failure.evidence.join("\n")).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_lets_only_listed_hosts_through_is_blamed_for_the_silence() {
    let listed = Sandbox { open: vec!["pypi.org", "github.com"], ..Sandbox::default() };
    let report = verified("wg.silent", listed.clone()).await;
    assert_eq!(failed(&report), ("env.egress_allowlist", Exit::TransportBlocked, Stage::Handshake));
    assert!(
        evidence(&report).contains("github.com, pypi.org can be reached, example.com"),
        "{}",
        evidence(&report)
    );
    assert!(report.failure.as_ref().unwrap().fix[0].contains("egress list"));
    assert_eq!(report.stages.last().unwrap().class.as_deref(), Some("env.egress_allowlist"));
    // UDP that leaves is no matter of a list of hosts.
    let report = verified("wg.silent", Sandbox { stun: true, ..listed }).await;
    assert_eq!(failed(&report).0, "wg.silent");
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_whose_only_way_out_is_a_proxy_is_told_so() {
    let closed = Sandbox { proxy: Some("proxy.test:3128"), ..Sandbox::default() };
    let report = verified("wg.silent", closed).await;
    assert_eq!(failed(&report), ("env.proxy_required", Exit::TransportBlocked, Stage::Handshake));
    assert!(
        evidence(&report).contains("HTTPS_PROXY names the proxy proxy.test:3128"),
        "{}",
        evidence(&report)
    );
    // A machine without any way out says nothing of the server.
    assert_eq!(failed(&verified("wg.silent", Sandbox::default()).await).0, "wg.silent");
}

#[tokio::test(start_paused = true)]
async fn udp_that_nobody_answers_is_blocked_and_an_open_machine_leaves_the_server_silent() {
    let open = Sandbox { open: vec!["*"], ..Sandbox::default() };
    let report = verified("wg.silent", open.clone()).await;
    assert_eq!(failed(&report), ("wg.udp.blocked", Exit::TransportBlocked, Stage::Handshake));
    let report = verified("wg.silent", Sandbox { stun: true, ..open }).await;
    assert_eq!(failed(&report), ("wg.silent", Exit::Handshake, Stage::Handshake));
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_answers_nothing_is_blamed_and_one_that_works_is_not() {
    let broken = Lookup::Unanswered("192.0.2.53 does not answer".to_owned());
    let report = verified("wg.endpoint.dns", Sandbox { names: Some(broken), ..Sandbox::default() }).await;
    assert_eq!(failed(&report), ("env.dns_broken", Exit::Environment, Stage::Reach));
    let seen = evidence(&report);
    assert!(
        seen.contains("vpn.example.test: 192.0.2.53 does not answer") && seen.contains("example.com"),
        "{seen}"
    );
    let works = Sandbox { names: Some(Lookup::Missing), ..Sandbox::default() };
    assert_eq!(failed(&verified("wg.endpoint.dns", works).await).0, "wg.endpoint.dns");
}

#[tokio::test(start_paused = true)]
async fn what_a_connection_suffers_from_while_it_works_is_a_warning() {
    let network = network(adit_sim::Host::new().tcp(5432, adit_sim::Service::Echo));
    network.set_status(|status| {
        let symptom = Fault {
            class: "wg.nat.idle".to_owned(),
            summary: "something forgets".to_owned(),
            evidence: vec!["twice".to_owned()],
        };
        status.peers = vec![PeerStatus { symptom: Some(symptom), ..PeerStatus::default() }];
    });
    let report = run(&network, &plan(&["tcp://db.internal:5432"])).await;
    assert!(report.ok, "{report:#?}");
    let warning = &report.warnings[0];
    assert_eq!(
        (warning.class.as_str(), warning.summary.as_str()),
        ("wg.nat.idle", "something forgets: twice")
    );
}

#[tokio::test(start_paused = true)]
async fn a_deadline_tells_what_was_waited_for_and_how_to_mend_that_first() {
    let plan = Plan { timeout: std::time::Duration::from_secs(3), ..plan(&["tcp://db.internal:5432"]) };
    let report = run(&down("wg.udp.refused"), &plan).await;
    assert_eq!(failed(&report), ("deadline", Exit::Deadline, Stage::Reach));
    let failure = report.failure.as_ref().unwrap();
    assert!(failure.fix[0].contains("Compare the port of Endpoint"), "{failure:?}");
    let (hook, _) = adit_verify::format::fabro_hook(&report);
    assert!(hook.contains("[wg.udp.refused]") && hook.contains("Compare the port of Endpoint"), "{hook}");
}
