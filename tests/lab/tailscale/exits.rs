//! Exit nodes: what is nobody's goes through one, and nowhere else when it is gone.

use super::failures::fails;
use super::{LIMIT, PATIENCE, exec, profile};
use crate::support::{Machine, Tailnet, run, serve_http, wait_until};

/// A public host that knows who asks; the client reaches it without the tailnet as well.
const PUBLIC: &str = "198.51.100.80";

/// A tailnet with an exit node and a public host, and a rule that counts what the client itself sends to that.
fn tailnet(test: &str) -> Option<Tailnet> {
    let tailnet = Tailnet::build(test, &[Machine::Database, Machine::Gateway], None)?;
    let server = &tailnet.lab.server;
    server.ip(&format!("addr add {PUBLIC}/32 dev lo\n"));
    serve_http(server, format!("{PUBLIC}:80").parse().unwrap());
    server.nft(&format!(
        "table ip leaks {{ counter own {{ }}; chain incoming {{ type filter hook prerouting priority raw; \
         ip saddr 192.0.2.2 ip daddr {PUBLIC} counter name own; }}; }}"
    ));
    Some(tailnet)
}

/// Packets that the client sent to the public host by its own path.
fn leaks(tailnet: &Tailnet) -> u64 {
    let mut nft = tailnet.lab.server.command("nft");
    let counter = run(nft.args(["list", "counter", "ip", "leaks", "own"]), LIMIT).expect(0).text();
    let mut words = counter.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no count: {counter}"))
}

#[test]
fn an_exit_node_is_chosen_by_name_address_or_id_and_carries_what_is_public() {
    let Some(tailnet) = tailnet("tailscale_exit") else { return };
    let key = tailnet.auth_key(&["--ephemeral", "--reusable"]);
    let machines = tailnet.machines();
    let (_, record) = machines.iter().find(|(name, _)| name == "gateway").expect("it joined");
    let gateway = tailnet.node(Machine::Gateway);
    let target = format!("http://{PUBLIC}/healthz");
    let page = format!("http://{PUBLIC}/peer");
    let peer = |config: &str| {
        exec(&tailnet, config, &target, &["curl", "-sf", "--max-time", "20", &page]).expect(0).text()
    };
    for wanted in ["gateway".to_owned(), gateway.address(), record["id"].to_string()] {
        let config = profile(&tailnet, &key, &format!("exit_node = \"{wanted}\""));
        assert_eq!(peer(&config), gateway.public_address().to_string(), "{wanted}");
    }
    assert_eq!(leaks(&tailnet), 0, "nothing goes around it");
    // Nobody is there who would not be reached without it.
    let mut curl = tailnet.lab.client.command("curl");
    assert_eq!(run(curl.args(["-sf", "--max-time", "20", &page]), LIMIT).expect(0).text(), "192.0.2.2");
    assert!(leaks(&tailnet) > 0, "leaks are counted");
}

#[test]
fn an_exit_node_that_is_none_is_told_with_those_that_are() {
    let Some(tailnet) = tailnet("tailscale_no_exit") else { return };
    let key = tailnet.auth_key(&["--ephemeral", "--reusable"]);
    for wanted in ["gatway", "staging-db", "100.64.0.99"] {
        let config = profile(&tailnet, &key, &format!("exit_node = \"{wanted}\""));
        let told = fails(&tailnet, &config, "tcp://staging-db:5432", "8s", "ts.exit.none", 23);
        assert!(told.contains(wanted) && told.contains("offer to be one: gateway"), "{told}");
    }
    assert_eq!(leaks(&tailnet), 0);
}

#[test]
fn while_the_exit_node_is_gone_nothing_public_is_reached_and_nothing_leaks() {
    let Some(mut tailnet) = tailnet("tailscale_exit_gone") else { return };
    let config =
        profile(&tailnet, &tailnet.auth_key(&["--ephemeral", "--reusable"]), "exit_node = \"gateway\"");
    let mut up = tailnet.lab.adit(&["up", "--config", &config, "--detach", "--timeout", PATIENCE]);
    run(up.args(["--target", &format!("http://{PUBLIC}/healthz")]), LIMIT).expect(0);
    let page = format!("http://{PUBLIC}/peer");
    let get = |tailnet: &Tailnet, seconds: &str| {
        let curl = ["exec", "--", "curl", "-sf", "--max-time", seconds, &page];
        run(&mut tailnet.lab.adit(&curl), LIMIT)
    };
    let index = tailnet.nodes.iter().position(|node| node.machine == Machine::Gateway).unwrap();
    tailnet.nodes[index].daemon = None;
    assert_ne!(get(&tailnet, "5").status.code(), Some(0), "it is gone");
    let offline = || {
        let machines = tailnet.machines();
        machines.iter().any(|(name, record)| name == "gateway" && record["online"] != true)
    };
    wait_until("the control server has seen that", LIMIT, offline);
    assert_ne!(get(&tailnet, "5").status.code(), Some(0), "it is gone");
    let mut again = tailnet.lab.adit(&["verify", "--json", "--timeout", "15s", "--config", &config]);
    again.args(["--no-grace", "--target", &format!("http://{PUBLIC}/healthz")]);
    let told = run(&mut again, LIMIT).failure("ts.exit.none", 23);
    assert!(told.evidence.contains("gateway"), "{}", told.evidence);
    assert_eq!(leaks(&tailnet), 0, "a black hole");
    tailnet.nodes[index].start(&tailnet.lab.dir);
    wait_until("the exit node carries packets again", LIMIT, || get(&tailnet, "5").status.success());
    assert_eq!(leaks(&tailnet), 0);
    run(&mut tailnet.lab.adit(&["down"]), LIMIT).expect(0);
}
