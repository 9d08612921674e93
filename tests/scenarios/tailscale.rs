//! Nodes of a tailnet on a simulated internet: relays, NATs, and the ways between them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_sim::net::{Inbox, Nat, NatKind, NodeId, PacketEnd, Relay, World, udp_packet};
use adit_tailscale::netmap::{
    Addresses, DerpAddress, DerpMapUpdate, DerpNode, DerpRegion, FilterChange, FilterRule, FilterTarget,
    Peer, RegionId, SelfNode, Update,
};
use adit_tailscale::{Command, Config, Keys, NodeKey, Report, SecretKey, Tailscale};
use adit_tunnel::{Dropped, Event, HostPacket, NoWay, Tunnel, Way};

use crate::lab::{millis, secs};

const RELAY: &str = "10.255.0.1";
const SECOND_RELAY: &str = "10.255.0.2";
/// Real addresses of the two nodes, behind their NATs if they have any.
const OUTER: [&str; 2] = ["192.0.2.1", "198.51.100.1"];
const NAT: [&str; 2] = ["192.0.2.254", "198.51.100.254"];
pub(crate) const INNER: [&str; 2] = ["100.64.0.1", "100.64.0.2"];

fn keys(n: u8) -> Keys {
    Keys { node: SecretKey::from_bytes([n; 32]), disco: SecretKey::from_bytes([n + 100; 32]) }
}

fn config(n: u8) -> Config {
    Config {
        keys: keys(n),
        roots: Arc::new(rustls::RootCertStore::empty()),
        port: Some(41_641),
        udp: true,
        local_addresses: Vec::new(),
        keep_out: Vec::new(),
        accept_routes: adit_tailscale::AcceptRoutes::All,
        accept_dns: true,
        exit_node: None,
        shields_up: false,
        proxy: None,
        plain_derp: true,
    }
}

fn regions() -> BTreeMap<RegionId, DerpRegion> {
    let region = |address: &str| DerpRegion {
        code: "sim".into(),
        nodes: vec![DerpNode {
            host: address.into(),
            v4: DerpAddress::Fixed(address.parse().unwrap()),
            derp_port: 443,
            stun_port: Some(3478),
            ..DerpNode::default()
        }],
        ..DerpRegion::default()
    };
    BTreeMap::from([(RegionId(1), region(RELAY)), (RegionId(2), region(SECOND_RELAY))])
}

/// Two nodes, and a control server that tells each what the other reports.
pub(crate) struct Tailnet<E = Inbox> {
    pub(crate) world: World<Tailscale, E>,
    pub(crate) nodes: [NodeId; 2],
    peers: [Peer; 2],
    sent: u64,
    asked: u64,
}

impl<E: PacketEnd> Tailnet<E> {
    /// With these relays, and packet ends of these kinds.
    pub(crate) fn with(
        seed: u64,
        nats: [Option<NatKind>; 2],
        relay: impl Fn() -> Relay,
        end: impl Fn(usize) -> E,
    ) -> Self {
        let mut world = World::new(seed);
        for address in [RELAY, SECOND_RELAY] {
            world.add_server(address, relay());
        }
        let now = world.now();
        let nodes = [0, 1].map(|i| {
            let node = Tailscale::new(config(i as u8 + 1), seed + i as u64, now);
            let id = world.add(&[OUTER[i]], node, end(i));
            world.set_nat(id, nats[i].map(|kind| Nat::new(kind, NAT[i].parse().unwrap(), secs(30))));
            id
        });
        let peers = [0, 1].map(|i| {
            let (prefix, keys) = (vec![format!("{}/32", INNER[i]).parse().unwrap()], keys(i as u8 + 1));
            Peer {
                id: adit_tailscale::netmap::NodeId(i as i64 + 1),
                name: format!("node{i}.tail.example"),
                key: keys.node_key(),
                disco: keys.disco_key(),
                addresses: prefix.clone(),
                allowed_ips: prefix,
                ..Peer::default()
            }
        });
        let mut this = Self { world, nodes, peers, sent: 0, asked: 0 };
        for i in 0..2 {
            this.tell(i, this.map_of(i));
        }
        this
    }

    /// The first map of a node: itself, the relays, an open filter, no peer.
    fn map_of(&self, i: usize) -> Update {
        let me = &self.peers[i];
        let allow = FilterRule {
            sources: vec![Addresses::Any],
            targets: vec![FilterTarget { addresses: Addresses::Any, first: 0, last: u16::MAX }],
            protocols: Vec::new(),
        };
        Update {
            node: Some(SelfNode {
                id: me.id,
                name: me.name.clone(),
                key: me.key,
                addresses: me.addresses.clone(),
                allowed_ips: me.addresses.clone(),
                authorized: true,
                ..SelfNode::default()
            }),
            derp: Some(DerpMapUpdate { regions: Some(regions()), scores: None }),
            filter: vec![FilterChange::Set("base".into(), vec![allow])],
            ..Update::default()
        }
    }

