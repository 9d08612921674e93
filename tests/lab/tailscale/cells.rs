//! Networks between adit and its peers: which way packets go, and that everything passes on it.

use super::{AGENT, LIMIT, PATIENCE, profile};
use crate::support::{DOMAIN, Machine, Nat, Tailnet, run, serve_http, wait_until};

/// Sends 8 MiB to the echo of files at `$1` and back, and datagrams to its echo at port 7.
const TRAFFIC: &str = r#"set -e
    head -c 8388608 /dev/urandom > up
    curl -sf --max-time 40 -H 'Expect:' --data-binary @up "http://$1/echo" -o down
    [ "$(sha256sum < up)" = "$(sha256sum < down)" ]
    perl -e 'use IO::Socket::INET; use IO::Select;
        my $s = IO::Socket::INET->new(PeerAddr => "$ARGV[0]:7", Proto => "udp") or die "socket: $@";
        for my $size (1, 500, 1200) {
            my ($sent, $heard) = ("d" x $size, "");
            # A datagram may be lost; none of thirty arriving is a fault.
            for (1 .. 30) {
                $s->send($sent) or die "send: $!";
                if (IO::Select->new($s)->can_read(1)) { $s->recv($heard, 2000); last }
            }
            $heard eq $sent or die "$size bytes do not come back";
        }' "$1""#;

/// The networks on both sides.
struct Cell {
    client: Option<Nat>,
    peers: Option<Nat>,
    udp: bool,
    /// Whether a direct way exists.
    direct: bool,
}

/// Joins in this cell and reaches both kinds of peers.
fn holds(test: &str, cell: &Cell) {
    let machines = [Machine::Database, Machine::Web];
    let Some(mut tailnet) = Tailnet::build(test, &machines, cell.peers) else { return };
    if let Some(nat) = cell.client {
        tailnet.client_behind(nat);
    }
    if !cell.udp {
        tailnet.block_udp();
    }
    let config = profile(&tailnet, &tailnet.auth_key(&["--ephemeral"]), "");
    let mut up = tailnet.lab.adit(&["up", "--config", &config, "--detach", "--timeout", PATIENCE]);
    up.args(["--target", "http://staging-db/healthz", "--target", "http://web/healthz", "--expose", "8000"]);
    serve_http(&tailnet.lab.client, "127.0.0.1:8000".parse().unwrap());
    run(&mut up, LIMIT).expect(0);
    for (machine, host) in
        [(Machine::Database, "staging-db".to_owned()), (Machine::Web, format!("web.{DOMAIN}"))]
    {
        if cell.direct {
            // The peer has found the way when it sends on it; packets ask both sides to look for it.
            let ping =
                || run(&mut tailnet.lab.adit(&["ping", "--count", "1", &host]), LIMIT).status.success();
            wait_until(&format!("{host} sends directly"), LIMIT, || {
                ping() && way(&tailnet, machine).is_some()
            });
        }
        let mut traffic = tailnet.lab.adit(&["exec", "--", "sh", "-c", TRAFFIC, "sh", &host]);
        run(traffic.current_dir(tailnet.lab.home()), LIMIT).expect(0);
        run(&mut tailnet.lab.adit(&["ping", "--count", "2", &host]), LIMIT).expect(0);
        let way = way(&tailnet, machine);
        assert_eq!(way.is_some(), cell.direct, "{host} sends to {way:?}");
    }
    is_reached(&tailnet);
    if !cell.udp {
        let status = || run(&mut tailnet.lab.adit(&["status"]), LIMIT).expect(0).text();
        wait_until("it is told that UDP is blocked", LIMIT, || status().contains("ts.udp.blocked"));
    }
    run(&mut tailnet.lab.adit(&["down"]), LIMIT).expect(0);
    tailnet.is_gone(AGENT);
}

/// A peer reaches the server that is exposed, and no other.
fn is_reached(tailnet: &Tailnet) {
    let database = tailnet.node(Machine::Database);
    let agent = database.run(&["ip", "-4", AGENT]).expect(0).text();
    let get = |port: u16| {
        let mut curl = database.namespace.command("curl");
        curl.args(["-sf", "--max-time", "30", &format!("http://{agent}:{port}/healthz")]);
        run(&mut curl, LIMIT)
    };
    assert_eq!(get(8000).expect(0).text(), "ok");
    assert_ne!(get(8001).status.code(), Some(0), "nothing else is exposed");
}

/// Waits until a peer has found a direct way to us by itself.
pub(super) fn sends_directly(tailnet: &Tailnet, machine: Machine) {
    wait_until("the peer sends directly", LIMIT, || way(tailnet, machine).is_some());
}

/// Whether a peer knows through which relay we are reached.
pub(super) fn is_known(tailnet: &Tailnet, machine: Machine) -> bool {
    as_seen_by(tailnet, machine)["Relay"].as_str().is_some_and(|relay| !relay.is_empty())
}

/// The address that a peer sends to, if it has found a direct way to us.
fn way(tailnet: &Tailnet, machine: Machine) -> Option<String> {
    let agent = as_seen_by(tailnet, machine);
    agent["CurAddr"].as_str().filter(|address| !address.is_empty()).map(str::to_owned)
}

/// What a peer knows of us.
fn as_seen_by(tailnet: &Tailnet, machine: Machine) -> serde_json::Value {
    let status = tailnet.node(machine).run(&["status", "--json"]).expect(0);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let peers = status["Peer"].as_object().expect("the peer knows others");
    peers.values().find(|peer| peer["HostName"] == AGENT).expect("the peer knows us").clone()
}

#[test]
fn without_a_nat_packets_go_directly() {
    holds("tailscale_direct", &Cell { client: None, peers: None, udp: true, direct: true });
}

#[test]
fn through_two_easy_nats_packets_go_directly() {
    let easy = Some(Nat::Easy);
    holds("tailscale_easy", &Cell { client: easy, peers: easy, udp: true, direct: true });
}

#[test]
fn with_a_hard_nat_at_the_client_and_an_easy_one_at_the_peers_relays_help() {
    let cell = Cell { client: Some(Nat::Hard), peers: Some(Nat::Easy), udp: true, direct: false };
    holds("tailscale_hard", &cell);
}

#[test]
fn between_hard_nats_relays_help() {
    let hard = Some(Nat::Hard);
    holds("tailscale_both_hard", &Cell { client: hard, peers: hard, udp: true, direct: false });
}

#[test]
fn where_no_udp_passes_relays_help() {
    holds("tailscale_no_udp", &Cell { client: None, peers: None, udp: false, direct: false });
}
