//! Servers and strangers that mean harm.

use adit_openvpn::Credentials;
use adit_sim::net::Rng;
use adit_sim::openvpn::{Act, Script};
use adit_tunnel::{Dropped, Prefix};

use super::lab::{CLIENT, KINDS, Kind, Lab, PORT, SERVER, configs, each_seed, millis, secs};

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn routes_and_resolvers_that_are_not_the_servers_to_give_are_not_taken() {
    let (mut client, mut server) = configs(Kind::Crypt);
    client.protected = prefixes(&["192.168.50.0/24", "10.200.0.53/32"]);
    let bad = [
        "route 127.0.0.0 255.0.0.0",
        "route 169.254.169.254 255.255.255.255",
        "route 169.254.0.0 255.255.0.0",
        "route 224.0.0.0 240.0.0.0",
        "route 192.168.50.0 255.255.255.0",
        "route 203.0.113.1 255.255.255.255",
        "route-ipv6 ::1/128",
        "route-ipv6 fe80::/10",
        "dhcp-option DNS 127.0.0.1",
        "dhcp-option DNS 169.254.169.254",
        "dhcp-option DNS 224.0.0.251",
        "dhcp-option DNS 10.200.0.53",
    ];
    server.push.extend(bad.iter().map(|option| (*option).to_owned()));
    server.push.push("dhcp-option DNS 10.77.0.53".to_owned());
    let mut lab = Lab::with(0, (client, server));
    assert!(lab.up_within(secs(2)), "{:?}", lab.said());
    let network = lab.network();
    for bad in
        ["127.0.0.1", "169.254.169.254", "169.254.1.1", "224.0.0.1", "192.168.50.7", SERVER, "::1", "fe80::1"]
    {
        let bad = bad.parse().unwrap();
        assert!(!network.routes.iter().any(|route| route.contains(bad)), "{bad} in {:?}", network.routes);
    }
    assert!(network.routes.contains(&"10.77.0.0/16".parse().unwrap()), "{:?}", network.routes);
    let resolvers: Vec<String> = network.dns.servers.iter().map(ToString::to_string).collect();
    assert_eq!(resolvers, ["10.77.0.53"]);
}

#[test]
fn absurd_values_are_bounded_or_refused_and_never_hang() {
    let many: Vec<String> =
        (0..10_000).map(|n| format!("route 10.{}.{}.0 255.255.255.0", n / 250, n % 250)).collect();
    for options in [
        vec!["tun-mtu 0".to_owned(), "ping 0".to_owned(), "ping-restart 0".to_owned()],
        vec!["tun-mtu 65535".to_owned(), "ping 1000000000000".to_owned()],
        vec!["ping-restart 99999999999999999999".to_owned(), "inactive 1 1".to_owned()],
        vec!["ifconfig 0.0.0.0 0.0.0.0".to_owned()],
        vec!["ifconfig 10.8.0.2 255.255.255.0 and more".to_owned(), "\"unterminated".to_owned()],
        vec!["peer-id 99999999999".to_owned()],
        vec!["cipher BF-CBC".to_owned()],
        vec!["protocol-flags time-travel".to_owned()],
        vec!["compress lz77".to_owned(), "auth-token".to_owned()],
        many,
    ] {
        let (client, mut server) = configs(Kind::Crypt);
        server.push.extend(options.iter().cloned());
        let mut lab = Lab::with(0, (client, server));
        lab.world.run_for(secs(200));
        let what = options.first().map(String::as_str).unwrap_or_default();
        assert!(!lab.said().is_empty(), "{what}: the client says what it makes of it");
        if lab.said() == ["up"] {
            let network = lab.network();
            assert!((576..=65_535).contains(&network.mtu), "{what}: MTU {}", network.mtu);
            assert!(network.routes.len() <= 10_000, "{what}: {} routes", network.routes.len());
        }
    }
}

