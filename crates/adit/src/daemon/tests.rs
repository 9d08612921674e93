//! A daemon around the scripted network.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use adit_sim::{Host, ScriptedNetwork, Service as Script};
use adit_verify::{SCHEMA, Stage, Verified as Proof};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::control::{self, Client, ClientError, testing::Scratch};

fn report(ok: bool) -> Report {
    Report {
        schema: SCHEMA.to_owned(),
        adit: "0.0.0".to_owned(),
        ok,
        exit_code: if ok { 0 } else { 31 },
        profile: Some("lab".to_owned()),
        provider: Some("wireguard".to_owned()),
        mode: Some("userspace".to_owned()),
        started: "2026-11-23T08:00:00Z".to_owned(),
        duration_ms: 1,
        verified: if ok { Proof::Targets } else { Proof::None },
        furthest_stage: Stage::Target,
        this: None,
        path: None,
        stages: Vec::new(),
        failure: None,
        other_failures: Vec::new(),
        warnings: Vec::new(),
    }
}

/// Succeeds for as long as the network is up, and counts.
struct Counting(ScriptedNetwork, Arc<AtomicU32>);

impl Verifier for Counting {
    fn verify(&self, _check: Check) -> BoxFuture<'_, Report> {
        Box::pin(async move {
            self.1.fetch_add(1, Ordering::Relaxed);
            report(self.0.status().borrow().phase == Phase::Up)
        })
    }
}

fn daemon() -> (ScriptedNetwork, Daemon, Arc<AtomicU32>) {
    let network = ScriptedNetwork::new()
        .host([10, 77, 0, 5], Host::new().tcp(7, Script::Echo))
        .name("echo.internal", [IpAddr::from([10, 77, 0, 5])]);
    let identity = Identity {
        file: None,
        profile: "lab".to_owned(),
        provider: "wireguard".to_owned(),
        mode: "userspace".to_owned(),
        device: None,
    };
    let count = Arc::new(AtomicU32::new(0));
    let verifier = Box::new(Counting(network.clone(), Arc::clone(&count)));
    let daemon = Daemon::new(Arc::new(network.clone()), verifier, identity);
    (network, daemon, count)
}

#[tokio::test]
async fn a_client_sees_what_the_daemon_is_and_adds_a_forward() {
    let (_network, daemon, _) = daemon();
    let scratch = Scratch::new("up");
    let socket = ControlSocket::claim(&scratch.path().join("lab.sock")).unwrap();
    daemon.serve(&socket).unwrap();
    assert!(daemon.verify_now().await.ok);
    let proxy = daemon.add_proxy("127.0.0.1:0".parse().unwrap(), None).await.unwrap();

    let client = Client::connect(socket.path()).await.unwrap();
    let forward: ForwardSpec = client.forward("0:echo.internal:7").await.unwrap().parse().unwrap();
    let mut stream = TcpStream::connect(forward.listen).await.unwrap();
    stream.write_all(b"over").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "over");

    let info = client.info().await.unwrap();
    assert_eq!(info.fronts["proxy"], [proxy.to_string()]);
    assert_eq!(info.fronts["forward"], [forward.to_string()]);
    assert!(info.verification.ok && info.verification.started);
    assert_eq!(Health::Ready.judge(&info, Phase::Up), Ok(()));
    assert_eq!(client.verify().await.unwrap()["ok"], true);

    // Adit's own ports are never exposed, those that came later included.
    for port in [proxy.port(), forward.listen.port()] {
        let spec = ExposeSpec { port, protocol: Protocol::Tcp };
        assert!(matches!(daemon.add_expose(spec).await, Err(FrontError::OwnPort(_))));
    }
    let taken = client.forward(&format!("{}:echo.internal:7", proxy.port())).await.unwrap_err();
    assert!(matches!(&taken, ClientError::Refused(why) if why.contains("is in use by")), "{taken}");
}

#[tokio::test]
async fn down_ends_after_the_files_are_removed() {
    let (_network, daemon, _) = daemon();
    let scratch = Scratch::new("down");
    let socket = ControlSocket::claim(&scratch.path().join("lab.sock")).unwrap();
    let path = socket.path().to_owned();
    daemon.serve(&socket).unwrap();
    let running = tokio::spawn(async move {
        daemon.stopped().await;
        drop(socket);
        daemon.close();
    });
    control::down(&path).await.unwrap();
    assert!(!path.exists());
    running.await.unwrap();
    assert!(matches!(control::down(&path).await, Err(ClientError::NotRunning(_))));
}

#[tokio::test]
async fn the_end_of_the_network_ends_the_watch() {
    let (network, daemon, _) = daemon();
    let watching = tokio::spawn({
        let daemon = daemon.clone();
        async move { daemon.watch(|_, _| {}).await }
    });
    network.set_status(|status| status.phase = Phase::Failed);
    assert_eq!(watching.await.unwrap(), Phase::Failed);
}

#[tokio::test]
async fn a_network_that_came_back_is_checked_at_once() {
    let (network, daemon, count) = daemon();
    let watching = tokio::spawn({
        let daemon = daemon.clone();
        async move { daemon.watch(|_, _| {}).await }
    });
    let mut verified = daemon.0.verified.subscribe();
    tokio::task::yield_now().await;
    network.take_down("wg.silent");
    tokio::task::yield_now().await;
    network.set_status(|status| status.phase = Phase::Up);
    verified.wait_for(|verified| verified.report.is_some()).await.unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 1);
    watching.abort();
}

#[tokio::test]
async fn health_says_why_not() {
    let (network, daemon, _) = daemon();
    let judge = |health: Health| health.judge(&daemon.info(), network.status().borrow().phase);
    assert_eq!(judge(Health::Live), Ok(()));
    assert_eq!(judge(Health::Startup), Ok(()));
    assert!(judge(Health::Ready).unwrap_err().contains("nothing has been verified"));
    daemon.take(&report(false), Check::Full);
    assert!(judge(Health::Ready).unwrap_err().contains("nothing has been verified"));
    assert!(daemon.verify_now().await.ok);
    assert_eq!(judge(Health::Ready), Ok(()));
    daemon.take(&report(false), Check::Cheap);
    assert_eq!(judge(Health::Ready), Ok(()), "a blip is not a failure");
    daemon.take(&report(false), Check::Full);
    assert!(judge(Health::Ready).unwrap_err().contains("failed"));
    assert!(daemon.verify_now().await.ok);
    network.take_down("wg.silent");
    assert!(judge(Health::Ready).unwrap_err().contains("reconnecting"));
    let mut info = daemon.info();
    info.verification.age = Some(READY * 2);
    assert!(Health::Ready.judge(&info, Phase::Up).unwrap_err().contains("180 s old"));
}

#[tokio::test]
async fn the_end_of_another_process_is_noticed() {
    let mut child = tokio::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let pid = child.id().unwrap() as i32;
    let waiting = tokio::spawn(exit_of_process(pid));
    drop(child.stdin.take());
    waiting.await.unwrap().unwrap();
    child.wait().await.unwrap();
    exit_of_process(pid).await.unwrap();
    assert!(exit_of_process(0).await.is_err());
}

#[tokio::test]
async fn a_daemon_without_connections_becomes_idle() {
    let (network, daemon, _) = daemon();
    network.set_status(|status| status.counters.tcp_flows = 1);
    let waiting = idle(&daemon, Duration::from_millis(50));
    assert!(tokio::time::timeout(Duration::from_millis(200), waiting).await.is_err());
    network.set_status(|status| status.counters.tcp_flows = 0);
    idle(&daemon, Duration::from_millis(50)).await;
}
