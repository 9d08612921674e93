//! Connections that last: renegotiations, restarts, moves, silence, sleep.

use adit_openvpn::Command;
use adit_sim::net::Link;
use adit_sim::openvpn::Act;

use super::lab::{KINDS, Kind, Lab, SERVER, SideCommand, configs, each_seed, millis, secs};

#[test]
fn twenty_renegotiations_from_either_side_lose_no_packet() {
    for kind in KINDS {
        for client_begins in [true, false] {
            let (mut client, mut server) = configs(kind);
            match client_begins {
                true => client.reneg_interval = secs(10),
                false => server.reneg_interval = Some(secs(10)),
            }
            (client.tran_window, client.hand_window) = (secs(20), secs(8));
            let mut lab = Lab::with(0, (client, server));
            assert!(lab.up_within(secs(2)), "{kind:?}: {:?}", lab.said());
            lab.passes_after(secs(1));
            lab.received();
            let sent = lab.chatter(secs(230), millis(100), 500);
            let what = format!("{kind:?}, client begins: {client_begins}");
            assert!(lab.negotiations() > 20, "{what}: {} negotiations", lab.negotiations());
            assert_eq!(lab.received(), [sent, sent], "{what}");
            assert_eq!(lab.said(), ["up"], "{what}");
        }
    }
}

#[test]
fn renegotiations_that_cross_become_one() {
    for kind in KINDS {
        for apart in [0, 5, 15, 25, 60] {
            let (mut client, server) = configs(kind);
            client.reneg_interval = secs(30);
            let mut lab = Lab::with(apart, (client, server));
            assert!(lab.up_within(secs(2)), "{kind:?}: {:?}", lab.said());
            lab.passes_after(secs(1));
            // The server begins just before or just after the client does.
            let begun = lab.negotiations();
            let due = secs(30) - (lab.world.elapsed() - millis(120));
            lab.world.run_for(due - millis(apart));
            lab.act(Act::Renegotiate);
            lab.received();
            let sent = lab.chatter(secs(20), millis(50), 300);
            assert_eq!(lab.received(), [sent, sent], "{kind:?}, {apart} ms apart");
            let more = lab.negotiations() - begun;
            assert!((1..=2).contains(&more), "{kind:?}, {apart} ms apart: {more} renegotiations");
            assert_eq!(lab.said(), ["up"], "{kind:?}, {apart} ms apart");
        }
    }
}

#[test]
fn a_limit_of_bytes_renews_keys_once_each_time_even_if_the_server_says_nothing() {
    let (mut client, server) = configs(Kind::Crypt);
    client.reneg_bytes = Some(200_000);
    let mut lab = Lab::with(0, (client, server));
    assert!(lab.up_within(secs(2)), "{:?}", lab.said());
    lab.passes_after(secs(1));
    lab.received();
    for _ in 0..2000 {
        lab.say(true, 1000).unwrap();
        // Slower than the switch to a new key, which waits for five seconds where the server says nothing.
        lab.world.run_for(millis(20));
    }
    lab.world.run_for(secs(1));
    assert_eq!(lab.received()[0], 2000, "the server knows every key that is used");
    let renewals = lab.negotiations() - 1;
    assert!((5..=11).contains(&renewals), "{renewals} for two megabytes");
}

#[test]
fn renegotiations_under_loss_cost_no_more_than_the_link_does() {
    each_seed("openvpn::lasting::renegotiations_under_loss_cost_no_more_than_the_link_does", 10, |seed| {
        let (mut client, mut server) = configs(KINDS[seed as usize % KINDS.len()]);
        client.reneg_interval = secs(15);
        server.reneg_interval = Some(secs(17));
        let mut lab = Lab::with(seed, (client, server));
        assert!(lab.up_within(secs(2)), "{:?}", lab.said());
        lab.passes_after(secs(1));
        lab.received();
        let bad = Link { loss: 0.05, reorder: 0.1, jitter: millis(5), ..Link::default() };
        lab.world.set_links(lab.client, &bad);
        let sent = lab.chatter(secs(200), millis(100), 500);
        for received in lab.received() {
            assert!(received as f64 > sent as f64 * 0.92, "{received} of {sent} arrived at 5 % loss");
        }
        assert!(lab.negotiations() >= 10, "{}", lab.negotiations());
        assert_eq!(lab.said(), ["up"], "a renegotiation that loses packets is no failure");
    });
}