#[test]
fn garbage_inside_tls_ends_or_changes_nothing() {
    let random = |seed: u64, length: usize| {
        let mut lots = Rng::new(seed);
        (0..length).map(|_| lots.next_u64() as u8).collect::<Vec<u8>>()
    };
    each_seed("openvpn::hostile::garbage_inside_tls_ends_or_changes_nothing", 10, |seed| {
        let (client, mut server) = configs(KINDS[seed as usize % KINDS.len()]);
        server.scripts = vec![
            Script::after(secs(0), Act::Tls(random(seed, 300)))
                .then(millis(50), Act::Tls(vec![0]))
                .then(millis(100), Act::Tls(vec![b'A'; 100_000]))
                .then(millis(500), Act::Tls([&[0], &random(seed + 1, 5000)[..], &[0]].concat()))
                .then(secs(1), Act::Say("PUSH_REPLY,,,,\"\\,,".to_owned()))
                .then(secs(2), Act::Push),
        ];
        let mut lab = Lab::with(seed, (client, server));
        lab.world.run_for(secs(30));
        // Either the last configuration is good enough, or the one before it was refused; no more is asked.
        assert!(!lab.said().is_empty());
    });
}

#[test]
fn strangers_cannot_disturb_a_connection_that_begins() {
    for kind in KINDS {
        let mut lab = Lab::new(1, kind);
        let (from, to) =
            (format!("{SERVER}:{PORT}").parse().unwrap(), format!("{CLIENT}:40000").parse().unwrap());
        let mut lots = Rng::new(5);
        for burst in 0..100 {
            for _ in 0..100 {
                // Every kind of packet, of every length, from the right address.
                let length = 1 + lots.below(200) as usize;
                let mut packet: Vec<u8> = (0..length).map(|_| lots.next_u64() as u8).collect();
                packet[0] = (lots.below(12) as u8) << 3 | lots.below(8) as u8;
                lab.world.inject(from, to, &packet);
            }
            lab.world.run_for(millis(if burst < 50 { 1 } else { 20 }));
        }
        let connected = lab.said().contains(&"up") || lab.up_within(secs(10));
        assert!(connected, "{kind:?}: {:?}", lab.said());
        assert!(lab.passes_after(secs(2)).is_some(), "{kind:?}");
        let dropped = [Dropped::Malformed, Dropped::Unauthentic, Dropped::Unexpected, Dropped::Replayed];
        let dropped: u64 = dropped.iter().map(|reason| lab.world.dropped(lab.client, *reason)).sum();
        assert!(dropped >= 9000, "{kind:?}: {dropped} of 10,000 were counted as dropped");
    }
}

#[test]
fn packets_that_are_repeated_by_an_attacker_change_nothing() {
    for kind in KINDS {
        let (client, mut server) = configs(kind);
        server.scripts = vec![
            Script::accept().then(secs(1), Act::Replay).then(secs(2), Act::Replay).then(secs(3), Act::Replay),
        ];
        let mut lab = Lab::with(2, (client, server));
        assert!(lab.up_within(secs(2)), "{kind:?}: {:?}", lab.said());
        lab.passes_after(secs(1));
        lab.received();
        let sent = lab.chatter(secs(5), millis(50), 300);
        assert_eq!(lab.received(), [sent, sent], "{kind:?}");
        assert_eq!(lab.said(), ["up"], "{kind:?}");
    }
}

#[test]
fn a_forged_reset_does_not_end_a_connection() {
    for kind in KINDS {
        let mut lab = Lab::new(3, kind);
        assert!(lab.up_within(secs(2)), "{kind:?}: {:?}", lab.said());
        lab.passes_after(secs(1));
        let (from, to) =
            (format!("{SERVER}:{PORT}").parse().unwrap(), format!("{CLIENT}:40000").parse().unwrap());
        lab.received();
        for opcode in [3u8, 4, 5, 7, 8, 10] {
            for key_id in 0..8 {
                let packet = [&[opcode << 3 | key_id][..], &[7; 8], &[0, 0, 0, 0, 0]].concat();
                lab.world.inject(from, to, &packet);
            }
        }
        let sent = lab.chatter(secs(10), millis(50), 300);
        assert_eq!(lab.received(), [sent, sent], "{kind:?}");
        assert_eq!(lab.said(), ["up"], "{kind:?}");
    }
}

#[test]
fn a_server_that_forgets_its_client_mid_handshake_costs_one_attempt() {
    let (mut client, mut server) = configs(Kind::Crypt);
    client.credentials = Some(Credentials { username: "alice".into(), password: "secret".to_owned().into() });
    client.hand_window = secs(15);
    server.scripts = vec![Script::after(secs(0), Act::Forget), Script::accept()];
    let mut lab = Lab::with(4, (client, server));
    assert!(lab.up_within(secs(60)), "{:?}", lab.said());
    assert!(lab.passes_after(secs(2)).is_some());
}
