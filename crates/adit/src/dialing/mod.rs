//! Reaching a target as the program will: from a child process whose system calls are intercepted.
//!
//! The child is this program again (`adit __dial HOST PORT`). It resolves the name with the system's own resolver,
//! connects as any program does, and hands the connected socket back. What is verified is therefore the whole
//! way: interception, the DNS front, the deferred handshake, the relay, the tunnel.

mod fronts;
mod kernel;
mod recorder;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as SocketName, UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_intercept::{Exit, LaunchFailure, Launcher, Options, Program, Running};
use adit_path::{BoxFuture, ConnectFailure, Destination, Network};
use adit_verify::{DialFailure, Dialed, Dialer, NetworkDialer};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};

pub(crate) use self::fronts::{FrontDialer, Open};
pub(crate) use self::kernel::KernelDialer;
use self::recorder::Recorder;

/// The hidden verb.
pub const VERB: &str = "__dial";
/// The variable that names the socket to answer on.
const VARIABLE: &str = "ADIT_DIAL";

/// The child's answer; a success comes with the socket.
#[derive(Debug, Serialize, Deserialize)]
enum Outcome {
    Connected {
        peer: SocketAddr,
    },
    /// The system's error number of the last address tried.
    Failed {
        errno: i32,
    },
    /// The name did not resolve; the resolver's words.
    Unresolved {
        why: String,
    },
}

/// Dials from intercepted children.
pub struct ExecDialer {
    launcher: Arc<Launcher>,
    network: Arc<Recorder>,
    inside: NetworkDialer,
}

impl std::fmt::Debug for ExecDialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecDialer").finish_non_exhaustive()
    }
}

impl ExecDialer {
    /// Children are started in `network`.
    pub fn new(network: Arc<dyn Network>) -> Self {
        let inside = NetworkDialer::new(Arc::clone(&network));
        let network = Arc::new(Recorder::new(network));
        let launcher = Launcher::new(Arc::clone(&network) as Arc<dyn Network>, Options::default());
        Self { launcher: Arc::new(launcher), inside, network }
    }

    async fn dial_in_child(
        &self,
        host: Destination,
        port: u16,
        limit: Duration,
    ) -> Result<Dialed, DialFailure> {
        self.network.limit(limit);
        let launcher = self.launcher.clone();
        let name = host.to_string();
        let dialled = tokio::task::spawn_blocking(move || dial(&launcher, &name, port, limit)).await;
        let (outcome, socket) = match dialled {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
                let late = rustix::io::Errno::TIMEDOUT.raw_os_error();
                return Err(self.connect_failure(late, host, port, limit).await);
            }
            Ok(Err(error)) => return Err(DialFailure::Command(format!("no probe could be run: {error}"))),
            Err(error) => return Err(DialFailure::Command(format!("the probe ended: {error}"))),
        };
        match (outcome, socket) {
            (Outcome::Connected { peer }, Some(socket)) => {
                let stream = TcpStream::from(socket);
                let stream =
                    stream.set_nonblocking(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
                let stream = stream.map_err(|error| DialFailure::Command(error.to_string()))?;
                Ok(Dialed { stream: Box::new(stream), peer })
            }
            (Outcome::Connected { .. }, None) => Err(ConnectFailure::Closed.into()),
            (Outcome::Failed { errno }, _) => Err(self.connect_failure(errno, host, port, limit).await),
            (Outcome::Unresolved { why }, _) => Err(self.resolve_failure(&host, why, limit).await),
        }
    }

    /// What the network knows is more than an error number.
    async fn connect_failure(
        &self,
        errno: i32,
        host: Destination,
        port: u16,
        limit: Duration,
    ) -> DialFailure {
        let errno = rustix::io::Errno::from_raw_os_error(errno);
        match errno {
            rustix::io::Errno::CONNREFUSED => return ConnectFailure::Refused.into(),
            rustix::io::Errno::CONNRESET => return ConnectFailure::Reset.into(),
            _ => {}
        }
        let addresses = match host {
            Destination::Address(address) => vec![address],
            // The program has resolved it a moment ago, so this is quick.
            Destination::Name(name) => {
                let query = adit_path::Query { timeout: limit, ..adit_path::Query::addresses(name) };
                self.network.resolve(query).await.map(|answer| answer.addresses).unwrap_or_default()
            }
        };
        if let Some(failure) = self.network.failure(&addresses, port) {
            return failure.into();
        }
        if errno == rustix::io::Errno::TIMEDOUT {
            return ConnectFailure::TimedOut(limit).into();
        }
        let error = io::Error::from(errno);
        DialFailure::Front(format!("a program gets an error that the network did not give: {error}"))
    }

    /// A program's resolver says little; the network's own says which server answered what.
    async fn resolve_failure(&self, host: &Destination, why: String, limit: Duration) -> DialFailure {
        let query = adit_path::Query { timeout: limit, ..adit_path::Query::addresses(host.to_string()) };
        match self.network.resolve(query).await {
            Err(failure) => failure.into(),
            Ok(answer) if answer.addresses.is_empty() => DialFailure::NoAddress(host.to_string()),
            Ok(_) => DialFailure::Front(format!("the network resolves {host}, and a program gets: {why}")),
        }
    }
}

