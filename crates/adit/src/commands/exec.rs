//! `adit exec`: runs an unmodified program in the network.

use std::ffi::OsString;
use std::sync::Arc;

use adit_intercept::{LaunchFailure, Launcher, Options, Program};
use adit_path::{Network, Status};

use crate::cli::{Context, ExecArgs};
use crate::commands::verify::{Verified, verified};
use crate::{Failure, failure, session};

/// Connects, verifies, runs the program, and returns its exit code.
pub(crate) fn run(context: &mut Context, args: &ExecArgs) -> Result<u8, Failure> {
    session::runtime()?.block_on(async {
        let Verified { access, profile, secrets } = match verified(context, &args.connect).await? {
            Ok(verified) => verified,
            Err(exit) => return Ok(exit.code()),
        };
        let network = access.network();
        let environment = environment(&profile, &secrets, &network.status().borrow());
        let program = Program { argv: args.command.clone(), env: environment, cwd: None };
        // The runtime serves the network meanwhile.
        let code = tokio::task::spawn_blocking(move || launch(network, &program)).await;
        access.close();
        code.unwrap_or_else(|error| Err(failure::internal(format!("the supervisor failed: {error}"))))
    })
}

/// Runs a program by system call interception; returns its code.
fn launch(network: Arc<dyn Network>, program: &Program) -> Result<u8, Failure> {
    let options = Options { foreground: true, ..Options::default() };
    let running = Launcher::new(network, options).spawn(program).map_err(|error| not_started(&error))?;
    let exit = running.wait().map_err(|error| {
        failure::internal("the end of the program cannot be waited for").seen(error.to_string())
    })?;
    // What the program left behind stays supervised as long as it lives.
    running.wait_for_all(None);
    Ok(exit.code())
}

fn not_started(error: &LaunchFailure) -> Failure {
    let class = match error {
        LaunchFailure::Empty => "usage",
        LaunchFailure::NotFound { .. } => "exec.not_found",
        LaunchFailure::NotExecutable { .. } => "exec.not_executable",
        LaunchFailure::NoBackend { class, .. } => class,
        LaunchFailure::Filter { .. } => "env.no_seccomp_notify",
        LaunchFailure::System { .. } => "internal",
    };
    failure::of(class, error.to_string())
}

/// Our own environment without what concerns adit alone, and with what the program may want to know.
fn environment(profile: &str, secrets: &[String], status: &Status) -> Vec<(OsString, OsString)> {
    let secret = |name: &str| secrets.iter().any(|variable| variable == name);
    let inherited = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        !is_private(&name) && !secret(&name)
    });
    let mut environment: Vec<_> = inherited.collect();
    environment.push(("ADIT_PROFILE".into(), profile.into()));
    let addresses = status.config.iter().flat_map(|config| &config.addresses);
    for address in addresses.map(|prefix| prefix.address()) {
        let name = if address.is_ipv4() { "ADIT_ADDR4" } else { "ADIT_ADDR6" };
        if !environment.iter().any(|(known, _)| known == name) {
            environment.push((name.into(), address.to_string().into()));
        }
    }
    environment
}

/// Variables that are flags or credentials of adit: no program inherits them.
fn is_private(name: &str) -> bool {
    name.starts_with("ADIT_") || name.starts_with("WIREGUARD_") || name.starts_with("TS_")
}
