//! Why the server may be out of reach, in the light of what else is out of reach here.

use std::time::Duration;

use adit_path::BoxFuture;
use tokio::time::timeout;

use super::Run;
use crate::outside::{HTTPS, LISTED, Lookup, NAMES, Outside, STUN, UNLISTED};
use crate::{Failure, StageStatus, join};

/// How long the questions may take together.
const LIMIT: Duration = Duration::from_secs(8);

/// A class that names the sandbox, and why.
struct Found {
    class: &'static str,
    seen: Vec<String>,
}

impl Run<'_> {
    /// After a failure on the way to the server: asks the machine's own network a few questions, and blames the
    /// sandbox where the answers do.
    pub(super) async fn survey(&self) {
        let Some(outside) = self.plan.outside.as_deref() else { return };
        let failed: Vec<(usize, Failure)> = self.log().failures.clone();
        for (index, old) in failed {
            let asked = async {
                if is_unresolved(&old.class) {
                    self.names(outside).await
                } else if is_silent(&old.class) {
                    hosts(outside, &old.class).await
                } else {
                    None
                }
            };
            if let Ok(Some(found)) = timeout(LIMIT, asked).await {
                self.blame(index, &old, found);
            }
        }
    }

    /// Whether the machine's resolver answers at all.
    async fn names(&self, outside: &dyn Outside) -> Option<Found> {
        let hosts = self.status().resolved.into_iter().map(|(host, _)| host.host);
        let mut names: Vec<String> = hosts.collect();
        names.extend(NAMES.map(str::to_owned));
        let questions = names.iter().map(|name| outside.resolve(name)).collect();
        let mut seen = Vec::new();
        for (name, answer) in names.iter().zip(join::all(questions).await) {
            match answer {
                // A resolver that knows anything, or knows that there is nothing, works.
                Lookup::Found | Lookup::Missing => return None,
                Lookup::Unanswered(why) => seen.push(format!("{name}: {why}")),
            }
        }
        Some(Found { class: "env.dns_broken", seen })
    }

    fn blame(&self, index: usize, old: &Failure, found: Found) {
        let mut new = Failure::of(found.class, &self.context().words);
        new.stage = old.stage;
        new.target.clone_from(&old.target);
        new.evidence = [old.evidence.as_slice(), found.seen.as_slice()].concat();
        let mut log = self.log();
        for (at, failure) in &mut log.failures {
            if *at == index && failure == old {
                *failure = new.clone();
            }
        }
        for (stage, at, report) in &mut log.stages {
            if *at == index && Some(*stage) == old.stage && report.status == StageStatus::Fail {
                report.class = Some(found.class.to_owned());
            }
        }
    }
}

/// Which public hosts can be reached, and which cannot.
async fn hosts(outside: &dyn Outside, class: &str) -> Option<Found> {
    let reached = |hosts: [&'static str; 3]| async move {
        let tries: Vec<BoxFuture<'_, bool>> = hosts.iter().map(|host| outside.tcp(host, HTTPS)).collect();
        let answers = join::all(tries).await;
        let of = |wanted: bool| {
            let some = hosts.iter().zip(&answers).filter(move |(_, reached)| **reached == wanted);
            some.map(|(host, _)| *host).collect::<Vec<_>>()
        };
        (of(true), of(false))
    };
    let stun = async {
        let tries: Vec<BoxFuture<'_, bool>> =
            STUN.iter().map(|(host, port)| outside.stun(host, *port)).collect();
        join::all(tries).await.contains(&true)
    };
    let ((listed, _), (unlisted, cut), stun) = tokio::join!(reached(LISTED), reached(UNLISTED), stun);
    if !listed.is_empty() && unlisted.is_empty() && !stun {
        return Some(Found {
            class: "env.egress_allowlist",
            seen: vec![
                format!("{} can be reached, {} cannot", listed.join(", "), cut.join(", ")),
                "no public STUN server answers over UDP".to_owned(),
            ],
        });
    }
    if listed.is_empty() && unlisted.is_empty() && !stun {
        let (variable, proxy) = outside.proxy()?;
        return Some(Found {
            class: "env.proxy_required",
            seen: vec![
                format!(
                    "no public host can be reached directly: {}, {}",
                    LISTED.join(", "),
                    UNLISTED.join(", ")
                ),
                format!("{variable} names the proxy {proxy}"),
            ],
        });
    }
    (class == "wg.silent" && !unlisted.is_empty() && !stun).then(|| Found {
        class: "wg.udp.blocked",
        seen: vec![
            format!("{} can be reached over TCP", unlisted.join(", ")),
            format!("neither {} nor {} answers over UDP", STUN[0].0, STUN[1].0),
        ],
    })
}

fn is_unresolved(class: &str) -> bool {
    matches!(class, "wg.endpoint.dns" | "ovpn.remote.dns" | "ts.control.dns")
}

fn is_silent(class: &str) -> bool {
    matches!(
        class,
        "wg.silent"
            | "wg.udp.blocked"
            | "wg.udp.unreachable"
            | "ovpn.udp.silent"
            | "ovpn.tcp.timeout"
            | "ts.control.tcp"
    )
}
