//! Networks and names behind a router: what is missing on the way there is told, each made by real parties.

use rustix::process::Signal;

use super::failures::fails;
use super::{LIMIT, PATIENCE, exec, profile};
use crate::support::{DOMAIN, Machine, Process, Tailnet, run, wait_until};

const LAN: &str = "10.77.0.0/16";
const PAGE: &str = "http://10.77.0.10/healthz";

/// Approves these routes of the gateway, and no others.
fn approve(tailnet: &Tailnet, routes: &str) {
    let machines = tailnet.machines();
    let (_, record) = machines.iter().find(|(name, _)| name == "gateway").expect("it joined");
    let id = record["id"].to_string();
    tailnet.headscale(&["nodes", "approve-routes", "--identifier", &id, "--routes", routes]).expect(0);
}

#[test]
fn a_network_is_reached_as_soon_as_its_route_is_approved() {
    let Some(tailnet) = Tailnet::build("tailscale_routes", &[Machine::Gateway], None) else { return };
    let config = profile(&tailnet, &tailnet.auth_key(&["--ephemeral", "--reusable"]), "");
    let told = fails(&tailnet, &config, "tcp://10.99.0.1:80", "8s", "ts.subnet.unrouted", 23);
    assert!(told.contains("10.99.0.1") && told.contains("approve"), "{told}");
    approve(&tailnet, "");
    fails(&tailnet, &config, PAGE, "8s", "ts.subnet.unrouted", 23);
    let mut waiting = tailnet.lab.adit(&["verify", "--timeout", PATIENCE, "--config", &config]);
    waiting.args(["--target", PAGE]);
    let mut waiting = Process::spawn("waiting", waiting, &tailnet.lab.dir.logs());
    waiting.wait_for("ts.subnet.unrouted", LIMIT);
    approve(&tailnet, LAN);
    assert!(waiting.wait(LIMIT).success(), "{}", waiting.printed());
}

#[test]
fn a_router_that_does_not_forward_is_told_from_a_policy_that_denies() {
    let Some(tailnet) = Tailnet::build("tailscale_router", &[Machine::Gateway], None) else { return };
    let config = profile(&tailnet, &tailnet.auth_key(&["--ephemeral", "--reusable"]), "");
    let gateway = &tailnet.node(Machine::Gateway).namespace;
    assert_eq!(exec(&tailnet, &config, PAGE, &["echo", "in"]).expect(0).text(), "in");
    gateway.nft(
        "table ip host { chain forward { type filter hook forward priority filter; tcp dport 7 drop; }; }",
    );
    // One port that a firewall drops is no router that forwards nothing.
    let told = fails(&tailnet, &config, "tcp://10.77.0.10:7", "20s", "target.silent", 31);
    assert!(told.contains("gateway") && told.contains("10.77.0.10 answers echoes"), "{told}");
    gateway.sysctl("net.ipv4.ip_forward", "0");
    let told = fails(&tailnet, &config, PAGE, "20s", "ts.subnet.forward", 31);
    assert!(told.contains("gateway") && told.contains("net.ipv4.ip_forward=1"), "{told}");
    gateway.sysctl("net.ipv4.ip_forward", "1");
    tailnet.set_policy(&format!(
        r#"{{"autoApprovers": {{"routes": {{"{LAN}": ["alice@"]}}}},
            "acls": [{{"action": "accept", "src": ["*"], "dst": ["10.77.0.10/32:80"]}}]}}"#
    ));
    let told = fails(&tailnet, &config, "tcp://10.77.0.10:5432", "20s", "ts.acl.denied", 14);
    assert!(told.contains("10.77.0.10:5432"), "{told}");
    assert_eq!(exec(&tailnet, &config, PAGE, &["echo", "in"]).expect(0).text(), "in");
}

