//! What the map of a tailnet says about a failure.

use std::time::Duration;

use adit_sim::{Host, ScriptedNetwork, Service};
use adit_tunnel::{DnsRoute, NetConfig, OwnName, PeerStatus};
use adit_verify::{Exit, Failure, Plan, Stage};

use super::{DB, failed, network, plan, run};

fn hasty(targets: &[&str]) -> Plan {
    Plan { provider: Some("tailscale".to_owned()), grace: Duration::ZERO, ..plan(targets) }
}

fn peer(name: &str, address: [u8; 4], prefixes: &[&str]) -> PeerStatus {
    PeerStatus {
        name: format!("{name}.tail.example"),
        addresses: vec![address.into()],
        prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        online: Some(true),
        ..PeerStatus::default()
    }
}

/// What the node knows: its exit node and its peers.
fn knows(network: &ScriptedNetwork, exit_node: Option<&str>, peers: &[PeerStatus]) {
    network.set_status(|status| {
        let exit_node = exit_node.map(str::to_owned);
        status.own = Some(OwnName { name: "me.tail.example".to_owned(), exit_node, ..OwnName::default() });
        status.peers = peers.to_vec();
    });
}

async fn told(network: &ScriptedNetwork, target: &str, class: &str, at: (Exit, Stage)) -> Failure {
    let report = run(network, &hasty(&[target])).await;
    assert_eq!(failed(&report), (class, at.0, at.1), "{report:#?}");
    report.failure.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_name_below_the_tailnets_domain_that_no_node_has_is_told_with_its_like() {
    let network = network(Host::new());
    let peers = ["staging-db", "staging-web", "printer"].map(|name| peer(name, DB, &[]));
    knows(&network, None, &peers);
    for name in ["stagin-db.tail.example", "stagin-db", "STAGIN-DB.tail.example"] {
        for target in [format!("tcp://{name}:80"), format!("dns://{name}")] {
            let told = told(&network, &target, "ts.peer.unknown", (Exit::Target, Stage::Dns)).await;
            assert!(told.summary.contains("staging-db, staging-web"), "{told:?}");
            assert!(!told.summary.contains("printer"), "{told:?}");
        }
    }
    told(&network, "tcp://stagin-db.internal:80", "dns.nxdomain", (Exit::Dns, Stage::Dns)).await;
}

#[tokio::test(start_paused = true)]
async fn an_exit_node_that_is_missing_fails_before_any_target_with_those_that_there_are() {
    let network = network(Host::new().tcp(5432, Service::Silent));
    let (mut way, database) = (peer("way", [100, 64, 0, 2], &[]), peer("db", DB, &[]));
    way.offers_exit = true;
    let target = "tcp://10.77.0.5:5432";
    for (wanted, why) in [("wai", "no node that this one sees"), ("db", "db.tail.example does not offer")] {
        knows(&network, Some(wanted), &[way.clone(), database.clone()]);
        let told = told(&network, target, "ts.exit.none", (Exit::Route, Stage::Address)).await;
        assert!(told.summary.contains(wanted) && told.evidence[0].contains(why), "{told:?}");
        assert_eq!(told.evidence[1], "these nodes offer to be one: way.tail.example");
    }
    way.prefixes = vec!["0.0.0.0/0".parse().unwrap()];
    way.online = Some(false);
    knows(&network, Some("way"), &[way]);
    let told = told(&network, target, "ts.exit.none", (Exit::Route, Stage::Address)).await;
    assert!(told.evidence[0].contains("no connection with way.tail.example"), "{told:?}");
    assert_eq!(told.evidence[1], "no other node offers to be one");
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_is_laid_at_its_routers_door_where_nothing_behind_that_answers() {
    let (router, other): ([u8; 4], [u8; 4]) = ([10, 77, 9, 9], [10, 77, 0, 53]);
    let (at, target) = ((Exit::Target, Stage::Target), "tcp://10.77.0.5:5432");
    let lan = || network(Host::silent()).host(router, Host::new());
    let gateway = peer("gateway", router, &["10.77.0.0/24"]);
    let silent = lan();
    knows(&silent, None, std::slice::from_ref(&gateway));
    let failure = told(&silent, target, "ts.subnet.forward", at).await;
    assert!(failure.summary.contains("gateway.tail.example"), "{failure:?}");
    // A resolver behind the same router that answers is a witness of its forwarding.
    let witnessed = lan().host(other, Host::new());
    knows(&witnessed, None, std::slice::from_ref(&gateway));
    witnessed.set_status(|status| {
        let route = DnsRoute { suffix: "corp.example".to_owned(), servers: vec![other.into()] };
        status.config.get_or_insert_with(NetConfig::default).dns.routes.push(route);
    });
    let failure = told(&witnessed, target, "target.silent", at).await;
    assert!(failure.evidence.iter().any(|seen| seen.contains("10.77.0.53 answers echoes")), "{failure:?}");
    let dead = network(Host::silent());
    knows(&dead, None, &[PeerStatus { online: Some(false), ..gateway }]);
    let failure = told(&dead, target, "ts.peer.offline", at).await;
    assert!(failure.evidence.iter().any(|seen| seen.contains("by its route 10.77.0.0/24")), "{failure:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_there_and_takes_no_connection_is_seen_by_its_echo() {
    let network = network(Host::new().tcp(5432, Service::Silent));
    knows(&network, None, &[peer("db", DB, &[])]);
    let at = (Exit::Target, Stage::Target);
    let failure = told(&network, "tcp://10.77.0.5:5432", "target.silent", at).await;
    assert!(
        failure.evidence.iter().any(|seen| seen.contains("db.tail.example answers echoes")),
        "{failure:?}"
    );
}
