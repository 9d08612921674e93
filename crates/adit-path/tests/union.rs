//! Two scripted networks as one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_path::{
    Connect, ConnectFailure, Destination, Listen, Network, Phase, PingFailure, PingKind, Query,
    ResolveFailure, Udp, Union,
};
use adit_sim::{Host, ScriptedNetwork, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const WIDE: [u8; 4] = [10, 77, 1, 1];
const NARROW: [u8; 4] = [10, 77, 5, 1];
const FAR: [u8; 4] = [10, 99, 0, 1];

fn greeting(text: &'static str) -> Host {
    Host::new().udp_echo(7).tcp(
        80,
        Service::serve(move |mut stream| async move {
            stream.write_all(text.as_bytes()).await.ok();
        }),
    )
}

/// One network with 10.77.0.0/16 and `internal`, one with 10.77.5.0/24, 10.99.0.0/16 and `lab.internal`.
fn networks() -> (ScriptedNetwork, ScriptedNetwork, Union) {
    let wide = ScriptedNetwork::new()
        .host(WIDE, greeting("wide"))
        .host(NARROW, greeting("wrong"))
        .name("db.internal", [IpAddr::from(WIDE)])
        .name("db.lab.internal", [IpAddr::from(WIDE)]);
    let narrow = ScriptedNetwork::new()
        .host(NARROW, greeting("narrow"))
        .host(FAR, greeting("far"))
        .name("db.lab.internal", [IpAddr::from(NARROW)]);
    narrow.set_status(|status| {
        let config = status.config.as_mut().unwrap();
        config.routes = vec!["10.77.5.0/24".parse().unwrap(), "10.99.0.0/16".parse().unwrap()];
        config.dns.search = vec!["lab.internal".to_owned()];
        config.mtu = 1280;
    });
    let members: [Arc<dyn Network>; 2] = [Arc::new(wide.clone()), Arc::new(narrow.clone())];
    (wide, narrow, Union::new(members))
}

async fn said(union: &Union, to: [u8; 4]) -> String {
    let flow = union.connect((to, 80).into(), Connect::default()).await.unwrap();
    let mut text = String::new();
    flow.into_stream().unwrap().read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn the_longest_route_decides_about_an_address() {
    let (wide, narrow, union) = networks();
    assert_eq!(said(&union, WIDE).await, "wide");
    assert_eq!(said(&union, NARROW).await, "narrow");
    assert_eq!(said(&union, FAR).await, "far");
    assert_eq!((wide.connects().len(), narrow.connects().len()), (1, 2));

    let outside: SocketAddr = "192.0.2.1:80".parse().unwrap();
    let refused = union.connect(outside, Connect::default()).await.unwrap_err();
    assert_eq!(refused, ConnectFailure::NoRoute(outside.ip()));
    assert!(!union.owns(&Destination::Address(outside.ip())));
    assert!(union.owns(&Destination::Address(FAR.into())));
    let kind = PingKind::Icmp { size: 8, timeout: Duration::from_millis(10) };
    assert_eq!(union.ping(FAR.into(), kind).await.unwrap().from, IpAddr::from(FAR));
    assert_eq!(union.ping(outside.ip(), kind).await.unwrap_err(), PingFailure::NoRoute(outside.ip()));
}

#[tokio::test]
async fn the_longest_domain_decides_about_a_name_and_no_other_network_hears_of_it() {
    let (_, narrow, union) = networks();
    let resolve = async |name: &str| union.resolve(Query::addresses(name)).await;
    assert_eq!(resolve("db.internal").await.unwrap().addresses, [IpAddr::from(WIDE)]);
    assert_eq!(resolve("db.lab.internal").await.unwrap().addresses, [IpAddr::from(NARROW)]);
    // The other network knows the name too: it is not asked, also when its owner is down.
    narrow.take_down("wg.silent");
    assert!(matches!(resolve("db.lab.internal").await, Err(ResolveFailure::Down(_))));
    let unknown = resolve("nowhere.internal").await.unwrap_err();
    assert!(matches!(unknown, ResolveFailure::NoSuchName { .. }), "{unknown:?}");
}

#[tokio::test]
async fn one_endpoint_sends_datagrams_into_every_network() {
    let (_wide, _narrow, union) = networks();
    let socket = union.udp(Udp::default()).await.unwrap().into_socket().unwrap();
    let mut buffer = [0; 64];
    for to in [WIDE, FAR, NARROW, WIDE] {
        let to = SocketAddr::from((to, 7));
        socket.send_to(to.to_string().as_bytes(), to).await.unwrap();
        let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
        assert_eq!((from, &buffer[..len]), (to, to.to_string().as_bytes()));
    }
}

#[tokio::test]
async fn peers_of_every_network_reach_a_port() {
    let (wide, narrow, union) = networks();
    let mut listener = union.listen(0, Listen::default()).await.unwrap();
    for network in [&wide, &narrow] {
        let from = SocketAddr::from(([10, 77, 9, 9], 4000));
        let dialling = network.clone();
        let port = listener.port();
        let dial = tokio::spawn(async move { dialling.connect_from(from, port).await.map(drop) });
        let incoming = listener.next().await.unwrap();
        assert_eq!(incoming.peer(), from);
        drop(incoming.accept().await.unwrap().into_stream().unwrap());
        dial.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_state_is_up_while_one_network_is_and_shows_who_is_not() {
    let (wide, narrow, union) = networks();
    let mut status = union.status();
    {
        let now = status.borrow_and_update();
        let config = now.config.as_ref().unwrap();
        assert_eq!((now.phase, config.mtu, config.routes.len()), (Phase::Up, 1280, 4));
        assert_eq!(config.dns.search, ["internal", "lab.internal"]);
    }
    narrow.take_down("wg.silent");
    status.wait_for(|status| status.fault.is_some()).await.unwrap();
    assert_eq!(status.borrow().phase, Phase::Up);
    wide.take_down("wg.silent");
    status.wait_for(|status| status.phase == Phase::Reconnecting).await.unwrap();
}
