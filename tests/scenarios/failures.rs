//! What is said when it does not work: class, evidence, time.

use std::time::SystemTime;

use adit_sim::net::Link;
use adit_tunnel::{Event, Tunnel, TunnelError};
use adit_wireguard::message_type::INITIATION;
use adit_wireguard::{ClockCheck, PresharedKey};

use crate::lab::{CLIENT, Lab, SERVER, client_config, key, millis, peer, secs, server_config};

#[test]
fn a_wrong_server_key_is_silence_with_our_public_key_as_evidence() {
    let mut config = client_config();
    config.peers = vec![peer(9, "10.0.0.0/24", Some(SERVER))];
    let mut lab = Lab::with(0, config, server_config());
    lab.world.run_for(secs(100));
    assert_eq!(lab.said(lab.client), ["wg.silent"], "said once");
    let (at, error) = lab.failure(lab.client, "wg.silent");
    assert_eq!(at, secs(15));
    let evidence = error.evidence();
    assert!(
        evidence[0].starts_with("3 handshake initiations sent to 203.0.113.1:51820 in 15 s"),
        "{evidence:?}"
    );
    assert!(evidence.contains(&format!("our public key is {}", key(1).public_key())), "{evidence:?}");
    // It goes on trying, also after the 90 s after which boringtun gives up.
    let tries = lab.messages(lab.client, INITIATION);
    assert!(tries.last().is_some_and(|last| *last > secs(94)), "{tries:?}");
}

#[test]
fn a_wrong_key_of_ours_is_silence_too() {
    let mut config = client_config();
    config.private_key = key(9);
    let mut lab = Lab::with(0, config, server_config());
    lab.world.run_for(secs(20));
    assert_eq!(lab.said(lab.client), ["wg.silent"]);
}

#[test]
fn silence_on_a_clock_that_is_certainly_wrong_is_blamed_on_the_clock() {
    let mut config = client_config();
    config.private_key = key(9);
    config.clock =
        Some(ClockCheck { now: SystemTime::UNIX_EPOCH, not_before: SystemTime::UNIX_EPOCH + secs(1) });
    let mut lab = Lab::with(0, config, server_config());
    lab.world.run_for(secs(20));
    assert_eq!(lab.said(lab.client), ["wg.clock"]);
}

#[test]
fn different_preshared_keys_are_named_after_one_round_trip() {
    for (ours, theirs) in [(Some(1), None), (None, Some(1)), (Some(1), Some(2))] {
        let (mut client, mut server) = (client_config(), server_config());
        client.peers[0].preshared_key = ours.map(|n| PresharedKey::from_bytes([n; 32]));
        server.peers[0].preshared_key = theirs.map(|n| PresharedKey::from_bytes([n; 32]));
        let mut lab = Lab::with(0, client, server);
        lab.world.run_for(secs(30));
        assert_eq!(lab.said(lab.client), ["wg.psk.mismatch"]);
        assert_eq!(lab.failure(lab.client, "wg.psk.mismatch").0, millis(40));
    }
    let (mut client, mut server) = (client_config(), server_config());
    client.peers[0].preshared_key = Some(PresharedKey::from_bytes([1; 32]));
    server.peers[0].preshared_key = Some(PresharedKey::from_bytes([1; 32]));
    assert!(Lab::with(0, client, server).up_within(secs(1)), "equal keys agree");
}

#[test]
fn a_closed_port_is_reported_after_one_round_trip_and_its_opening_noticed() {
    let mut config = client_config();
    config.peers[0].endpoint.as_mut().unwrap().port = 4444;
    let mut lab = Lab::with(0, config, server_config());
    lab.world.run_for(secs(30));
    assert_eq!(lab.said(lab.client), ["wg.udp.refused"], "said once, however often it is tried");
    let (at, error) = lab.failure(lab.client, "wg.udp.refused");
    assert!(at <= millis(40), "after {at:?}");
    assert_eq!(error.evidence(), ["ICMP port unreachable from 203.0.113.1:4444"]);

    let mut lab = Lab::new(1);
    lab.world.stop(lab.server);
    lab.world.run_for(secs(12));
    assert_eq!(lab.said(lab.client), ["wg.udp.refused"]);
    lab.restart_server();
    assert!(lab.up_within(secs(6)));
}

