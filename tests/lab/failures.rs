//! Conditions that real peers produce, and what a user is told: class, evidence, exit code and what to do.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Conf, Lab, Part, run, services};

const LIMIT: Duration = Duration::from_secs(90);
const FILES: &str = "tcp://files.corp.internal:80";
/// The same by address: no resolver takes part.
const FILES_ADDRESS: &str = "tcp://10.77.0.10:80";

/// The check that helps most against silence.
const KEY_ADVICE: &str = "On the server, check that a [Peer] with our public key";

/// What a condition must be called.
struct Expected {
    class: &'static str,
    exit: i32,
    /// Words that the first or second advice must contain.
    fix: &'static str,
}

fn expect(class: &'static str, exit: i32, fix: &'static str) -> Expected {
    Expected { class, exit, fix }
}

/// `adit verify` of one target, as `nobody`.
fn verification(lab: &Lab, conf: &Conf, target: &str) -> Command {
    let conf = lab.write("lab.conf", conf);
    let conf = conf.to_string_lossy();
    lab.adit(&["verify", "--json", "--timeout", "25s", "--config", &conf, "--target", target])
}

/// Asserts class and exit code in the report and of the process, and that evidence and the right advice are there.
/// Returns the evidence.
#[track_caller]
fn failed(command: &mut Command, expected: &Expected) -> String {
    let outcome = run(command, LIMIT);
    let told = outcome.failure(expected.class, expected.exit);
    assert!(told.fix.iter().take(2).any(|line| line.contains(expected.fix)), "{outcome}");
    assert!(!told.evidence.is_empty(), "there is no evidence\n{outcome}");
    told.evidence
}

/// [`failed`] for one target and a configuration.
#[track_caller]
fn fails(lab: &Lab, conf: &Conf, target: &str, expected: &Expected) -> String {
    failed(&mut verification(lab, conf, target), expected)
}

#[track_caller]
fn succeeds(lab: &Lab, conf: &Conf, target: &str) {
    let outcome = run(&mut verification(lab, conf, target), LIMIT);
    assert_eq!(outcome.report()["ok"], true, "{outcome}");
    outcome.expect(0);
}

#[test]
fn wrong_keys_are_named_or_shown() {
    let Some(lab) = Lab::build("wrong_keys", &[Part::Names]) else { return };
    succeeds(&lab, &lab.conf(), FILES);

    let mut conf = lab.conf();
    conf.preshared_key = Some(lab.another_key().0);
    let seen = fails(&lab, &conf, FILES, &expect("wg.psk.mismatch", 22, "Copy PresharedKey"));
    assert!(seen.contains("do not decrypt"), "{seen}");
    // A command that only connects does not wait for what no patience heals.
    let path = lab.write("lab.conf", &conf).to_string_lossy().into_owned();
    let nc = run(&mut lab.adit(&["nc", "--config", &path, "10.77.0.10", "7"]), LIMIT).expect(22);
    assert!(nc.stderr.contains("[wg.psk.mismatch]") && nc.took < Duration::from_secs(10), "{nc}");

    let mut conf = lab.conf();
    conf.server_key = lab.another_public_key();
    let seen = fails(&lab, &conf, FILES, &expect("wg.silent", 22, KEY_ADVICE));
    assert!(seen.contains(lab.client_key()) && seen.contains(&conf.server_key), "{seen}");
}

#[test]
fn a_wrong_own_key_is_silence_and_its_public_key_is_shown() {
    let Some(lab) = Lab::build("wrong_own_key", &[]) else { return };
    let mut conf = lab.conf();
    let (private, public) = lab.another_key();
    conf.private_key = private;
    let seen = fails(&lab, &conf, FILES_ADDRESS, &expect("wg.silent", 22, KEY_ADVICE));
    assert!(seen.contains(&public), "{seen}");
}

#[test]
fn a_server_that_does_not_answer_is_silent() {
    let Some(lab) = Lab::build("no_answer", &[]) else { return };
    lab.wireguard.as_ref().expect("it runs").signal(Signal::STOP);
    let seen = fails(&lab, &lab.conf(), FILES_ADDRESS, &expect("wg.silent", 22, KEY_ADVICE));
    assert!(seen.contains("handshake initiations sent to 192.0.2.1:51820"), "{seen}");
}