#[test]
fn a_server_that_restarts_is_found_again_within_five_seconds_under_traffic() {
    for kind in KINDS {
        let mut lab = Lab::new(3, kind);
        assert!(lab.up_within(secs(2)), "{kind:?}: {:?}", lab.said());
        lab.chatter(secs(10), millis(100), 200);
        lab.world.stop(lab.server);
        lab.chatter(secs(3), millis(100), 200);
        lab.restart_server();
        let took = lab.passes_after(secs(30));
        assert!(took.is_some_and(|took| took <= secs(5)), "{kind:?}: {took:?}, {:?}", lab.said());
    }
}

#[test]
fn a_server_that_is_silent_for_half_a_minute_costs_half_a_minute() {
    let mut lab = Lab::new(4, Kind::Crypt);
    assert!(lab.up_within(secs(2)), "{:?}", lab.said());
    lab.chatter(secs(10), millis(100), 200);
    lab.world.up(lab.client).cut = true;
    lab.world.down(lab.client).cut = true;
    lab.chatter(secs(30), millis(100), 200);
    lab.world.set_links(lab.client, &Link::default());
    let took = lab.passes_after(secs(30));
    assert!(took.is_some_and(|took| took <= secs(5)), "{took:?}, {:?}", lab.said());
}

#[test]
fn a_client_that_moves_is_followed() {
    let mut lab = Lab::new(5, Kind::Crypt);
    assert!(lab.up_within(secs(2)), "{:?}", lab.said());
    lab.chatter(secs(2), millis(100), 200);
    for (round, tell) in [(10, false), (11, true), (12, false)] {
        lab.world.move_node(lab.client, &[&format!("198.51.100.{round}")], tell);
        let took = lab.passes_after(secs(10));
        assert!(took.is_some_and(|took| took <= secs(3)), "{round}: {took:?}, {:?}", lab.said());
    }
}

#[test]
fn a_suspended_machine_finds_its_server_again() {
    for asleep in [30, 300, 3600, 100_000] {
        let mut lab = Lab::new(6, Kind::CryptV2 { stateless: true });
        assert!(lab.up_within(secs(2)), "{:?}", lab.said());
        lab.chatter(secs(5), millis(100), 200);
        lab.world.jump(secs(asleep));
        let took = lab.passes_after(secs(60));
        assert!(took.is_some_and(|took| took <= secs(10)), "{asleep} s: {took:?}, {:?}", lab.said());
    }
}

#[test]
fn an_idle_connection_stays_up_by_pings_alone() {
    let mut lab = Lab::new(7, Kind::Crypt);
    assert!(lab.up_within(secs(2)), "{:?}", lab.said());
    lab.world.run_for(secs(3000));
    assert_eq!(lab.said(), ["up"]);
    assert!(lab.passes_after(secs(1)).is_some());
    let packets = lab.world.sent.len();
    assert!(packets < 1500, "{packets} packets in 3000 s");
}

#[test]
fn a_server_that_is_gone_for_good_is_said_to_be_silent_and_sought_without_a_storm() {
    let mut lab = Lab::new(8, Kind::Crypt);
    assert!(lab.up_within(secs(2)), "{:?}", lab.said());
    lab.chatter(secs(2), millis(100), 200);
    lab.world.up(lab.client).cut = true;
    let before = lab.world.sent.len();
    lab.world.run_for(secs(600));
    assert!(lab.said().contains(&"ovpn.silence"), "{:?}", lab.said());
    let tries = lab.world.sent.iter().skip(before).filter(|sent| sent.by == lab.client).count();
    assert!((20..1500).contains(&tries), "{tries} packets in 600 s");
}

#[test]
fn leaving_is_told_to_the_server() {
    for kind in KINDS {
        let mut lab = Lab::new(9, kind);
        assert!(lab.up_within(secs(2)), "{kind:?}: {:?}", lab.said());
        lab.chatter(secs(1), millis(100), 200);
        lab.world.command(lab.client, SideCommand::Client(Command::Exit));
        lab.world.run_for(secs(2));
        assert_eq!(lab.texts().back().map(String::as_str), Some("EXIT"), "{kind:?}");
        assert_eq!(lab.server().clients(), 0, "{kind:?}");
    }
}

