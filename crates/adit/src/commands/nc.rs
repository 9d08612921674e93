//! `adit nc`

use std::time::Duration;

use crate::access::Access;
use crate::cli::{Context, NcArgs};
use crate::commands::until_interrupted;
use crate::fronts::{Dialer, NcError, Target, netcat};
use crate::session::runtime;
use crate::{Exit, Failure, failure};

/// How long the target may take to accept.
const BUDGET: Duration = Duration::from_secs(30);

/// Connects standard input and output to a service inside the network.
pub(crate) fn run(context: &mut Context, args: &NcArgs) -> Result<Exit, Failure> {
    let target = Target::parse(&format!("{}:{}", bracketed(&args.host), args.port), None)
        .map_err(|error| failure::usage(error.to_string()))?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(until_interrupted(async {
        let access = Access::open(context, &args.connect).await?;
        let dialer = Dialer::new(access.network(), BUDGET);
        let outcome = netcat(&dialer, &target, std::io::stdin(), std::io::stdout()).await;
        access.close();
        outcome.map_err(|error| explain(&error, &target))
    }));
    // Standard input may be blocked in a read, and the runtime would wait for it.
    runtime.shutdown_background();
    outcome.map(|()| Exit::Ok)
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

fn explain(error: &NcError, target: &Target) -> Failure {
    match error {
        NcError::Dial(failure) => failure.describe(target),
        NcError::Io(error) => failure::of("env.stdout", "the relay broke").seen(error.to_string()),
    }
}
