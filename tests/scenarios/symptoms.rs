//! What a session suffers from although it works.

use adit_sim::net::{Nat, NatKind};
use adit_tunnel::Tunnel as _;

use crate::lab::{Lab, client_config, millis, secs};

/// The classes of what the client's peers seem to suffer from.
fn symptoms(lab: &mut Lab) -> Vec<String> {
    let now = lab.world.now();
    let peers = lab.world.tunnel(lab.client).peers(now);
    peers.into_iter().filter_map(|peer| peer.symptom).map(|symptom| symptom.class).collect()
}

/// A client behind a NAT that forgets after 30 s, and a server that speaks in every pause.
fn paused(keepalive: Option<u16>) -> Lab {
    let mut config = client_config();
    config.peers[0].persistent_keepalive = keepalive;
    let mut lab = Lab::with(11, config, crate::lab::server_config());
    let nat = Nat::new(NatKind::PortRestricted, "198.51.100.3".parse().unwrap(), secs(30));
    lab.world.set_nat(lab.client, Some(nat));
    // The first initiation left before the NAT was there; the second is the first of interest.
    assert!(lab.up_within(secs(6)));
    for _ in 0..3 {
        lab.chatter(secs(1), millis(100), 100);
        lab.world.run_for(secs(45));
        lab.say(false, 100).unwrap();
        lab.world.run_for(secs(1));
        assert!(lab.reaches(true, secs(1)));
        assert!(lab.reaches(false, secs(1)), "it revives when the client speaks");
    }
    lab
}

#[test]
fn a_nat_that_forgets_a_silent_client_is_told_and_keepalives_cure_it() {
    let mut lab = paused(None);
    assert_eq!(symptoms(&mut lab), ["wg.nat.idle"]);
    let mut lab = paused(Some(15));
    assert_eq!(symptoms(&mut lab), Vec::<String>::new());
}