    fn tell(&mut self, i: usize, update: Update) {
        self.world.command(self.nodes[i], Command::Netmap(Box::new(update)));
    }

    /// Carries reports to the other node, as a control server does.
    fn exchange(&mut self) {
        for i in 0..2 {
            let mut news = false;
            while let Some(report) = self.world.tunnel(self.nodes[i]).poll_report() {
                match report {
                    Report::Endpoints(list) => {
                        self.peers[i].endpoints = list.iter().map(|endpoint| endpoint.address).collect();
                        news = true;
                    }
                    Report::NetInfo(info) => {
                        self.peers[i].home_derp = info.preferred_derp;
                        news = true;
                    }
                    _ => {}
                }
            }
            if news {
                let mut update = Update::default();
                update.peers.changed.push(self.peers[i].clone());
                self.tell(1 - i, update);
            }
        }
    }

    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.world.elapsed() + span;
        while self.world.elapsed() < end {
            self.exchange();
            self.world.run_for(millis(100));
        }
    }

    fn is_up(&self, i: usize) -> bool {
        self.world.events(self.nodes[i]).iter().any(|(_, event)| matches!(event, Event::Up))
    }

    /// Where packets from one node to the other go, if not through relays alone.
    pub(crate) fn direct(&mut self, from: usize) -> Option<SocketAddr> {
        let now = self.world.now();
        self.world.tunnel(self.nodes[from]).peers(now).first().and_then(|peer| peer.endpoint)
    }

    /// Asks node 0 for the way to node 1, for at most two seconds.
    fn way(&mut self) -> Way {
        self.asked += 1;
        let token = self.asked;
        self.world.find_way(self.nodes[0], INNER[1].parse().unwrap(), secs(2), token).unwrap();
        self.run(millis(2100));
        let answer = |event: &Event<_>| match event {
            Event::Way { token: of, way } if *of == token => Some(way.clone()),
            _ => None,
        };
        let mut answers = self.world.events(self.nodes[0]).iter().filter_map(|(_, event)| answer(event));
        let way = answers.next().expect("every question is answered in time");
        assert!(answers.next().is_none(), "once");
        way
    }

    pub(crate) fn cut_udp(&mut self, i: usize, cut: bool) {
        self.world.up(self.nodes[i]).cut = cut;
        self.world.down(self.nodes[i]).cut = cut;
    }
}

impl Tailnet {
    fn new(seed: u64, nats: [Option<NatKind>; 2]) -> Self {
        Self::with(seed, nats, Relay::default, |_| Inbox::default())
    }

    /// Sends a numbered packet from one node to the other.
    fn say(&mut self, from: usize) -> Result<(), Dropped> {
        self.sent += 1;
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 9);
        let packet = udp_packet(at(INNER[from]), at(INNER[1 - from]), &self.sent.to_be_bytes());
        self.world.send(self.nodes[from], HostPacket::new(&packet))
    }

    /// Numbers that have arrived at a node.
    fn heard(&mut self, i: usize) -> Vec<u64> {
        let packets = std::mem::take(&mut self.world.end(self.nodes[i]).packets);
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes[28..36].try_into().unwrap());
        packets.iter().map(|(_, bytes)| number(bytes)).collect()
    }

    /// Sends a packet every 100 ms for a while, in both directions; returns how many of them are missing, and checks
    /// that none came twice.
    fn chatter(&mut self, span: Duration) -> u64 {
        self.heard(0);
        self.heard(1);
        let first = self.sent;
        let end = self.world.elapsed() + span;
        while self.world.elapsed() < end {
            for from in 0..2 {
                self.say(from).unwrap();
            }
            self.run(millis(100));
        }
        self.run(secs(1));
        let mut numbers = [self.heard(0), self.heard(1)].concat();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all, "no packet comes twice");
        self.sent - first - all as u64
    }
}

#[test]
fn a_node_is_up_within_a_second_and_says_where_it_is() {
    let mut tailnet = Tailnet::new(1, [None, None]);
    tailnet.run(secs(1));
    assert!(tailnet.is_up(0) && tailnet.is_up(1));
    tailnet.run(secs(4));
    assert_ne!(tailnet.peers[0].home_derp, RegionId(0));
    assert_eq!(tailnet.peers[0].endpoints, [format!("{}:41641", OUTER[0]).parse().unwrap()]);
}

