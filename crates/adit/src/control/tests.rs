//! The client against the network behind the daemon: a user must not be able to tell them apart.

use std::future::ready;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use adit_path::{
    BoxFuture, Connect, ConnectFailure, Destination, Listen, ListenFailure, Network, Phase, PingKind, Query,
    ResolveFailure, Udp,
};
use adit_sim::{Host, ScriptedNetwork, Service as Script};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::testing::Scratch;
use super::*;

struct Desk {
    profile: &'static str,
    asked: Notify,
    stop: Notify,
}

impl Service for Desk {
    fn info(&self) -> Info {
        self.asked.notify_one();
        Info { version: "1".to_owned(), pid: 7, profile: self.profile.to_owned(), ..Info::default() }
    }

    fn verify(&self) -> BoxFuture<'_, Result<serde_json::Value, String>> {
        Box::pin(ready(Ok(serde_json::json!({ "ok": true }))))
    }

    fn forward(&self, spec: String) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(ready(Err(format!("`{spec}` is no forward"))))
    }

    fn stop(&self) {
        self.stop.notify_one();
    }
}

/// A daemon in this process.
struct Daemon {
    network: ScriptedNetwork,
    desk: Arc<Desk>,
    socket: ControlSocket,
    server: JoinHandle<()>,
    scratch: Arc<Scratch>,
}

impl Daemon {
    fn start(clients: usize) -> Self {
        Self::serve(clients, "lab", Arc::new(Scratch::new("daemon")))
    }

    /// Another daemon at the place of this one, which ends.
    fn replaced_by(self, profile: &'static str) -> Self {
        let Self { scratch, server, socket, .. } = self;
        server.abort();
        drop(socket);
        Self::serve(64, profile, scratch)
    }

    fn serve(clients: usize, profile: &'static str, scratch: Arc<Scratch>) -> Self {
        let host = Host::new()
            .tcp(7, Script::Echo)
            .tcp(9, Script::Silent)
            .tcp(13, Script::Unreachable(3, 1))
            .udp_echo(7);
        let network = ScriptedNetwork::new()
            .host([10, 77, 0, 5], host)
            .host([10, 77, 0, 6], Host::silent())
            .name("db.internal", [IpAddr::from([10, 77, 0, 5])]);
        let socket = ControlSocket::claim(&scratch.path().join("lab.sock")).unwrap();
        let desk = Arc::new(Desk { profile, asked: Notify::new(), stop: Notify::new() });
        let service: Arc<dyn Service> = Arc::clone(&desk) as _;
        let server =
            Server::new(socket.bind().unwrap(), Arc::new(network.clone()), service, clients).unwrap();
        Self { network, desk, socket, server: tokio::spawn(server.run()), scratch }
    }

    async fn client(&self) -> Client {
        Client::connect(self.socket.path()).await.unwrap()
    }

    async fn raw(&self) -> UnixStream {
        UnixStream::connect(self.socket.path()).await.unwrap()
    }
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 77, 0, 5], port))
}

fn quick() -> Connect {
    Connect { timeout: Duration::from_millis(200), ..Connect::default() }
}

async fn echo(network: &dyn Network) -> String {
    let mut stream = network.connect(at(7), quick()).await.unwrap().into_stream().unwrap();
    stream.write_all(b"over and back").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    back
}

#[tokio::test]
async fn every_outcome_is_the_same_as_without_the_daemon() {
    let daemon = Daemon::start(64);
    let client = daemon.client().await;
    let (direct, remote): (&dyn Network, &dyn Network) = (&daemon.network, &client);

    for destination in [
        Destination::Address([10, 77, 0, 5].into()),
        Destination::Address([192, 0, 2, 1].into()),
        Destination::Address([127, 0, 0, 1].into()),
        Destination::Name("db.internal".to_owned()),
        Destination::Name("db".to_owned()),
    ] {
        assert_eq!(direct.owns(&destination), remote.owns(&destination), "{destination}");
    }
    for name in ["db.internal", "db", "missing.internal"] {
        let query = Query::addresses(name);
        assert_eq!(direct.resolve(query.clone()).await, remote.resolve(query).await, "{name}");
    }
    let outside = SocketAddr::from(([192, 0, 2, 1], 80));
    for to in [at(8), at(9), at(13), outside] {
        let (one, other) = (direct.connect(to, quick()).await, remote.connect(to, quick()).await);
        assert_eq!(one.unwrap_err(), other.unwrap_err(), "{to}");
    }
    let kind = PingKind::Icmp { size: 8, timeout: Duration::from_millis(50) };
    for to in [[10, 77, 0, 5], [10, 77, 0, 6], [192, 0, 2, 1]].map(IpAddr::from) {
        assert_eq!(direct.ping(to, kind).await, remote.ping(to, kind).await, "{to}");
    }
    assert_eq!(echo(direct).await, echo(remote).await);
    assert_eq!(*direct.status().borrow(), *remote.status().borrow());
}

