//! `adit ping`

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_path::{Connect, ConnectFailure, Destination, Network, PingKind, Query};
use adit_verify::Context as Words;
use serde_json::json;

use crate::access::Access;
use crate::cli::{Context, PingArgs};
use crate::commands::{path, until_interrupted};
use crate::fronts::Target;
use crate::session::runtime;
use crate::{Exit, Failure, failure};

/// Payload bytes of an echo, as ping(8) sends them.
const SIZE: u16 = 56;
/// Time between two echoes.
pub(super) const PACE: Duration = Duration::from_secs(1);

/// Asks whether a host answers inside the network.
pub(crate) fn run(context: &mut Context, args: &PingArgs) -> Result<Exit, Failure> {
    if args.path {
        return path::run(context, args);
    }
    runtime()?.block_on(until_interrupted(async {
        let access = Access::open(context, &args.connect).await?;
        let outcome = ping(context, args, &*access.network()).await;
        access.close();
        outcome
    }))
}

async fn ping(context: &Context, args: &PingArgs, network: &dyn Network) -> Result<Exit, Failure> {
    let words = Words::default().with("host", &args.host).with("target", &args.host);
    let to = resolve(network, &args.host, &words).await?;
    let mut times = Vec::new();
    let mut last = None;
    for sequence in 0..args.count {
        if sequence > 0 {
            tokio::time::sleep(PACE).await;
        }
        match once(network, to, args, &words).await {
            Ok((how, time)) => {
                times.push(time);
                if !context.global.json {
                    context.ui.result(&format!("{how}: {:.1} ms", ms(time)))?;
                }
            }
            Err(failure) => {
                context.ui.note(&failure.to_string());
                last = Some(failure);
            }
        }
    }
    if context.global.json {
        let times: Vec<f64> = times.iter().copied().map(ms).collect();
        let (sent, received) = (args.count, times.len());
        context.ui.json(
            &json!({ "schema": "adit.ping/1", "address": to, "sent": sent, "received": received, "rtt_ms": times }),
        )?;
    }
    match last {
        Some(failure) if times.is_empty() => Err(failure),
        _ => Ok(Exit::Ok),
    }
}

/// One echo, or one connection; how it was answered, and in which time.
async fn once(
    network: &dyn Network,
    to: IpAddr,
    args: &PingArgs,
    words: &Words,
) -> Result<(String, Duration), Failure> {
    let Some(port) = args.tcp else {
        let pong = network.ping(to, PingKind::Icmp { size: SIZE, timeout: args.wait }).await;
        let pong = pong.map_err(|failure| words.ping(&failure))?;
        return Ok((format!("reply from {}", pong.from), pong.rtt));
    };
    let began = Instant::now();
    let to = SocketAddr::new(to, port);
    match network.connect(to, Connect { timeout: args.wait, ..Connect::default() }).await {
        Ok(_) => Ok((format!("{to} accepts"), began.elapsed())),
        // A refusal is an answer too.
        Err(ConnectFailure::Refused) => Ok((format!("{to} refuses"), began.elapsed())),
        Err(failure) => Err(words.clone().with("port", port).connect(&failure)),
    }
}

/// The address of a host, which may be one itself.
pub(super) async fn resolve(network: &dyn Network, host: &str, words: &Words) -> Result<IpAddr, Failure> {
    let target = Target::new(host, 0).map_err(|error| failure::usage(error.to_string()))?;
    match target.host {
        Destination::Address(address) => Ok(address),
        Destination::Name(name) => {
            let answer = network.resolve(Query::addresses(&name)).await;
            let answer = answer.map_err(|failure| words.resolve(&failure))?;
            answer
                .addresses
                .first()
                .copied()
                .ok_or_else(|| failure::of("dns.empty", format!("{name} has no address")))
        }
    }
}

pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