#[test]
fn a_name_without_address_is_reported_and_asked_again() {
    let mut config = client_config();
    config.peers = vec![peer(2, "10.0.0.0/24", Some("vpn.example"))];
    let mut lab = Lab::with(0, config, server_config());
    lab.world.run_for(secs(60));
    assert_eq!(lab.said(lab.client), ["wg.endpoint.dns"]);
    assert!(lab.messages(lab.client, INITIATION).is_empty());
    lab.world.set_name("vpn.example", &[SERVER]);
    assert!(lab.up_within(secs(6)));
}

#[test]
fn an_endpoint_of_a_family_that_the_machine_has_not_is_named() {
    let mut config = client_config();
    config.peers = vec![peer(2, "10.0.0.0/24", Some("vpn.example"))];
    let mut lab = Lab::with(0, config.clone(), server_config());
    lab.world.set_name("vpn.example", &["2001:db8::1"]);
    lab.world.run_for(secs(60));
    assert_eq!(lab.said(lab.client), ["wg.endpoint.family"]);
    // With an address of the other family behind it, nobody notices.
    let mut lab = Lab::with(0, config, server_config());
    lab.world.set_name("vpn.example", &["2001:db8::1", SERVER]);
    assert!(lab.up_within(millis(100)));
    assert_eq!(lab.said(lab.client), ["up"]);
}

#[test]
fn a_broken_first_address_costs_a_second() {
    let mut config = client_config();
    config.peers = vec![peer(2, "10.0.0.0/24", Some("vpn.example"))];
    let mut lab = Lab::with(0, config, server_config());
    lab.world.move_node(lab.client, &[CLIENT, "2001:db8::c"], false);
    // Nobody has this address, and nobody says so.
    lab.world.set_name("vpn.example", &["2001:db8::dead", SERVER]);
    assert!(lab.up_within(secs(2)), "up after {:?}", lab.world.elapsed());
}

#[test]
fn a_peer_that_falls_silent_is_reported_and_so_is_its_return() {
    let mut lab = Lab::new(0);
    assert!(lab.up_within(secs(1)));
    lab.chatter(secs(5), millis(100), 100);
    lab.world.set_links(lab.client, &Link { cut: true, ..Link::default() });
    lab.chatter(secs(120), millis(500), 100);
    assert_eq!(lab.said(lab.client), ["up", "wg.rekey.lost"]);
    let (at, _) = lab.failure(lab.client, "wg.rekey.lost");
    // 15 s without an answer to data, then 15 s without an answer to initiations.
    assert!((secs(30)..secs(45)).contains(&at), "after {at:?}");
    lab.world.set_links(lab.client, &Link::default());
    lab.chatter(secs(10), millis(500), 100);
    assert_eq!(lab.said(lab.client), ["up", "wg.rekey.lost", "up"]);
    assert!(lab.reaches(true, secs(1)) && lab.reaches(false, secs(1)));
}

#[test]
fn one_of_two_peers_that_is_silent_does_not_take_the_tunnel_down() {
    let mut config = client_config();
    config.peers.push(peer(9, "10.9.0.0/24", Some("198.51.100.77")));
    let mut lab = Lab::with(0, config, server_config());
    lab.world.run_for(secs(60));
    assert_eq!(lab.said(lab.client), ["up"]);
    let now = lab.world.now();
    let ages: Vec<_> =
        lab.world.tunnel(lab.client).peers(now).iter().map(|peer| peer.handshake_age.is_some()).collect();
    assert_eq!(ages.iter().filter(|up| **up).count(), 1, "the status tells them apart");
}

#[test]
fn a_shut_interface_says_nothing_more() {
    let mut lab = Lab::new(0);
    assert!(lab.up_within(secs(1)));
    lab.world.command(lab.client, adit_wireguard::Command::Shutdown);
    let before = lab.messages(lab.client, INITIATION).len();
    lab.world.run_for(secs(600));
    assert_eq!(lab.messages(lab.client, INITIATION).len(), before);
    assert!(lab.world.events(lab.client).iter().any(|(_, event)| matches!(event, Event::CloseLink(_))));
}
