//! `adit forward`

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::access::{self, Access};
use crate::cli::{Context, ForwardArgs};
use crate::commands::{front_failed, until_interrupted};
use crate::control::Client;
use crate::daemon::termination;
use crate::fronts::{Forward, ForwardSpec};
use crate::session::runtime;
use crate::{Exit, Failure, failure};

/// Hands forwards to a running `adit up`, or serves them until a signal.
pub(crate) fn run(context: &mut Context, args: &ForwardArgs) -> Result<Exit, Failure> {
    let specs = args.specs.iter().map(|spec| spec.parse().map_err(|error| front_failed(&error)));
    let specs = specs.collect::<Result<Vec<ForwardSpec>, Failure>>()?;
    runtime()?.block_on(async {
        match until_interrupted(Access::open(context, &args.connect)).await? {
            Access::Attached(client) => hand_over(context, &client, &specs).await,
            access @ Access::Private(_) => {
                let outcome = serve(context, &access, specs).await;
                access.close();
                outcome
            }
        }
    })
}

async fn hand_over(context: &Context, client: &Client, specs: &[ForwardSpec]) -> Result<Exit, Failure> {
    for spec in specs {
        let listening = client.forward(&spec.to_string()).await.map_err(|error| access::failed(&error))?;
        context.ui.result(&listening)?;
    }
    context.ui.note("served by the running adit until `adit down`");
    Ok(Exit::Ok)
}

async fn serve(context: &Context, access: &Access, specs: Vec<ForwardSpec>) -> Result<Exit, Failure> {
    let mut running = JoinSet::new();
    for spec in specs {
        let forward = Forward::bind(spec).await.map_err(|error| front_failed(&error))?;
        context.ui.result(&forward.spec().to_string())?;
        running.spawn(forward.run(Arc::clone(&access.network())));
    }
    until_signal(access).await
}

/// Waits for a signal, or for the end of the network.
pub(crate) async fn until_signal(access: &Access) -> Result<Exit, Failure> {
    let mut status = access.network().status();
    let over = |status: &adit_path::Status| {
        matches!(status.phase, adit_path::Phase::Failed | adit_path::Phase::Closed)
    };
    tokio::select! {
        signal = termination() => match signal {
            Ok(_) => Ok(Exit::Ok),
            Err(error) => Err(failure::internal("signals cannot be waited for").seen(error.to_string())),
        },
        _ = status.wait_for(over) => Err(failure::of("session.lost", "the network ended")),
    }
}