#[test]
fn what_the_way_to_the_server_says_is_named() {
    let Some(lab) = Lab::build("way_to_the_server", &[]) else { return };
    let mut conf = lab.conf();
    conf.endpoint = "192.0.2.1:9".into();
    let seen = fails(&lab, &conf, FILES_ADDRESS, &expect("wg.udp.refused", 20, "ListenPort"));
    assert!(seen.contains("ICMP port unreachable from 192.0.2.1:9"), "{seen}");

    conf.endpoint = "gone.example.test:51820".into();
    let seen = fails(&lab, &conf, FILES_ADDRESS, &expect("wg.endpoint.dns", 20, "spelling"));
    assert!(seen.contains("gone.example.test"), "{seen}");

    // The firewall of the sandbox itself: the system refuses to send.
    lab.client.nft("add table inet t; add chain inet t out { type filter hook output priority 0; }");
    lab.client.nft("add rule inet t out udp dport 51820 drop");
    fails(&lab, &lab.conf(), FILES_ADDRESS, &expect("wg.udp.blocked", 21, "Allow outgoing UDP"));
    lab.client.nft("delete table inet t");

    lab.client.ip("route del default\nroute add unreachable default");
    conf.endpoint = "198.51.100.7:51820".into();
    let seen = fails(&lab, &conf, FILES_ADDRESS, &expect("wg.udp.unreachable", 20, "has a route to it"));
    assert!(seen.contains("198.51.100.7"), "{seen}");
}

#[test]
fn an_endpoint_of_a_family_that_is_not_here_is_named() {
    let Some(lab) = Lab::build("endpoint_family", &[]) else { return };
    lab.move_name("2001:db8::1");
    lab.client.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
    let mut conf = lab.conf();
    conf.endpoint = "vpn.example.test:51820".into();
    let seen = fails(&lab, &conf, FILES_ADDRESS, &expect("wg.endpoint.family", 20, "IPv4 address"));
    assert!(seen.contains("vpn.example.test"), "{seen}");
}

#[test]
fn a_clock_that_is_years_off_is_blamed_for_the_silence() {
    let Some(lab) = Lab::build("clock", &[]) else { return };
    // The server remembers the time of the last handshake, and drops what is older.
    succeeds(&lab, &lab.conf(), FILES_ADDRESS);
    let mut command = lab.nobody("faketime");
    let conf = lab.write("lab.conf", lab.conf());
    command.args(["-m", "-f", "-10y"]).arg(lab.binary());
    command.args(["verify", "--json", "--timeout", "25s", "--target", FILES_ADDRESS, "--config"]).arg(conf);
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    failed(&mut command, &expect("wg.clock", 22, "Set the clock"));
}

#[test]
fn a_target_outside_the_allowed_addresses_has_no_route() {
    let Some(lab) = Lab::build("no_route", &[Part::Names]) else { return };
    let outside = expect("wg.allowedips.client", 23, "Add 10.99.0.1/32 to AllowedIPs");
    let seen = fails(&lab, &lab.conf(), "tcp://10.99.0.1:80", &outside);
    assert!(seen.contains("no route of the tunnel covers 10.99.0.1"), "{seen}");

    let unrouted = expect("dns.unrouted", 30, "192.0.2.80");
    let seen = fails(&lab, &lab.conf(), "tcp://outside.corp.internal:80", &unrouted);
    assert!(seen.contains("192.0.2.80"), "{seen}");

    let mut conf = lab.conf();
    conf.dns = vec!["192.0.2.53".into()];
    let seen = fails(&lab, &conf, FILES, &expect("wg.dns", 30, "192.0.2.53/32"));
    assert!(seen.contains("192.0.2.53"), "{seen}");
}

#[test]
fn a_server_that_does_not_know_our_address_is_told_from_one_that_does_not_forward() {
    let Some(lab) = Lab::build("gateway", &[Part::Names]) else { return };
    lab.server.sysctl("net.ipv4.ip_forward", "0");
    lab.server.sysctl("net.ipv6.conf.all.forwarding", "0");
    let closed = expect("wg.forwarding", 31, "ip_forward=1");
    let seen = fails(&lab, &lab.conf(), FILES_ADDRESS, &closed);
    assert!(seen.contains("the gateway 10.66.0.1 answers echoes"), "{seen}");
    let seen = fails(&lab, &lab.conf(), FILES, &closed);
    assert!(seen.contains("10.77.0.53 does not answer echoes"), "{seen}");

    lab.allow_on_the_server("10.66.0.9/32");
    let seen = fails(
        &lab,
        &lab.conf(),
        FILES_ADDRESS,
        &expect("wg.allowedips.server", 31, "AllowedIPs = 10.66.0.2"),
    );
    assert!(seen.contains("no packet from inside the tunnel has arrived"), "{seen}");
}

#[test]
fn names_fail_as_dns_says() {
    let Some(lab) = Lab::build("dns_failures", &[Part::Names]) else { return };
    let missing = expect("dns.nxdomain", 30, "spelling");
    let seen = fails(&lab, &lab.conf(), "tcp://nope.corp.internal:80", &missing);
    assert!(seen.contains("nope.corp.internal"), "{seen}");
    lab.names.as_ref().expect("it runs").signal(Signal::STOP);
    let seen = fails(&lab, &lab.conf(), FILES, &expect("dns.silent", 30, "runs DNS on UDP and TCP port 53"));
    assert!(seen.contains("10.77.0.53 is there: it answers echoes"), "{seen}");
}

