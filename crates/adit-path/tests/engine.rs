//! Engine to engine over a real WireGuard tunnel on loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use adit_path::{
    Connect, ConnectFailure, Destination, End, Engine, EngineOptions, Flow, Listen, Network, Phase, PingKind,
    Query, ResolveFailure, TunOptions, Udp, UdpFailure, UdpMessage,
};
use adit_wireguard::{Command, WireGuard};
use common::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes whose order shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8).collect()
}

fn patient(timeout: Duration) -> Connect {
    Connect { timeout, ..Connect::default() }
}

/// A connected pair of TCP sockets of this machine: the program's end, and the one to attach.
fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    (ours, theirs)
}

fn attached(flow: Flow) -> TcpStream {
    let (ours, theirs) = tcp_pair();
    flow.attach(theirs.into()).unwrap();
    ours
}

#[tokio::test]
async fn megabytes_pass_both_ways_at_once_unchanged() {
    let pair = pair().await;
    let (client, server) = streams(&pair, 7000).await;
    let echo = tokio::spawn(async move {
        let (mut from, mut to) = tokio::io::split(server);
        tokio::io::copy(&mut from, &mut to).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let sent = pattern(4 << 20);
    let (mut from, mut to) = tokio::io::split(client);
    let copy = sent.clone();
    let writer = tokio::spawn(async move {
        to.write_all(&copy).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    within(from.read_to_end(&mut received)).await.unwrap();
    assert!(received == sent, "{} of {} bytes came back, or they changed", received.len(), sent.len());
    within(writer).await.unwrap();
    within(echo).await.unwrap();
    assert_eq!(pair.client.status().borrow().counters.tcp_flows, 0, "both directions have ended");
}

#[tokio::test]
async fn an_answer_comes_after_the_question_has_ended() {
    let pair = pair().await;
    let (mut client, mut server) = streams(&pair, 7001).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = String::new();
    within(server.read_to_string(&mut question)).await.unwrap();
    assert_eq!(question, "question");
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "answer");
}

#[tokio::test]
async fn nobody_listens_is_refused() {
    let pair = pair().await;
    let failure = within(pair.client.connect(at(SERVER, 9), Connect::default())).await.unwrap_err();
    assert_eq!(failure, ConnectFailure::Refused);
}

#[tokio::test]
async fn an_address_outside_the_routes_has_no_route() {
    let pair = pair().await;
    let failure = within(pair.client.connect(at("10.99.0.1", 9), Connect::default())).await.unwrap_err();
    assert_eq!(failure, ConnectFailure::NoRoute("10.99.0.1".parse().unwrap()));
    assert!(!pair.client.owns(&Destination::Address("10.99.0.1".parse().unwrap())));
    assert!(pair.client.owns(&Destination::Address(SERVER.parse().unwrap())));
    assert!(pair.client.owns(&Destination::Name("db.corp.internal".to_owned())));
    let peer = Some(at("10.99.0.1", 53));
    let failure = within(pair.client.udp(Udp { port: 0, peer })).await.unwrap_err();
    assert_eq!(failure, UdpFailure::NoRoute("10.99.0.1".parse().unwrap()));
}

#[tokio::test]
async fn an_allow_list_denies_the_rest() {
    let options = EngineOptions { allow: Some(vec!["10.77.0.8/29".parse().unwrap()]), ..Default::default() };
    let client = start_with(client_config(free_port()), options);
    let failure = within(client.connect(at(SERVER, 80), Connect::default())).await.unwrap_err();
    let ConnectFailure::Denied(why) = failure else { panic!("{failure:?}") };
    assert!(why.contains(SERVER), "{why}");
}

#[test]
fn a_device_is_not_started_with_a_list_that_it_cannot_keep() {
    let end = End::Tun(TunOptions::new(std::path::Path::new("/nonexistent")));
    let options = EngineOptions { end, allow: Some(vec!["10.77.0.5/32".parse().unwrap()]) };
    let tunnel = WireGuard::new(client_config(free_port()), 7, Instant::now());
    let error = Engine::start(tunnel, options).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_peer_that_does_not_answer_costs_the_time_asked_for() {
    let pair = pair().await;
    let mut listener = within(pair.server.listen(7002, Listen::default())).await.unwrap();
    let timeout = Duration::from_millis(300);
    let started = Instant::now();
    let connect = pair.client.connect(at(SERVER, 7002), patient(timeout));
    let ignore = async { listener.next().await.unwrap().ignore() };
    let (result, ()) = within(async { tokio::join!(connect, ignore) }).await;
    assert_eq!(result.unwrap_err(), ConnectFailure::TimedOut(timeout));
    assert!(started.elapsed() >= timeout);
}

#[tokio::test]
async fn a_listener_decides_on_every_connection() {
    let pair = pair().await;
    let mut listener = within(pair.server.listen(7003, Listen::default())).await.unwrap();
    let connect = pair.client.connect(at(SERVER, 7003), Connect::default());
    let refuse = async {
        let incoming = listener.next().await.unwrap();
        assert_eq!((incoming.local(), incoming.peer().ip()), (at(SERVER, 7003), CLIENT.parse().unwrap()));
        incoming.refuse();
    };
    let (result, ()) = within(async { tokio::join!(connect, refuse) }).await;
    assert_eq!(result.unwrap_err(), ConnectFailure::Refused);

    // A listener that is gone refuses, and its port is free again.
    drop(listener);
    let failure = within(pair.client.connect(at(SERVER, 7003), Connect::default())).await.unwrap_err();
    assert_eq!(failure, ConnectFailure::Refused);
    within(pair.server.listen(7003, Listen::default())).await.unwrap();
}

#[tokio::test]
async fn a_reset_inside_is_a_reset_of_the_attached_socket() {
    let pair = pair().await;
    let (client, server, _listener) = connected(&pair, 7004).await;
    let mut program = attached(client);
    drop(server);
    let error = tokio::task::spawn_blocking(move || program.read(&mut [0; 16])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_by_the_program_arrives_at_the_target() {
    let pair = pair().await;
    let (client, server, _listener) = connected(&pair, 7005).await;
    let (program, mut target) = (attached(client), attached(server));
    rustix::net::sockopt::set_socket_linger(&program, Some(Duration::ZERO)).unwrap();
    drop(program);
    let error = tokio::task::spawn_blocking(move || target.read(&mut [0; 16])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn attached_sockets_carry_data_and_the_end_of_it() {
    let pair = pair().await;
    let (client, server, _listener) = connected(&pair, 7006).await;
    let (mut program, mut target) = (attached(client), attached(server));
    let sent = pattern(4 << 20);
    let expected = sent.clone();
    let reader = tokio::task::spawn_blocking(move || {
        let mut received = Vec::new();
        target.read_to_end(&mut received).unwrap();
        target.write_all(b"thanks").unwrap();
        received
    });
    let writer = tokio::task::spawn_blocking(move || {
        program.write_all(&sent).unwrap();
        program.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        program.read_to_string(&mut answer).unwrap();
        answer
    });
    assert!(within(reader).await.unwrap() == expected);
    assert_eq!(within(writer).await.unwrap(), "thanks");
}

#[tokio::test]
async fn data_that_arrives_before_the_socket_is_attached_is_kept() {
    let pair = pair().await;
    let (client, server, _listener) = connected(&pair, 7007).await;
    let mut server = server.into_stream().unwrap();
    server.write_all(b"220 hello\r\n").await.unwrap();
    server.shutdown().await.unwrap();
    // The far end has seen our acknowledgement of its FIN when the flow is gone there.
    let mut buffer = String::new();
    let mut client = client.into_stream().unwrap();
    within(client.read_to_string(&mut buffer)).await.unwrap();
    assert_eq!(buffer, "220 hello\r\n");
}

#[tokio::test]
async fn datagrams_pass_with_their_source_address() {
    let pair = pair().await;
    let server = within(pair.server.udp(Udp { port: 7008, peer: None })).await.unwrap();
    assert_eq!(server.local().port(), 7008);
    let client = within(pair.client.udp(Udp::default())).await.unwrap();
    let (server, client) = (server.into_socket().unwrap(), client.into_socket().unwrap());
    let mut buffer = vec![0; 2000];
    for len in [0, 1, 1200] {
        let sent = pattern(len);
        client.send_to(&sent, at(SERVER, 7008)).await.unwrap();
        let (n, from) = within(server.recv_from(&mut buffer)).await.unwrap();
        assert_eq!((&buffer[..n], from.ip()), (&sent[..], CLIENT.parse().unwrap()));
        server.send_to(b"pong", from).await.unwrap();
        let (n, from) = within(client.recv_from(&mut buffer)).await.unwrap();
        assert_eq!((&buffer[..n], from), (&b"pong"[..], at(SERVER, 7008)));
    }
    let failure = within(pair.server.udp(Udp { port: 7008, peer: None })).await.unwrap_err();
    assert_eq!(failure, UdpFailure::PortInUse(7008));
}

#[tokio::test]
async fn a_closed_udp_port_is_reported_to_its_asker() {
    let pair = pair().await;
    let to = at(SERVER, 7009);
    let socket =
        within(pair.client.udp(Udp { port: 0, peer: Some(to) })).await.unwrap().into_socket().unwrap();
    socket.send_to(b"anybody?", to).await.unwrap();
    let mut message = [0; 64];
    // ICMP destination unreachable, port unreachable (RFC 792).
    let expected = UdpMessage::Unreachable { to, kind: 3, code: 3 };
    assert_eq!(within(socket.recv(&mut message)).await.unwrap(), expected);
}

#[tokio::test]
async fn the_far_end_answers_pings() {
    let pair = pair().await;
    let kind = PingKind::Icmp { size: 56, timeout: PATIENCE };
    let pong = within(pair.client.ping(SERVER.parse().unwrap(), kind)).await.unwrap();
    assert_eq!(pong.from, SERVER.parse::<std::net::IpAddr>().unwrap());
    assert!(pong.rtt < PATIENCE);
}

/// Answers every query with the same response code, and an A record if that is 0.
async fn dns_server(socket: adit_path::UdpSocket, code: u8, address: [u8; 4]) {
    let mut query = [0; 512];
    while let Ok((len, from)) = socket.recv_from(&mut query).await {
        let question_end = 12 + query[12..len].iter().position(|byte| *byte == 0).unwrap() + 5;
        let is_a = query[question_end - 4..question_end - 2] == [0, 1];
        let answers = u8::from(code == 0 && is_a);
        let mut answer = query[..question_end].to_vec();
        // QR, RD as asked, RA; one question; as many answers; nothing else (RFC 1035 §4.1.1).
        answer[2] |= 0x80;
        answer[3] = 0x80 | code;
        answer[6..12].copy_from_slice(&[0, answers, 0, 0, 0, 0]);
        if answers > 0 {
            answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend_from_slice(&address);
        }
        socket.send_to(&answer, from).await.unwrap();
    }
}

#[tokio::test]
async fn names_are_resolved_inside_the_network() {
    let pair = pair().await;
    let socket = within(pair.server.udp(Udp { port: 53, peer: None })).await.unwrap().into_socket().unwrap();
    tokio::spawn(dns_server(socket, 0, [10, 77, 0, 1]));
    let answer = within(pair.client.resolve(Query::addresses("db.corp.internal"))).await.unwrap();
    assert_eq!(answer.name, "db.corp.internal");
    assert_eq!(answer.addresses, [SERVER.parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(answer.server, Some(at(SERVER, 53)));
    // A single label is completed by the search domain.
    let answer = within(pair.client.resolve(Query::addresses("db"))).await.unwrap();
    assert_eq!(answer.name, "db.corp.internal");
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_told_apart_from_silence() {
    let pair = pair().await;
    let query = || Query { timeout: Duration::from_millis(500), ..Query::addresses("db.corp.internal") };
    let failure = within(pair.client.resolve(query())).await.unwrap_err();
    assert!(
        matches!(failure, ResolveFailure::Silent { .. } | ResolveFailure::Failed { .. }),
        "nobody listens on port 53: {failure:?}"
    );
    let socket = within(pair.server.udp(Udp { port: 53, peer: None })).await.unwrap().into_socket().unwrap();
    tokio::spawn(dns_server(socket, 3, [0; 4]));
    let failure = within(pair.client.resolve(query())).await.unwrap_err();
    let expected =
        ResolveFailure::NoSuchName { name: "db.corp.internal".to_owned(), server: SERVER.parse().unwrap() };
    assert_eq!(failure, expected);
}

#[tokio::test]
async fn shutting_down_ends_everything_with_a_word() {
    let pair = pair().await;
    let (client, server, _listener) = connected(&pair, 7010).await;
    let (mut program, mut target) = (attached(client), attached(server));
    let mut listener = within(pair.server.listen(7011, Listen::default())).await.unwrap();
    let waiting = pair.client.clone();
    let connect =
        tokio::spawn(async move { waiting.connect(at(SERVER, 7011), Connect::default()).await.map(drop) });
    let _undecided = within(listener.next()).await.unwrap();
    let udp = within(pair.client.udp(Udp::default())).await.unwrap().into_socket().unwrap();

    let engine = pair.client.clone();
    within(tokio::task::spawn_blocking(move || engine.shutdown())).await.unwrap();
    assert_eq!(within(connect).await.unwrap().unwrap_err(), ConnectFailure::Closed);
    let failure = within(pair.client.connect(at(SERVER, 7011), Connect::default())).await.unwrap_err();
    assert_eq!(failure, ConnectFailure::Closed);
    assert_eq!(pair.client.status().borrow().phase, Phase::Closed);
    let error = program.read(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "at our end");
    let error =
        within(tokio::task::spawn_blocking(move || target.read(&mut [0; 16]))).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "at the far end: the reset was sent");
    let mut buffer = [0; 16];
    let error = within(udp.recv_from(&mut buffer)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(pair.client.command(Command::NetworkChanged).is_err());
}

#[tokio::test]
async fn whoever_looks_at_the_status_does_not_hold_up_the_network() {
    let pair = pair().await;
    let status = pair.client.status();
    let looking = status.borrow();
    let (mut client, mut server) = streams(&pair, 7015).await;
    client.write_all(b"goes on").await.unwrap();
    let mut buffer = [0; 7];
    within(server.read_exact(&mut buffer)).await.unwrap();
    assert_eq!((&buffer, looking.phase), (b"goes on", Phase::Up));
}

#[tokio::test]
async fn a_connect_that_nobody_waits_for_any_more_leaves_nothing() {
    let pair = pair().await;
    let mut listener = within(pair.server.listen(7012, Listen::default())).await.unwrap();
    let engine = pair.client.clone();
    let connect =
        tokio::spawn(async move { engine.connect(at(SERVER, 7012), Connect::default()).await.map(drop) });
    let _undecided = within(listener.next()).await.unwrap();
    assert_eq!(pair.client.status().borrow().counters.tcp_flows, 1);
    connect.abort();
    assert!(within(connect).await.unwrap_err().is_cancelled());
    assert_eq!(pair.client.status().borrow().counters.tcp_flows, 0);
}

#[tokio::test]
async fn connections_wait_for_the_tunnel_and_fail_with_its_reason_when_it_stays_down() {
    // Nobody listens on the port: the server is not there yet.
    let port = free_port();
    let client = start(client_config(port));
    let engine = client.clone();
    let connect = tokio::spawn(async move { engine.connect(at(SERVER, 7013), patient(PATIENCE)).await });
    let server = start(server_config(port));
    let mut listener = within(server.listen(7013, Listen::default())).await.unwrap();
    let accepted = within(listener.accept()).await.unwrap();
    let flow = within(connect).await.unwrap().unwrap();
    assert_eq!(flow.local(), accepted.peer());
}

#[tokio::test]
async fn hundreds_of_flows_share_the_tunnel() {
    let pair = pair().await;
    let mut listener = within(pair.server.listen(7014, Listen { backlog: 512 })).await.unwrap();
    let count = 300;
    tokio::spawn(async move {
        while let Ok(flow) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(flow.into_stream().unwrap());
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..count {
        let engine = pair.client.clone();
        tasks.spawn(async move {
            let flow = engine.connect(at(SERVER, 7014), patient(PATIENCE)).await.unwrap();
            let mut stream = flow.into_stream().unwrap();
            let sent = format!("flow {i}").into_bytes();
            stream.write_all(&sent).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.unwrap();
            assert_eq!(received, sent);
        });
    }
    let mut done = 0;
    while let Some(result) = within(tasks.join_next()).await {
        result.unwrap();
        done += 1;
    }
    assert_eq!(done, count);
}
