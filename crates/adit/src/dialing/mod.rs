//! Reaching a target as the program will: from a child process whose system calls are intercepted.
//!
//! The child is this program again (`adit __dial tcp HOST PORT`). It resolves the name with the system's own resolver,
//! connects as any program does, and hands the connected socket back; or it sends a datagram and tells the answer, or
//! only what the resolver says. What is verified is therefore the whole way: interception, the DNS front, the deferred
//! handshake, the relay, the tunnel.

mod fronts;
mod kernel;
mod probe;
mod recorder;
mod socks;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpStream};
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
use self::probe::Question;
use self::recorder::Recorder;

/// The hidden verb.
pub const VERB: &str = "__dial";
/// The longest answer: a datagram of [`probe::MAX_REPLY`] bytes in hexadecimal digits, and its frame.
const MAX_ANSWER: usize = 2 * probe::MAX_REPLY + 1024;
/// The variable that names the socket to answer on.
const VARIABLE: &str = "ADIT_DIAL";

/// The child's answer; a connection comes with its socket.
#[derive(Debug, Serialize, Deserialize)]
enum Outcome {
    Connected {
        peer: SocketAddr,
    },
    /// The datagram that came back, in hexadecimal digits.
    Replied {
        reply: String,
    },
    /// What a name resolves to.
    Resolved {
        addresses: Vec<IpAddr>,
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
        let question = Question::Tcp { host: host.to_string(), port };
        let (outcome, socket) = match self.ask_child(&question, limit).await {
            Err(DialFailure::Connect(ConnectFailure::TimedOut(_))) => {
                let late = rustix::io::Errno::TIMEDOUT.raw_os_error();
                return Err(self.connect_failure(late, host, port, limit).await);
            }
            answer => answer?,
        };
        match (outcome, socket) {
            (Outcome::Connected { peer }, Some(socket)) => {
                let stream = TcpStream::from(socket);
                let stream =
                    stream.set_nonblocking(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
                let stream = stream.map_err(|error| DialFailure::Command(error.to_string()))?;
                Ok(Dialed { stream: Box::new(stream), peer })
            }
            (Outcome::Connected { .. } | Outcome::Replied { .. } | Outcome::Resolved { .. }, _) => {
                Err(ConnectFailure::Closed.into())
            }
            (Outcome::Failed { errno }, _) => Err(self.connect_failure(errno, host, port, limit).await),
            (Outcome::Unresolved { why }, _) => Err(self.resolve_failure(&host, why, limit).await),
        }
    }

    /// Asks a question from a child.
    async fn ask_child(
        &self,
        question: &Question,
        limit: Duration,
    ) -> Result<(Outcome, Option<OwnedFd>), DialFailure> {
        self.network.limit(limit);
        tracing::debug!(?question, "a child asks");
        let (launcher, question) = (self.launcher.clone(), question.clone());
        match tokio::task::spawn_blocking(move || ask(&launcher, &question, limit)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
                Err(ConnectFailure::TimedOut(limit).into())
            }
            Ok(Err(error)) => Err(DialFailure::Command(format!("no probe could be run: {error}"))),
            Err(error) => Err(DialFailure::Command(format!("the probe ended: {error}"))),
        }
    }

    async fn exchange_in_child(
        &self,
        host: Destination,
        port: u16,
        payload: Vec<u8>,
        limit: Duration,
    ) -> Result<Vec<u8>, DialFailure> {
        let question = Question::Udp { host: host.to_string(), port, payload: payload.clone() };
        let why = match self.ask_child(&question, limit).await {
            Ok((Outcome::Replied { reply }, _)) => {
                return probe::from_hex(&reply)
                    .ok_or_else(|| DialFailure::Command("the probe told no bytes".to_owned()));
            }
            Ok((Outcome::Unresolved { why }, _)) => {
                return Err(self.resolve_failure(&host, why, limit).await);
            }
            Ok((Outcome::Failed { errno }, _))
                if rustix::io::Errno::from_raw_os_error(errno) == rustix::io::Errno::CONNREFUSED =>
            {
                return Err(ConnectFailure::Refused.into());
            }
            Ok((Outcome::Failed { errno }, _)) => io::Error::from_raw_os_error(errno).to_string(),
            Ok((Outcome::Connected { .. } | Outcome::Resolved { .. }, _))
            | Err(DialFailure::Connect(ConnectFailure::TimedOut(_))) => format!("no answer within {limit:?}"),
            Err(failure) => return Err(failure),
        };
        // The network tells whether it is the target that is silent.
        match self.inside.exchange(host, port, payload, limit).await {
            Ok(_) => {
                Err(DialFailure::Front(format!("the network reaches it, and a program does not: {why}")))
            }
            Err(failure) => Err(failure),
        }
    }

    async fn resolve_in_child(&self, name: String, limit: Duration) -> Result<Vec<IpAddr>, DialFailure> {
        let host = Destination::Name(name.clone());
        match self.ask_child(&Question::Name { host: name }, limit).await? {
            (Outcome::Resolved { addresses }, _) => Ok(addresses),
            (Outcome::Unresolved { why }, _) => Err(self.resolve_failure(&host, why, limit).await),
            _ => Err(DialFailure::Command("the probe told no addresses".to_owned())),
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

    /// Echoes are the network's own: `exec` does not carry ICMP.
    fn beneath(&self) -> Option<&dyn Dialer> {
        Some(&self.inside)
    }

    fn resolve(&self, name: String, limit: Duration) -> BoxFuture<'_, Result<Vec<IpAddr>, DialFailure>> {
        Box::pin(self.resolve_in_child(name, limit))
    }

    fn exchange(
        &self,
        host: Destination,
        port: u16,
        payload: Vec<u8>,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, DialFailure>> {
        Box::pin(self.exchange_in_child(host, port, payload, limit))
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
fn ask(launcher: &Launcher, question: &Question, limit: Duration) -> io::Result<(Outcome, Option<OwnedFd>)> {
    let until = Instant::now() + limit;
    let name = format!("adit-dial-{:032x}", random()?);
    let listener = UnixListener::bind_addr(&SocketName::from_abstract_name(&name)?)?;
    let mut argv = vec![std::env::current_exe()?.into_os_string(), VERB.into()];
    argv.extend(question.arguments().map(Into::into));
    let mut program = Program::new(argv);
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
    let mut bytes = vec![0; MAX_ANSWER];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = rustix::net::recvmsg(from, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let socket = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let outcome = serde_json::from_slice(&bytes[..received.bytes])?;
    Ok((outcome, socket))
}

/// The child: does what it is asked and answers. Returns its exit code.
pub fn child(arguments: &[&str]) -> u8 {
    let Some(question) = Question::of(arguments) else { return 125 };
    let (outcome, socket) = question.ask();
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
