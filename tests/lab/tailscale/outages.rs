//! A tailnet whose parts come and go: connections go on where they were.

use std::time::Duration;

use rustix::process::Signal;

use super::{LIMIT, PATIENCE, profile};
use crate::sessions::{COUNTER, goes_on};
use crate::support::{Machine, Process, Tailnet};

/// A tailnet with the database, and a program under exec that counts with its echo.
fn counting(test: &str, udp: bool) -> Option<(Tailnet, Process)> {
    let tailnet = Tailnet::build(test, &[Machine::Database], None)?;
    if !udp {
        tailnet.block_udp();
    }
    let config = profile(&tailnet, &tailnet.auth_key(&["--ephemeral"]), "");
    let mut command = tailnet.lab.adit(&["exec", "--config", &config, "--timeout", PATIENCE]);
    command.args(["--target", "tcp://staging-db:7", "--", "perl", "-e", COUNTER, "staging-db:7"]);
    let mut counter = Process::spawn("counter", command, &tailnet.lab.dir.logs());
    counter.wait_for("\n10\n", LIMIT);
    Some((tailnet, counter))
}

#[test]
fn a_connection_survives_a_restart_of_all_relays() {
    let Some((mut tailnet, counter)) = counting("tailscale_relays", false) else { return };
    for relay in 0..2 {
        tailnet.relays[relay] = None;
    }
    for relay in 0..2 {
        tailnet.start_relay(relay);
    }
    goes_on(&counter, 50, LIMIT);
}

#[test]
fn a_connection_survives_restarts_of_the_control_server_and_of_the_peer() {
    let Some((mut tailnet, counter)) = counting("tailscale_restarts", true) else { return };
    tailnet.start_headscale();
    goes_on(&counter, 50, LIMIT);
    let directory = &tailnet.lab.dir;
    // The peer comes back with another discovery key, and without the session.
    tailnet.nodes[0].start(directory);
    goes_on(&counter, 50, LIMIT);
}

#[test]
fn a_connection_survives_another_address_and_an_outage_of_thirty_seconds() {
    let Some((tailnet, counter)) = counting("tailscale_outage", true) else { return };
    tailnet.lab.client.ip(
        "addr del 192.0.2.2/24 dev eth0\naddr add 192.0.2.7/24 dev eth0\nroute replace default via 192.0.2.1\n",
    );
    goes_on(&counter, 50, LIMIT);
    let daemon = tailnet.node(Machine::Database).daemon.as_ref().expect("it runs");
    daemon.signal(Signal::STOP);
    // The outage itself is what is tested: no event ends it earlier.
    std::thread::sleep(Duration::from_secs(30));
    daemon.signal(Signal::CONT);
    goes_on(&counter, 50, LIMIT);
}
