//! The stages before there is a network, as the commands run them: each is shown when it ends, and a failure becomes a
//! report like any later one.

use std::sync::Arc;
use std::time::Instant;

use adit_verify::{Event, Exit, Observer as _, Report, Stage, StageReport, StageStatus, Warning};

use crate::cli::{ConnectArgs, Context};
use crate::config::Failures;
use crate::environment::{self, Way};
use crate::profile::Profile;
use crate::session::Session;
use crate::verification::Reporter;
use crate::wanted::{Wanted, now};
use crate::{Failure, failure};

/// The stages so far.
pub(crate) struct Preflight<'a> {
    context: &'a Context,
    reporter: Arc<Reporter>,
    began: Instant,
    started: String,
    profile: Option<String>,
    stages: Vec<StageReport>,
    warnings: Vec<Warning>,
}

/// Why a command ends before it has a network.
pub(crate) enum Ended {
    /// A stage failed: the report is still to be published.
    Report(Box<Report>),
    /// The command cannot even report.
    Failure(Box<Failure>),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failure(Box::new(failure))
    }
}

impl<'a> Preflight<'a> {
    /// Runs the stage `env`.
    pub(crate) fn begin(context: &'a Context, way: Way) -> Result<Self, Ended> {
        let mut preflight = Self {
            context,
            reporter: context.reporter()?,
            began: Instant::now(),
            started: now(),
            profile: None,
            stages: Vec::new(),
            warnings: Vec::new(),
        };
        let found = environment::check(way);
        for warning in &found.warnings {
            context.ui.warning(&failure::of(&warning.class, warning.summary.clone()));
        }
        preflight.warnings.extend(found.warnings);
        preflight.passed(found.stage);
        match found.failure {
            Some(failure) => Err(preflight.ended(Stage::Env, failure)),
            None => Ok(preflight),
        }
    }

    /// Runs the stages `config` and `credential`.
    pub(crate) fn profile(&mut self, connect: &ConnectArgs) -> Result<Profile, Ended> {
        let began = Instant::now();
        let profile = match Profile::load(self.context, connect) {
            Ok(profile) => profile,
            Err(failures) => {
                // What is missing or wrong in a credential has its own exit codes.
                let stage = if wrong_input(&failures) { Stage::Config } else { Stage::Credential };
                let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                if stage == Stage::Credential {
                    self.passed(StageReport::new(Stage::Config, StageStatus::Ok, 0));
                }
                let class = failures.0.first().map(|failure| failure.class.clone());
                self.passed(StageReport { class, ..StageReport::new(stage, StageStatus::Fail, took) });
                return Err(self.ended(stage, failures));
            }
        };
        self.profile = Some(profile.name.clone());
        for warning in &profile.warnings {
            self.context.ui.warning(warning);
            self.warnings.push(Warning { class: warning.class.clone(), summary: warning.summary.clone() });
        }
        for stage in &profile.stages {
            self.passed(stage.clone());
        }
        Ok(profile)
    }

    /// A session of this process, and what is to be verified of it.
    pub(crate) fn session(mut self, connect: &ConnectArgs) -> Result<(Profile, Session, Wanted), Ended> {
        let profile = self.profile(connect)?;
        let session = Session::start(profile.tunnel.clone(), profile.engine_options())
            .map_err(|failure| self.ended(Stage::Env, failure))?;
        let wanted = self.wanted(&profile, &session, connect);
        Ok((profile, session, wanted))
    }

    /// What is to be verified after these stages.
    pub(crate) fn wanted(&self, profile: &Profile, session: &Session, connect: &ConnectArgs) -> Wanted {
        Wanted {
            before: self.stages.clone(),
            warnings: self.warnings.clone(),
            ..Wanted::of(profile, session, connect)
        }
    }

    /// The report of a run that ends in this stage.
    pub(crate) fn ended(&self, stage: Stage, failures: impl Into<Failures>) -> Ended {
        let failures: Failures = failures.into();
        let exit = if wrong_input(&failures) {
            Some(Exit::Usage)
        } else {
            failures.0.first().map(|failure| failure.exit)
        };
        let failures = failures.0.into_iter().map(|failure| failure.at(stage)).collect();
        let report = Report {
            exit_code: exit.unwrap_or(stage.exit()).code(),
            profile: self.profile.clone(),
            duration_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            stages: self.stages.clone(),
            warnings: self.warnings.clone(),
            ..Report::ended_early(self.started.clone(), stage, failures)
        };
        if let Some(failure) = &report.failure {
            self.reporter.notice(Event::Failed(failure.clone()));
        }
        Ended::Report(Box::new(report))
    }

    fn passed(&mut self, stage: StageReport) {
        self.reporter.notice(Event::Verifying(stage.clone()));
        self.stages.push(stage);
    }
}

/// Whether one of several failures is wrong input: then nothing else can be said for sure.
fn wrong_input(failures: &Failures) -> bool {
    failures.0.iter().any(|failure| failure.exit == Exit::Usage)
}
