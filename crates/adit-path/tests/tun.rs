//! A TUN device, each test in a network namespace of its own. Needs root; elsewhere every test prints a skip.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use adit_path::{
    Connect, ConnectFailure, End, Engine, EngineOptions, Listen, Network, Phase, PingKind, Query, TunOptions,
    Udp, UdpMessage, repair_tun,
};
use adit_wireguard::WireGuard;
use common::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Runs the test `name` again in a namespace of its own; `true` inside of it.
fn inside(name: &str) -> bool {
    if std::env::var_os("ADIT_TUN_TEST").is_some() {
        run("ip link set lo up");
        return true;
    }
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        println!("SKIP {name}: a TUN device needs root and /dev/net/tun");
        return false;
    }
    let status = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("ADIT_TUN_TEST", "1")
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed in its namespace");
    false
}

fn output(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn run(command: &str) {
    output(command);
}

/// A directory that holds state and a `resolv.conf`.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("adit-tun-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("resolv.conf"), "nameserver 192.0.2.53\n").unwrap();
        Self(path)
    }

    fn options(&self) -> TunOptions {
        TunOptions { resolv_conf: Some(self.0.join("resolv.conf")), ..TunOptions::new(&self.0) }
    }

    fn resolv(&self) -> String {
        std::fs::read_to_string(self.0.join("resolv.conf")).unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tun(machine: &Machine) -> EngineOptions {
    EngineOptions { end: End::Tun(machine.options()), ..EngineOptions::default() }
}

/// A server on the netstack and a client behind a TUN device.
async fn tun_pair(machine: &Machine) -> Pair {
    let port = free_port();
    let server = start(server_config(port));
    within(server.status().wait_for(|status| status.config.is_some())).await.unwrap();
    let client = start_with(client_config(port), tun(machine));
    wait_for(&*client, Phase::Up).await;
    Pair { server, client }
}

async fn echo(server: &Arc<Engine<WireGuard>>, port: u16) {
    let mut listener = within(server.listen(port, Listen::default())).await.unwrap();
    tokio::spawn(async move {
        while let Ok(flow) = listener.accept().await {
            let (mut from, mut to) = tokio::io::split(flow.into_stream().unwrap());
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn any_program_reaches_the_network_through_the_device() {
    if !inside("any_program_reaches_the_network_through_the_device") {
        return;
    }
    let machine = Machine::new("program");
    let pair = tun_pair(&machine).await;
    echo(&pair.server, 7000).await;
    // The standard library knows nothing of tunnels.
    let received = tokio::task::spawn_blocking(|| {
        let mut stream = TcpStream::connect(at(SERVER, 7000)).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let sent: Vec<u8> = (0..2_000_000u32).map(|i| (i >> 3) as u8).collect();
        let copy = sent.clone();
        let thread = std::thread::spawn(move || {
            writer.write_all(&copy).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        thread.join().unwrap();
        received == sent
    });
    assert!(within(received).await.unwrap());
    let refused = tokio::task::spawn_blocking(|| TcpStream::connect(at(SERVER, 9)));
    assert_eq!(within(refused).await.unwrap().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);

    let server =
        within(pair.server.udp(Udp { port: 7001, peer: None })).await.unwrap().into_socket().unwrap();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.send_to(b"hello", at(SERVER, 7001)).unwrap();
    let mut buffer = [0; 64];
    let (len, from) = within(server.recv_from(&mut buffer)).await.unwrap();
    assert_eq!((&buffer[..len], from.ip().to_string().as_str()), (&b"hello"[..], CLIENT));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_questions_of_a_network_are_answered_by_the_kernel() {
    if !inside("the_questions_of_a_network_are_answered_by_the_kernel") {
        return;
    }
    let machine = Machine::new("network");
    let pair = tun_pair(&machine).await;
    echo(&pair.server, 7000).await;
    let flow = within(pair.client.connect(at(SERVER, 7000), Connect::default())).await.unwrap();
    let mut stream = flow.into_stream().unwrap();
    stream.write_all(b"question").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "question");
    let failure = within(pair.client.connect(at(SERVER, 9), Connect::default())).await.unwrap_err();
    assert_eq!(failure, ConnectFailure::Refused);
    let failure = within(pair.client.connect(at("10.99.0.1", 9), Connect::default())).await.unwrap_err();
    assert_eq!(failure, ConnectFailure::NoRoute("10.99.0.1".parse().unwrap()));

    let kind = PingKind::Icmp { size: 56, timeout: PATIENCE };
    let pong = within(pair.client.ping(SERVER.parse().unwrap(), kind)).await.unwrap();
    assert_eq!(pong.from.to_string(), SERVER);

    let to = at(SERVER, 7009);
    let socket =
        within(pair.client.udp(Udp { port: 0, peer: Some(to) })).await.unwrap().into_socket().unwrap();
    socket.send_to(b"anybody?", to).await.unwrap();
    let mut message = [0; 64];
    let expected = UdpMessage::Unreachable { to, kind: 3, code: 3 };
    assert_eq!(within(socket.recv(&mut message)).await.unwrap(), expected);

    let dns = within(pair.server.udp(Udp { port: 53, peer: None })).await.unwrap().into_socket().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((len, from)) = dns.recv_from(&mut query).await {
            // NXDOMAIN to everything.
            query[2] |= 0x80;
            query[3] = 0x83;
            dns.send_to(&query[..len], from).await.unwrap();
        }
    });
    let failure = within(pair.client.resolve(Query::addresses("db.corp.internal"))).await.unwrap_err();
    assert!(failure.to_string().contains("does not exist"), "{failure}");

    let mut listener = within(pair.client.listen(0, Listen::default())).await.unwrap();
    let connect = pair.server.connect(at(CLIENT, listener.port()), Connect::default());
    let (theirs, ours) = within(async { tokio::join!(connect, listener.accept()) }).await;
    assert_eq!(ours.unwrap().peer(), theirs.unwrap().local());
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_put_back_at_the_end() {
    if !inside("everything_is_put_back_at_the_end") {
        return;
    }
    let machine = Machine::new("clean");
    let before = output("ip route");
    let pair = tun_pair(&machine).await;
    let during = output("ip route");
    assert!(during.contains("10.77.0.0/24 dev adit0"), "{during}");
    assert!(during.contains("unreachable 10.77.0.0/24 proto static metric 4000000"), "{during}");
    assert!(
        machine.resolv().ends_with("search corp.internal\nnameserver 10.77.0.1\n"),
        "{}",
        machine.resolv()
    );
    pair.client.shutdown();
    assert_eq!(output("ip route"), before);
    assert_eq!(machine.resolv(), "nameserver 192.0.2.53\n");
    assert_eq!(std::fs::read_dir(&machine.0).unwrap().count(), 1, "only resolv.conf is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_left_is_guarded_and_repaired() {
    if let Some(directory) = std::env::var_os("ADIT_TUN_VICTIM") {
        let machine = std::mem::ManuallyDrop::new(Machine(directory.into()));
        let pair = tun_pair(&machine).await;
        println!("up");
        std::io::stdout().flush().unwrap();
        std::future::pending::<()>().await;
        drop(pair);
    }
    if !inside("what_a_killed_process_left_is_guarded_and_repaired") {
        return;
    }
    let machine = Machine::new("killed");
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_a_killed_process_left_is_guarded_and_repaired", "--nocapture"])
        .env("ADIT_TUN_VICTIM", &machine.0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("up\n") {
        let mut byte = [0];
        victim.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
    // The device is gone, and nothing takes private packets another way.
    let error = TcpStream::connect_timeout(&at(SERVER, 7000), Duration::from_secs(5)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable, "{error}");
    assert!(machine.resolv().contains("10.77.0.1"));
    assert!(repair_tun(&machine.options()).unwrap());
    assert_eq!(machine.resolv(), "nameserver 192.0.2.53\n");
    assert_eq!(output("ip route"), "");
    assert!(!repair_tun(&machine.options()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_keeps_its_way_outside_of_a_default_route() {
    if !inside("the_endpoint_keeps_its_way_outside_of_a_default_route") {
        return;
    }
    run("ip link add outside type veth peer name beyond");
    run("ip link set beyond up");
    run("ip address add 192.0.2.2/24 dev outside");
    run("ip link set outside up");
    run("ip route add default via 192.0.2.1 dev outside");
    let machine = Machine::new("default");
    let mut config = client_config(51820);
    config.peers[0].endpoint.as_mut().unwrap().host = "198.51.100.7".to_owned();
    config.peers[0].allowed_ips = vec!["0.0.0.0/0".parse().unwrap()];
    let client = start_with(config, tun(&machine));
    within(client.status().wait_for(|status| status.counters.net_sent > 0 || status.phase > Phase::Starting))
        .await
        .unwrap();
    let way = output("ip route get 198.51.100.7");
    assert!(way.contains("via 192.0.2.1 dev outside"), "{way}");
    let way = output("ip route get 203.0.113.9");
    assert!(way.contains("dev adit0"), "{way}");
    client.shutdown();
    let way = output("ip route get 203.0.113.9");
    assert!(way.contains("via 192.0.2.1 dev outside"), "{way}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_family_that_we_have_no_address_in_does_not_leave_past_the_device() {
    if !inside("a_family_that_we_have_no_address_in_does_not_leave_past_the_device") {
        return;
    }
    run("ip link add outside type veth peer name beyond");
    run("ip link set beyond up");
    run("ip address add 2001:db8::2/64 dev outside nodad");
    run("ip link set outside up");
    run("ip route add default via 2001:db8::1 dev outside");
    let machine = Machine::new("family");
    let mut config = client_config(51820);
    config.peers[0].endpoint.as_mut().unwrap().host = "2001:db8:1::7".to_owned();
    config.peers[0].allowed_ips = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    assert!(config.addresses.iter().all(|address| address.address().is_ipv4()));
    let client = start_with(config, tun(&machine));
    within(client.status().wait_for(|status| status.counters.net_sent > 0 || status.phase > Phase::Starting))
        .await
        .unwrap();
    let reach = |to: &str| {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket.connect((to, 9)).map_err(|error| error.kind())
    };
    assert_eq!(reach("2001:db8:2::1"), Err(std::io::ErrorKind::HostUnreachable));
    assert_eq!(reach("2001:db8:1::7"), Ok(()), "the endpoint keeps its way");
    assert_eq!(reach("2001:db8::1"), Ok(()), "the machine's own network is its own");
    client.shutdown();
    assert_eq!(reach("2001:db8:2::1"), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn prefixes_that_overlap_the_machines_networks_are_refused_unless_forced() {
    if !inside("prefixes_that_overlap_the_machines_networks_are_refused_unless_forced") {
        return;
    }
    run("ip link add outside type veth peer name beyond");
    run("ip link set beyond up");
    run("ip address add 10.77.0.99/16 dev outside");
    run("ip link set outside up");
    let machine = Machine::new("overlap");
    let before = output("ip route");
    let port = free_port();
    let client = start_with(client_config(port), tun(&machine));
    let status =
        within(client.status().wait_for(|status| status.phase == Phase::Failed)).await.unwrap().clone();
    let fault = status.fault.unwrap();
    assert_eq!(fault.class, "route.clash");
    assert_eq!(
        fault.summary,
        "10.77.0.0/24, which the tunnel routes, overlaps 10.77.0.0/16 of the interface outside"
    );
    assert_eq!(output("ip route"), before);
    let failure = within(client.connect(at(SERVER, 80), Connect::default())).await.unwrap_err();
    assert!(matches!(failure, ConnectFailure::Down(_)), "{failure:?}");
    drop(client);

    let options = TunOptions { force: true, ..machine.options() };
    let client =
        start_with(client_config(port), EngineOptions { end: End::Tun(options), ..Default::default() });
    within(client.status().wait_for(|status| status.config.is_some())).await.unwrap();
    assert!(output("ip route").contains("10.77.0.0/24 dev adit0"));
}
