//! A private session: the tunnel of this process, and the way to wait for it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use adit_openvpn::OpenVpn;
use adit_path::{Engine, EngineOptions, Network, Phase, Status};
use adit_providers::ovpn::Answers;
use adit_tunnel::{Fault, Prompt, Tunnel};
use adit_verify::{Context, Stage, catalogue};
use adit_wireguard::{ClockCheck, WireGuard};

use crate::config::Provider;
use crate::environment::NOT_BEFORE;
use crate::failure::Words;
use crate::tailnet::{ControlSide, TailnetConfig};
use crate::{Failure, failure, machine};

/// What a tunnel is started with.
#[derive(Clone, Debug)]
pub enum TunnelConfig {
    /// A WireGuard interface.
    WireGuard(adit_wireguard::Config),
    /// An OpenVPN client.
    OpenVpn(Box<OpenVpnConfig>),
    /// A node of a tailnet.
    Tailscale(Box<TailnetConfig>),
}

/// An OpenVPN client and who answers for it.
#[derive(Clone, Debug)]
pub struct OpenVpnConfig {
    /// The client.
    pub client: adit_openvpn::Config,
    /// Who answers the server's questions.
    pub answers: Arc<Answers>,
}

impl TunnelConfig {
    /// Whose it is.
    pub fn provider(&self) -> Provider {
        match self {
            Self::WireGuard(_) => Provider::WireGuard,
            Self::OpenVpn(_) => Provider::OpenVpn,
            Self::Tailscale(_) => Provider::Tailscale,
        }
    }
}

impl From<adit_wireguard::Config> for TunnelConfig {
    fn from(config: adit_wireguard::Config) -> Self {
        Self::WireGuard(config)
    }
}

/// An engine, whatever its tunnel.
trait Running: Network {
    fn shutdown(&self);
}

impl<T: Tunnel + 'static> Running for Engine<T> {
    fn shutdown(&self) {
        Self::shutdown(self);
    }
}

/// How long one server of a profile may take to be tried.
const CALL: Duration = Duration::from_secs(10);
/// How long a node may take from its start until packets pass.
const JOIN: Duration = Duration::from_secs(30);
/// How long the handshake may take, however many servers there are.
const MAX_PATIENCE: Duration = Duration::from_secs(60);

/// A tunnel of this process. Dropping it ends it.
pub struct Session {
    engine: Arc<dyn Running>,
    provider: Provider,
    identity: Option<String>,
    /// Whether the far end's questions find an answer without a person.
    answered: bool,
    /// How long the handshake may take, where it is longer than usual.
    patience: Option<Duration>,
    /// The control side, where it is another's business than the tunnel's.
    control: Option<ControlSide>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { provider, identity, .. } = self;
        f.debug_struct("Session")
            .field("provider", provider)
            .field("identity", identity)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Starts a tunnel; where its packets go, the options say. It connects by itself.
    ///
    /// # Errors
    /// Of the system: no descriptors, threads or randomness.
    pub fn start(tunnel: impl Into<TunnelConfig>, options: EngineOptions) -> Result<Self, Failure> {
        let tunnel = tunnel.into();
        let provider = tunnel.provider();
        let seed = getrandom::u64().map_err(|error| unstarted(&io::Error::other(error.to_string())))?;
        match tunnel {
            TunnelConfig::WireGuard(mut config) => {
                config.clock.get_or_insert_with(|| ClockCheck {
                    now: SystemTime::now(),
                    not_before: SystemTime::UNIX_EPOCH + Duration::from_secs(NOT_BEFORE),
                });
                let tunnel = WireGuard::new(config, seed, Instant::now());
                let public_key = tunnel.public_key().to_string();
                Self::of(tunnel, provider, Some(public_key), options)
            }
            TunnelConfig::OpenVpn(config) => Self::openvpn(*config, seed, options),
            TunnelConfig::Tailscale(config) => Self::tailscale(*config, seed, options),
        }
    }

    fn openvpn(config: OpenVpnConfig, seed: u64, options: EngineOptions) -> Result<Self, Failure> {
        let OpenVpnConfig { mut client, answers } = config;
        client.protected.extend(machine::networks());
        client.protected.extend(machine::resolvers());
        let calls = u32::try_from(client.remotes.len()).unwrap_or(u32::MAX);
        let patience = CALL.saturating_mul(calls).clamp(CALL * 2, MAX_PATIENCE);
        let tunnel = OpenVpn::new(client, seed, Instant::now())
            .map_err(|error| failure::of("ovpn.config.unsupported", error.to_string()))?;
        let engine = Arc::new(Engine::start(tunnel, options).map_err(|error| unstarted(&error))?);
        let answered = !matches!(*answers, Answers::Nobody);
        if answered {
            answer(&engine, answers).map_err(|error| unstarted(&error))?;
        }
        Ok(Self {
            engine,
            provider: Provider::OpenVpn,
            identity: None,
            answered,
            patience: Some(patience),
            control: None,
        })
    }

    fn tailscale(config: TailnetConfig, seed: u64, options: EngineOptions) -> Result<Self, Failure> {
        let (node, beside) = config.split(seed)?;
        let engine = Arc::new(Engine::start(node, options).map_err(|error| unstarted(&error))?);
        let identity = Some(beside.node_key());
        let control = beside.start(Arc::clone(&engine)).map_err(|error| unstarted(&error))?;
        Ok(Self {
            engine,
            provider: Provider::Tailscale,
            identity,
            answered: true,
            patience: Some(JOIN),
            control: Some(control),
        })
    }

