//! What a run comes for: programs as `nobody` that reach machines of the tailnet and behind it, and nothing left after.

use super::{AGENT, LIMIT, PATIENCE, exec, profile};
use crate::support::{DOMAIN, Machine, Tailnet, run};

/// The number of orders in the database at a host.
fn count(host: &str) -> [&str; 5] {
    ["psql", "-h", host, "-Atc", "select count(*) from orders"]
}

/// Asserts that the public side was asked for public names only.
fn kept_names_private(tailnet: &Tailnet) {
    let asked = tailnet.names_asked_in_public();
    assert!(!asked.is_empty(), "the control server's name is asked for");
    let public = ["control.example.test", "derp1.example.test", "derp2.example.test", "www.example.test"];
    for name in &asked {
        assert!(public.contains(&name.as_str()), "{name} is a private name: {asked:?}");
    }
}

#[test]
fn programs_reach_the_database_by_each_of_its_names_and_leave_nothing_behind() {
    let machines = [Machine::Database, Machine::Gateway];
    let Some(tailnet) = Tailnet::build("tailscale_jobs", &machines, None) else { return };
    let config = profile(&tailnet, &tailnet.auth_key(&["--ephemeral", "--reusable"]), "");
    let target = "tcp://staging-db:5432,postgres";
    assert_eq!(exec(&tailnet, &config, target, &count("staging-db")).expect(0).text(), "3");
    tailnet.is_gone(AGENT);

    // Through the gateway to a resolver in the LAN, which knows the name, and to what it names.
    let target = "tcp://staging-db.internal:5432,postgres";
    assert_eq!(exec(&tailnet, &config, target, &count("staging-db.internal")).expect(0).text(), "3");

    let page = |host: &str, path: &str| format!("curl -sf --max-time 20 http://{host}/{path}");
    let script = [
        page(&format!("staging-db.{DOMAIN}"), "healthz"),
        page("STAGING-DB", "healthz"),
        page(&format!("reports.{DOMAIN}"), "peer"),
        page("files.corp.internal", "peer"),
        page("www.example.test", "peer"),
    ]
    .join(" && ");
    let pages = exec(&tailnet, &config, "http://staging-db/healthz", &["sh", "-c", &script]).expect(0);
    // The gateway shows its own address to the LAN; the public side is reached without it.
    assert_eq!(pages.text(), "ok\nok\n10.77.0.1\n10.77.0.1\n192.0.2.2");
    kept_names_private(&tailnet);
}

#[test]
fn a_detached_up_serves_many_programs_and_goes_without_a_trace() {
    let Some(tailnet) = Tailnet::build("tailscale_up", &[Machine::Database], None) else { return };
    let config = profile(&tailnet, &tailnet.auth_key(&["--ephemeral"]), "");
    let mut up = tailnet.lab.adit(&["up", "--config", &config, "--detach", "--timeout", PATIENCE]);
    up.args(["--target", "tcp://staging-db:5432,postgres"]);
    run(&mut up, LIMIT).expect(0);
    let status = run(&mut tailnet.lab.adit(&["status", "--json"]), LIMIT).expect(0);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let addresses = &status["network"]["config"]["addresses"];
    assert!(addresses[0].as_str().is_some_and(|address| address.starts_with("100.64.")), "{status:#}");
    for _ in 0..2 {
        let mut psql = tailnet.lab.adit(&["exec", "--"]);
        psql.args(count("staging-db"));
        assert_eq!(run(&mut psql, LIMIT).expect(0).text(), "3");
    }
    let known = tailnet.machines();
    assert_eq!(
        known.iter().filter(|(name, _)| name.starts_with(AGENT)).count(),
        1,
        "one node serves all: {known:?}"
    );
    run(&mut tailnet.lab.adit(&["down"]), LIMIT).expect(0);
    tailnet.is_gone(AGENT);
    kept_names_private(&tailnet);
}
