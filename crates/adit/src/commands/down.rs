//! `adit down`

use crate::access;
use crate::cli::Context;
use crate::control::{self, ClientError};
use crate::session::runtime;
use crate::{Exit, Failure, device};

/// Ends a running `adit up` and waits until it has removed what it made. Nothing to end is no failure.
pub(crate) fn run(context: &mut Context) -> Result<Exit, Failure> {
    runtime()?.block_on(async {
        let Some(client) = access::attach(&context.global).await? else {
            // A process with a TUN device that was killed has left what it replaced.
            let repaired = device::repair(context.global.state_dir.as_deref())?;
            context.ui.note(if repaired {
                "nothing is running; what a killed run left behind was put back"
            } else {
                "nothing is running"
            });
            return Ok(Exit::Ok);
        };
        let path = client.path().to_owned();
        drop(client);
        match control::down(&path).await {
            Ok(()) | Err(ClientError::NotRunning(_)) => {
                context.ui.note("down");
                Ok(Exit::Ok)
            }
            Err(error) => Err(access::failed(&error)),
        }
    })
}
