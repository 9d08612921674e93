//! `adit logout`

use adit_providers::tailscale::{Identity, log_out};
use adit_verify::{Context as Words, Stage};
use serde_json::json;

use crate::cli::{Context, LogoutArgs};
use crate::commands::login::keeping;
use crate::commands::until_interrupted;
use crate::config::Provider;
use crate::session::runtime;
use crate::{Exit, Failure, failure};

/// Ends the node that is kept, and forgets it. Nothing to end is no failure.
pub(crate) fn run(context: &mut Context, args: &LogoutArgs) -> Result<Exit, Failure> {
    let (kept, config, _) = keeping(context, &args.connect, "logout")?;
    let known = match &kept.identity {
        None => None,
        Some(identity) => {
            let leave = async {
                log_out(config.reach.clone(), identity).await.map_err(|error| {
                    let words =
                        Words { provider: Some(Provider::Tailscale.word().to_owned()), ..Words::default() };
                    let fault = adit_tunnel::Fault::from(&error.fault());
                    words.fault(&fault, Stage::Reach).advise("The node is still kept: try again.")
                })
            };
            let known = runtime()?.block_on(until_interrupted(leave))?;
            Identity::forget(&kept.state).map_err(|error| {
                failure::of("ts.state.locked", "the node has left, and what was kept of it cannot be removed")
                    .seen(error.to_string())
            })?;
            Some(known)
        }
    };
    let place = kept.state.path();
    if context.global.json {
        let object = json!({ "schema": "adit.logout/1", "left": known == Some(true), "removed": known.is_some(), "kept_in": place });
        context.ui.json(&object)?;
        return Ok(Exit::Ok);
    }
    context.ui.note(&match known {
        Some(true) => "the node has left its network".to_owned(),
        Some(false) => {
            "the control server did not know the node any more; it is forgotten here too".to_owned()
        }
        None => format!("no node is kept in {}", place.display()),
    });
    Ok(Exit::Ok)
}
