//! A WireGuard peer in this process, and a directory of one user.

#![allow(dead_code, unreachable_pub, reason = "every test program uses a part of it")]

use std::io::Write as _;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_path::{Engine, EngineOptions, Listen, Network, Udp};
use adit_wireguard::{Config, PeerConfig, PrivateKey, WireGuard};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

pub const SERVER: &str = "10.77.0.1";
pub const CLIENT_KEY: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
/// How long anything may take before the test has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A WireGuard server with an echo service on port 7 (TCP and UDP) and a page on port 80, and a directory for one user.
pub struct Lab {
    pub server: Arc<Engine<WireGuard>>,
    pub runtime: tokio::runtime::Handle,
    pub directory: PathBuf,
}

impl Lab {
    pub fn new(name: &str) -> Self {
        Self::in_network(name, 77)
    }

    /// A laboratory whose network is `10.NETWORK.0.0/24`; the server has its first address.
    pub fn in_network(name: &str, network: u8) -> Self {
        let directory = std::env::temp_dir().join(format!("adit-up-{name}-{}", std::process::id()));
        let _stale = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        let key = |byte| PrivateKey::from_bytes([byte; 32]);
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut peer = PeerConfig::new(key(2).public_key());
        peer.allowed_ips = vec![format!("10.{network}.0.2/32").parse().unwrap()];
        let mut config = Config::new(key(1));
        config.addresses = vec![format!("10.{network}.0.1/24").parse().unwrap()];
        config.listen_port = Some(port);
        config.peers = vec![peer];
        let tunnel = WireGuard::new(config, 1, Instant::now());
        let server = Arc::new(Engine::start(tunnel, EngineOptions::default()).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let served = Arc::clone(&server);
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::join!(echo(Arc::clone(&served)), datagrams(Arc::clone(&served)), pages(served))
            })
        });
        let lab = Self { server, runtime: handle, directory };
        lab.write(
            "lab.conf",
            &format!(
                "[Interface]\nPrivateKey = {CLIENT_KEY}\nAddress = 10.{network}.0.2/32\n\
                 [Peer]\nPublicKey = {}\nAllowedIPs = 10.{network}.0.0/24\nEndpoint = 127.0.0.1:{port}\n",
                key(1).public_key()
            ),
        );
        lab
    }

    pub fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.directory.join(name);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        command.args(arguments).current_dir(&self.directory).env("XDG_RUNTIME_DIR", &self.directory);
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed; returns its stdout.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {}\n{out}\n{err}", output.status);
        out
    }

    pub fn leftovers(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.directory.join("adit")) else { return Vec::new() };
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _not_running = self.command(&["down"]).output();
        self.server.shutdown();
        let _gone = std::fs::remove_dir_all(&self.directory);
    }
}

async fn echo(server: Arc<Engine<WireGuard>>) {
    let mut listener = server.listen(7, Listen::default()).await.unwrap();
    while let Ok(flow) = listener.accept().await {
        let mut stream = flow.into_stream().unwrap();
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(&mut stream);
            let _ended = tokio::io::copy(&mut reader, &mut writer).await;
            let _ended = writer.shutdown().await;
        });
    }
}

async fn datagrams(server: Arc<Engine<WireGuard>>) {
    let socket = server.udp(Udp { port: 7, peer: None }).await.unwrap().into_socket().unwrap();
    let mut buffer = [0; 2048];
    while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
        let _gone = socket.send_to(&buffer[..len], from).await;
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Answers every request with the line that it began with.
async fn pages(server: Arc<Engine<WireGuard>>) {
    let mut listener = server.listen(80, Listen::default()).await.unwrap();
    while let Ok(flow) = listener.accept().await {
        let mut stream = BufReader::new(flow.into_stream().unwrap());
        tokio::spawn(async move {
            let mut first = String::new();
            let _ended = stream.read_line(&mut first).await;
            let answer = format!("HTTP/1.0 200 OK\r\n\r\nyou asked: {first}");
            let _ended = stream.write_all(answer.as_bytes()).await;
            let _ended = stream.shutdown().await;
        });
    }
}
