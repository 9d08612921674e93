//! The library's engine against the real server: flows, names, failures, and sessions that survive.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_path::{
    Connect, ConnectFailure, Engine, EngineOptions, Listen, Network, Query, ResolveFailure, Udp,
};
use adit_providers::wgquick::WgQuick;
use adit_wireguard::{Command, WireGuard};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Lab, Part, blob, run};

const LIMIT: Duration = Duration::from_secs(60);

/// Starts an engine in the client's namespace: its thread and sockets are made there.
fn start(lab: &Lab) -> Engine<WireGuard> {
    let mut conf = lab.conf();
    conf.keepalive = Some(1);
    let file = WgQuick::parse(&conf.to_string()).unwrap();
    let tunnel = WireGuard::new(file.tunnel_config(None), 7, Instant::now());
    lab.client.enter(|| Engine::start(tunnel, EngineOptions::default())).unwrap()
}

/// Runs a test's asynchronous part, which must end within a time.
fn block_on<T>(limit: Duration, work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(limit, work).await.expect("the test ends in time") })
}

async fn get(engine: &Engine<WireGuard>, to: SocketAddr, path: &str) -> Vec<u8> {
    let flow = engine.connect(to, Connect::default()).await.unwrap();
    let mut stream = flow.into_stream().unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    let head = response.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
    response.split_off(head)
}

fn web() -> SocketAddr {
    "10.77.0.10:80".parse().unwrap()
}

fn echo() -> SocketAddr {
    "10.77.0.10:7".parse().unwrap()
}

#[test]
fn pages_and_a_blob_arrive_over_both_families() {
    let Some(lab) = Lab::build("engine_pages", &[Part::Names]) else { return };
    let engine = start(&lab);
    block_on(LIMIT, async {
        let answer = engine.resolve(Query::addresses("files")).await.unwrap();
        assert_eq!(answer.name, "files.corp.internal");
        assert_eq!(answer.addresses.len(), 2, "{answer:?}");
        for address in answer.addresses {
            let peer = get(&engine, SocketAddr::new(address, 80), "/peer").await;
            let expected: &[u8] = if address.is_ipv4() { b"10.66.0.2\n" } else { b"fd66::2\n" };
            assert_eq!(peer, expected);
        }
        assert!(get(&engine, web(), "/blob").await == blob(), "64 MiB arrive as they were sent");
    });
}

#[test]
fn datagrams_come_back_from_where_they_were_sent() {
    let Some(lab) = Lab::build("engine_udp", &[]) else { return };
    let engine = start(&lab);
    block_on(LIMIT, async {
        let socket = engine.udp(Udp::default()).await.unwrap().into_socket().unwrap();
        for size in [0, 1, 1200, 1392] {
            socket.send_to(&vec![7; size], echo()).await.unwrap();
            let mut buffer = vec![0; 65_536];
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            assert_eq!((length, from), (size, echo()));
        }
    });
}

#[test]
fn failures_are_what_the_network_says() {
    let Some(lab) = Lab::build("engine_failures", &[Part::Names]) else { return };
    let engine = start(&lab);
    block_on(LIMIT, async {
        let connect = async |to: &str| {
            let options = Connect { timeout: Duration::from_secs(4), ..Connect::default() };
            engine.connect(to.parse().unwrap(), options).await.map(|flow| flow.peer())
        };
        let refused = connect("10.77.0.10:81").await;
        assert!(matches!(refused, Err(ConnectFailure::Refused)), "{refused:?}");
        let silent = connect("10.77.1.66:80").await;
        assert!(matches!(silent, Err(ConnectFailure::TimedOut(_))), "{silent:?}");
        let unreachable = connect("10.77.1.67:80").await;
        assert!(
            matches!(&unreachable, Err(ConnectFailure::Unreachable { from, kind: 3, code: 1 }) if from.to_string() == "10.66.0.1"),
            "{unreachable:?}"
        );
        let outside = connect("192.0.2.80:80").await;
        assert!(outside.is_err(), "what the tunnel does not route is not reached: {outside:?}");
        let name = engine.resolve(Query::addresses("nope.corp.internal")).await;
        assert!(matches!(name, Err(ResolveFailure::NoSuchName { .. })), "{name:?}");
    });
}