#[test]
fn a_resolver_that_is_silent_or_not_reachable_is_told_with_who_leads_there() {
    let Some(tailnet) = Tailnet::build("tailscale_resolver", &[Machine::Gateway], None) else { return };
    let config = profile(&tailnet, &tailnet.auth_key(&["--ephemeral", "--reusable"]), "");
    let names = tailnet.lab.names.as_ref().expect("it runs");
    names.signal(Signal::STOP);
    let told = fails(&tailnet, &config, "http://files.corp.internal/", "25s", "ts.dns.split", 30);
    names.signal(Signal::CONT);
    assert!(told.contains("10.77.0.53") && told.contains("gateway"), "{told}");
    approve(&tailnet, "");
    let told = fails(&tailnet, &config, "http://files.corp.internal/", "8s", "ts.dns.split", 30);
    assert!(told.contains("no route leads") && told.contains("approved"), "{told}");
}

#[test]
fn names_of_nodes_resolve_where_magicdns_is_off() {
    let machines = [Machine::Database];
    let Some(mut tailnet) = Tailnet::build("tailscale_magic", &machines, None) else { return };
    tailnet.configure("magic_dns: true", "magic_dns: false");
    tailnet.start_headscale();
    wait_until("the machine is back at the control server", LIMIT, || {
        tailnet.machines().iter().all(|(_, machine)| machine["online"] == true)
    });
    let config = profile(&tailnet, &tailnet.auth_key(&["--ephemeral", "--reusable"]), "");
    for host in ["staging-db".to_owned(), format!("staging-db.{DOMAIN}")] {
        let target = format!("http://{host}/healthz");
        let page = exec(&tailnet, &config, &target, &["curl", "-sf", "--max-time", "20", &target]);
        assert_eq!(page.expect(0).text(), "ok", "{host}");
    }
}

#[test]
fn records_reverse_names_and_networks_that_overlap_are_for_every_front() {
    let Some(tailnet) = Tailnet::build("tailscale_names", &[Machine::Gateway], None) else { return };
    let gateway = tailnet.node(Machine::Gateway);
    let via = gateway.run(&["debug", "via", "7", LAN]).expect(0).text();
    gateway.run(&["set", &format!("--advertise-routes={LAN},{via}")]).expect(0);
    approve(&tailnet, &format!("{LAN},{via}"));
    let config = profile(&tailnet, &tailnet.auth_key(&["--ephemeral"]), "");
    let mut up = tailnet.lab.adit(&["up", "--config", &config, "--detach", "--timeout", PATIENCE]);
    run(
        up.args(["--target", PAGE, "--proxy=127.0.0.1:1080", "--forward"])
            .arg(format!("8080:reports.{DOMAIN}:80")),
        LIMIT,
    )
    .expect(0);
    let page = |url: &str, more: &[&str]| {
        let mut curl = tailnet.lab.client.command("curl");
        run(curl.args(["-sf", "--max-time", "20", url]).args(more), LIMIT)
    };
    let reports = format!("http://reports.{DOMAIN}/peer");
    assert_eq!(page(&reports, &["--proxy", "socks5h://127.0.0.1:1080"]).expect(0).text(), "10.77.0.1");
    assert_eq!(page("http://127.0.0.1:8080/peer", &[]).expect(0).text(), "10.77.0.1");
    let inside = |program: &[&str]| {
        let mut exec = tailnet.lab.adit(&["exec", "--"]);
        run(exec.args(program), LIMIT).expect(0).text()
    };
    assert_eq!(inside(&["curl", "-sf", "--max-time", "20", &reports]), "10.77.0.1");
    let name = inside(&["getent", "hosts", &gateway.address()]);
    assert!(name.contains(&format!("gateway.{DOMAIN}")), "{name}");
    // 10.77.0.10 of the network that is called 7 here.
    for host in [format!("10-77-0-10-via-7.{DOMAIN}"), "[fd7a:115c:a1e0:b1a:0:7:a4d:a]".to_owned()] {
        let page = inside(&["curl", "-sf", "--max-time", "20", &format!("http://{host}/healthz")]);
        assert_eq!(page, "ok", "{host}");
    }
    run(&mut tailnet.lab.adit(&["down"]), LIMIT).expect(0);
}
