//! A tunnel between two engines of this process, over loopback.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use adit_path::{Connect, Engine, EngineOptions, Flow, Listen, Network, Phase};
use adit_tunnel::HostPort;
use adit_wireguard::{Config, PeerConfig, PrivateKey, WireGuard};
use tokio::runtime::Runtime;

use super::{Figure, cpu};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 213, 78, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 213, 78, 2);
/// What a program writes and reads at a time.
const CHUNK: usize = 128 * 1024;
/// Name of an engine's thread.
const DRIVER: &str = "adit-driver";
/// How long anything that is not measured may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// One transfer, as both ends saw it: the CPU time is that of the end's packet path, without the programs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transfer {
    /// The client's end.
    pub client: Figure,
    /// The server's end.
    pub server: Figure,
}

/// Two engines with a WireGuard session between them. Dropping it ends them.
#[derive(Debug)]
pub struct Loopback {
    runtime: Runtime,
    server: Engine<WireGuard>,
    client: Engine<WireGuard>,
    server_thread: u32,
    client_thread: u32,
}

impl Loopback {
    /// Starts both and waits for the handshake.
    ///
    /// # Errors
    /// Of the system: no sockets, threads or randomness; or the handshake did not come about.
    pub fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let port = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port();
        let keys = [PrivateKey::from_bytes([1; 32]), PrivateKey::from_bytes([2; 32])];
        let mut member = PeerConfig::new(keys[1].public_key());
        member.allowed_ips = vec![prefix(CLIENT, 32)];
        let mut config = Config::new(keys[0].clone());
        config.addresses = vec![prefix(SERVER, 24)];
        config.listen_port = Some(port);
        config.peers = vec![member];
        let (server, server_thread) = start(config)?;
        let mut peer = PeerConfig::new(keys[0].public_key());
        peer.allowed_ips = vec![prefix(SERVER, 24)];
        peer.endpoint = Some(HostPort { host: "127.0.0.1".to_owned(), port });
        let mut config = Config::new(keys[1].clone());
        config.addresses = vec![prefix(CLIENT, 32)];
        config.peers = vec![peer];
        runtime.block_on(async {
            let mut status = server.status();
            patiently(status.wait_for(|status| status.config.is_some())).await.map(drop)
        })?;
        let (client, client_thread) = start(config)?;
        runtime.block_on(async {
            let mut status = client.status();
            patiently(status.wait_for(|status| status.phase == Phase::Up)).await.map(drop)
        })?;
        Ok(Self { runtime, server, client, server_thread, client_thread })
    }

    /// Moves bytes for `time` over one connection, between two sockets as programs have them.
    ///
    /// # Errors
    /// Of the system, or the connection broke.
    pub fn transfer(&self, direction: Direction, time: Duration) -> io::Result<Transfer> {
        let (client, server) = self.connect()?;
        let (source, sink) = match direction {
            Direction::Up => (client, server),
            Direction::Down => (server, client),
        };
        let (mut source, mut sink) = (attach(source)?, attach(sink)?);
        let work = |id| cpu::thread(id).unwrap_or_default();
        let before = (work(self.client_thread), work(self.server_thread));
        let start = Instant::now();
        let writer = thread::Builder::new().name("adit-source".to_owned()).spawn(move || {
            let chunk = vec![0xab; CHUNK];
            while start.elapsed() < time {
                source.write_all(&chunk)?;
            }
            io::Result::Ok(())
        })?;
        let mut buffer = vec![0; CHUNK];
        let mut bytes = 0;
        // The writer's end of the file ends this; a connection that stands still ends it with an error.
        sink.set_read_timeout(Some(PATIENCE))?;
        loop {
            match sink.read(&mut buffer)? {
                0 => break,
                n => bytes += n as u64,
            }
        }
        let wall = start.elapsed();
        writer.join().map_err(|_| io::Error::other("the writer panicked"))??;
        let figure = |cpu| Figure { bytes, wall, cpu };
        Ok(Transfer {
            client: figure(work(self.client_thread).saturating_sub(before.0)),
            server: figure(work(self.server_thread).saturating_sub(before.1)),
        })
    }

    /// The times that 64 bytes take there and back, `count` of them one after another, in no order.
    ///
    /// # Errors
    /// Of the system, or the connection broke.
    pub fn round_trips(&self, count: usize) -> io::Result<Vec<Duration>> {
        let (client, server) = self.connect()?;
        let (mut near, mut far) = (attach(client)?, attach(server)?);
        near.set_read_timeout(Some(PATIENCE))?;
        let echo = thread::Builder::new().name("adit-echo".to_owned()).spawn(move || {
            let mut buffer = [0; 64];
            while far.read_exact(&mut buffer).is_ok() && far.write_all(&buffer).is_ok() {}
        })?;
        let mut buffer = [0; 64];
        let times = (0..count)
            .map(|_| {
                let start = Instant::now();
                near.write_all(&buffer)?;
                near.read_exact(&mut buffer)?;
                Ok(start.elapsed())
            })
            .collect();
        drop(near);
        echo.join().map_err(|_| io::Error::other("the echo panicked"))?;
        times
    }

    fn connect(&self) -> io::Result<(Flow, Flow)> {
        self.runtime.block_on(async {
            let mut listener = self.server.listen(0, Listen::default()).await.map_err(io::Error::other)?;
            let to = SocketAddr::from((SERVER, listener.port()));
            let connect = self.client.connect(to, Connect::default());
            let (client, server) = tokio::join!(connect, listener.accept());
            Ok((client.map_err(io::Error::other)?, server.map_err(io::Error::other)?))
        })
    }
}

fn prefix(address: Ipv4Addr, length: u8) -> adit_tunnel::Prefix {
    adit_tunnel::Prefix::new(address.into(), length).expect("at most 32 bits")
}

/// Starts an engine; returns it with the id of its thread.
fn start(config: Config) -> io::Result<(Engine<WireGuard>, u32)> {
    let seed = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    let before = cpu::named(DRIVER);
    let engine = Engine::start(WireGuard::new(config, seed, Instant::now()), EngineOptions::default())?;
    let find = || cpu::named(DRIVER).into_iter().find(|id| !before.contains(id));
    // A thread gets its name when it begins to run, which may be a little later than the return of its start.
    let deadline = Instant::now() + PATIENCE;
    let mut thread = find();
    while thread.is_none() && Instant::now() < deadline {
        thread::yield_now();
        thread = find();
    }
    Ok((engine, thread.ok_or_else(|| io::Error::other("/proc does not show the engine's thread"))?))
}

async fn patiently<T, E: std::error::Error + Send + Sync + 'static>(
    future: impl Future<Output = Result<T, E>>,
) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, future).await?.map_err(io::Error::other)
}

/// Hands one end of a socket pair to the flow; returns the program's.
fn attach(flow: Flow) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    flow.attach(theirs.into())?;
    Ok(ours)
}