#[tokio::test]
async fn a_fault_reaches_the_client_with_its_evidence_and_its_end() {
    let daemon = Daemon::start(64);
    let client = daemon.client().await;
    let mut status = client.status();
    daemon.network.take_down("wg.silent");
    let down = status.wait_for(|status| status.phase == Phase::Reconnecting).await.unwrap().clone();
    assert_eq!(down.fault.unwrap().class, "wg.silent");
    assert!(client.owns(&Destination::Name("db.internal".to_owned())), "private names stay private");
    let failure = client.connect(at(7), quick()).await.unwrap_err();
    assert!(matches!(failure, ConnectFailure::Down(fault) if fault.class == "wg.silent"));
    daemon.network.set_status(|status| status.phase = Phase::Up);
    status.wait_for(|status| status.phase == Phase::Up).await.unwrap();
    assert_eq!(echo(&client).await, "over and back");
}

#[tokio::test]
async fn datagrams_travel_over_the_descriptor_that_the_daemon_sends() {
    let daemon = Daemon::start(64);
    let socket = daemon.client().await.udp(Udp::default()).await.unwrap().into_socket().unwrap();
    socket.send_to(b"ping", at(7)).await.unwrap();
    let mut buffer = [0; 16];
    assert_eq!(socket.recv_from(&mut buffer).await.unwrap(), (4, at(7)));
    assert_eq!(&buffer[..4], b"ping");
}

#[tokio::test]
async fn peers_are_accepted_refused_and_ignored_through_the_daemon() {
    let daemon = Daemon::start(64);
    let client = daemon.client().await;
    let mut listener = client.listen(80, Listen::default()).await.unwrap();
    assert_eq!(client.listen(80, Listen::default()).await.unwrap_err(), ListenFailure::PortInUse(80));
    let peer = SocketAddr::from(([10, 77, 0, 9], 5000));
    let knock = || {
        let network = daemon.network.clone();
        tokio::spawn(async move { network.connect_from(peer, 80).await })
    };

    let knocking = knock();
    let flow = listener.accept().await.unwrap();
    assert_eq!((flow.peer(), flow.local().port()), (peer, 80));
    let mut ours = flow.into_stream().unwrap();
    let mut theirs = knocking.await.unwrap().unwrap();
    ours.write_all(b"welcome").await.unwrap();
    let mut text = [0; 7];
    theirs.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"welcome");

    let knocking = knock();
    listener.next().await.unwrap().refuse();
    assert_eq!(knocking.await.unwrap().unwrap_err(), ConnectFailure::Refused);
    let knocking = knock();
    drop(listener.next().await.unwrap());
    assert_eq!(knocking.await.unwrap().unwrap_err(), ConnectFailure::Refused);
    let knocking = knock();
    listener.next().await.unwrap().ignore();
    assert!(matches!(knocking.await.unwrap(), Err(ConnectFailure::TimedOut(_))));

    let knocking = knock();
    drop(listener.accept().await.unwrap());
    let mut abandoned = knocking.await.unwrap().unwrap();
    assert_eq!(abandoned.read(&mut text).await.unwrap_or(0), 0, "the abandoned connection ends");
}

#[tokio::test]
async fn a_connection_that_nobody_attaches_is_closed_with_the_conversation() {
    let daemon = Daemon::start(64);
    let client = daemon.client().await;
    drop(client.connect(at(7), quick()).await.unwrap());
    assert_eq!(echo(&client).await, "over and back");
}

