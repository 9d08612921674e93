//! From what somebody wants verified to the plan of a verification.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_verify::{Plan, StageReport, Target, TargetError, Trust, Warning, rfc3339};

use crate::outside::Machine;
use crate::{Failure, failure, machine};

/// What is to be verified.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The profile's name.
    pub(crate) profile: String,
    /// The targets, as they were written.
    pub(crate) targets: Vec<String>,
    /// The time for all of it.
    pub(crate) timeout: Duration,
    /// Authorities that are trusted besides the system's.
    pub(crate) ca_file: Option<PathBuf>,
    /// The provider's word.
    pub(crate) provider: String,
    /// Whether the server's questions find an answer without a person.
    pub(crate) answered: bool,
    /// How long names, routes and permissions may take to arrive.
    pub(crate) grace: Duration,
    /// How long the handshake may take, where it is longer than usual.
    pub(crate) handshake: Option<Duration>,
    /// The stages that were passed before there was a network; none for what attaches to one.
    pub(crate) before: Vec<StageReport>,
    /// The warnings of these stages.
    pub(crate) warnings: Vec<Warning>,
    /// What the server must know of us, for advice.
    pub(crate) identity: Option<String>,
}

impl Wanted {
    /// The plan.
    ///
    /// # Errors
    /// A target is malformed, or the authorities cannot be read.
    pub(crate) fn plan(&self) -> Result<Plan, Failure> {
        let targets = self.targets.iter().map(|text| text.parse().map_err(|error| bad_target(&error)));
        let targets = targets.collect::<Result<Vec<Target>, Failure>>()?;
        // Reading the system's authorities takes a while that most targets need not wait for.
        let tls = self.targets.iter().any(|text| text.starts_with("https") || text.ends_with(",tls"));
        let trust = tls.then(|| Trust::load(self.ca_file.as_deref(), true)).transpose().map_err(|error| {
            failure::of("config.file", "the certificate authorities cannot be read").seen(error.to_string())
        })?;
        Ok(Plan {
            timeout: self.timeout,
            trust,
            profile: Some(self.profile.clone()),
            provider: Some(self.provider.clone()),
            identity: self.identity.clone(),
            answered: self.answered,
            handshake: self.handshake,
            grace: self.grace,
            local_networks: machine::networks(),
            outside: Some(Arc::new(Machine)),
            before: self.before.clone(),
            warnings: self.warnings.clone(),
            ..Plan::new(targets, now())
        })
    }
}

fn bad_target(error: &TargetError) -> Failure {
    let failure = failure::of("config.target", error.to_string());
    match &error.suggestion {
        Some(suggestion) => failure.with_fix(vec![format!("write {suggestion}")]),
        None => failure,
    }
}

/// The time of day (RFC 3339).
pub(crate) fn now() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    rfc3339(since.as_secs())
}
