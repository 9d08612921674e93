//! Handshakes under loss, renewal of keys under load, replay, the clock.

use adit_sim::net::Link;
use adit_tunnel::Dropped;
use adit_wireguard::message_type::INITIATION;

use crate::lab::{Lab, client_config, each_seed, millis, secs, server_config};

#[test]
fn a_handshake_takes_one_round_trip() {
    let mut lab = Lab::new(0);
    assert!(lab.up_within(secs(1)));
    // Two links of 10 ms each way.
    assert_eq!(lab.world.elapsed(), millis(40));
    assert_eq!(lab.said(lab.client), ["up"]);
}

#[test]
fn a_handshake_succeeds_in_the_end_whatever_is_lost() {
    each_seed("handshakes::a_handshake_succeeds_in_the_end_whatever_is_lost", 30, |seed| {
        let mut lab = Lab::new(seed);
        // Undone by hand: the first initiation has been sent already when the node is added.
        lab.world.set_links(lab.client, &Link { loss: 0.4, ..Link::default() });
        // A round trip succeeds with 0.36; 40 tries in a row do not fail in this universe.
        assert!(lab.up_within(secs(200)), "no session after {:?}", lab.world.elapsed());
        let tries = lab.messages(lab.client, INITIATION);
        for pair in tries.windows(2) {
            assert!(pair[1] - pair[0] >= secs(5) - millis(1), "initiations {pair:?} are closer than 5 s");
        }
        assert!(lab.reached_after(true, secs(60)).is_some());
    });
}

#[test]
fn keys_are_renewed_every_two_minutes_under_load_and_nothing_is_lost() {
    let mut lab = Lab::new(1);
    assert!(lab.up_within(secs(1)));
    // The server may not send before it has heard from the client.
    lab.world.run_for(millis(100));
    let sent = lab.chatter(secs(600), millis(50), 500);
    let (at_server, at_client) = (lab.received(lab.server), lab.received(lab.client));
    assert_eq!((at_server, at_client), (sent, sent));
    let tries = [lab.messages(lab.client, INITIATION), lab.messages(lab.server, INITIATION)].concat();
    assert!((5..=6).contains(&tries.len()), "handshakes at {tries:?}");
    assert_eq!(lab.said(lab.client), ["up"]);
}

#[test]
fn keys_are_renewed_under_loss_and_packets_fare_as_the_link_does() {
    each_seed("handshakes::keys_are_renewed_under_loss_and_packets_fare_as_the_link_does", 5, |seed| {
        let mut lab = Lab::new(seed);
        assert!(lab.up_within(secs(1)));
        let bad = Link { loss: 0.03, jitter: millis(8), reorder: 0.05, ..Link::default() };
        lab.world.set_links(lab.client, &bad);
        let sent = lab.chatter(secs(600), millis(100), 500);
        for node in [lab.server, lab.client] {
            let received = lab.received(node);
            assert!(received as f64 > sent as f64 * 0.95, "{received} of {sent} arrived at 3 % loss");
        }
        assert_eq!(lab.said(lab.client), ["up"], "a renewal that loses a message is no failure");
    });
}

#[test]
fn a_network_that_repeats_everything_delivers_every_packet_once() {
    each_seed("handshakes::a_network_that_repeats_everything_delivers_every_packet_once", 5, |seed| {
        let mut lab = Lab::new(seed);
        lab.world.set_links(lab.client, &Link { duplicate: 1.0, reorder: 0.1, ..Link::default() });
        assert!(lab.up_within(secs(1)));
        let sent = lab.chatter(secs(150), millis(50), 200);
        assert_eq!((lab.received(lab.server), lab.received(lab.client)), (sent, sent));
        // Each datagram crosses two links, one of which repeats it.
        assert!(lab.world.dropped(lab.server, Dropped::Replayed) >= sent);
    });
}

#[test]
fn a_suspended_machine_finds_its_peer_again() {
    for (asleep, traffic) in [(100, true), (300, true), (1000, true), (1000, false), (100_000, false)] {
        let mut lab = Lab::new(2);
        assert!(lab.up_within(secs(1)));
        if traffic {
            lab.chatter(secs(5), millis(100), 100);
        }
        // Both sleep: the clock jumps for whoever lives by it.
        lab.world.jump(secs(asleep));
        lab.world.run_for(millis(1));
        assert!(lab.reaches(true, secs(6)), "asleep for {asleep} s");
        assert!(lab.reaches(false, secs(6)), "asleep for {asleep} s");
    }
}

#[test]
fn an_idle_session_costs_nothing_and_the_next_packet_revives_it() {
    let mut lab = Lab::new(3);
    assert!(lab.up_within(secs(1)));
    lab.chatter(secs(2), millis(100), 100);
    lab.world.run_for(secs(30));
    let before = lab.world.sent.len();
    lab.world.run_for(secs(300));
    // boringtun renews a session that carried data once more when it ends; that one carries none.
    assert!(lab.world.sent.len() <= before + 3);
    let before = lab.world.sent.len();
    lab.world.run_for(secs(3600));
    assert_eq!(lab.world.sent.len(), before, "an hour without traffic sends nothing");
    assert!(lab.reaches(true, secs(1)));
    assert_eq!(lab.said(lab.client), ["up"]);
}

#[test]
fn keepalives_go_out_at_their_interval_and_no_more() {
    let mut config = client_config();
    config.peers[0].persistent_keepalive = Some(25);
    let mut lab = Lab::with(4, config, server_config());
    assert!(lab.up_within(secs(1)));
    let before = lab.world.sent.len();
    lab.world.run_for(secs(1000));
    let client = lab.world.sent[before..].iter().filter(|sent| sent.by == lab.client).count();
    // 40 keepalives, and a handshake where the session ended: REJECT_AFTER_TIME after each renewal.
    assert!((38..60).contains(&client), "{client} datagrams in 1000 s");
    assert!(lab.reaches(false, secs(1)), "the server reaches the client at any time");
}