#[tokio::test]
async fn a_daemon_that_dies_leaves_typed_failures() {
    let daemon = Daemon::start(64);
    let client = daemon.client().await;
    let mut listener = client.listen(80, Listen::default()).await.unwrap();
    daemon.server.abort();
    let mut status = client.status();
    status.wait_for(|status| status.phase == Phase::Closed).await.unwrap();
    assert_eq!(client.connect(at(7), quick()).await.unwrap_err(), ConnectFailure::Closed);
    assert_eq!(client.resolve(Query::addresses("db")).await.unwrap_err(), ResolveFailure::Closed);
    assert!(listener.next().await.is_none());
    assert!(client.owns(&Destination::Address([10, 77, 0, 5].into())), "fail closed");
    assert!(matches!(Client::connect(daemon.socket.path()).await, Err(ClientError::NotRunning(_))));
}

#[tokio::test]
async fn the_client_works_outside_a_runtime() {
    let daemon = Daemon::start(64);
    let client = Arc::new(daemon.client().await);
    let other = std::thread::spawn({
        let client = Arc::clone(&client);
        move || {
            let mut future = Box::pin(async move {
                let (mut ours, theirs) = StdUnixStream::pair().unwrap();
                client.connect(at(7), quick()).await.unwrap().attach(theirs.into()).unwrap();
                ours.write_all(b"thread").unwrap();
                let mut back = [0; 6];
                ours.read_exact(&mut back).unwrap();
                back
            });
            let waker = std::task::Waker::from(Arc::new(Unpark(std::thread::current())));
            loop {
                match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
                    std::task::Poll::Ready(back) => return back,
                    std::task::Poll::Pending => std::thread::park(),
                }
            }
        }
    });
    let back = tokio::task::spawn_blocking(move || other.join().unwrap()).await.unwrap();
    assert_eq!(&back, b"thread");
}

