//! Paths with holes: MTU, queues, NATs.

use adit_sim::net::{Link, Nat, NatKind};
use adit_tunnel::Dropped;

use crate::lab::{INNER_SERVER, Lab, client_config, millis, secs, server_config};

/// IPv4 and UDP headers of the inner packet.
const INNER_HEADERS: usize = 28;

#[test]
fn a_hole_in_the_mtu_swallows_large_packets_only_and_a_smaller_mtu_avoids_it() {
    let hole = Link { mtu: Some(1400), ..Link::default() };
    let mut lab = Lab::new(0);
    lab.world.set_links(lab.client, &hole);
    assert!(lab.up_within(secs(1)));
    // 1400 less the outer headers (28) and the overhead of a data message (32) is what fits.
    for (inner, arrives) in [(100, true), (1340, true), (1341, false), (1420, false)] {
        lab.received(lab.server);
        lab.say(true, inner - INNER_HEADERS).unwrap();
        lab.world.run_for(secs(1));
        assert_eq!(lab.received(lab.server) == 1, arrives, "an inner packet of {inner} bytes");
    }
    assert_eq!(lab.said(lab.client), ["up"], "the tunnel itself stands");

    let mut config = client_config();
    config.mtu = 1340;
    let mut lab = Lab::with(0, config, server_config());
    lab.world.set_links(lab.client, &hole);
    assert!(lab.up_within(secs(1)));
    assert_eq!(lab.say(true, 1341 - INNER_HEADERS), Err(Dropped::TooBig), "the sender learns of it");
    assert_eq!(lab.say(true, 1340 - INNER_HEADERS), Ok(()));
}

#[test]
fn a_slow_link_with_a_short_queue_drops_packets_but_not_the_session() {
    let mut lab = Lab::new(1);
    let slow = Link { rate: Some(1_000_000), queue: 20_000, ..Link::default() };
    lab.world.set_links(lab.client, &slow);
    assert!(lab.up_within(secs(1)));
    // 1000 bytes every 2 ms are 4 Mbit/s.
    let sent = lab.chatter(secs(200), millis(2), 1000);
    let received = lab.received(lab.server);
    assert!((sent / 5..sent / 3).contains(&received), "{received} of {sent} at a quarter of the rate");
    assert!(lab.reaches(true, secs(5)) && lab.reaches(false, secs(5)));
}

const OUTER: &str = "192.0.2.254";

fn behind_nat(kind: NatKind, keepalive: Option<u16>) -> Lab {
    let mut config = client_config();
    config.peers[0].persistent_keepalive = keepalive;
    let mut lab = Lab::with(2, config, server_config());
    // The first initiation left before the NAT was there; the second is the first of interest.
    lab.world.set_nat(lab.client, Some(Nat::new(kind, OUTER.parse().unwrap(), secs(30))));
    assert!(lab.up_within(secs(6)), "through {kind:?}");
    lab
}

const KINDS: [NatKind; 4] =
    [NatKind::FullCone, NatKind::Restricted, NatKind::PortRestricted, NatKind::Symmetric];

#[test]
fn keepalives_hold_a_mapping_open_in_every_kind_of_nat() {
    for kind in KINDS {
        let mut lab = behind_nat(kind, Some(25));
        assert!(lab.reaches(true, secs(1)) && lab.reaches(false, secs(1)), "{kind:?}");
        lab.world.run_for(secs(900));
        assert!(
            lab.reaches(false, secs(1)),
            "the server reaches the client through {kind:?} after 15 minutes"
        );
    }
}

#[test]
fn without_keepalives_the_mapping_dies_and_the_next_packet_revives_it() {
    for kind in KINDS {
        let mut lab = behind_nat(kind, None);
        assert!(lab.reaches(true, secs(1)) && lab.reaches(false, secs(1)), "{kind:?}");
        lab.world.run_for(secs(60));
        assert!(!lab.reaches(false, secs(1)), "{kind:?} forgets");
        assert!(lab.reaches(true, secs(1)), "the client's packet opens {kind:?} again");
        assert!(lab.reaches(false, secs(1)), "{INNER_SERVER} has learnt the new port of {kind:?}");
    }
}

#[test]
fn a_router_that_reboots_is_followed() {
    for kind in KINDS {
        let mut lab = behind_nat(kind, Some(25));
        assert!(lab.reaches(true, secs(1)));
        lab.world.nat(lab.client).unwrap().rebind();
        lab.world.run_for(secs(26));
        assert!(lab.reaches(false, secs(1)), "a keepalive has shown the server the new port of {kind:?}");
        assert_eq!(lab.said(lab.client), ["up"]);
    }
}
