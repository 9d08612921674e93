//! One module a verb; each has one function `run`.

pub(crate) mod bench;
pub(crate) mod capture;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod dns;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod exec;
pub(crate) mod explain;
pub(crate) mod forward;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod man;
pub(crate) mod nc;
mod path;
pub(crate) mod ping;
pub(crate) mod proxy;
pub(crate) mod route;
pub(crate) mod status;
pub(crate) mod up;
pub(crate) mod verify;
pub(crate) mod version;
pub(crate) mod whois;

use adit_providers::{Reader, SecretSource, SourceError};

use crate::cli::{ConnectArgs, RawSource};
use crate::daemon::termination;
use crate::fronts::{Credentials, FrontError};
use crate::{Failure, failure};

/// Does a command's work until it is done or a signal ends it. A signal drops the work, and with it a session of this
/// process, which leaves its network in order.
pub(crate) async fn until_interrupted<T>(
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        outcome = work => outcome,
        signal = termination() => Err(match signal {
            Ok(number) => failure::of("interrupted", "a signal ended the command").seen(format!("signal {number}")),
            Err(error) => failure::internal("signals cannot be waited for").seen(error.to_string()),
        }),
    }
}

/// The failure of a front that was not opened.
pub(crate) fn front_failed(error: &FrontError) -> Failure {
    let failure = failure::of(error.class(), error.to_string());
    match error {
        FrontError::NotLoopback(_) => failure
            .with_fix(vec!["listen on 127.0.0.1, or protect the proxy: --proxy-auth file:PATH".to_owned()]),
        FrontError::OwnPort(_) => failure.with_fix(vec!["expose the port of your own server".to_owned()]),
        FrontError::PortInUse { .. }
        | FrontError::Spec { .. }
        | FrontError::Expose { .. }
        | FrontError::Io { .. } => failure,
    }
}

/// Reads the `USER:PASSWORD` of a proxy from where a flag says.
pub(crate) fn proxy_credentials(
    source: Option<&RawSource>,
    connect: &ConnectArgs,
) -> Result<Option<Credentials>, Failure> {
    const FLAG: &str = "--proxy-auth";
    let Some(RawSource(text)) = source else { return Ok(None) };
    let source: SecretSource =
        text.parse().map_err(|error: SourceError| failure::of_problem(error.problem(FLAG), FLAG))?;
    let reader =
        Reader { insecure_perms: connect.insecure_perms, consume: connect.consume, ..Reader::default() };
    let (secret, _) =
        reader.read(&source, "the proxy's password").map_err(|problem| failure::of_problem(problem, FLAG))?;
    let credentials = secret.expose_text().and_then(Credentials::parse);
    credentials.map(Some).ok_or_else(|| failure::usage(format!("{source} does not hold USER:PASSWORD")))
}
