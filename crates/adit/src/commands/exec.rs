//! `adit exec`: runs an unmodified program in the network.

use std::ffi::OsString;
use std::process::Command;
use std::sync::Arc;

use adit_intercept::{LaunchFailure, Launcher, Options, Program, ProxyEnvironment};
use adit_path::{Network, Status};

use crate::cli::{Context, ExecArgs};
use crate::commands::front_failed;
use crate::commands::verify::{Verified, verified};
use crate::config::Mode;
use crate::daemon::exit_code;
use crate::fronts::{Credentials, Proxy};
use crate::verification::Through;
use crate::{Exit, Failure, failure, session};

/// Connects, verifies, runs the program, and returns its exit code.
pub(crate) fn run(context: &mut Context, args: &ExecArgs) -> Result<u8, Failure> {
    let asked = context.settings(&args.connect, None).map_or(Mode::Auto, |settings| settings.mode.value);
    let by_proxy = by_proxy(context, asked, args.connect.strict)?;
    let through = if by_proxy { Through::Network } else { Through::Exec };
    session::runtime()?.block_on(async {
        let Verified { access, profile, secrets } = match verified(context, &args.connect, through).await? {
            Ok(verified) => verified,
            Err(exit) => return Ok(exit.code()),
        };
        let network = access.network();
        let env = environment(&profile, &secrets, &network.status().borrow());
        if by_proxy {
            let code = run_with_proxy(network, args, env).await;
            access.close();
            return code;
        }
        let program = Program { argv: args.command.clone(), env, cwd: None };
        // The runtime serves the network meanwhile.
        let code = tokio::task::spawn_blocking(move || launch(network, &program)).await;
        access.close();
        code.unwrap_or_else(|error| Err(failure::internal(format!("the supervisor failed: {error}"))))
    })
}

/// Whether the program is only given proxy variables, which is said and can be refused.
fn by_proxy(context: &Context, asked: Mode, strict: bool) -> Result<bool, Failure> {
    let possible = Launcher::backend();
    let warn = |why: &str| {
        context.ui.warning(&failure::of("env.mode", ProxyEnvironment::WARNING).seen(why.to_owned()));
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

/// Runs a program with proxy variables that lead to a proxy of this process; returns its code.
async fn run_with_proxy(
    network: Arc<dyn Network>,
    args: &ExecArgs,
    mut env: Vec<(OsString, OsString)>,
) -> Result<u8, Failure> {
    let password = getrandom::u64().map_err(|error| failure::internal(error.to_string()))?;
    let (user, password) = ("adit".to_owned(), format!("{password:016x}"));
    let credentials = Credentials::parse(&format!("{user}:{password}"));
    let any = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
    let proxy = Proxy::bind(any, credentials).await.map_err(|error| front_failed(&error))?;
    let address = proxy.address().map_err(|error| failure::internal(error.to_string()))?;
    let variables = ProxyEnvironment { proxy: address, credentials: Some((user, password)) }.variables(&env);
    env.retain(|(name, _)| !variables.iter().any(|(new, _)| new == name));
    env.extend(variables);
    let Some((name, arguments)) = args.command.split_first() else {
        return Err(failure::usage("no command was given"));
    };
    let program = name.to_string_lossy().into_owned();
    let mut child = Command::new(name).args(arguments).env_clear().envs(env).spawn().map_err(|source| {
        not_started(&match source.kind() {
            std::io::ErrorKind::NotFound => LaunchFailure::NotFound { program },
            _ => LaunchFailure::NotExecutable { program, source },
        })
    })?;
    let serving = tokio::spawn(proxy.run(network));
    let ended = tokio::task::spawn_blocking(move || child.wait()).await;
    serving.abort();
    let status = ended.map_err(|error| failure::internal(error.to_string()))?;
    let status = status.map_err(|error| failure::internal(error.to_string()))?;
    Ok(u8::try_from(exit_code(status)).unwrap_or(125))
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
    name.starts_with("ADIT_") || name.starts_with("WIREGUARD_") || name.starts_with("TS_")
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
