//! Tailnets: Headscale, relays and nodes of the reference client.

mod cells;
mod exits;
mod failures;
mod jobs;
mod login;
mod outages;
mod peers;
mod reference;
mod routes;
mod strict;
mod weak;

use std::path::PathBuf;
use std::time::Duration;

use crate::support::{Outcome, Tailnet, run};

const LIMIT: Duration = Duration::from_secs(60);
/// For a command that waits for the network itself.
const PATIENCE: &str = "50s";

/// The name that adit asks for.
const AGENT: &str = "agent";

/// An adit.toml with a profile `staging`, which is let in with `key`; `more` are further lines of the profile.
fn profile(tailnet: &Tailnet, key: &str, more: &str) -> String {
    let key = tailnet.lab.write("key", key);
    joining(tailnet, &format!("{{ key = \"file:{}\" }}", key.display()), more)
}

/// The same with another table `auth`.
fn joining(tailnet: &Tailnet, auth: &str, more: &str) -> String {
    let text = format!(
        "version = 1\ndefault = \"staging\"\n\n[profile.staging]\nprovider = \"tailscale\"\n\
         control = \"https://control.example.test\"\nca_file = \"{}\"\nhostname = \"{AGENT}\"\n\
         auth = {auth}\n{more}\n",
        tailnet.ca.display(),
    );
    path(tailnet.lab.write("adit.toml", text))
}

fn path(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

/// Runs a program as `nobody` in the tailnet once `target` answers.
fn exec(tailnet: &Tailnet, profile: &str, target: &str, program: &[&str]) -> Outcome {
    let mut command =
        tailnet.lab.adit(&["exec", "--config", profile, "--timeout", PATIENCE, "--target", target]);
    command.arg("--").args(program);
    run(&mut command, LIMIT)
}
