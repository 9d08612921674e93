//! `adit login`

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adit_path::{Phase, Status};
use adit_providers::tailscale::{ControlUrl, Identity};
use adit_tunnel::{Prefix, Prompt};
use adit_verify::{Context as Words, Event, Observer as _, Stage};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use crate::access;
use crate::cli::{ConnectArgs, Context, LoginArgs};
use crate::commands::until_interrupted;
use crate::config::Provider;
use crate::session::{Session, TunnelConfig, runtime};
use crate::tailnet::{Kept, TailnetConfig};
use crate::{Exit, Failure, failure};

/// How often it is said that somebody is waited for.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Signs in to a tailnet and keeps the node.
pub(crate) fn run(context: &mut Context, args: &LoginArgs) -> Result<Exit, Failure> {
    let (kept, config, timeout) = keeping(context, &args.connect, "login")?;
    if config.ephemeral {
        return Err(failure::usage(
            "an ephemeral node is deleted at the end, so that there is nothing to keep",
        )
        .with_fix(vec!["leave `ephemeral` away".to_owned()]));
    }
    let control = config.reach.control.clone();
    let session =
        Session::start(TunnelConfig::Tailscale(Box::new(config)), adit_path::EngineOptions::default())?;
    let joined = runtime()?.block_on(until_interrupted(join(context, &session, timeout)));
    session.shutdown();
    let status = joined?;
    is_kept(&kept, &control)?;
    let own = status.own.unwrap_or_default();
    let config = status.config.unwrap_or_default();
    let addresses: Vec<_> = config.addresses.iter().map(Prefix::address).collect();
    if let Some(fault) = &status.fault {
        context.ui.warning(&words().fault(fault, Stage::Auth));
    }
    if context.global.json {
        context.ui.json(&json!({
            "schema": "adit.login/1",
            "name": own.name,
            "addresses": addresses,
            "tags": own.tags,
            "control": control.to_string(),
            "kept_in": kept.state.path(),
        }))?;
    } else {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let place = kept.state.path().display();
        context.ui.result(&format!("{} ({}) is kept in {place}", own.name, addresses.join(", ")))?;
    }
    Ok(Exit::Ok)
}

fn words() -> Words {
    Words { provider: Some(Provider::Tailscale.word().to_owned()), ..Words::default() }
}

/// The profile of a tailnet with a state directory, which `verb` needs.
pub(super) fn keeping(
    context: &Context,
    connect: &ConnectArgs,
    verb: &str,
) -> Result<(Arc<Kept>, TailnetConfig, Duration), Failure> {
    let profile = access::load(context, connect)?;
    let TunnelConfig::Tailscale(config) = profile.tunnel else {
        let provider = profile.tunnel.provider().word();
        return Err(failure::usage(format!("{verb} is for a tailnet, and this network is {provider}"))
            .with_fix(vec!["name a profile with provider = \"tailscale\"".to_owned()]));
    };
    match config.kept.clone() {
        Some(kept) => Ok((kept, *config, profile.timeout)),
        None => Err(failure::usage(format!("{verb} needs a directory in which the node is kept"))
            .with_fix(vec![format!("name one: adit {verb} --state-dir DIR")])),
    }
}

/// Waits until the control server has sent the network's map, and shows every page that waits for somebody.
async fn join(context: &Context, session: &Session, timeout: Duration) -> Result<Status, Failure> {
    let reporter = context.reporter()?;
    let began = Instant::now();
    let mut beat = interval_at(began + HEARTBEAT, HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut status = session.network().status();
    let mut page: Option<String> = None;
    loop {
        let now = status.borrow_and_update().clone();
        if now.own.is_some() && now.config.is_some() {
            reporter.notice(Event::Authenticated);
            return Ok(now);
        }
        if matches!(now.phase, Phase::Failed | Phase::Closed) {
            return Err(over(&now, None));
        }
        if let Some(Prompt::Open { url, timeout }) = &now.prompt
            && page.as_ref() != Some(url)
        {
            let timeout_ms = timeout.map(ms);
            reporter.notice(Event::AuthRequired { url: url.clone(), qr: None, timeout_ms });
            page = Some(url.clone());
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() {
                return Err(over(&now, None));
            },
            _ = beat.tick() => {
                // A person is waited for as long as it takes, a server is not.
                if page.is_none() && now.fault.is_some() && began.elapsed() >= Stage::Reach.budget() {
                    return Err(over(&now, None));
                }
                reporter.notice(Event::Waiting {
                    id: Stage::Auth,
                    target: None,
                    elapsed_ms: ms(began.elapsed()),
                    limit_ms: ms(timeout),
                });
            }
            () = sleep_until(began + timeout) => return Err(over(&now, page.as_deref())),
        }
    }
}

/// Why nobody has joined.
fn over(status: &Status, page: Option<&str>) -> Failure {
    match (&status.fault, page) {
        (Some(fault), _) => words().fault(fault, Stage::Auth),
        (None, Some(url)) => Failure::of("ts.login.timeout", &words().with("url", url).words)
            .at(Stage::Auth)
            .seen(format!("the server waits for a sign-in at {url}")),
        (None, None) => Failure::of("ts.netmap.timeout", &words().words).at(Stage::Auth),
    }
}

/// What was written can be read again.
fn is_kept(kept: &Kept, control: &ControlUrl) -> Result<(), Failure> {
    match Identity::load(&kept.state, control).map_err(|problem| failure::of_problem(problem, ""))? {
        Some(_) => Ok(()),
        None => Err(unwritten(kept.state.path())),
    }
}

fn unwritten(path: &Path) -> Failure {
    failure::of("ts.state.locked", "the node has joined, and could not be kept")
        .seen(format!("{} holds nothing of it", path.display()))
        .with_fix(vec!["give a directory that can be written: --state-dir DIR".to_owned()])
}
