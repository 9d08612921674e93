//! What a session suffers from although it works.

use adit_sim::net::{Nat, NatKind};
use adit_tunnel::Tunnel as _;
use adit_wireguard::WireGuard;

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
    assert!(lab.up_within(secs(1)));
    for _ in 0..3 {
        lab.chatter(secs(1), millis(100), 100);
        lab.world.run_for(secs(40));
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

#[test]
fn a_key_that_two_machines_use_is_told_and_one_machine_alone_is_not_accused() {
    let mut lab = Lab::new(12);
    assert!(lab.up_within(secs(1)));
    let chat = |lab: &mut Lab, times: u32| {
        for _ in 0..times {
            for forth in [true, false] {
                let _ = lab.say(forth, 100);
            }
            lab.world.run_for(millis(500));
        }
    };
    chat(&mut lab, 1000);
    assert_eq!(symptoms(&mut lab), Vec::<String>::new(), "500 s with four renewals");

    let now = lab.world.now();
    let twin = lab.world.add(&["192.0.2.2"], WireGuard::new(client_config(), 77, now), Default::default());
    let packet =
        adit_sim::net::udp_packet("10.0.0.1:9".parse().unwrap(), "10.0.0.2:9".parse().unwrap(), &[7; 100]);
    for _ in 0..240 {
        chat(&mut lab, 1);
        let _ = lab.world.send(twin, adit_tunnel::HostPacket::new(&packet));
    }
    assert_eq!(symptoms(&mut lab), ["wg.key.shared"]);
}