    /// Runs a tunnel that has been made. `identity` is what the far end must know of us.
    pub(crate) fn of<T: Tunnel + Send + 'static>(
        tunnel: T,
        provider: Provider,
        identity: Option<String>,
        options: EngineOptions,
    ) -> Result<Self, Failure> {
        let engine = Engine::start(tunnel, options).map_err(|error| unstarted(&error))?;
        Ok(Self {
            engine: Arc::new(engine),
            provider,
            identity,
            answered: true,
            patience: None,
            control: None,
        })
    }

    /// The network.
    pub fn network(&self) -> Arc<dyn Network> {
        self.engine.clone()
    }

    /// Waits until packets pass; returns the state then.
    ///
    /// # Errors
    /// What the tunnel says about why they do not, when it has given up, the time is over, or a person must mend
    /// something first.
    pub async fn up(&self, timeout: Duration) -> Result<Status, Failure> {
        let mut status = self.engine.status();
        let ended = |status: &Status| {
            matches!(status.phase, Phase::Up | Phase::Failed | Phase::Closed)
                || (!self.answered && matches!(status.prompt, Some(Prompt::Answer { .. })))
                || status.fault.as_ref().is_some_and(is_definite)
        };
        let reached = match tokio::time::timeout(timeout, status.wait_for(ended)).await {
            Ok(Ok(status)) => Some(status.clone()),
            Ok(Err(_)) => return Err(failure::of("session.lost", "the tunnel ended")),
            Err(_) => None,
        };
        let status = reached.unwrap_or_else(|| status.borrow().clone());
        if status.phase == Phase::Up {
            return Ok(status);
        }
        if let Some(prompt) = &status.prompt {
            return Err(unanswered(prompt));
        }
        Err(match &status.fault {
            Some(fault) => {
                let provider = Some(self.provider.word().to_owned());
                Context { provider, ..Context::default() }.fault(fault, Stage::Handshake)
            }
            None => failure::of("deadline", format!("no connection within {timeout:?}")),
        })
    }

    /// The protocol.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// Whether the far end's questions find an answer without a person.
    pub fn answered(&self) -> bool {
        self.answered
    }

    /// How long the handshake may take, where it is longer than usual.
    pub fn patience(&self) -> Option<Duration> {
        self.patience
    }

    /// What the server must know of us, for advice: with WireGuard our public key in base64.
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// Ends the tunnel in order. A node that is not to stay leaves its network first, which takes three seconds at most.
    pub fn shutdown(&self) {
        let leaving = self.control.as_ref().map(ControlSide::leave);
        self.engine.shutdown();
        if let Some(leaving) = leaving {
            leaving.wait();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// The failure of a connection that waits for a person.
fn unanswered(prompt: &Prompt) -> Failure {
    match prompt {
        Prompt::Open { url, .. } => Failure::of("ovpn.auth.pending", &Words::default().with("url", url))
            .seen(format!("the server waits for a sign-in at {url}")),
        Prompt::Answer { text, .. } => {
            Failure::of("ovpn.auth.challenge", &Words::default().with("question", text))
        }
    }
}

/// Answers the questions of a tunnel for as long as it lives, on a thread of its own: a command may take its time.
fn answer(engine: &Arc<Engine<OpenVpn>>, answers: Arc<Answers>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut status = engine.status();
    let engine = Arc::downgrade(engine);
    let asked = move || {
        let mut last = None;
        loop {
            let new = |status: &Status| match &status.prompt {
                Some(Prompt::Answer { id, .. }) => last != Some(*id),
                _ => matches!(status.phase, Phase::Failed | Phase::Closed),
            };
            let prompt = match runtime.block_on(status.wait_for(new)) {
                Ok(status) => status.prompt.clone(),
                Err(_) => return,
            };
            let Some(Prompt::Answer { id, text, echo }) = prompt else { return };
            last = Some(id);
            let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            match answers.answer(&text, echo, unix) {
                Ok(Some(answer)) => {
                    let Some(engine) = engine.upgrade() else { return };
                    let command = adit_openvpn::Command::Answer { id, text: answer.as_str().to_owned() };
                    if let Err(error) = engine.command(command) {
                        tracing::warn!(%error, "an answer was not taken");
                    }
                }
                Ok(None) => return,
                Err(problem) => {
                    let Some(engine) = engine.upgrade() else { return };
                    let command = adit_openvpn::Command::Decline { id, why: problem.to_string() };
                    if let Err(error) = engine.command(command) {
                        tracing::warn!(%error, "the end of the question was not taken");
                    }
                }
            }
        }
    };
    std::thread::Builder::new().name("adit-answers".to_owned()).spawn(asked).map(drop)
}

/// Whether no patience can heal it: the tunnel goes on trying, and nobody needs to wait for that.
fn is_definite(fault: &Fault) -> bool {
    catalogue::find(&fault.class).is_some_and(|class| !class.retryable)
}

fn unstarted(error: &io::Error) -> Failure {
    failure::of("internal", "the tunnel cannot be started").seen(error.to_string())
}

/// The runtime of a command: one thread, with I/O and time.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failure::internal("the runtime cannot be started").seen(error.to_string()))
}
