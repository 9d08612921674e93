//! A private session: the tunnel of this process, and the way to wait for it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use adit_path::{Engine, EngineOptions, Network, Phase, Status};
use adit_verify::Stage;
use adit_wireguard::{ClockCheck, Config, WireGuard};

use crate::failure::Words;
use crate::{Failure, failure};

/// Seconds from 1970 to 2026-11-01: no clock that is right shows an earlier time to this program.
const NOT_BEFORE: u64 = 1_793_491_200;

/// A tunnel of this process. Dropping it ends it.
pub struct Session {
    engine: Arc<Engine<WireGuard>>,
    public_key: String,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("public_key", &self.public_key).finish_non_exhaustive()
    }
}

impl Session {
    /// Starts a WireGuard tunnel on the netstack of this process. It connects by itself.
    ///
    /// # Errors
    /// Of the system: no descriptors, threads or randomness.
    pub fn start(mut config: Config, options: EngineOptions) -> Result<Self, Failure> {
        config.clock.get_or_insert_with(|| ClockCheck {
            now: SystemTime::now(),
            not_before: SystemTime::UNIX_EPOCH + Duration::from_secs(NOT_BEFORE),
        });
        let failed = |error: io::Error| {
            failure::of("internal", "the tunnel cannot be started").seen(error.to_string())
        };
        let seed = getrandom::u64().map_err(|error| failed(io::Error::other(error.to_string())))?;
        let tunnel = WireGuard::new(config, seed, Instant::now());
        let public_key = tunnel.public_key().to_string();
        let engine = Arc::new(Engine::start(tunnel, options).map_err(failed)?);
        Ok(Self { engine, public_key })
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

    /// Our public key in base64, which the server must know.
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// Ends the tunnel in order.
    pub fn shutdown(&self) {
        self.engine.shutdown();
    }
}

/// The runtime of a command: one thread, with I/O and time.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failure::internal("the runtime cannot be started").seen(error.to_string()))
}
