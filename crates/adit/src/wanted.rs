//! From what somebody wants verified to the plan of a verification.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use adit_verify::{Plan, Stage, StageReport, StageStatus, Target, TargetError, Trust, rfc3339};

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
    /// How long the handshake may take, where it is longer than usual.
    pub(crate) handshake: Option<Duration>,
    /// Whether this process owns the tunnel, and so has read the configuration itself.
    pub(crate) owned: bool,
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
        let passed = |stage| StageReport::new(stage, StageStatus::Ok, 0);
        let before = [Stage::Env, Stage::Config, Stage::Credential].map(passed);
        Ok(Plan {
            timeout: self.timeout,
            trust,
            profile: Some(self.profile.clone()),
            provider: Some(self.provider.clone()),
            identity: self.identity.clone(),
            answered: self.answered,
            handshake: self.handshake,
            local_networks: machine::networks(),
            // A command that attaches has not seen these stages.
            before: if self.owned { before.to_vec() } else { Vec::new() },
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
