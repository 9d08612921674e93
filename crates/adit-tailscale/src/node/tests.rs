//! The node as a whole, without a network.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_tunnel::view::{IpView, protocol};
use adit_tunnel::{Dropped, Event, HostPacket, LinkId, NetInput, Outbox, Tunnel};

use super::Tailscale;
use crate::disco::{self, Message, Packet};
use crate::netmap::{
    DerpAddress, DerpMapUpdate, DerpNode, DerpRegion, NodeId, Peer, RegionId, SelfNode, Update,
};
use crate::tsmp::write_packet;
use crate::{Command, Config, Control, DiscoKey, Keys, NodeKey, Problem, Report, SecretKey};

fn config() -> Config {
    Config {
        keys: Keys { node: SecretKey::from_bytes([1; 32]), disco: SecretKey::from_bytes([2; 32]) },
        roots: Arc::new(rustls::RootCertStore::empty()),
        port: None,
        udp: true,
        local_addresses: vec![IpAddr::from([192, 168, 1, 5]), IpAddr::from([127, 0, 0, 1])],
        keep_out: Vec::new(),
        accept_routes: crate::AcceptRoutes::All,
        accept_dns: true,
        exit_node: None,
        shields_up: false,
        proxy: None,
        plain_derp: false,
    }
}

fn peer(id: u32) -> Peer {
    let [_, b, c, d] = id.to_be_bytes();
    let prefix = vec![format!("100.{}.{c}.{d}/32", 64 + b).parse().unwrap()];
    let mut key = [0; 32];
    key[..4].copy_from_slice(&id.to_be_bytes());
    key[31] = 1;
    Peer {
        id: NodeId(id.into()),
        name: format!("n{id}.tail.example"),
        key: NodeKey(key),
        disco: DiscoKey(key),
        addresses: prefix.clone(),
        allowed_ips: prefix,
        ..Peer::default()
    }
}

fn map(peers: u32) -> Update {
    let mut update = Update {
        node: Some(SelfNode {
            name: "me.tail.example".into(),
            addresses: vec!["100.64.0.1/32".parse().unwrap()],
            authorized: true,
            ..SelfNode::default()
        }),
        ..Update::default()
    };
    update.peers.full = (2..peers + 2).map(peer).collect();
    update
}

struct Bench {
    node: Tailscale,
    out: Outbox,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        Self { node: Tailscale::new(config(), 1, now), out: Outbox::default(), now }
    }

    fn tell(&mut self, command: Command) -> Vec<Event<Problem>> {
        self.node.handle_command(self.now, command, &mut self.out);
        self.events()
    }

    fn events(&mut self) -> Vec<Event<Problem>> {
        std::iter::from_fn(|| self.node.poll_event()).collect()
    }
}

fn udp(to: &str, port: u16, data: &[u8]) -> Vec<u8> {
    let mut datagram = [4000u16, port, 8 + data.len() as u16, 0].map(u16::to_be_bytes).concat();
    datagram.extend(data);
    let mut out = vec![0; 20 + datagram.len()];
    let (from, to) = (IpAddr::from([100, 64, 0, 1]), to.parse().unwrap());
    write_packet(protocol::UDP, from, to, &datagram, &mut out).unwrap();
    out
}

#[test]
fn a_peer_that_did_not_know_us_yet_is_called_again_at_once() {
    let mut bench = Bench::new();
    let mut update = map(1);
    update.peers.full[0].wireguard_only = true;
    update.peers.full[0].endpoints = vec!["192.0.2.7:41641".parse().unwrap()];
    let open = NetInput::Opened { link: LinkId(0), local: "0.0.0.0:40000".parse().unwrap() };
    bench.node.handle_net(bench.now, open, &mut bench.out).unwrap();
    bench.tell(Command::Netmap(Box::new(update)));
    let packet = udp("100.64.0.2", 9, b"x");
    bench.node.handle_packet(bench.now, HostPacket::new(&packet), &mut bench.out).unwrap();
    let start = bench.now;
    let mut calls = Vec::new();
    while bench.now < start + Duration::from_millis(4500) {
        bench.out.net.drain(|batch| {
            let initiation = batch.data.first() == Some(&1) && batch.data.len() == 148;
            calls.extend(initiation.then(|| (bench.now - start).as_millis()));
        });
        let next = bench.node.poll_timeout().unwrap().at;
        bench.now = next.max(bench.now + Duration::from_millis(1));
        bench.node.handle_timeout(bench.now, &mut bench.out);
    }
    assert_eq!(calls.len(), 5, "{calls:?}");
    assert!(calls[1] < 260 && calls[3] < 1700, "{calls:?}");
}

