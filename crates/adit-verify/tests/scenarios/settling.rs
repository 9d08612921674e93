//! What is missing may still be on its way through a tailnet, for a time.

use std::net::IpAddr;
use std::time::Duration;

use adit_sim::{Host, ScriptedNetwork, Service};
use adit_verify::{Event, Exit, Plan, Report, Stage};
use tokio::time::Instant;

use super::{DB, failed, network, plan, run, run_seen};

#[tokio::test(start_paused = true)]
async fn a_name_that_is_missing_may_still_be_on_its_way_within_the_grace() {
    let network = network(Host::new());
    let later = network.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(20)).await;
        later.name("new.internal", [IpAddr::from(DB)]);
    });
    let (report, events) = run_seen(&network, &settling(&["dns://new.internal"])).await;
    assert!(report.ok, "{report:#?}");
    assert!(stage(&report, Stage::Dns).provisional_retries.unwrap() > 3);
    let told: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Provisional { class, wait_ms, .. } => Some((class.as_str(), *wait_ms)),
            _ => None,
        })
        .collect();
    assert_eq!(told, [("dns.nxdomain", 40_000)], "said once, with how long it waits");
    let waits = |event: &&Event| matches!(event, Event::Waiting { id: Stage::Dns, limit_ms: 40_000, .. });
    assert!(events.iter().filter(waits).count() >= 3, "{events:?}");
}

/// A plan for a tailnet, whose names, routes and permissions may still be on their way for 40 s.
fn settling(targets: &[&str]) -> Plan {
    Plan {
        provider: Some("tailscale".to_owned()),
        grace: Duration::from_secs(40),
        timeout: Duration::from_secs(90),
        ..plan(targets)
    }
}

fn stage(report: &Report, id: Stage) -> &adit_verify::StageReport {
    report.stages.iter().find(|stage| stage.id == id).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_a_failure_when_the_time_to_settle_is_over() {
    let denied = || network(Host::new().tcp(5432, Service::Unreachable(3, 13)));
    for (network, target, class, at) in [
        (denied(), "dns://new.internal", "dns.nxdomain", Stage::Dns),
        (denied(), "tcp://10.78.0.5:5432", "ts.subnet.unrouted", Stage::Route),
        (denied(), "tcp://10.77.0.5:5432", "ts.acl.denied", Stage::Target),
    ] {
        let began = Instant::now();
        let report = run(&network, &settling(&[target])).await;
        assert_eq!(failed(&report).0, class, "{report:#?}");
        assert_eq!(began.elapsed().as_secs(), 40, "{class}");
        assert!(stage(&report, at).provisional_retries.unwrap() >= 8, "{report:#?}");
        let evidence = report.failure.unwrap().evidence.join("\n");
        assert!(evidence.contains("times within 40 s, in case"), "{evidence}");
        // Long after the network's first map nothing is on its way.
        network.set_status(|status| status.configured = Some(Duration::from_secs(41)));
        let began = Instant::now();
        let report = run(&network, &settling(&[target])).await;
        assert_eq!(failed(&report).0, class);
        assert_eq!(stage(&report, at).provisional_retries, None);
        assert!(began.elapsed() <= Duration::from_secs(10), "the stage's own budget");
        network.set_status(|status| status.configured = Some(Duration::from_secs(30)));
        let began = Instant::now();
        assert_eq!(failed(&run(&network, &settling(&[target])).await).0, class);
        assert_eq!(began.elapsed().as_secs(), 10, "what is left of it");
    }
}

#[tokio::test(start_paused = true)]
async fn a_route_and_a_permission_that_come_in_time_are_found() {
    let later = |change: fn(ScriptedNetwork)| {
        let network = network(Host::new().tcp(5432, Service::Unreachable(3, 13)));
        let network = network.host([10, 78, 0, 5], Host::new().tcp(5432, Service::Echo));
        let clone = network.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(33)).await;
            change(clone);
        });
        network
    };
    let routed = later(|network| {
        network.set_status(|status| {
            status.config.as_mut().unwrap().routes.push("10.78.0.0/16".parse().unwrap());
        });
    });
    let report = run(&routed, &settling(&["tcp://10.78.0.5:5432"])).await;
    assert!(report.ok && stage(&report, Stage::Route).provisional_retries.unwrap() > 30, "{report:#?}");
    let permitted = later(|network| drop(network.host(DB, Host::new().tcp(5432, Service::Echo))));
    let report = run(&permitted, &settling(&["tcp://db.internal:5432"])).await;
    assert!(report.ok && stage(&report, Stage::Target).provisional_retries.unwrap() > 5, "{report:#?}");
}

#[tokio::test(start_paused = true)]
async fn without_grace_and_with_other_protocols_nothing_is_on_its_way() {
    let hasty = Plan { grace: Duration::ZERO, ..settling(&["dns://new.internal"]) };
    let other = Plan { provider: Some("wireguard".to_owned()), ..settling(&["dns://new.internal"]) };
    for plan in [hasty, other] {
        let began = Instant::now();
        let report = run(&network(Host::new()), &plan).await;
        assert_eq!((failed(&report).0, began.elapsed().as_secs()), ("dns.nxdomain", 0), "{report:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_comes_before_the_network_has_settled_does_not_hide_the_class() {
    let short = Plan { timeout: Duration::from_secs(20), ..settling(&["dns://new.internal"]) };
    let began = Instant::now();
    let report = run(&network(Host::new()), &short).await;
    assert_eq!(failed(&report), ("dns.nxdomain", Exit::Dns, Stage::Dns));
    assert_eq!(began.elapsed().as_secs(), 18);
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_of_a_tailnet_is_given_the_usual_time() {
    let began = Instant::now();
    let report = run(&network(Host::silent()), &settling(&["tcp://db.internal:5432"])).await;
    assert_eq!(failed(&report).0, "target.silent");
    assert_eq!(began.elapsed().as_secs(), 10);
}
