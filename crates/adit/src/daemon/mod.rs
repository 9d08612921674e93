//! What a running `adit up` is: a network, its fronts, its control socket, and the checks that repeat.

mod detach;
mod lifetime;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adit_path::{BoxFuture, Network, Phase};
use adit_verify::Report;
use adit_verify::health::{self, Change, Check, Recheck};
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};
use tokio::task::JoinSet;

pub use detach::{Detached, Parent, become_session_leader, exit_code};
pub use lifetime::{exit_of_process, idle, termination};

use crate::control::{ControlSocket, Info, Server, Service, SocketError, Verification};
use crate::fronts::{
    Credentials, Expose, ExposeRule, ExposeSpec, Forward, ForwardSpec, FrontError, OwnPorts, Protocol, Proxy,
    expose_all,
};

/// Operations at a time on the control socket.
const CLIENTS: usize = 1024;

/// Verifies the session's own targets, through the access mode that its users use.
pub trait Verifier: Send + Sync + 'static {
    /// Runs a verification. A cheap one is a probe per target.
    fn verify(&self, check: Check) -> BoxFuture<'_, Report>;
}

/// Who a daemon is, for `status`.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The profile's name among the daemons of this user.
    pub profile: String,
    /// The file that it comes from.
    pub file: Option<PathBuf>,
    /// The provider.
    pub provider: String,
    /// The access mode.
    pub mode: String,
    /// The TUN device, where there is one.
    pub device: Option<String>,
}

/// A daemon. Clones are handles of the same one.
#[derive(Clone)]
pub struct Daemon(Arc<Shared>);

struct Shared {
    network: Arc<dyn Network>,
    verifier: Box<dyn Verifier>,
    identity: Identity,
    began: Instant,
    own: OwnPorts,
    fronts: Mutex<Fronts>,
    /// One verification at a time.
    verifying: AsyncMutex<()>,
    verified: watch::Sender<Verified>,
    stop: Notify,
}

#[derive(Default)]
struct Fronts {
    listed: BTreeMap<String, Vec<String>>,
    tasks: JoinSet<()>,
}

#[derive(Clone, Default)]
struct Verified {
    report: Option<serde_json::Value>,
    ok: bool,
    at: Option<Instant>,
    failures: u32,
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("identity", &self.0.identity).finish_non_exhaustive()
    }
}

impl Daemon {
    /// A daemon around a network. Nothing listens yet.
    pub fn new(network: Arc<dyn Network>, verifier: Box<dyn Verifier>, identity: Identity) -> Self {
        Self(Arc::new(Shared {
            network,
            verifier,
            identity,
            began: Instant::now(),
            own: OwnPorts::default(),
            fronts: Mutex::default(),
            verifying: AsyncMutex::default(),
            verified: watch::Sender::default(),
            stop: Notify::new(),
        }))
    }

    /// The network.
    pub fn network(&self) -> &Arc<dyn Network> {
        &self.0.network
    }

    /// Opens a proxy; returns where it listens.
    pub async fn add_proxy(
        &self,
        address: SocketAddr,
        credentials: Option<Credentials>,
    ) -> Result<SocketAddr, FrontError> {
        let proxy = Proxy::bind(address, credentials).await?;
        let bound = proxy.address().map_err(|error| FrontError::Io { address, error })?;
        self.0.own.add(Protocol::Tcp, bound.port());
        self.front("proxy", bound.to_string(), proxy.run(Arc::clone(&self.0.network)));
        Ok(bound)
    }

    /// Opens a local forward; returns it with the port that was chosen.
    pub async fn add_forward(&self, spec: ForwardSpec) -> Result<ForwardSpec, FrontError> {
        let forward = Forward::bind(spec).await?;
        let spec = forward.spec().clone();
        self.0.own.add(spec.protocol, spec.listen.port());
        self.front("forward", spec.to_string(), forward.run(Arc::clone(&self.0.network)));
        Ok(spec)
    }

    /// Exposes a port of this machine to peers. The network must be configured.
    pub async fn add_expose(&self, spec: ExposeSpec) -> Result<(), FrontError> {
        let expose = Expose::bind(&*self.0.network, spec, self.0.own.clone()).await?;
        self.front("expose", spec.to_string(), expose.run());
        Ok(())
    }

    /// Exposes every TCP server of this machine to peers, as they come and go, except adit's own.
    pub fn add_expose_all(&self) {
        let run = expose_all(Arc::clone(&self.0.network), self.0.own.clone());
        self.front("expose", ExposeRule::All.to_string(), run);
    }

    fn front(&self, kind: &str, shown: String, run: impl Future<Output = ()> + Send + 'static) {
        let mut fronts = self.fronts();
        while fronts.tasks.try_join_next().is_some() {}
        fronts.listed.entry(kind.to_owned()).or_default().push(shown);
        fronts.tasks.spawn(run);
    }