#[test]
fn names_of_the_tailnet_are_answered_without_a_packet_leaving() {
    let mut bench = Bench::new();
    let events = bench.tell(Command::Netmap(Box::new(map(3))));
    assert!(events.iter().any(|event| matches!(event, Event::Configured(_))), "{events:?}");
    let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x02n3\x04tail\x07example\0\0\x01\0\x01";
    let packet = udp("100.100.100.100", 53, query);
    bench.node.handle_packet(bench.now, HostPacket::new(&packet), &mut bench.out).unwrap();
    assert!(bench.out.net.is_empty());
    let mut answers = Vec::new();
    bench.out.host.drain(|packet| answers.push(packet.bytes().to_vec()));
    let ip = IpView::parse(&answers[0]).unwrap();
    assert!(ip.transport_checksum_ok());
    let answer = ip.udp().unwrap();
    assert_eq!(
        (ip.source().to_string(), answer.source_port(), answer.destination_port()),
        ("100.100.100.100".into(), 53, 4000)
    );
    assert!(answer.payload().ends_with(&[100, 64, 0, 3]));
    let other = udp("100.100.100.100", 80, query);
    let sent = bench.node.handle_packet(bench.now, HostPacket::new(&other), &mut bench.out);
    assert_eq!(sent, Err(Dropped::NoRoute));
}

#[test]
fn packets_for_nobody_and_packets_that_are_too_long_are_refused() {
    let mut bench = Bench::new();
    bench.tell(Command::Netmap(Box::new(map(3))));
    let send = |bench: &mut Bench, packet: &[u8]| {
        bench.node.handle_packet(bench.now, HostPacket::new(packet), &mut bench.out)
    };
    assert_eq!(send(&mut bench, &udp("100.64.9.9", 1, b"x")), Err(Dropped::NoRoute));
    assert_eq!(send(&mut bench, &udp("8.8.8.8", 1, b"x")), Err(Dropped::NoRoute));
    assert_eq!(send(&mut bench, &udp("100.64.0.2", 1, &[0; 1260])), Err(Dropped::TooBig));
    assert_eq!(send(&mut bench, &udp("100.64.0.2", 1, &[0; 1252])), Ok(()), "it waits for a session");
}

#[test]
fn routes_that_are_nobodys_to_give_are_told_with_whoever_gives_them() {
    let mut bench = Bench::new();
    let classes = |bench: &Bench| bench.node.warnings().into_iter().map(|w| w.class).collect::<Vec<_>>();
    let mut update = map(1);
    let mut router = peer(2);
    for prefix in ["127.0.0.0/8", "10.8.0.0/16", "169.254.169.254/32"] {
        router.allowed_ips.push(prefix.parse().unwrap());
    }
    update.peers.full = vec![router];
    bench.tell(Command::Netmap(Box::new(update)));
    let [warning] = bench.node.warnings().try_into().unwrap();
    assert_eq!(
        (warning.class.as_str(), warning.summary.as_str()),
        ("ts.route.refused", "127.0.0.0/8 and 1 more of the routes were not taken")
    );
    let [_, metadata] = warning.evidence.as_slice() else { panic!("{warning:?}") };
    assert_eq!(metadata, "169.254.169.254/32 of n2.tail.example: it is this machine's own, or its link's");
    bench.tell(Command::Netmap(Box::new(map(1))));
    assert_eq!(classes(&bench), Vec::<String>::new());
}

