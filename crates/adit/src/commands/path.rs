//! `adit ping --path`: which way leads to a node.

use std::net::IpAddr;
use std::time::Duration;

use adit_path::{Network, WayFailure};
use adit_tunnel::{Prefix, Way};
use adit_verify::Context as Words;
use serde_json::{Value, json};

use crate::access::Access;
use crate::cli::{Context, PingArgs};
use crate::commands::ping::{PACE, ms, resolve};
use crate::commands::until_interrupted;
use crate::config::Provider;
use crate::session::runtime;
use crate::{Exit, Failure, failure};

/// Asks a node which way leads to it.
pub(crate) fn run(context: &Context, args: &PingArgs) -> Result<Exit, Failure> {
    runtime()?.block_on(until_interrupted(async {
        let access = Access::tailnet(context, &args.connect, "ping --path").await?;
        let outcome = ask(context, args, &*access.network()).await;
        access.close();
        outcome
    }))
}

/// What several questions found.
struct Found {
    to: IpAddr,
    sent: u32,
    times: Vec<Duration>,
    last: Way,
}

async fn ask(context: &Context, args: &PingArgs, network: &dyn Network) -> Result<Exit, Failure> {
    let words = Words { provider: Some(Provider::Tailscale.word().to_owned()), ..Words::default() };
    let words = words.with("host", &args.host).with("target", &args.host);
    let to = resolve(network, &args.host, &words).await?.to_canonical();
    let config = network.status().borrow().config.clone();
    if config.is_some_and(|config| config.addresses.iter().map(Prefix::address).any(|ours| ours == to)) {
        return Err(failure::usage(format!("{to} is this node itself")));
    }
    let mut found = Found { to, sent: 0, times: Vec::new(), last: Way::default() };
    while found.sent < args.count && found.last.endpoint.is_none() {
        if found.sent > 0 {
            tokio::time::sleep(PACE).await;
        }
        found.sent += 1;
        let way = network.find_way(to, args.wait).await.map_err(|failure| refused(&failure, &words))?;
        found.times.extend(way.rtt);
        if !context.global.json {
            context.ui.result(&sentence(to, &way, args.wait))?;
        }
        found.last = way;
    }
    if found.times.is_empty() {
        return Err(silent(network, &found, &words));
    }
    if context.global.json {
        context.ui.json(&found.json())?;
    } else if found.last.endpoint.is_none() {
        for obstacle in &found.last.obstacles {
            context.ui.result(&format!("not directly: {obstacle}"))?;
        }
    }
    Ok(Exit::Ok)
}

fn sentence(to: IpAddr, way: &Way, wait: Duration) -> String {
    let Way { peer, endpoint, relay, rtt, .. } = way;
    match (endpoint, relay, rtt) {
        (Some(endpoint), _, Some(rtt)) => format!("{peer} ({to}) directly at {endpoint}: {:.1} ms", ms(*rtt)),
        (None, Some(relay), Some(rtt)) => {
            format!("{peer} ({to}) through the relay {relay}: {:.1} ms", ms(*rtt))
        }
        _ => format!("{peer} ({to}): no answer within {wait:?}"),
    }
}

impl Found {
    fn json(&self) -> Value {
        let Way { peer, endpoint, relay, rtt, obstacles } = &self.last;
        let kind = match (endpoint, relay) {
            (Some(_), _) => "direct",
            (None, Some(_)) => "relay",
            (None, None) => "none",
        };
        json!({
            "schema": "adit.ping/1",
            "address": self.to,
            "sent": self.sent,
            "received": self.times.len(),
            "rtt_ms": self.times.iter().copied().map(ms).collect::<Vec<_>>(),
            "peer": peer,
            "path": { "kind": kind, "endpoint": endpoint, "relay": relay, "rtt_ms": rtt.map(ms) },
            "not_direct_because": obstacles,
        })
    }
}

fn refused(why: &WayFailure, words: &Words) -> Failure {
    match why {
        WayFailure::NoRoute(address) => words.ping(&adit_path::PingFailure::NoRoute(*address)),
        WayFailure::Exhausted(what) => words.ping(&adit_path::PingFailure::Exhausted(what.clone())),
        WayFailure::Closed => words.ping(&adit_path::PingFailure::Closed),
        WayFailure::Unsupported => failure::usage(why.to_string()),
    }
}

/// Nothing came back on any way.
fn silent(network: &dyn Network, found: &Found, words: &Words) -> Failure {
    let peers = network.status().borrow().peers.clone();
    let offline = peers.iter().any(|peer| peer.name == found.last.peer && peer.online == Some(false));
    let words = &words.clone().with("peer", &found.last.peer).words;
    let mut failure = match offline {
        true => Failure::of("ts.peer.offline", words)
            .seen(format!("the coordination server has no connection with {}", found.last.peer)),
        false => Failure::of("target.silent", words),
    };
    failure.evidence.push("it answers neither through a relay nor directly".to_owned());
    failure.evidence.extend(found.last.obstacles.iter().cloned());
    failure
}