#[test]
fn targets_fail_as_the_network_says() {
    let Some(lab) = Lab::build("target_failures", &[Part::Names]) else { return };
    let conf = lab.conf();
    fails(&lab, &conf, "tcp://files.corp.internal:81", &expect("target.refused", 31, "listens on port 81"));
    let silent = expect("target.silent", 31, "host is up: `adit ping silent.corp.internal`");
    let seen = fails(&lab, &conf, "tcp://silent.corp.internal:80", &silent);
    assert!(seen.contains("10.77.1.66 does not answer echoes either"), "{seen}");
    let unreachable = expect("wg.icmp.unreach", 31, "route to it");
    let seen = fails(&lab, &conf, "tcp://10.77.1.67:80", &unreachable);
    assert!(seen.contains("from 10.66.0.1") || seen.contains("from 10.77.0.1"), "{seen}");
}

#[test]
fn what_answers_otherwise_than_the_target_says_is_named() {
    let Some(lab) = Lab::build("wrong_answers", &[Part::Names]) else { return };
    let conf = lab.conf();
    let postgres = expect("app.silent", 33, "");
    fails(&lab, &conf, "tcp://files.corp.internal:80,postgres", &postgres);
    let seen =
        fails(&lab, &conf, "http://files.corp.internal/nothing[200-399]", &expect("app.http_status", 33, ""));
    assert!(seen.contains("404"), "{seen}");
}

#[test]
fn an_expired_certificate_is_named_with_its_date() {
    let Some(lab) = Lab::build("expired", &[Part::Names]) else { return };
    let authority = services::serve_https(&lab.lan, "10.77.0.10:443", "four.corp.internal", 2021);
    let authority = lab.write("ca.pem", authority);
    let mut command = verification(&lab, &lab.conf(), "https://four.corp.internal/healthz");
    let seen =
        failed(command.arg("--ca-file").arg(authority), &expect("tls.expired", 32, "Renew the certificate"));
    assert!(seen.contains("valid until 2021-01-01"), "{seen}");
}

#[test]
fn large_packets_that_vanish_are_named_with_the_size_that_passes() {
    let Some(lab) = Lab::build("mtu", &[Part::Names]) else { return };
    for end in [&lab.client, &lab.server] {
        end.nft("add table inet t; add chain inet t in { type filter hook prerouting priority 0; }");
        end.nft("add rule inet t in udp sport 51820 meta length > 1300 drop");
        end.nft("add rule inet t in udp dport 51820 meta length > 1300 drop");
    }
    // The connection opens and the request passes; the answer does not.
    let seen =
        fails(&lab, &lab.conf(), "http://four.corp.internal/page", &expect("wg.mtu", 31, "Set `MTU = 12"));
    assert!(seen.contains("echoes of") && seen.contains("bytes do not"), "{seen}");

    // With what the advice says it works.
    let mut conf = lab.conf();
    conf.mtu = Some(1220);
    succeeds(&lab, &conf, "http://four.corp.internal/page");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let Some(lab) = Lab::build("port_in_use", &[]) else { return };
    let taken = lab.client.enter(|| std::net::UdpSocket::bind("[::]:40000").unwrap());
    let mut conf = lab.conf();
    conf.interface.push("ListenPort = 40000".into());
    let seen = fails(&lab, &conf, FILES_ADDRESS, &expect("env.port_in_use", 10, "Choose another port"));
    assert!(seen.contains("40000"), "{seen}");
    drop(taken);
}

#[test]
fn a_place_that_cannot_be_written_is_named_before_anything_is_sent() {
    let Some(lab) = Lab::build("readonly", &[]) else { return };
    let conf = lab.write("lab.conf", lab.conf());
    let mut command = lab.nobody_where("mount -t tmpfs -o ro none /mnt", lab.binary());
    command.args(["up", "--json", "--socket", "/mnt/adit.sock", "--config"]).arg(conf);
    let outcome = run(&mut command, LIMIT).expect(10);
    assert!(outcome.stderr.contains("[env.readonly_fs]"), "{outcome}");
    assert!(outcome.stderr.contains("--socket PATH") && outcome.stderr.contains("/mnt"), "{outcome}");
    assert!(lab.wg_show("latest-handshakes").trim_end().ends_with('0'), "something was sent\n{outcome}");
}

#[test]
fn a_wrong_file_starts_nothing_and_says_where() {
    let Some(lab) = Lab::build("wrong_file", &[]) else { return };
    let mut conf = lab.conf();
    conf.interface.push("Adress = 10.0.0.1/32".into());
    let conf = lab.write("lab.conf", conf);
    let mut command = lab.adit(&["exec", "--config", &conf.to_string_lossy(), "--", "echo", "started"]);
    let outcome = run(&mut command, LIMIT);
    assert!(!outcome.text().contains("started"), "{outcome}");
    assert!(outcome.stderr.contains("lab.conf:5") && outcome.stderr.contains("Address"), "{outcome}");
    assert_eq!(outcome.status.code(), Some(2), "{outcome}");
}
