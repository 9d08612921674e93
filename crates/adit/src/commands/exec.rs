//! `adit exec`: runs an unmodified program in the network.

mod front;
mod losses;
mod proxied;

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use adit_intercept::{LaunchFailure, Launcher, Options, Program, ProxyEnvironment};
use adit_path::{Network, Status, Union};

use self::front::Front;
use crate::access::Access;
use crate::cli::{ConnectArgs, Context, ExecArgs};
use crate::commands::until_interrupted;
use crate::commands::verify::{Verified, verified};
use crate::config::Mode;
use crate::verification::Through;
use crate::{Exit, Failure, failure, session};

/// How long what the program started may take to end after it, before it counts as left behind.
const STRAGGLERS: Duration = Duration::from_millis(200);

/// Connects, verifies, runs the program, and returns its exit code.
///
/// A wrong command line or configuration ends with 2, every other failure before the program runs with 125, 126
/// or 127: the other codes are the program's.
pub(crate) fn run(context: &mut Context, args: &ExecArgs) -> Result<u8, Failure> {
    let outcome = match Front::find() {
        Ok(Some(front)) => connect_and_run(context, args, front),
        Ok(None) => front::start(),
        Err(failure) => Err(failure),
    };
    outcome.map_err(|mut failure| {
        if !matches!(failure.exit, Exit::Usage | Exit::NotExecutable | Exit::NotFound | Exit::Interrupted) {
            failure.exit = Exit::ExecFailed;
        }
        failure
    })
}

fn connect_and_run(context: &Context, args: &ExecArgs, front: Front) -> Result<u8, Failure> {
    // What is wrong with the configuration is said when it is used: a running `adit up` needs none.
    let settings = context.settings_or_all(&args.connect, None).ok();
    let (asked, strict) = match &settings {
        Some(settings) => (settings.mode.value, settings.strict.value),
        None => (args.connect.mode.unwrap_or_default(), args.connect.strict),
    };
    // A profile's mode of `up` says nothing about `exec`.
    let asked = match (args.connect.mode, asked) {
        (None, Mode::Userspace | Mode::Tun) => Mode::Auto,
        (_, asked) => asked,
    };
    let by_proxy = by_proxy(context, asked, strict)?;
    let through = if by_proxy { Through::Network } else { Through::Exec };
    session::runtime()?.block_on(async {
        let Verified { access, profile, mut secrets } =
            match until_interrupted(verified(context, &args.connect, &through)).await? {
                Ok(verified) => verified,
                Err(exit) => return Ok(exit.code()),
            };
        let mut accesses = vec![access];
        // Credentials and targets on the command line belong to the first profile.
        let connect = ConnectArgs { timeout: args.connect.timeout, ..ConnectArgs::default() };
        for name in &args.also {
            match until_interrupted(verified(&context.for_profile(name), &connect, &through)).await? {
                Ok(also) => {
                    accesses.push(also.access);
                    secrets.extend(also.secrets);
                }
                Err(exit) => return Ok(exit.code()),
            }
        }
        let network = joined(&accesses);
        let env = environment(&profile, &secrets, &network.status().borrow());
        let program = Program { argv: args.command.clone(), env, cwd: None };
        let status = network.status();
        let work = async {
            if by_proxy {
                return proxied::run(network, &program).await;
            }
            // The runtime serves the network meanwhile.
            let code = tokio::task::spawn_blocking(move || launch(network, &program, front)).await;
            code.unwrap_or_else(|error| Err(failure::internal(format!("the supervisor failed: {error}"))))
        };
        let code = losses::tell(&context.ui, status, work).await;
        accesses.into_iter().for_each(Access::close);
        code
    })
}

/// The networks as one.
fn joined(accesses: &[Access]) -> Arc<dyn Network> {
    match accesses {
        [only] => only.network(),
        several => Arc::new(Union::new(several.iter().map(Access::network))),
    }
}

/// Whether the program is only given proxy variables, which is said and can be refused.
fn by_proxy(context: &Context, asked: Mode, strict: bool) -> Result<bool, Failure> {
    let possible = Launcher::backend();
    let warn = |why: &str| {
        context.ui.warning(&failure::of("env.proxy_mode", ProxyEnvironment::WARNING).seen(why.to_owned()));
    };
    match (asked, possible) {
        (Mode::Auto | Mode::Seccomp, Ok(_)) => Ok(false),
        (Mode::Env, _) => {
            warn("--mode env");
            Ok(true)
        }
        (Mode::Auto, Err(failure)) if !strict => {
            warn(&failure.to_string());
            Ok(true)
        }
        (Mode::Auto | Mode::Seccomp, Err(failure)) => Err(not_started(&failure)),
        (Mode::Userspace | Mode::Tun, _) => {
            let word = asked.word();
            Err(failure::usage(format!("{word} is a mode of `up`, not of `exec`"))
                .with_fix(vec!["use --mode auto, seccomp or env".to_owned()]))
        }
    }
}

/// Runs a program by system call interception; returns its code.
fn launch(network: Arc<dyn Network>, program: &Program, front: Front) -> Result<u8, Failure> {
    let options = Options { foreground: true, ..Options::default() };
    let running = Launcher::new(network, options).spawn(program).map_err(|error| not_started(&error))?;
    let exit = running.wait().map_err(|error| {
        failure::internal("the end of the program cannot be waited for").seen(error.to_string())
    })?;
    // What the program left behind keeps its network as long as it lives, and nobody waits for it.
    if !running.wait_for_all(Some(STRAGGLERS)) {
        if let Err(error) = front.leave(exit.code()) {
            tracing::warn!(%error, "the supervisor stays in the foreground");
        }
        running.wait_for_all(None);
    }
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
    let mut failure = failure::of(class, error.to_string());
    // Some of these classes are mere notes elsewhere; here no program ran, which is never a success.
    failure.exit = Exit::try_from(error.exit_code()).unwrap_or(Exit::ExecFailed);
    failure
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
    ["ADIT_", "OPENVPN_", "TS_", "WIREGUARD_"].iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_did_not_run_is_never_a_success() {
        let no_backend =
            LaunchFailure::NoBackend { class: "env.no_seccomp_notify", reason: "EBUSY".to_owned() };
        assert_eq!(not_started(&no_backend).exit, Exit::ExecFailed);
        let missing = LaunchFailure::NotFound { program: "x".to_owned() };
        assert_eq!(not_started(&missing).exit, Exit::NotFound);
    }
}
