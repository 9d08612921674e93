//! Connecting: every kind of protection and of keys, under loss, with late and doubled answers.

use adit_openvpn::{Cipher, Compression, TlsVersion};
use adit_sim::net::Link;
use adit_sim::openvpn::{Act, Script};
use adit_tunnel::Dropped;

use super::lab::{KINDS, Kind, Lab, configs, each_seed, millis, secs};

/// Packets pass both ways, and none is lost.
#[track_caller]
fn all_pass(lab: &mut Lab, what: &str) {
    assert!(lab.passes_after(secs(5)).is_some(), "{what}: {:?}", lab.said());
    lab.received();
    let sent = lab.chatter(secs(2), millis(50), 900);
    assert_eq!(lab.received(), [sent, sent], "{what}");
}

#[test]
fn every_kind_of_protection_and_key_connects_and_passes_every_packet() {
    for kind in KINDS {
        for (max, export, cipher, epoch, peer_id) in [
            (TlsVersion::V13, true, Cipher::Aes256Gcm, false, true),
            (TlsVersion::V12, true, Cipher::ChaCha20Poly1305, false, true),
            (TlsVersion::V12, false, Cipher::Aes256Cbc, false, false),
            (TlsVersion::V13, false, Cipher::Aes256Cbc, false, true),
            (TlsVersion::V13, true, Cipher::Aes128Gcm, true, true),
        ] {
            let (client, mut server) = configs(kind);
            (server.max_tls, server.export_keys, server.epoch) = (max, export, epoch);
            (server.ciphers, server.peer_id) = (vec![cipher], peer_id);
            let mut lab = Lab::with(0, (client, server));
            let what = format!("{kind:?} {max:?} {cipher:?} export {export} epoch {epoch}");
            assert!(lab.up_within(secs(2)), "{what}: {:?}", lab.said());
            all_pass(&mut lab, &what);
        }
    }
}

#[test]
fn framings_that_are_pushed_are_spoken() {
    for (option, compression) in [
        ("comp-lzo no", Compression::Lzo),
        ("compress stub", Compression::Stub),
        ("compress stub-v2", Compression::StubV2),
    ] {
        let (client, mut server) = configs(Kind::Crypt);
        server.push.push(option.to_owned());
        server.compression = compression;
        let mut lab = Lab::with(0, (client, server));
        assert!(lab.up_within(secs(2)), "{option}: {:?}", lab.said());
        all_pass(&mut lab, option);
    }
}

#[test]
fn fragments_pass_both_ways() {
    let (mut client, mut server) = configs(Kind::Crypt);
    server.fragment = Some(600);
    client.remotes[0].fragment = Some(600);
    let mut lab = Lab::with(0, (client, server));
    assert!(lab.up_within(secs(2)), "{:?}", lab.said());
    all_pass(&mut lab, "fragment 600");
}

#[test]
fn a_connection_takes_few_round_trips() {
    let mut lab = Lab::new(0, Kind::Crypt);
    assert!(lab.up_within(secs(1)), "{:?}", lab.said());
    // 40 ms a round trip: resets, TLS 1.3, key method 2 with the configuration behind it.
    assert!(lab.world.elapsed() <= millis(160), "{:?}", lab.world.elapsed());
}

#[test]
fn whatever_is_lost_of_the_first_packets_it_connects() {
    // Each of the first six packets one way alone, and pairs of patterns by lot: the reliability layer itself is
    // tested with all of them.
    let lost = |up: u64, down: u64, kind: Kind| {
        let link = |lose| Link { lose, ..Link::default() };
        let mut lab = Lab::on(up ^ down, configs(kind), &link(up), &link(down));
        assert!(lab.up_within(secs(60)), "{kind:?}, lost {up:06b} up and {down:06b} down: {:?}", lab.said());
        assert!(lab.passes_after(secs(5)).is_some(), "{kind:?}, lost {up:06b} up and {down:06b} down");
    };
    for pattern in 1..64 {
        lost(pattern, 0, Kind::Crypt);
        lost(0, pattern, Kind::None);
    }
    each_seed("openvpn::connecting::whatever_is_lost_of_the_first_packets_it_connects", 60, |seed| {
        let mut lots = adit_sim::net::Rng::new(seed);
        let kind = KINDS[lots.below(KINDS.len() as u64) as usize];
        lost(lots.below(64), lots.below(64), kind);
    });
}

