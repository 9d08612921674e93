//! Peers that move, restart, or change their names' addresses.

use adit_tunnel::{Dropped, Tunnel};
use adit_wireguard::Command;

use crate::lab::{INNER_CLIENT, Lab, SERVER, client_config, millis, peer, secs, server_config};

const NEW_CLIENT: &str = "198.51.100.10";
const NEW_SERVER: &str = "198.51.100.20";

#[test]
fn a_client_that_moves_is_followed_with_its_next_packet() {
    let mut lab = Lab::new(0);
    assert!(lab.up_within(secs(1)));
    lab.chatter(secs(2), millis(100), 100);
    lab.world.move_node(lab.client, &[NEW_CLIENT], false);
    assert!(lab.reaches(true, millis(100)));
    assert!(lab.reaches(false, millis(100)), "the answer goes to the new address");
}

#[test]
fn a_client_that_is_told_of_its_move_tells_the_server_at_once() {
    let mut lab = Lab::new(1);
    assert!(lab.up_within(secs(1)));
    lab.chatter(secs(2), millis(100), 100);
    lab.world.move_node(lab.client, &[NEW_CLIENT], true);
    lab.world.run_for(millis(100));
    // The client has sent no packet since; the handshake has shown the way.
    assert!(lab.reaches(false, millis(100)));
    assert_eq!(lab.said(lab.client), ["up"]);
}

#[test]
fn a_server_that_moves_and_speaks_is_followed() {
    let mut lab = Lab::new(2);
    assert!(lab.up_within(secs(1)));
    lab.chatter(secs(2), millis(100), 100);
    lab.world.move_node(lab.server, &[NEW_SERVER], false);
    assert!(lab.reaches(false, millis(100)));
    assert!(lab.reaches(true, millis(100)), "the client has learnt the server's new address");
}

#[test]
fn both_sides_move_one_after_the_other() {
    let mut lab = Lab::new(3);
    assert!(lab.up_within(secs(1)));
    for round in 0..5 {
        lab.world.move_node(lab.client, &[&format!("198.51.100.{}", 30 + round)], false);
        assert!(lab.reaches(true, secs(1)) && lab.reaches(false, secs(1)), "client, round {round}");
        lab.world.move_node(lab.server, &[&format!("198.51.100.{}", 60 + round)], false);
        assert!(lab.reaches(false, secs(1)) && lab.reaches(true, secs(1)), "server, round {round}");
    }
}

#[test]
fn a_server_that_moves_silently_is_found_by_its_name() {
    let mut config = client_config();
    config.peers = vec![peer(2, "10.0.0.0/24", Some("vpn.example"))];
    let mut lab = Lab::with(4, config, server_config());
    lab.world.set_name("vpn.example", &[SERVER]);
    assert!(lab.up_within(secs(1)));
    lab.chatter(secs(2), millis(100), 100);
    lab.world.move_node(lab.server, &[NEW_SERVER], false);
    lab.world.set_name("vpn.example", &[NEW_SERVER]);
    // Only the client speaks. 15 s until data without an answer makes a handshake, 15 s until that is given up.
    let after = lab.reached_after(true, secs(60));
    assert!(after.is_some_and(|after| after < secs(45)), "{after:?}");
    let now = lab.world.now();
    let at = lab.world.tunnel(lab.client).peers(now)[0].endpoint.unwrap();
    assert_eq!(at.ip().to_string(), NEW_SERVER);
}

#[test]
fn a_server_that_restarts_is_found_again_without_a_word_to_the_owner() {
    let mut lab = Lab::new(5);
    assert!(lab.up_within(secs(1)));
    lab.chatter(secs(5), millis(100), 100);
    lab.restart_server();
    // KEEPALIVE_TIMEOUT + REKEY_TIMEOUT is how long WireGuard waits for a sign of life.
    let after = lab.reached_after(true, secs(60));
    assert!(after.is_some_and(|after| after < secs(17)), "{after:?}");
    assert!(lab.world.dropped(lab.server, Dropped::Unexpected) > 0, "the old session's packets were refused");
    assert_eq!(lab.said(lab.client), ["up"]);
    assert!(lab.reaches(false, secs(1)));
}

#[test]
fn a_server_that_is_down_for_a_while_is_found_soon_after_its_return() {
    let mut lab = Lab::new(6);
    assert!(lab.up_within(secs(1)));
    lab.chatter(secs(5), millis(100), 100);
    lab.world.stop(lab.server);
    for _ in 0..30 {
        let _ = lab.say(true, 100);
        lab.world.run_for(secs(1));
    }
    lab.restart_server();
    let after = lab.reached_after(true, secs(60));
    assert!(after.is_some_and(|after| after < secs(6)), "the handshake is repeated every 5 s: {after:?}");
    assert_eq!(lab.said(lab.client).last(), Some(&"up"));
}

#[test]
fn new_peers_and_endpoints_come_by_command_and_sessions_stay() {
    let mut lab = Lab::new(7);
    assert!(lab.up_within(secs(1)));
    lab.chatter(secs(1), millis(100), 100);
    let initiations = lab.messages(lab.client, 1).len();
    let mut peers = client_config().peers;
    peers[0].persistent_keepalive = Some(5);
    lab.world.command(lab.client, Command::SetPeers(peers));
    assert!(lab.reaches(true, millis(100)));
    assert_eq!(lab.messages(lab.client, 1).len(), initiations, "the session was kept");

    lab.world.move_node(lab.server, &[NEW_SERVER], false);
    let endpoint = adit_tunnel::HostPort { host: NEW_SERVER.to_owned(), port: crate::lab::PORT };
    let peer = crate::lab::key(2).public_key();
    lab.world.command(lab.client, Command::SetEndpoint { peer, endpoint });
    assert!(
        lab.reaches(true, secs(1)) && lab.reaches(false, secs(1)),
        "{INNER_CLIENT} moved with its server"
    );

    lab.world.command(lab.client, Command::SetPeers(Vec::new()));
    assert_eq!(lab.say(true, 10), Err(Dropped::NoRoute));
}
