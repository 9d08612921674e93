//! `--mode env`: the program gets proxy variables, and nobody supervises it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;

use adit_intercept::{Program, ProxyEnvironment};
use adit_path::Network;
use rustix::process;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::commands::front_failed;
use crate::fronts::{Credentials, Proxy};
use crate::{Failure, failure};

/// Serves a proxy for the program alone, runs it, and returns its code.
pub(super) async fn run(network: Arc<dyn Network>, program: &Program) -> Result<u8, Failure> {
    let (user, password) = ("adit".to_owned(), random_password()?);
    let credentials = Credentials::parse(&format!("{user}:{password}"));
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let proxy = Proxy::bind(any, credentials).await.map_err(|error| front_failed(&error))?;
    let system = |error: io::Error| {
        failure::of("env.socket", "a proxy for the program cannot be served").seen(error.to_string())
    };
    let address = proxy.address().map_err(system)?;
    let variables =
        ProxyEnvironment { proxy: address, credentials: Some((user, password)) }.variables(&program.env);
    let serving = tokio::spawn(proxy.run(network));
    let status = supervise(program, &variables).await;
    serving.abort();
    let status = status?;
    Ok(status
        .code()
        .map_or_else(|| 128u8.wrapping_add(status.signal().unwrap_or(0) as u8), |code| code as u8))
}

/// Only the program may use the proxy, whoever else is on this machine.
fn random_password() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| failure::internal("the system gives no randomness").seen(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn supervise(
    program: &Program,
    variables: &[(std::ffi::OsString, std::ffi::OsString)],
) -> Result<ExitStatus, Failure> {
    let Some((name, arguments)) = program.argv.split_first() else {
        return Err(failure::usage("no program was given"));
    };
    let mut command = Command::new(name);
    command.args(arguments).env_clear();
    command.envs(program.env.iter().map(|(name, value)| (name, value)));
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let cannot_wait = |error: io::Error| {
        failure::internal("the end of the program cannot be waited for").seen(error.to_string())
    };
    // Before the program runs: a signal that comes early is for it too.
    let signals = Signals::register().map_err(cannot_wait)?;
    let child = command.spawn().map_err(|error| not_started(name, &error))?;
    signals.wait(child).await.map_err(cannot_wait)
}

fn not_started(name: &std::ffi::OsStr, error: &io::Error) -> Failure {
    let class =
        if error.kind() == io::ErrorKind::NotFound { "exec.not_found" } else { "exec.not_executable" };
    failure::of(class, format!("{} cannot be started", name.to_string_lossy())).seen(error.to_string())
}

/// The signals that this process takes while the program runs.
struct Signals {
    interrupt: Signal,
    quit: Signal,
    passed_on: [(Signal, process::Signal); 4],
}

impl Signals {
    fn register() -> io::Result<Self> {
        let passed_on = [
            (signal(SignalKind::terminate())?, process::Signal::TERM),
            (signal(SignalKind::hangup())?, process::Signal::HUP),
            (signal(SignalKind::user_defined1())?, process::Signal::USR1),
            (signal(SignalKind::user_defined2())?, process::Signal::USR2),
        ];
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, quit: signal(SignalKind::quit())?, passed_on })
    }

    /// Waits for the program. Signals for us are passed on; those of the terminal reach the program by
    /// themselves, and must not end us before it.
    async fn wait(self, mut child: Child) -> io::Result<ExitStatus> {
        let Self { mut interrupt, mut quit, passed_on } = self;
        let [mut terminate, mut hang_up, mut user1, mut user2] = passed_on;
        let pid = child.id().and_then(|id| process::Pid::from_raw(id as i32));
        let pass = |signal: process::Signal| {
            // A program that has just ended needs no signal.
            let _ = pid.map(|pid| process::kill_process(pid, signal));
        };
        loop {
            tokio::select! {
                status = child.wait() => return status,
                _ = interrupt.recv() => {}
                _ = quit.recv() => {}
                _ = terminate.0.recv() => pass(terminate.1),
                _ = hang_up.0.recv() => pass(hang_up.1),
                _ = user1.0.recv() => pass(user1.1),
                _ = user2.0.recv() => pass(user2.1),
            }
        }
    }
}