#[test]
fn bad_links_only_slow_it_down() {
    each_seed("openvpn::connecting::bad_links_only_slow_it_down", 20, |seed| {
        let link = Link { loss: 0.1, reorder: 0.25, duplicate: 0.05, jitter: millis(5), ..Link::default() };
        let kind = KINDS[seed as usize % KINDS.len()];
        let mut lab = Lab::on(seed, configs(kind), &link, &link);
        assert!(lab.up_within(secs(10)), "{kind:?}: {:?}", lab.said());
        let sent = lab.chatter(secs(20), millis(50), 500);
        for received in lab.received() {
            assert!(received as f64 > sent as f64 * 0.8, "{received} of {sent} arrived");
        }
    });
}

#[test]
fn a_late_configuration_is_waited_for_and_a_second_one_changes_nothing() {
    let (client, mut server) = configs(Kind::Crypt);
    server.scripts =
        vec![Script::after(secs(20), Act::Push).then(millis(20_001), Act::Push).then(secs(25), Act::Push)];
    let mut lab = Lab::with(0, (client, server));
    assert!(!lab.up_within(secs(19)));
    assert!(lab.texts().iter().any(|text| text == "PUSH_REQUEST"), "{:?}", lab.texts());
    assert!(lab.up_within(secs(3)), "{:?}", lab.said());
    let before = lab.network();
    all_pass(&mut lab, "after two configurations");
    lab.world.run_for(secs(10));
    all_pass(&mut lab, "after three");
    assert_eq!((lab.said(), lab.network()), (vec!["ovpn.push.timeout", "up"], before));
}

#[test]
fn a_configuration_in_pieces_is_taken_as_one() {
    let (client, mut server) = configs(Kind::Crypt);
    let say = |text: &str| Act::Say(text.to_owned());
    server.scripts = vec![
        Script::after(secs(0), Act::Open)
            .then(secs(1), say("PUSH_REPLY,route 10.1.0.0 255.255.0.0,push-continuation 2"))
            .then(secs(2), say("PUSH_REPLY,route 10.2.0.0 255.255.0.0,topology subnet,push-continuation 2"))
            .then(
                secs(3),
                say("PUSH_REPLY,ifconfig 10.8.0.2 255.255.255.0,peer-id 0,cipher AES-256-GCM,\
                     protocol-flags cc-exit tls-ekm dyn-tls-crypt,push-continuation 1"),
            ),
    ];
    let mut lab = Lab::with(0, (client, server));
    assert!(!lab.up_within(millis(2900)), "not before the last piece");
    assert!(lab.up_within(secs(1)), "{:?}", lab.said());
    let routes = lab.network().routes;
    for route in ["10.1.0.0/16", "10.2.0.0/16"] {
        assert!(routes.contains(&route.parse().unwrap()), "{routes:?}");
    }
    all_pass(&mut lab, "after the last piece");
}

#[test]
fn a_network_that_repeats_everything_delivers_every_packet_once() {
    each_seed(
        "openvpn::connecting::a_network_that_repeats_everything_delivers_every_packet_once",
        5,
        |seed| {
            let link = Link { duplicate: 1.0, ..Link::default() };
            let mut lab = Lab::on(seed, configs(Kind::Auth), &link, &link);
            assert!(lab.up_within(secs(5)), "{:?}", lab.said());
            let sent = lab.chatter(secs(20), millis(50), 200);
            assert_eq!(lab.received(), [sent, sent]);
            assert!(lab.world.dropped(lab.client, Dropped::Replayed) >= sent);
        },
    );
}
