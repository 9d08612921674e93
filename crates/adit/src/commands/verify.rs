//! `adit verify`, and the verification before a program runs.

use std::sync::Arc;
use std::time::Duration;

use adit_intercept::Launcher;
use adit_path::{Network as _, Phase};
use adit_verify::{Exit, Plan, Report, RequirementError, Stage};

use crate::access::{self, Access};
use crate::cli::{ConnectArgs, Context, VerifyArgs};
use crate::commands::until_interrupted;
use crate::config::GRACE;
use crate::control::Client;
use crate::environment::Way;
use crate::failure::Words;
use crate::preflight::{Ended, Preflight};
use crate::session::runtime;
use crate::verification::{self, Through};
use crate::wanted::Wanted;
use crate::{Failure, failure};

/// How long verifying through a running `adit up` may take, unless said otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Verifies a running `adit up`, or a session of its own.
pub(crate) fn run(context: &mut Context, args: &VerifyArgs) -> Result<Exit, Failure> {
    let require = args
        .require
        .iter()
        .map(|text| text.parse().map_err(|error: RequirementError| failure::usage(error.to_string())));
    let require = require.collect::<Result<Vec<_>, Failure>>()?;
    // Patience is of no use if the deadline over everything comes first, unless that one was set on purpose.
    let patience = match args.connect.timeout {
        Some(_) => Duration::ZERO,
        None => args.wait.unwrap_or_default() + args.stable.unwrap_or_default(),
    };
    let complete = |plan: Plan| Plan {
        timeout: plan.timeout + patience,
        wait: args.wait,
        stable: args.stable,
        quality: args.quality || !require.is_empty(),
        require: require.clone(),
        ..plan
    };
    let plain = args.wait.is_none() && args.stable.is_none() && !args.quality && require.is_empty();
    runtime()?.block_on(until_interrupted(async {
        let report = match access::attach(&context.global).await? {
            Some(client) => {
                let (wanted, device) = wanted(context, &args.connect, &client).await?;
                if wanted.targets.is_empty() && plain {
                    by_the_daemon(&client).await?
                } else {
                    let through = Through::usual(device.as_deref());
                    verification::run(context, Arc::new(client), &complete(wanted.plan()?), &through).await?
                }
            }
            None => {
                let way = if Launcher::backend().is_ok() { Way::Exec } else { Way::Network };
                let begun = Preflight::begin(context, way).and_then(|begun| begun.session(&args.connect));
                let (_, session, wanted) = match begun {
                    Ok(begun) => begun,
                    Err(Ended::Report(report)) => return verification::publish(context, &report),
                    Err(Ended::Failure(failure)) => return Err(*failure),
                };
                let plan = complete(wanted.plan()?);
                let through = Through::usual(None);
                let report = verification::run(context, session.network(), &plan, &through).await;
                session.shutdown();
                report?
            }
        };
        verification::publish(context, &report)
    }))
}

/// What the flags want verified of a running `adit up`, and its TUN device.
async fn wanted(
    context: &Context,
    connect: &ConnectArgs,
    client: &Client,
) -> Result<(Wanted, Option<String>), Failure> {
    let info = client.info().await.map_err(|error| access::failed(&error))?;
    let overrides = context.overrides(connect, None)?;
    let wanted = Wanted {
        profile: info.profile,
        provider: info.provider,
        targets: overrides.targets.map(|targets| targets.value).unwrap_or_default(),
        timeout: connect.timeout.unwrap_or(TIMEOUT),
        ca_file: connect.ca_file.clone(),
        answered: true,
        handshake: None,
        grace: overrides.grace.map_or(GRACE, |grace| grace.value),
        before: Vec::new(),
        warnings: Vec::new(),
        identity: None,
    };
    Ok((wanted, info.device))
}

/// The daemon knows its own targets.
async fn by_the_daemon(client: &Client) -> Result<Report, Failure> {
    let report = client.verify().await.map_err(|error| access::failed(&error))?;
    serde_json::from_value(report).map_err(|error| {
        failure::of(
            "env.daemon_gone",
            "the running `adit up` gave a report that this version does not understand",
        )
        .seen(error.to_string())
    })
}

/// A network whose targets have answered.
pub(crate) struct Verified {
    pub(crate) access: Access,
    /// The profile's name.
    pub(crate) profile: String,
    /// The variables that held secrets.
    pub(crate) secrets: Vec<String>,
}

/// Attaches or connects, and verifies for a command that runs a program. What a running `adit up` has verified
/// is not verified again. `Err` inside is the exit code: the report has been printed.
pub(crate) async fn verified(
    context: &Context,
    connect: &ConnectArgs,
    through: &Through,
) -> Result<Result<Verified, Exit>, Failure> {
    let (access, wanted, secrets) = match access::attach(&context.global).await? {
        Some(client) => {
            let (wanted, _) = wanted(context, connect, &client).await?;
            if wanted.targets.is_empty() {
                is_up(&client)?;
                let profile = wanted.profile;
                return Ok(Ok(Verified {
                    access: Access::Attached(Arc::new(client)),
                    profile,
                    secrets: Vec::new(),
                }));
            }
            (Access::Attached(Arc::new(client)), wanted, Vec::new())
        }
        None => {
            let way = if matches!(through, Through::Exec) { Way::Exec } else { Way::Network };
            let begun = Preflight::begin(context, way).and_then(|begun| begun.session(connect));
            let (profile, session, wanted) = match begun {
                Ok(begun) => begun,
                Err(Ended::Report(report)) => return before_the_program(context, &report).map(Err),
                Err(Ended::Failure(failure)) => return Err(*failure),
            };
            let secrets = profile.settings.secret_variables().map(str::to_owned).collect();
            (Access::Private(Box::new(session)), wanted, secrets)
        }
    };
    let report = verification::run(context, access.network(), &wanted.plan()?, through).await?;
    if report.ok {
        verification::show_warnings(context, &report);
        return Ok(Ok(Verified { access, profile: wanted.profile, secrets }));
    }
    let exit = before_the_program(context, &report)?;
    access.close();
    Ok(Err(exit))
}

/// Publishes why no program runs. Other codes than these are the program's.
fn before_the_program(context: &Context, report: &Report) -> Result<Exit, Failure> {
    verification::publish(context, report)?;
    let wrong_input = report.exit_code == Exit::Usage.code();
    Ok(if wrong_input { Exit::Usage } else { Exit::ExecFailed })
}

/// A network that is down now would only make the program fail.
fn is_up(client: &Client) -> Result<(), Failure> {
    let status = client.status();
    let status = status.borrow();
    match (&status.fault, status.phase) {
        (_, Phase::Up) => Ok(()),
        (Some(fault), _) => Err(Failure::of_fault(fault, Stage::Handshake, &Words::default())),
        (None, phase) => Err(failure::of("tunnel.down", format!("the network is {phase:?}").to_lowercase())),
    }
}
