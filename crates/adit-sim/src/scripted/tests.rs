//! A scripted network answers as its script says.

use tokio::io::AsyncReadExt;

use super::*;

fn network() -> ScriptedNetwork {
    let host =
        Host::new().tcp(7, Service::Echo).tcp(9, Service::Silent).tcp(11, Service::Say(b"hello".to_vec()));
    ScriptedNetwork::new()
        .host([10, 77, 0, 5], host.udp_echo(7))
        .name("db.internal", [IpAddr::from([10, 77, 0, 5])])
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 77, 0, 5], port))
}

#[tokio::test]
async fn an_echo_service_returns_what_it_gets_and_carries_half_close() {
    let mut stream = network().connect(at(7), Connect::default()).await.unwrap().into_stream().unwrap();
    stream.write_all(b"over and back").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "over and back");
}

#[tokio::test(start_paused = true)]
async fn ports_refuse_and_hosts_stay_silent_as_scripted() {
    let network = network();
    let quick = Connect { timeout: Duration::from_secs(1), ..Connect::default() };
    assert_eq!(network.connect(at(8), quick.clone()).await.unwrap_err(), ConnectFailure::Refused);
    let silent = ConnectFailure::TimedOut(Duration::from_secs(1));
    assert_eq!(network.connect(at(9), quick.clone()).await.unwrap_err(), silent);
    let nobody = SocketAddr::from(([10, 77, 9, 9], 1));
    assert_eq!(network.connect(nobody, quick.clone()).await.unwrap_err(), silent);
    let outside = SocketAddr::from(([192, 0, 2, 1], 1));
    assert_eq!(
        network.connect(outside, quick.clone()).await.unwrap_err(),
        ConnectFailure::NoRoute(outside.ip())
    );
    network.take_down("wg.silent");
    assert!(
        matches!(network.connect(at(7), quick).await, Err(ConnectFailure::Down(fault)) if fault.class == "wg.silent")
    );
}

#[tokio::test]
async fn names_resolve_with_the_search_domain() {
    let network = network();
    assert!(network.owns(&Destination::Name("db".to_owned())));
    let answer = network.resolve(Query::addresses("db")).await.unwrap();
    assert_eq!((answer.name.as_str(), answer.rule.as_str()), ("db.internal", "search:internal"));
    assert!(matches!(network.resolve(Query::addresses("no")).await, Err(ResolveFailure::NoSuchName { .. })));
}

#[tokio::test]
async fn udp_comes_back_from_the_address_it_was_sent_to() {
    let socket = network().udp(Udp::default()).await.unwrap().into_socket().unwrap();
    socket.send_to(b"ping", at(7)).await.unwrap();
    let mut buffer = [0; 16];
    assert_eq!(socket.recv_from(&mut buffer).await.unwrap(), (4, at(7)));
    assert_eq!(&buffer[..4], b"ping");
}

#[tokio::test]
async fn a_peer_can_connect_to_a_listener() {
    let network = network();
    let mut listener = network.listen(80, Listen::default()).await.unwrap();
    let server = async {
        let mut stream = listener.accept().await.unwrap().into_stream().unwrap();
        stream.write_all(b"welcome").await.unwrap();
    };
    let client = async {
        let mut stream = network.connect_from(SocketAddr::from(([10, 77, 0, 9], 5000)), 80).await.unwrap();
        let mut text = [0; 7];
        stream.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"welcome");
    };
    tokio::join!(server, client);
}
