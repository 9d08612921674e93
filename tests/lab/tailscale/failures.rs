//! What a user is told when a tailnet does not let adit in, or does not answer; each made by the real control server.

use super::{LIMIT, exec, profile};
use crate::support::{DOMAIN, Machine, Tailnet, run};

/// Verifies a target; it must fail with this class. Returns what a person is told.
#[track_caller]
pub(super) fn fails(
    tailnet: &Tailnet,
    config: &str,
    target: &str,
    timeout: &str,
    class: &str,
    exit: i32,
) -> String {
    let mut command = tailnet.lab.adit(&["verify", "--json", "--timeout", timeout, "--config", config]);
    // Everything that is asked for here has been there, or not there, for long.
    command.args(["--no-grace", "--target", target]);
    let outcome = run(&mut command, LIMIT);
    let told = outcome.failure(class, exit);
    format!("{}\n{}\n{}", told.summary, told.evidence, told.fix.join("\n"))
}

const PAGE: &str = "http://staging-db/healthz";

#[test]
fn a_key_that_lets_nobody_in_is_told_by_its_kind() {
    let Some(tailnet) = Tailnet::build("tailscale_keys", &[], None) else { return };
    let refused = |key: &str, more: &str, class: &str, exit: i32| {
        let seen = fails(&tailnet, &profile(&tailnet, key, more), PAGE, "30s", class, exit);
        assert!(!seen.contains(key), "the key is shown: {seen}");
    };
    refused(&format!("hskey-auth-{}-{}", "a".repeat(12), "b".repeat(64)), "", "ts.key.invalid", 12);
    refused(&tailnet.auth_key(&["--expiration", "1ms"]), "", "ts.key.expired", 12);
    let once = tailnet.auth_key(&["--ephemeral"]);
    // Joining spends the key; that nobody called staging-db is here comes to light after it.
    fails(&tailnet, &profile(&tailnet, &once, ""), PAGE, "30s", "ts.peer.unknown", 31);
    refused(&once, "", "ts.key.used", 12);
    let key = tailnet.auth_key(&[]);
    refused(&key, "tags = [\"tag:nobody\"]", "ts.tag.denied", 14);
}

#[test]
fn a_control_server_that_is_out_of_reach_is_told_by_what_is_in_the_way() {
    let Some(mut tailnet) = Tailnet::build("tailscale_control", &[], None) else { return };
    let key = tailnet.auth_key(&["--ephemeral", "--reusable"]);
    let config = profile(&tailnet, &key, "");
    let trusting = std::fs::read_to_string(&config).unwrap();
    let lines: Vec<&str> = trusting.lines().filter(|line| !line.starts_with("ca_file")).collect();
    let distrusting = tailnet.lab.write("distrusting.toml", lines.join("\n"));
    fails(&tailnet, &distrusting.to_string_lossy(), PAGE, "30s", "ts.control.tls", 21);
    let elsewhere = trusting.replace("control.example.test", "gone.example.test");
    let elsewhere = tailnet.lab.write("elsewhere.toml", elsewhere);
    let seen = fails(&tailnet, &elsewhere.to_string_lossy(), PAGE, "30s", "ts.control.dns", 20);
    assert!(seen.contains("gone.example.test"), "{seen}");
    for relay in &mut tailnet.relays {
        *relay = None;
    }
    let seen = fails(&tailnet, &config, PAGE, "60s", "ts.derp.unreachable", 21);
    assert!(seen.contains("derp1.example.test") || seen.contains("derp2.example.test"), "{seen}");
    tailnet.headscale = None;
    fails(&tailnet, &config, PAGE, "30s", "ts.control.tcp", 20);
}

#[test]
fn a_machine_that_is_not_there_and_one_that_the_policy_keeps_away_are_told_apart() {
    let Some(tailnet) = Tailnet::build("tailscale_policy", &[Machine::Database], None) else { return };
    let config = profile(&tailnet, &tailnet.auth_key(&["--ephemeral", "--reusable"]), "");
    let missing = format!("http://missing.{DOMAIN}/");
    fails(&tailnet, &config, &missing, "20s", "ts.peer.unknown", 31);
    tailnet.set_policy(r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:80"]}]}"#);
    let denied = fails(&tailnet, &config, "tcp://staging-db:5432", "30s", "ts.acl.denied", 14);
    assert!(denied.contains("staging-db"), "{denied}");
    assert_eq!(exec(&tailnet, &config, PAGE, &["echo", "in"]).expect(0).text(), "in");
}
