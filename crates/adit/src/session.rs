//! A private session: the tunnel of this process, and the way to wait for it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use adit_path::{Engine, EngineOptions, Network, Phase, Status};
use adit_tunnel::Tunnel;
use adit_verify::Stage;
use adit_wireguard::{ClockCheck, WireGuard};

use crate::failure::Words;
use crate::{Failure, failure};

/// Seconds from 1970 to 2026-11-01: no clock that is right shows an earlier time to this program.
const NOT_BEFORE: u64 = 1_793_491_200;

/// A protocol that joins a private network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// WireGuard.
    WireGuard,
}

impl Provider {
    /// The word for it in configurations and reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::WireGuard => "wireguard",
        }
    }
}

/// What a tunnel is started with.
#[derive(Clone, Debug)]
pub enum TunnelConfig {
    /// A WireGuard interface.
    WireGuard(adit_wireguard::Config),
}

impl TunnelConfig {
    /// Whose it is.
    pub fn provider(&self) -> Provider {
        match self {
            Self::WireGuard(_) => Provider::WireGuard,
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

/// A tunnel of this process. Dropping it ends it.
pub struct Session {
    engine: Arc<dyn Running>,
    provider: Provider,
    identity: Option<String>,
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
        }
    }

    /// Runs a tunnel that has been made. `identity` is what the far end must know of us.
    pub(crate) fn of<T: Tunnel + Send + 'static>(
        tunnel: T,
        provider: Provider,
        identity: Option<String>,
        options: EngineOptions,
    ) -> Result<Self, Failure> {
        let engine = Engine::start(tunnel, options).map_err(|error| unstarted(&error))?;
        Ok(Self { engine: Arc::new(engine), provider, identity })
    }

    /// The network.
    pub fn network(&self) -> Arc<dyn Network> {
        self.engine.clone()
    }

    /// Waits until packets pass; returns the state then.
    ///
    /// # Errors
    /// What the tunnel says about why they do not, when it has given up or the time is over.
    pub async fn up(&self, timeout: Duration) -> Result<Status, Failure> {
        let mut status = self.engine.status();
        let ended = |status: &Status| matches!(status.phase, Phase::Up | Phase::Failed | Phase::Closed);
        let reached = match tokio::time::timeout(timeout, status.wait_for(ended)).await {
            Ok(Ok(status)) => Some(status.clone()),
            Ok(Err(_)) => return Err(failure::of("session.lost", "the tunnel ended")),
            Err(_) => None,
        };
        let status = reached.unwrap_or_else(|| status.borrow().clone());
        if status.phase == Phase::Up {
            return Ok(status);
        }
        Err(match &status.fault {
            Some(fault) => Failure::of_fault(fault, Stage::Handshake, &Words::default()),
            None => failure::of("deadline", format!("no connection within {timeout:?}")),
        })
    }

    /// The protocol.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// What the server must know of us, for advice: with WireGuard our public key in base64.
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// Ends the tunnel in order.
    pub fn shutdown(&self) {
        self.engine.shutdown();
    }
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