#[test]
fn the_control_side_speaks_through_the_node() {
    let mut bench = Bench::new();
    let problem = |class| Problem { class, summary: "no".into(), evidence: Vec::new() };
    bench.events();
    let lost = bench.tell(Command::Control(Control::Lost(problem("ts.control.tcp"))));
    assert!(matches!(lost.as_slice(), [Event::Down(problem)] if problem.class == "ts.control.tcp"));
    let failed = bench.tell(Command::Control(Control::Failed(problem("ts.key.used"))));
    assert!(matches!(failed.as_slice(), [Event::Failed(_)]));
}

#[test]
fn endpoints_are_local_addresses_where_nobody_answers_stun() {
    let mut bench = Bench::new();
    let local = "0.0.0.0:4242".parse().unwrap();
    let opened = NetInput::Opened { link: LinkId(0), local };
    bench.node.handle_net(bench.now, opened, &mut bench.out).unwrap();
    let node = DerpNode {
        host: "192.0.2.1".into(),
        v4: DerpAddress::Fixed(IpAddr::from([192, 0, 2, 1])),
        derp_port: 443,
        stun_port: Some(3478),
        ..DerpNode::default()
    };
    let regions =
        (1..=2).map(|id| (RegionId(id), DerpRegion { nodes: vec![node.clone()], ..Default::default() }));
    let mut update = map(1);
    update.derp = Some(DerpMapUpdate { regions: Some(regions.collect()), scores: None });
    bench.tell(Command::Netmap(Box::new(update)));
    let start = bench.now;
    let mut home = None;
    while bench.now < start + Duration::from_secs(4) {
        let Some(deadline) = bench.node.poll_timeout() else { break };
        bench.now = deadline.at;
        bench.node.handle_timeout(bench.now, &mut bench.out);
        bench.out.net.drain(|_| ());
        if home.is_none()
            && bench.events().iter().any(|event| matches!(event, Event::OpenLink(LinkId(16), _)))
        {
            home = Some(bench.now - start);
        }
    }
    assert_eq!(home, Some(Duration::from_millis(200)), "the relay is dialled without waiting for STUN");
    let reports: Vec<Report> = std::iter::from_fn(|| bench.node.poll_report()).collect();
    let endpoints = reports.iter().find_map(|report| match report {
        Report::Endpoints(list) => Some(list.iter().map(|e| e.address.to_string()).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(endpoints, Some(vec!["192.168.1.5:4242".to_owned()]));
    let blocked = |report: &Report| matches!(report, Report::NetInfo(info) if info.udp == Some(false));
    assert!(reports.iter().any(blocked), "{reports:?}");
}

#[test]
fn five_thousand_peers_are_applied_and_a_change_of_one_touches_one() {
    let mut bench = Bench::new();
    bench.tell(Command::Netmap(Box::new(map(5000))));
    assert_eq!((bench.node.members.len(), bench.node.active.len()), (5000, 0));
    assert!(bench.node.table.lookup("100.64.19.137".parse().unwrap()).is_some());
    let mut update = Update::default();
    update.peers.online.push((NodeId(77), false));
    assert!(bench.tell(Command::Netmap(Box::new(update))).is_empty());
    let mut gone = Update::default();
    gone.peers.removed.push(NodeId(5001));
    bench.tell(Command::Netmap(Box::new(gone)));
    assert_eq!(
        (bench.node.members.len(), bench.node.by_key.len(), bench.node.by_disco.len()),
        (4999, 4999, 4999)
    );
    assert_eq!(bench.node.table.lookup("100.64.19.137".parse().unwrap()), None);
}

#[test]
fn the_status_names_us_and_says_of_each_peer_where_it_is_and_how_far() {
    let mut bench = Bench::new();
    let address: std::net::SocketAddr = "192.0.2.7:41641".parse().unwrap();
    let open = NetInput::Opened { link: LinkId(0), local: "0.0.0.0:40000".parse().unwrap() };
    bench.node.handle_net(bench.now, open, &mut bench.out).unwrap();
    assert_eq!(bench.node.own_name(), None, "nobody has said it yet");
    // The keys of a peer whose pong the test can make.
    let theirs = SecretKey::from_bytes([7; 32]);
    let their_disco = DiscoKey(theirs.public_bytes());
    let mut update = map(3);
    update.node.as_mut().unwrap().tags = vec!["tag:agent".into()];
    update.peers.full[0].disco = their_disco;
    update.peers.full[0].endpoints = vec![address];
    update.peers.full[0].home_derp = RegionId(2);
    update.peers.full[0].online = Some(true);
    update.peers.full[1].online = Some(false);
    update.derp = Some(DerpMapUpdate {
        regions: Some([(RegionId(2), DerpRegion { code: "fra".into(), ..DerpRegion::default() })].into()),
        scores: None,
    });
    bench.tell(Command::Netmap(Box::new(update)));
    let own = bench.node.own_name().unwrap();
    assert_eq!((own.name.as_str(), own.tags), ("me.tail.example", vec!["tag:agent".to_owned()]));
    let status = |bench: &Bench| bench.node.peers(bench.now);
    let idle = status(&bench);
    let facts: Vec<_> = idle.iter().map(|peer| (peer.name.as_str(), peer.online)).collect();
    assert_eq!(
        facts,
        [("n2.tail.example", Some(true)), ("n3.tail.example", Some(false)), ("n4.tail.example", None)]
    );
    assert_eq!(idle[0].addresses, [IpAddr::from([100, 64, 0, 2])]);
    assert!(idle.iter().all(|peer| (&peer.relay, peer.endpoint, peer.rtt) == (&None, None, None)));

    bench.out.net.drain(|_| ());
    let packet = udp("100.64.0.2", 9, b"x");
    bench.node.handle_packet(bench.now, HostPacket::new(&packet), &mut bench.out).unwrap();
    let relayed = status(&bench).remove(0);
    assert_eq!((relayed.relay.as_deref(), relayed.endpoint, relayed.rtt), (Some("fra"), None, None));

    let ours = Keys { node: SecretKey::from_bytes([1; 32]), disco: SecretKey::from_bytes([2; 32]) };
    let shared = crate::Shared::new(&theirs, ours.disco_key().as_bytes());
    let mut transaction = None;
    bench.out.net.drain(|batch| {
        let mut data = batch.data.to_vec();
        if let Some(Message::Ping { transaction: asked, .. }) =
            disco::sender(&data).and_then(|_| disco::open(&shared, &mut data).ok())
        {
            transaction = Some(asked);
        }
    });
    let transaction = transaction.expect("the endpoint of the netmap is pinged");
    let pong =
        Packet::pong(&shared, their_disco, [9; 24], &transaction, "198.51.100.1:40000".parse().unwrap());
    bench.now += Duration::from_millis(12);
    let mut data = pong.bytes().to_vec();
    let input = NetInput::Datagram { link: LinkId(0), from: address, data: &mut data };
    bench.node.handle_net(bench.now, input, &mut bench.out).unwrap();
    let direct = status(&bench).remove(0);
    assert_eq!(
        (direct.relay, direct.endpoint, direct.rtt),
        (None, Some(address), Some(Duration::from_millis(12)))
    );
}

fn tcp(to: &str, flags: u8) -> Vec<u8> {
    let mut segment = [0; 20];
    segment[..4].copy_from_slice(&[0x0f, 0xa0, 0, 80]);
    segment[4..8].copy_from_slice(&7u32.to_be_bytes());
    (segment[12], segment[13]) = (0x50, flags);
    let mut out = vec![0; 40];
    let (from, to) = (IpAddr::from([100, 64, 0, 1]), to.parse().unwrap());
    write_packet(protocol::TCP, from, to, &segment, &mut out).unwrap();
    out
}

#[test]
fn whoever_calls_a_node_that_is_none_or_a_missing_exit_node_hears_it_at_once_and_connections_wait() {
    let mut bench = Bench::new();
    bench.tell(Command::Netmap(Box::new(map(1))));
    let answer = |bench: &mut Bench, packet: &[u8]| {
        let sent = bench.node.handle_packet(bench.now, HostPacket::new(packet), &mut bench.out);
        assert_eq!(sent, Err(Dropped::NoRoute));
        let mut answer = None;
        bench.out.host.drain(|packet| {
            let ip = IpView::parse(packet.bytes()).unwrap();
            assert_eq!(ip.source(), IpAddr::from([100, 100, 100, 100]));
            let quoted = IpView::parse_unsized(&ip.payload()[8..]).unwrap();
            let kind = [ip.payload()[0], ip.payload()[1]];
            answer = Some((kind, quoted.destination(), quoted.payload().to_vec()));
        });
        answer
    };
    let (kind, about, quoted) = answer(&mut bench, &tcp("100.64.0.9", 2)).unwrap();
    assert_eq!((kind, about), ([3, 1], "100.64.0.9".parse().unwrap()));
    assert_eq!(quoted, [0x0f, 0xa0, 0, 80, 0, 0, 0, 7], "the call's own sequence number");
    assert_eq!(answer(&mut bench, &udp("100.64.0.9", 9, b"x")).unwrap().0, [3, 1]);
    bench.tell(Command::ExitNode(Some("nobody".to_owned())));
    assert_eq!(answer(&mut bench, &tcp("198.51.100.1", 2)).unwrap().0, [3, 0]);
    assert!(answer(&mut bench, &tcp("198.51.100.1", 0x10)).is_none(), "what is open may go on later");
}

#[test]
fn a_peer_that_looks_for_us_and_whose_call_was_lost_is_called() {
    let mut bench = Bench::new();
    let theirs = SecretKey::from_bytes([7; 32]);
    let their_disco = DiscoKey(theirs.public_bytes());
    let mut update = map(1);
    // Nobody handshakes without a way there.
    update.peers.full[0].endpoints = vec!["192.0.2.7:41641".parse().unwrap()];
    update.peers.full[0].disco = their_disco;
    let key = update.peers.full[0].key;
    let open = NetInput::Opened { link: LinkId(0), local: "0.0.0.0:40000".parse().unwrap() };
    bench.node.handle_net(bench.now, open, &mut bench.out).unwrap();
    bench.tell(Command::Netmap(Box::new(update)));
    let ours = Keys { node: SecretKey::from_bytes([1; 32]), disco: SecretKey::from_bytes([2; 32]) };
    let shared = crate::Shared::new(&theirs, ours.disco_key().as_bytes());
    let from = "192.0.2.7:41641".parse().unwrap();
    let hear = |bench: &mut Bench, packet: &Packet| {
        let mut data = packet.bytes().to_vec();
        let input = NetInput::Datagram { link: LinkId(0), from, data: &mut data };
        bench.node.handle_net(bench.now, input, &mut bench.out).unwrap();
    };
    hear(&mut bench, &Packet::ping(&shared, their_disco, [9; 24], &[3; 12], key));
    let start = bench.now;
    let mut called = None;
    while called.is_none() && bench.now < start + Duration::from_secs(2) {
        let (mut pinged, now) = (None, bench.now);
        bench.out.net.drain(|batch| {
            let mut data = batch.data.to_vec();
            if data.first() == Some(&1) && data.len() == 148 {
                called = Some(now - start);
            } else if let Some(Message::Ping { transaction, .. }) =
                disco::sender(&data).and_then(|_| disco::open(&shared, &mut data).ok())
            {
                pinged = Some(transaction);
            }
        });
        if let Some(transaction) = pinged {
            let seen = "198.51.100.1:40000".parse().unwrap();
            hear(&mut bench, &Packet::pong(&shared, their_disco, [8; 24], &transaction, seen));
        }
        let next = bench.node.poll_timeout().unwrap().at;
        bench.now = next.max(bench.now + Duration::from_millis(1));
        bench.node.handle_timeout(bench.now, &mut bench.out);
    }
    let after = called.expect("it is called");
    assert!((200..400).contains(&after.as_millis()), "its own call had its time: {after:?}");
}

#[test]
fn a_peer_that_nobody_talks_to_is_small() {
    let size = size_of::<super::peer::Member>();
    assert!(size <= 1024, "{size} bytes, thousands of times");
}