struct Unpark(std::thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[tokio::test]
async fn questions_about_the_daemon_are_answered() {
    let daemon = Daemon::start(64);
    let client = daemon.client().await;
    assert_eq!(client.info().await.unwrap().profile, "lab");
    assert_eq!(client.verify().await.unwrap(), serde_json::json!({ "ok": true }));
    assert_eq!(client.forward("x").await.unwrap_err().to_string(), "`x` is no forward");
}

#[tokio::test]
async fn down_returns_when_the_daemon_is_gone() {
    let daemon = Daemon::start(64);
    let (path, desk) = (daemon.socket.path().to_owned(), Arc::clone(&daemon.desk));
    let mut asking = tokio::spawn(async move { down(&path).await });
    desk.stop.notified().await;
    let early = tokio::time::timeout(Duration::from_millis(20), &mut asking).await;
    assert!(early.is_err(), "the daemon is still cleaning up");
    daemon.server.abort();
    asking.await.unwrap().unwrap();
}

#[tokio::test]
async fn hostile_clients_are_answered_or_cut_and_harm_nobody() {
    let daemon = Daemon::start(64);
    let follow_up = encode(&Request::Attach).unwrap();
    let pairs: [(&[u8], &str); 5] = [
        (&[0xff; 8], ""),
        (&[0, 0, 0, 1, b'{'], "not a message"),
        (&[0, 0, 0, 0], "not a message"),
        (&follow_up, "follow-up"),
        (b"GET / HTTP/1.1\r\n\r\n", ""),
    ];
    for (bytes, expected) in pairs {
        let mut raw = daemon.raw().await;
        raw.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _reset = raw.read_to_end(&mut answer).await;
        assert!(String::from_utf8_lossy(&answer).contains(expected), "{bytes:?}");
    }
    // An attach without its descriptor, and a second question in the middle of the first.
    let mut raw = daemon.raw().await;
    let connect = Request::Connect { to: at(7), options: quick() };
    raw.write_all(&encode(&connect).unwrap()).await.unwrap();
    raw.write_all(&follow_up).await.unwrap();
    let mut answer = Vec::new();
    raw.read_to_end(&mut answer).await.unwrap();
    let mut raw = daemon.raw().await;
    let slow = Request::Connect { to: at(9), options: Connect::default() };
    raw.write_all(&encode(&slow).unwrap()).await.unwrap();
    raw.write_all(&encode(&slow).unwrap()).await.unwrap();
    assert_eq!(raw.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(echo(&daemon.client().await).await, "over and back");
}

#[tokio::test]
async fn operations_are_limited_and_the_rest_is_told_so() {
    let daemon = Daemon::start(2);
    let client = daemon.client().await;
    let held = client.connect(at(7), quick()).await.unwrap();
    let refused = client.connect(at(7), quick()).await.unwrap_err();
    assert!(matches!(refused, ConnectFailure::Exhausted(_)), "{refused:?}");
    assert_eq!(client.info().await.unwrap().pid, 7, "info is answered all the same");
    drop(held);
    // The daemon notices the end of the conversation in its own time.
    while let Err(failure) = client.connect(at(7), quick()).await {
        assert!(matches!(failure, ConnectFailure::Exhausted(_)), "{failure:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_operation_with_it() {
    let daemon = Daemon::start(2);
    let client = daemon.client().await;
    let slow = client.connect(at(9), Connect::default());
    assert!(tokio::time::timeout(Duration::from_millis(20), slow).await.is_err());
    while let Err(failure) = client.connect(at(7), quick()).await {
        assert!(matches!(failure, ConnectFailure::Exhausted(_)), "{failure:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn another_user_is_refused_even_where_the_file_lets_him_in() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: becoming another user needs root");
        return;
    }
    let daemon = Daemon::start(64);
    let directory = daemon.socket.path().parent().unwrap();
    for (path, mode) in [(directory, 0o755), (daemon.socket.path(), 0o666)] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let ask = |uid: u32| {
        let mut command = Command::new("socat");
        command.arg("-").arg(format!("UNIX-CONNECT:{}", daemon.socket.path().display()));
        let child =
            command.uid(uid).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        tokio::task::spawn_blocking(move || {
            let mut child = child?;
            let _refused = child.stdin.take().unwrap().write_all(&encode(&Request::Info).unwrap());
            child.wait_with_output().map(|output| output.stdout)
        })
    };
    match ask(0).await.unwrap() {
        Err(error) => return eprintln!("SKIPPED: socat cannot be run: {error}"),
        Ok(answer) => assert!(!answer.is_empty(), "root is answered"),
    }
    assert!(ask(65_534).await.unwrap().unwrap().is_empty(), "nobody is not");
}

#[tokio::test]
async fn a_silent_daemon_does_not_hold_its_client_for_ever() {
    let scratch = Scratch::new("silent");
    let socket = ControlSocket::claim(&scratch.path().join("lab.sock")).unwrap();
    let _listener = socket.bind().unwrap();
    let attached = Client::connect_within(socket.path(), Duration::from_millis(20)).await;
    assert!(matches!(attached, Err(ClientError::Silent)));
}

#[tokio::test]
async fn a_client_finds_the_daemon_that_comes_back_for_the_same_profile() {
    let daemon = Daemon::start(64);
    let client = daemon.client().await;
    let mut status = client.status();
    let inside = Destination::Address(IpAddr::from([10, 77, 0, 5]));
    assert!(client.owns(&inside));
    // Somebody else's network at the same place is not ours. The second question comes after the first was answered.
    let foreign = daemon.replaced_by("other");
    foreign.desk.asked.notified().await;
    foreign.desk.asked.notified().await;
    let gone = status.borrow_and_update().clone();
    assert_eq!(
        (gone.phase, gone.fault.map(|fault| fault.class)),
        (Phase::Closed, Some("env.daemon_gone".to_owned()))
    );
    assert!(client.owns(&inside), "what is private stays private while nobody serves it");
    let refused = client.connect(at(7), quick()).await.unwrap_err();
    assert_eq!(refused, ConnectFailure::Closed);

    let _back = foreign.replaced_by("lab");
    status.wait_for(|status| status.phase == Phase::Up).await.unwrap();
    client.connect(at(7), quick()).await.unwrap();
}