#[test]
fn leaving_amid_a_renegotiation_is_told_too() {
    for kind in KINDS {
        // Before the client knows of it, and at every step of the handshake.
        for after in [0, 5, 25, 45, 65] {
            let mut lab = Lab::new(9, kind);
            assert!(lab.up_within(secs(2)), "{kind:?}: {:?}", lab.said());
            lab.chatter(secs(1), millis(100), 200);
            lab.act(Act::Renegotiate);
            lab.world.run_for(millis(after));
            lab.world.command(lab.client, SideCommand::Client(Command::Exit));
            lab.world.run_for(secs(2));
            let texts = lab.texts();
            assert_eq!(lab.server().clients(), 0, "{kind:?}, after {after} ms: {texts:?}");
        }
    }
}

#[test]
fn a_restart_of_the_connection_by_the_server_is_followed() {
    for words in ["RESTART", "RESTART,[P]keep", "RESTART,[N]elsewhere"] {
        let mut lab = Lab::new(10, Kind::Crypt);
        assert!(lab.up_within(secs(2)), "{:?}", lab.said());
        lab.chatter(secs(1), millis(100), 200);
        lab.act(Act::Say(words.to_owned()));
        lab.world.run_for(millis(100));
        let took = lab.passes_after(secs(30));
        assert!(took.is_some_and(|took| took <= secs(5)), "{words}: {took:?}, {:?}", lab.said());
    }
    let mut lab = Lab::new(10, Kind::Crypt);
    assert!(lab.up_within(secs(2)), "{:?}", lab.said());
    lab.act(Act::Say("HALT,maintenance".to_owned()));
    lab.world.run_for(secs(60));
    assert_eq!(lab.said(), ["up", "ovpn.halt"]);
}

#[test]
fn a_second_server_is_called_when_the_first_is_silent() {
    let (mut client, server) = configs(Kind::Crypt);
    let mut dead = client.remotes[0].clone();
    dead.host.host = "203.0.113.99".to_owned();
    dead.connect_timeout = secs(5);
    client.remotes.insert(0, dead);
    let mut lab = Lab::with(11, (client, server));
    assert!(lab.up_within(secs(10)), "{:?}", lab.said());
    assert!(lab.world.sent.iter().any(|sent| sent.to.ip().to_string() == SERVER));
}

#[test]
fn timers_that_the_server_turns_off_end_nothing() {
    let (mut client, mut server) = configs(Kind::Crypt);
    (client.session_timeout, client.inactive, client.ping_exit) =
        (Some(secs(5)), Some((secs(5), 1)), Some(secs(5)));
    let off = ["ping 0", "ping-restart 0", "ping-exit 0", "inactive 0", "session-timeout 0"];
    server.push = off.map(str::to_owned).to_vec();
    server.ping = secs(3600);
    let mut lab = Lab::with(9, (client, server));
    assert!(lab.up_within(secs(2)), "{:?}", lab.said());
    lab.world.run_for(secs(600));
    assert_eq!(lab.said(), ["up"]);
}

#[test]
fn an_update_of_the_pings_is_followed_at_once() {
    let mut lab = Lab::new(10, Kind::Crypt);
    assert!(lab.up_within(secs(2)), "{:?}", lab.said());
    lab.world.run_for(secs(10));
    lab.act(Act::Say("PUSH_UPDATE,keepalive 1 8".to_owned()));
    lab.world.run_for(secs(1));
    let before = lab.world.sent.len();
    lab.world.run_for(secs(60));
    let pings = lab.world.sent.iter().skip(before).filter(|sent| sent.by == lab.client).count();
    assert!((50..70).contains(&pings), "{pings} packets in 60 s");
    assert_eq!(lab.said(), ["up"]);
    lab.world.down(lab.client).cut = true;
    lab.world.run_for(secs(10));
    assert!(lab.said().contains(&"ovpn.silence"), "{:?}", lab.said());
}

#[test]
fn epochs_that_change_under_traffic_lose_no_packet() {
    for seed in 0..4 {
        let (client, mut server) = configs(Kind::Crypt);
        (server.export_keys, server.epoch) = (true, true);
        // Packets of the epoch before arrive behind the first of the next one.
        let link = Link { jitter: millis(15), ..Link::default() };
        let mut lab = Lab::on(seed, (client, server), &link, &link);
        assert!(lab.up_within(secs(3)), "{:?}", lab.said());
        lab.passes_after(secs(1));
        lab.received();
        let mut sent = 0;
        for _ in 0..12 {
            sent += lab.chatter(secs(1), millis(4), 300);
            lab.act(Act::Epoch);
        }
        sent += lab.chatter(secs(1), millis(4), 300);
        assert_eq!(lab.received(), [sent, sent], "seed {seed}");
        assert_eq!(lab.said(), ["up"]);
    }
}
