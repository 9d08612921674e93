//! Ways to a server, and what happens to connections while it or the way is away.

use std::time::Duration;

use super::{LIMIT, PEER, reaches};
use crate::support::{Lab, Part, Process, Server, wait_until};

const PARTS: &[Part] = &[Part::OpenVpn, Part::Names];

/// A program under exec that says a number, waits for its echo, and goes on; its output is `N` per echo.
const COUNTER: &str = r#"use IO::Socket::INET; $| = 1;
    my $s = IO::Socket::INET->new(PeerAddr => "10.77.0.10:7", Proto => "tcp") or die "connect: $@";
    for my $n (1 .. 100000) { print $s "$n\n"; my $line = <$s> // die "the connection ended"; print $line; select(undef, undef, undef, 0.02); }"#;

/// Starts the counter; it has counted to ten when this returns.
pub(super) fn counter(lab: &Lab, server: &Server) -> Process {
    let profile = lab.ovpn(server);
    let mut command = lab.adit(&["exec", "--config", &profile, "--"]);
    command.args(["perl", "-e", COUNTER]);
    let mut process = Process::spawn("counter", command, &lab.dir.logs());
    process.wait_for("\n10\n", LIMIT);
    process
}

fn numbers(counter: &Process) -> Vec<u32> {
    counter.printed().lines().filter_map(|line| line.parse().ok()).collect()
}

/// Waits until the counter has made `more` steps from where it is now; nothing is lost, doubled or reordered.
pub(super) fn goes_on(counter: &Process, more: usize, limit: Duration) {
    let before = numbers(counter).len();
    wait_until("the counter goes on", limit, || numbers(counter).len() >= before + more);
    let numbers = numbers(counter);
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "nothing lost, doubled or reordered");
}

#[test]
fn a_connection_survives_a_restart_of_the_server_within_five_seconds() {
    let Some(mut lab) = Lab::build("openvpn_server_restart", PARTS) else { return };
    for tcp in [false, true] {
        let server = Server::new().tcp(tcp);
        lab.start_openvpn(&server);
        let counter = counter(&lab, &server);
        // Not even a goodbye.
        lab.openvpn().signal(rustix::process::Signal::KILL);
        lab.start_openvpn(&server);
        goes_on(&counter, 20, Duration::from_secs(5));
        if tcp {
            wait_until("the end of the stream is told", LIMIT, || counter.printed().contains("[ovpn.link]"));
        }
    }
}

#[test]
fn a_connection_survives_an_outage_of_thirty_seconds() {
    let Some(mut lab) = Lab::build("openvpn_outage", PARTS) else { return };
    let server = Server::new();
    lab.start_openvpn(&server);
    let counter = counter(&lab, &server);
    lab.openvpn().signal(rustix::process::Signal::STOP);
    // The outage itself is what is tested: no event ends it earlier.
    std::thread::sleep(Duration::from_secs(30));
    lab.openvpn().signal(rustix::process::Signal::CONT);
    goes_on(&counter, 50, Duration::from_secs(10));
}

#[test]
fn a_connection_survives_a_change_of_the_clients_address() {
    let Some(mut lab) = Lab::build("openvpn_roaming", PARTS) else { return };
    let server = Server::new().server("keepalive 2 20");
    lab.start_openvpn(&server);
    let counter = counter(&lab, &server);
    lab.client.ip("addr del 192.0.2.2/24 dev eth0\naddr add 192.0.2.7/24 dev eth0\nroute replace default via 192.0.2.1\n");
    goes_on(&counter, 50, Duration::from_secs(20));
}

#[test]
fn servers_are_tried_in_order_until_one_answers() {
    let Some(mut lab) = Lab::build("openvpn_remotes", PARTS) else { return };
    // Nobody is at the first, nothing listens at the second, and the third has a name.
    let remotes = "remote 192.0.2.99 1194 udp\nremote 192.0.2.1 1195 udp\nremote vpn.example.test 1194 udp\nserver-poll-timeout 2";
    let server = Server::new().profile(remotes);
    lab.start_openvpn(&server);
    reaches(&lab, &server, &[], PEER);
}

#[test]
fn a_server_is_reached_over_ipv6() {
    let Some(mut lab) = Lab::build("openvpn_outer_v6", PARTS) else { return };
    for tcp in [false, true] {
        let proto = if tcp { "tcp6" } else { "udp6" };
        let line = format!("proto {}", if tcp { "tcp6-server" } else { "udp6" });
        let server = Server::new().tcp(tcp).server(&line);
        let server = server.profile(&format!("remote 2001:db8::1 1194 {proto}"));
        lab.start_openvpn(&server);
        reaches(&lab, &server, &[], PEER);
    }
}