#[test]
fn a_peer_reaches_a_listener_at_the_tunnels_address() {
    let Some(lab) = Lab::build("engine_listen", &[]) else { return };
    let engine = start(&lab);
    block_on(LIMIT, async {
        let mut listener = engine.listen(8000, Listen::default()).await.unwrap();
        // A session first: the server does not know where we are.
        get(&engine, web(), "/healthz").await;
        let serve = async {
            let mut stream = listener.accept().await.unwrap().into_stream().unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        };
        let mut command = lab.lan.command("curl");
        command.args(["-sf", "--max-time", "10", "http://10.66.0.2:8000/"]);
        let curl = tokio::task::spawn_blocking(move || run(&mut command, LIMIT));
        let (curl, ()) = tokio::join!(curl, serve);
        assert_eq!(curl.unwrap().expect(0).text(), "hello");
    });
}

/// A connection that is asked for an echo again and again.
struct Conversation(adit_path::FlowStream, u32);

impl Conversation {
    async fn begin(engine: &Engine<WireGuard>) -> Self {
        let flow = engine.connect(echo(), Connect::default()).await.unwrap();
        Self(flow.into_stream().unwrap(), 0)
    }

    /// Says numbers and hears each of them again.
    async fn go_on(&mut self, count: u32) {
        for _ in 0..count {
            self.1 += 1;
            self.0.write_all(&self.1.to_be_bytes()).await.unwrap();
            let mut heard = [0; 4];
            self.0.read_exact(&mut heard).await.unwrap();
            assert_eq!(u32::from_be_bytes(heard), self.1);
        }
    }
}

#[test]
fn a_connection_outlives_a_restart_of_the_server() {
    let Some(mut lab) = Lab::build("engine_restart", &[]) else { return };
    let engine = start(&lab);
    block_on(LIMIT, async {
        let mut conversation = Conversation::begin(&engine).await;
        conversation.go_on(10).await;
        lab.start_wireguard();
        conversation.go_on(10).await;
    });
}

#[test]
fn a_connection_outlives_an_outage_of_thirty_seconds() {
    let Some(lab) = Lab::build("engine_outage", &[]) else { return };
    let engine = start(&lab);
    block_on(2 * LIMIT, async {
        let mut conversation = Conversation::begin(&engine).await;
        conversation.go_on(10).await;
        lab.wireguard.as_ref().expect("it runs").signal(Signal::STOP);
        let server = async {
            // The outage itself is what is tested: no event ends it earlier.
            tokio::time::sleep(Duration::from_secs(30)).await;
            lab.wireguard.as_ref().expect("it runs").signal(Signal::CONT);
            Instant::now()
        };
        let (back, ()) = tokio::join!(server, conversation.go_on(10));
        let late = back.elapsed();
        assert!(late < Duration::from_secs(10), "the flow goes on {late:?} after the server");
    });
}

#[test]
fn a_connection_outlives_a_new_address_of_the_client() {
    let Some(lab) = Lab::build("engine_roaming", &[]) else { return };
    let engine = start(&lab);
    block_on(LIMIT, async {
        let mut conversation = Conversation::begin(&engine).await;
        conversation.go_on(10).await;
        lab.client.ip(
            "addr del 192.0.2.2/24 dev eth0\naddr add 192.0.2.7/24 dev eth0\nroute replace default via 192.0.2.1\n",
        );
        conversation.go_on(10).await;
    });
    assert!(lab.wg_show("endpoints").contains("192.0.2.7:"), "{}", lab.wg_show("endpoints"));
}

#[test]
fn new_keys_under_load_lose_nothing() {
    let Some(lab) = Lab::build("engine_rekey", &[]) else { return };
    let engine = start(&lab);
    block_on(LIMIT, async {
        let load = async { assert!(get(&engine, web(), "/blob").await == blob()) };
        let mut conversation = Conversation::begin(&engine).await;
        let rekeys = async {
            for _ in 0..10 {
                engine.command(Command::Rehandshake(None)).unwrap();
                conversation.go_on(5).await;
            }
        };
        tokio::join!(load, rekeys);
    });
}