impl Dialer for ExecDialer {
    fn mode(&self) -> String {
        "userspace+seccomp-notify".to_owned()
    }

    fn dial(
        &self,
        host: Destination,
        port: u16,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Dialed, DialFailure>> {
        Box::pin(self.dial_in_child(host, port, limit))
    }

    /// Datagrams and echoes are the network's own: a program's UDP takes the same way from the relay on.
    fn beneath(&self) -> Option<&dyn Dialer> {
        Some(&self.inside)
    }

    fn command(&self, command: String, limit: Duration) -> BoxFuture<'_, Result<(), DialFailure>> {
        let launcher = self.launcher.clone();
        Box::pin(async move {
            let run = tokio::task::spawn_blocking(move || {
                let running = launcher.spawn(&Program::new(["sh", "-c", &command]))?;
                Ok::<_, LaunchFailure>(ended(&running, limit))
            });
            match run.await {
                Ok(Ok(Some(Exit::Code(0)))) => Ok(()),
                Ok(Ok(Some(Exit::Code(code)))) => {
                    Err(DialFailure::Command(format!("the command ended with {code}")))
                }
                Ok(Ok(Some(Exit::Signal(signal)))) => {
                    Err(DialFailure::Command(format!("signal {signal} ended the command")))
                }
                Ok(Ok(None)) => {
                    Err(DialFailure::Command(format!("the command did not end within {limit:?}")))
                }
                Ok(Err(failure)) => Err(DialFailure::Command(failure.to_string())),
                Err(error) => Err(DialFailure::Command(error.to_string())),
            }
        })
    }
}

/// Waits for the end of a program; one that takes too long is killed.
fn ended(running: &Running, limit: Duration) -> Option<Exit> {
    let pid = rustix::process::Pid::from_raw(running.pid())?;
    if !running.wait_for_all(Some(limit)) {
        // It may have ended by itself just now.
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        let _reaped = running.wait();
        return None;
    }
    running.wait().ok()
}

/// Starts the child and reads its answer. It calls back on a socket whose name only it is told.
fn dial(
    launcher: &Launcher,
    host: &str,
    port: u16,
    limit: Duration,
) -> io::Result<(Outcome, Option<OwnedFd>)> {
    let until = Instant::now() + limit;
    let name = format!("adit-dial-{:032x}", random()?);
    let listener = UnixListener::bind_addr(&SocketName::from_abstract_name(&name)?)?;
    let itself = std::env::current_exe()?;
    let mut program =
        Program::new([itself.into_os_string(), VERB.into(), host.into(), port.to_string().into()]);
    program.env.retain(|(name, _)| !name.to_string_lossy().starts_with("ADIT_"));
    program.env.push((VARIABLE.into(), name.into()));
    let running = launcher.spawn(&program).map_err(io::Error::other)?;
    let answer = answer_of(&listener, &running, until);
    ended(&running, until.saturating_duration_since(Instant::now()));
    answer
}

fn answer_of(
    listener: &UnixListener,
    running: &Running,
    until: Instant,
) -> io::Result<(Outcome, Option<OwnedFd>)> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = rustix::time::Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        if rustix::event::poll(&mut fds, Some(&left))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let (caller, _) = listener.accept()?;
        let peer = rustix::net::sockopt::socket_peercred(&caller)?;
        if peer.pid.as_raw_nonzero().get() == running.pid() {
            return receive(&caller);
        }
    }
}

fn random() -> io::Result<u128> {
    let half = || getrandom::u64().map(u128::from).map_err(|error| io::Error::other(error.to_string()));
    Ok(half()? << 64 | half()?)
}

fn receive(from: &UnixStream) -> io::Result<(Outcome, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4096];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = rustix::net::recvmsg(from, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let socket = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let outcome = serde_json::from_slice(&bytes[..received.bytes])?;
    Ok((outcome, socket))
}

/// The child: connects and answers. Returns its exit code.
pub fn child(host: &str, port: u16) -> u8 {
    let (outcome, socket) = match std::net::ToSocketAddrs::to_socket_addrs(&(host, port)) {
        Err(error) => (Outcome::Unresolved { why: error.to_string() }, None),
        Ok(addresses) => match TcpStream::connect(&*addresses.collect::<Vec<_>>()) {
            Err(error) => (Outcome::Failed { errno: error.raw_os_error().unwrap_or_default() }, None),
            Ok(socket) => match socket.peer_addr() {
                Ok(peer) => (Outcome::Connected { peer }, Some(socket)),
                Err(error) => (Outcome::Failed { errno: error.raw_os_error().unwrap_or_default() }, None),
            },
        },
    };
    match answer(&outcome, socket.as_ref()) {
        Ok(()) => 0,
        Err(_) => 125,
    }
}

fn answer(outcome: &Outcome, socket: Option<&TcpStream>) -> io::Result<()> {
    let name = std::env::var(VARIABLE).map_err(|_| io::ErrorKind::NotFound)?;
    let to = UnixStream::connect_addr(&SocketName::from_abstract_name(name)?)?;
    let bytes = serde_json::to_vec(outcome)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = socket.iter().map(AsFd::as_fd).collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    rustix::net::sendmsg(&to, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
