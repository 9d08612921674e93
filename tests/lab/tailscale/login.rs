//! Signing in with a browser, where the control server's administrator approves by hand.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{AGENT, LIMIT, PATIENCE, joining};
use crate::support::{Machine, Process, Tailnet, run, wait_until};

/// A profile without any key: somebody signs in.
fn browser(tailnet: &Tailnet) -> String {
    joining(tailnet, "{ browser = true }", "")
}

/// The page among what was printed, on a line of its own.
fn page(printed: &str) -> Option<String> {
    let page = |line: &&str| line.starts_with("https://control.example.test/register/");
    printed.lines().find(page).map(str::to_owned)
}

/// The one event of a kind in a file of events.
fn event(events: &Path, kind: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(events).unwrap();
    let parsed = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut found: Vec<_> = parsed.filter(|event| event["event"] == kind).collect();
    assert_eq!(found.len(), 1, "one event {kind}: {text}");
    found.remove(0)
}

#[test]
fn a_program_runs_as_soon_as_the_sign_in_is_approved() {
    let Some(tailnet) = Tailnet::build("tailscale_login", &[Machine::Database], None) else { return };
    let config = browser(&tailnet);
    let events = tailnet.lab.home().join("events");
    let mut command = tailnet.lab.adit(&["exec", "--config", &config, "--timeout", PATIENCE, "--events"]);
    command.arg(&events).args(["--target", "tcp://staging-db:5432,postgres", "--"]);
    command.args(["psql", "-h", "staging-db", "-Atc", "select count(*) from orders"]);
    let mut psql = Process::spawn("psql", command, &tailnet.lab.dir.logs());
    wait_until("the page is printed", LIMIT, || page(&psql.printed()).is_some());
    let page = page(&psql.printed()).unwrap();
    assert_eq!(event(&events, "auth_required")["url"], page.as_str());
    let known = tailnet.machines();
    assert!(known.iter().all(|(name, _)| name != AGENT), "not before it is approved: {known:?}");
    let id = page.rsplit('/').next().unwrap();
    tailnet.headscale(&["auth", "register", "--auth-id", id, "--user", "alice"]).expect(0);
    assert!(psql.wait(LIMIT).success(), "{}", psql.printed());
    assert!(psql.printed().lines().any(|line| line == "3"), "{}", psql.printed());
    // Nodes that were signed in are kept by this server, signed out.
    let signed_out = || {
        let machines = tailnet.machines();
        let (_, agent) = machines.iter().find(|(name, _)| name == AGENT).expect("it stays in the list");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        agent["expiry"]["seconds"].as_u64().is_some_and(|expiry| expiry <= now)
    };
    wait_until("the node is signed out", LIMIT, signed_out);
}

#[test]
fn a_sign_in_that_nobody_approves_ends_in_time_and_names_its_page() {
    let Some(tailnet) = Tailnet::build("tailscale_no_login", &[], None) else { return };
    let config = browser(&tailnet);
    let events = tailnet.lab.home().join("events");
    let mut command = tailnet.lab.adit(&["verify", "--json", "--timeout", "12s", "--config", &config]);
    command.args(["--target", "http://staging-db/", "--events"]).arg(&events);
    let outcome = run(&mut command, LIMIT);
    let told = outcome.failure("ts.login.timeout", 13);
    let page = page(&outcome.stderr).unwrap_or_else(|| panic!("the page has a line of its own: {outcome}"));
    assert!(told.summary.contains(&page) && told.evidence.contains(&page), "{outcome}");
    assert_eq!(event(&events, "auth_required")["url"], page.as_str());
    assert!(tailnet.machines().is_empty(), "nobody has joined");
}