    fn fronts(&self) -> MutexGuard<'_, Fronts> {
        self.0.fronts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the control socket.
    pub fn serve(&self, socket: &ControlSocket) -> Result<(), SocketError> {
        let failed = |error: io::Error| SocketError::Io { path: socket.path().to_owned(), error };
        let server = Server::new(
            socket.bind()?,
            Arc::clone(&self.0.network),
            Arc::new(self.clone()) as Arc<dyn Service>,
            CLIENTS,
        )
        .map_err(failed)?;
        self.fronts().tasks.spawn(server.run());
        Ok(())
    }

    /// Verifies in full, and keeps the report.
    pub async fn verify_now(&self) -> Report {
        let report = self.check(Check::Full).await;
        self.take(&report, Check::Full);
        report
    }

    /// Whether a verification is running.
    pub fn is_verifying(&self) -> bool {
        self.0.verifying.try_lock().is_err()
    }

    /// Repeats checks until the network is over; returns its last phase. A network that came back is checked at
    /// once. `notice` learns of changes.
    pub async fn watch(&self, notice: impl Fn(Change, &Report)) -> Phase {
        let mut status = self.0.network.status();
        let mut recheck = Recheck::new(Instant::now(), true);
        let mut before = status.borrow().phase;
        loop {
            let phase = status.borrow_and_update().phase;
            if matches!(phase, Phase::Failed | Phase::Closed) {
                return phase;
            }
            let came_back = phase == Phase::Up && before != Phase::Up;
            before = phase;
            let due = if came_back { Some(Check::Full) } else { recheck.due(Instant::now()) };
            let Some(check) = due else {
                let deadline = recheck.poll_timeout().at;
                tokio::select! {
                    changed = status.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return Phase::Closed,
                    },
                    () = tokio::time::sleep_until(deadline.into()) => continue,
                }
            };
            let report = self.check(check).await;
            let change = recheck.handle_result(Instant::now(), check, report.ok);
            self.take(&report, check);
            if let Some(change) = change {
                notice(change, &report);
            }
        }
    }

    /// Keeps what a check found. A cheap one replaces no report: it covers less.
    fn take(&self, report: &Report, check: Check) {
        let value = (check == Check::Full).then(|| serde_json::to_value(report).ok()).flatten();
        self.0.verified.send_modify(|verified| {
            verified.failures = if report.ok { 0 } else { verified.failures.saturating_add(1) };
            if report.ok {
                verified.at = Some(Instant::now());
            }
            if value.is_some() {
                verified.report = value;
                verified.ok = report.ok;
            }
        });
    }

    async fn check(&self, check: Check) -> Report {
        let _one = self.0.verifying.lock().await;
        self.0.verifier.verify(check).await
    }

    /// Waits until somebody asked for the end.
    pub async fn stopped(&self) {
        self.0.stop.notified().await;
    }

    /// Closes every front and the control socket with its conversations.
    pub fn close(&self) {
        let mut fronts = self.fronts();
        fronts.tasks.abort_all();
        fronts.listed.clear();
    }
}

impl Service for Daemon {
    fn info(&self) -> Info {
        let Identity { profile, file, provider, mode, device } = self.0.identity.clone();
        let verified = self.0.verified.borrow().clone();
        let status = self.0.network.status().borrow().clone();
        Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            profile,
            file,
            provider,
            mode,
            device,
            uptime: self.0.began.elapsed(),
            fronts: self.fronts().listed.clone(),
            verification: Verification {
                report: verified.report,
                ok: verified.ok,
                age: verified.at.map(|at| at.elapsed()),
                failures: verified.failures,
                started: status.ups > 0 && status.config.is_some(),
            },
        }
    }

    fn verify(&self) -> BoxFuture<'_, Result<serde_json::Value, String>> {
        Box::pin(async move {
            let report = self.verify_now().await;
            serde_json::to_value(&report).map_err(|error| error.to_string())
        })
    }

    fn forward(&self, spec: String) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(async move {
            let spec = spec.parse().map_err(|error: FrontError| error.to_string())?;
            let spec = self.add_forward(spec).await.map_err(|error| error.to_string())?;
            Ok(spec.to_string())
        })
    }

    fn stop(&self) {
        self.0.stop.notify_one();
    }
}

/// How long `ready` believes a check: two cheap ones may be missing.
pub const READY: Duration = health::CHEAP.saturating_mul(3);

/// What a health check asks (as Kubernetes probes do).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// The daemon answers.
    Live,
    /// The last verification succeeded, is recent, and the network is up.
    Ready,
    /// The network came up and was configured once.
    Startup,
}

impl Health {
    /// Whether a daemon is in this state; otherwise why not.
    pub fn judge(self, info: &Info, phase: Phase) -> Result<(), String> {
        let verification = &info.verification;
        let seconds = |age: Duration| age.as_secs();
        match self {
            Self::Live => Ok(()),
            Self::Startup if verification.started => Ok(()),
            Self::Startup => Err("the network has not come up yet".to_owned()),
            Self::Ready if phase != Phase::Up => Err(format!("the network is {phase:?}").to_lowercase()),
            Self::Ready => match verification.age {
                None => Err("nothing has been verified yet".to_owned()),
                Some(_) if !verification.ok => Err("the last verification failed".to_owned()),
                Some(age) if age > READY => {
                    Err(format!("the last successful check is {} s old", seconds(age)))
                }
                Some(_) => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests;
