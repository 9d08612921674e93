//! Where the reference client is slow or needs luck: how fast adit starts, is reached, and finds another way.

use std::time::{Duration, Instant};

use super::{AGENT, LIMIT, PATIENCE, profile};
use crate::sessions::{COUNTER, goes_on};
use crate::support::{Machine, Nat, Process, Tailnet, run, serve_http, wait_until};

/// Rounds of a comparison; their medians are compared.
const ROUNDS: usize = 3;

/// From nothing to the first page of a machine, with an auth key: of adit, and of the reference client.
fn first_pages(tailnet: &Tailnet) -> [Duration; 2] {
    let config = profile(tailnet, &tailnet.auth_key(&["--ephemeral", "--reusable"]), "");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let page = ["curl", "-sf", "--max-time", "30", "http://staging-db/healthz"];
        let mut exec = tailnet.lab.adit(&["exec", "--config", &config, "--timeout", PATIENCE]);
        let outcome = run(exec.args(["--target", "tcp://staging-db:80", "--"]).args(page), LIMIT).expect(0);
        assert_eq!(outcome.text(), "ok");
        ours.push(outcome.took);
        let began = Instant::now();
        let _daemon = super::reference::join(tailnet);
        let mut curl = tailnet.lab.client.command("curl");
        curl.args(["--proxy", "socks5h://127.0.0.1:1055"]).args(&page[1..]);
        assert_eq!(run(&mut curl, LIMIT).expect(0).text(), "ok");
        theirs.push(began.elapsed());
    }
    [ours, theirs].map(|mut times| {
        times.sort();
        times[ROUNDS / 2]
    })
}

#[test]
#[ignore = "compares times: by itself, on a quiet machine"]
fn the_first_byte_comes_earlier_than_with_the_reference_client() {
    let Some(tailnet) = Tailnet::build("tailscale_first_byte", &[Machine::Database], None) else { return };
    for (case, most) in [("UDP passes", 0.7), ("no UDP", 0.6)] {
        if case == "no UDP" {
            tailnet.block_udp();
        }
        let [ours, theirs] = first_pages(&tailnet);
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        eprintln!("first byte, {case}: {ours:.2?}, the reference client {theirs:.2?}, ratio {ratio:.2}");
        // The whole process is timed, with its goodbye.
        assert!(ratio <= most, "{case}: {ours:?} of {theirs:?}");
    }
}

#[test]
fn the_first_connection_from_a_peer_waits_for_nothing() {
    let Some(tailnet) = Tailnet::build("tailscale_inbound", &[Machine::Database], None) else { return };
    let config = profile(&tailnet, &tailnet.auth_key(&["--ephemeral", "--reusable"]), "");
    let mut up = tailnet.lab.adit(&["up", "--config", &config, "--timeout", PATIENCE, "--detach"]);
    serve_http(&tailnet.lab.client, "127.0.0.1:8000".parse().unwrap());
    run(up.args(["--expose", "8000"]), LIMIT).expect(0);
    let database = tailnet.node(Machine::Database);
    let agent = database.run(&["ip", "-4", AGENT]).expect(0).text();
    // What a peer does not know yet it cannot call: it hears of our relay from the control server.
    wait_until("the peer knows our relay", LIMIT, || super::cells::is_known(&tailnet, Machine::Database));
    let mut curl = database.namespace.command("curl");
    let url = format!("http://{agent}:8000/healthz");
    let outcome = run(curl.args(["-sf", "--max-time", "30", &url]), LIMIT).expect(0);
    assert_eq!(outcome.text(), "ok");
    eprintln!("first connection of a peer: {:.2?}", outcome.took);
    // A first call that is lost costs five seconds, where nobody notices.
    assert!(outcome.took < Duration::from_secs(3), "{outcome}");

    // A second adit is a peer as any other.
    let text = std::fs::read_to_string(&config).unwrap();
    let other = text.replace(&format!("hostname = \"{AGENT}\""), "hostname = \"other\"");
    let other = super::path(tailnet.lab.write("other.toml", other));
    let mut exec = tailnet.lab.adit(&["exec", "--config", &other, "--timeout", PATIENCE, "--target"]);
    exec.args([&format!("http://{AGENT}:8000/healthz"), "--", "curl", "-sf", "--max-time", "30"]);
    let outcome = run(exec.arg(format!("http://{AGENT}:8000/healthz")), LIMIT).expect(0);
    assert_eq!(outcome.text(), "ok");
    run(&mut tailnet.lab.adit(&["down"]), LIMIT).expect(0);
}

#[test]
fn a_connection_whose_mapping_in_a_nat_dies_goes_on_within_seconds() {
    let Some(mut tailnet) = Tailnet::build("tailscale_mapping", &[Machine::Database], None) else { return };
    tailnet.client_behind(Nat::Easy);
    let config = profile(&tailnet, &tailnet.auth_key(&["--ephemeral"]), "");
    let mut command = tailnet.lab.adit(&["exec", "--config", &config, "--timeout", PATIENCE]);
    command.args(["--target", "tcp://staging-db:7", "--", "perl", "-e", COUNTER, "staging-db:7"]);
    let mut counter = Process::spawn("counter", command, &tailnet.lab.dir.logs());
    counter.wait_for("\n10\n", LIMIT);
    super::cells::sends_directly(&tailnet, Machine::Database);
    tailnet.forget_mappings();
    let began = Instant::now();
    goes_on(&counter, 50, LIMIT);
    let gap = began.elapsed();
    eprintln!("fifty steps after the mapping died: {gap:.2?}");
    assert!(gap < Duration::from_secs(20), "{gap:?}");
}