#[test]
fn where_udp_is_blocked_everything_goes_through_the_relay_at_once() {
    let mut tailnet = Tailnet::new(2, [None, None]);
    tailnet.cut_udp(0, true);
    tailnet.run(secs(1));
    assert!(tailnet.is_up(0), "nobody waits for STUN");
    tailnet.run(secs(4));
    assert_eq!(tailnet.chatter(secs(60)), 0);
    assert_eq!((tailnet.direct(0), tailnet.direct(1)), (None, None));
    let mut told = |i: usize| {
        let warnings = tailnet.world.tunnel(tailnet.nodes[i]).warnings();
        warnings.into_iter().map(|warning| warning.class).collect::<Vec<_>>()
    };
    assert_eq!((told(0), told(1)), (vec!["ts.udp.blocked".to_owned()], vec![]));
}

#[test]
fn nodes_find_a_direct_path_through_every_pair_of_nats_that_has_one() {
    use NatKind::{FullCone, PortRestricted, Restricted, Symmetric};
    let pairs = [
        ([None, None], true),
        ([Some(FullCone), Some(FullCone)], true),
        ([Some(Restricted), Some(PortRestricted)], true),
        ([Some(PortRestricted), Some(PortRestricted)], true),
        ([None, Some(Symmetric)], true),
        ([Some(FullCone), Some(Symmetric)], true),
        ([Some(Symmetric), Some(Symmetric)], false),
    ];
    for (seed, (nats, direct)) in pairs.into_iter().enumerate() {
        let mut tailnet = Tailnet::new(10 + seed as u64, nats);
        tailnet.run(secs(5));
        assert_eq!(tailnet.chatter(secs(30)), 0, "{nats:?}");
        let found = [tailnet.direct(0).is_some(), tailnet.direct(1).is_some()];
        assert_eq!(found, [direct; 2], "{nats:?}");
    }
}

#[test]
fn a_node_that_is_asked_says_which_way_leads_to_it_and_what_is_in_the_way_of_another() {
    use NatKind::{PortRestricted, Symmetric};
    for (seed, nats) in [[None, None], [Some(PortRestricted), Some(PortRestricted)]].into_iter().enumerate() {
        let mut tailnet = Tailnet::new(20 + seed as u64, nats);
        tailnet.run(secs(5));
        let mut way = tailnet.way();
        for _ in 0..3 {
            if way.endpoint.is_none() {
                assert!(way.relay.as_deref() == Some("sim") && !way.obstacles.is_empty(), "{way:?}");
                way = tailnet.way();
            }
        }
        let outside = if nats[1].is_some() { NAT[1] } else { OUTER[1] };
        assert_eq!(way.endpoint.map(|at| at.ip().to_string()).as_deref(), Some(outside), "{way:?}");
        assert!(way.relay.is_none() && way.obstacles.is_empty() && way.rtt.is_some(), "{way:?}");
    }
    let mut tailnet = Tailnet::new(22, [Some(Symmetric), Some(Symmetric)]);
    tailnet.run(secs(5));
    for _ in 0..3 {
        let way = tailnet.way();
        assert_eq!((way.peer.as_str(), way.endpoint), ("node1.tail.example", None), "{way:?}");
        assert!(way.relay.as_deref() == Some("sim") && way.rtt.is_some(), "{way:?}");
        let said = way.obstacles.join("\n");
        for part in ["does not answer at 198.51.100.254:", "the NAT here", "the NAT of the peer seems"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    tailnet.cut_udp(0, true);
    tailnet.run(secs(60));
    // The question makes the node measure its network again, which takes some seconds.
    tailnet.way();
    tailnet.run(secs(10));
    let said = tailnet.way().obstacles.join("\n");
    assert!(said.contains("UDP seems to be blocked here"), "{said}");
    for relay in [RELAY, SECOND_RELAY] {
        tailnet.world.stop_server(relay);
    }
    let way = tailnet.way();
    assert_eq!((way.endpoint, way.relay, way.rtt), (None, None, None), "nothing leads there now");
    let nobody = tailnet.world.find_way(tailnet.nodes[0], "100.64.9.9".parse().unwrap(), secs(2), 99);
    assert_eq!(nobody, Err(NoWay::NoRoute));
}

#[test]
fn from_the_relay_to_a_direct_path_and_back_no_packet_is_lost_that_the_path_did_not_swallow() {
    let mut tailnet = Tailnet::new(30, [Some(NatKind::PortRestricted), Some(NatKind::PortRestricted)]);
    tailnet.run(secs(5));
    assert_eq!(tailnet.chatter(secs(20)), 0, "relay to direct");
    assert!(tailnet.direct(0).is_some() && tailnet.direct(1).is_some());
    // The router reboots: mappings are gone, what is under way to them is lost until trust ends.
    tailnet.world.nat(tailnet.nodes[0]).unwrap().rebind();
    let lost = tailnet.chatter(secs(30));
    assert!(lost <= 2 * 70, "{lost} packets lost: at most 7 s each way");
    assert_eq!(tailnet.chatter(secs(10)), 0);
    assert!(tailnet.direct(0).is_some() && tailnet.direct(1).is_some(), "a new direct path");
    // UDP is blocked from now on.
    tailnet.cut_udp(1, true);
    let lost = tailnet.chatter(secs(30));
    assert!(lost <= 2 * 70, "{lost} packets lost: at most 7 s each way");
    assert_eq!(tailnet.chatter(secs(10)), 0);
    assert_eq!((tailnet.direct(0), tailnet.direct(1)), (None, None));
}

#[test]
fn the_path_does_not_change_while_nothing_else_does() {
    let mut tailnet = Tailnet::new(40, [Some(NatKind::PortRestricted), None]);
    tailnet.run(secs(5));
    assert_eq!(tailnet.chatter(secs(20)), 0);
    let path = tailnet.direct(0);
    assert!(path.is_some());
    for _ in 0..20 {
        assert_eq!(tailnet.chatter(secs(15)), 0);
        assert_eq!(tailnet.direct(0), path);
    }
}

#[test]
fn a_relay_that_restarts_is_come_back_to_and_direct_paths_do_not_notice() {
    let mut tailnet = Tailnet::new(50, [None, None]);
    tailnet.run(secs(5));
    assert_eq!(tailnet.chatter(secs(10)), 0);
    for relay in [RELAY, SECOND_RELAY] {
        tailnet.world.stop_server(relay);
    }
    assert_eq!(tailnet.chatter(secs(20)), 0, "direct");
    for relay in [RELAY, SECOND_RELAY] {
        tailnet.world.add_server(relay, Relay::default());
    }
    tailnet.run(secs(10));
    tailnet.cut_udp(0, true);
    tailnet.chatter(secs(20));
    assert_eq!(tailnet.chatter(secs(10)), 0, "through the relay again");
}

#[test]
fn a_peer_that_restarts_is_reached_again_at_once() {
    let mut tailnet = Tailnet::new(60, [None, None]);
    tailnet.run(secs(5));
    assert_eq!(tailnet.chatter(secs(10)), 0);
    // The new process has the same node key and another disco key.
    let mut config = config(2);
    config.keys.disco = SecretKey::from_bytes([9; 32]);
    tailnet.peers[1].disco = config.keys.disco_key();
    let now = tailnet.world.now();
    tailnet.world.restart(tailnet.nodes[1], Tailscale::new(config, 99, now));
    let mut map = tailnet.map_of(1);
    map.peers.full.push(tailnet.peers[0].clone());
    tailnet.tell(1, map);
    let mut update = Update::default();
    update.peers.changed.push(tailnet.peers[1].clone());
    tailnet.tell(0, update);
    tailnet.run(secs(1));
    assert_eq!(tailnet.chatter(secs(20)), 0);
}

#[test]
fn a_node_that_moves_keeps_its_flows() {
    let mut tailnet = Tailnet::new(70, [None, None]);
    tailnet.run(secs(5));
    assert_eq!(tailnet.chatter(secs(10)), 0);
    tailnet.world.move_node(tailnet.nodes[0], &["203.0.113.77"], true);
    let lost = tailnet.chatter(secs(30));
    assert!(lost <= 70, "{lost} packets lost");
    assert_eq!(tailnet.chatter(secs(10)), 0);
    let to = tailnet.direct(1).map(|address| address.ip().to_string());
    assert_eq!(to.as_deref(), Some("203.0.113.77"));
}

#[test]
fn strangers_and_expired_peers_are_nobody() {
    let mut tailnet = Tailnet::new(80, [None, None]);
    tailnet.run(secs(5));
    assert_eq!(tailnet.chatter(secs(5)), 0);
    let mut update = Update::default();
    update.peers.changed.push(Peer { expired: true, ..tailnet.peers[1].clone() });
    tailnet.tell(0, update);
    assert_eq!(tailnet.say(0), Err(Dropped::NoRoute));
    tailnet.heard(0);
    tailnet.say(1).unwrap();
    tailnet.world.run_for(secs(10));
    assert!(tailnet.heard(0).is_empty());
    assert_ne!(tailnet.peers[1].key, NodeKey::default());
}
