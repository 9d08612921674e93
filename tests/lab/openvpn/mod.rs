//! OpenVPN against Debian's server.

mod access;
mod bad_links;
mod cells;
mod classes;
mod embedded;
mod failures;
mod job;
mod logins;
mod next;
mod proxies;
mod pushes;
mod reaches;
mod rekeys;
mod ways;

use std::time::Duration;

use crate::support::{Lab, Outcome, Process, Server, run};

const LIMIT: Duration = Duration::from_secs(60);

/// The addresses that the server gives to its first client.
const INSIDE: [&str; 2] = ["10.66.0.2", "fd66::1000"];

/// Sends a mebibyte through the network and back twice, and prints under which address the server saw it.
const BOTH_WAYS: &str = r#"set -e
    head -c 1048576 /dev/urandom > up
    for round in 1 2; do
        curl -sf --max-time 20 -H 'Expect:' --data-binary @up http://files.corp.internal/echo -o down
        [ "$(sha256sum < up)" = "$(sha256sum < down)" ]
    done
    curl -sf --max-time 20 http://files.corp.internal/peer"#;

/// Prints under which address the server saw it.
const PEER: &str = "curl -sf --max-time 20 http://files.corp.internal/peer";

/// Sends a mebibyte through the network and back until there is the file `$1`; at most a hundred times.
const UNTIL_ENOUGH: &str = r#"set -e
    head -c 1048576 /dev/urandom > up
    for round in $(seq 100); do
        if [ -e "$1" ]; then exit 0; fi
        curl -sf --max-time 20 -H 'Expect:' --data-binary @up http://files.corp.internal/echo -o down
        [ "$(sha256sum < up)" = "$(sha256sum < down)" ]
    done
    exit 3"#;

/// Moves data both ways until the server has printed `text` so many times.
fn reaches_until(lab: &mut Lab, server: &Server, times: usize, text: &str) {
    let profile = lab.ovpn(server);
    let enough = lab.dir.path().join("enough");
    // From the time before, in the same laboratory.
    let _ = std::fs::remove_file(&enough);
    let mut command = lab.adit(&["exec", "--config", &profile, "--timeout", "30s"]);
    command.args(["--target", "http://files.corp.internal/healthz", "--", "sh", "-c", UNTIL_ENOUGH, "sh"]);
    command.arg(&enough);
    let mut client = Process::spawn("adit", command, &lab.dir.logs());
    lab.openvpn().wait_for_times(times, text, LIMIT);
    std::fs::write(&enough, "").unwrap();
    let status = client.wait(LIMIT);
    assert!(status.success(), "{status}: {}", client.printed());
}

/// Runs a script under `adit exec` as `nobody` through a server that runs, with more arguments for adit.
fn exec(lab: &Lab, server: &Server, more: &[&str], script: &str) -> Outcome {
    let profile = lab.ovpn(server);
    let mut command = lab.adit(&["exec", "--config", &profile]);
    if !more.contains(&"--timeout") {
        command.args(["--timeout", "30s"]);
    }
    command.args(more).args(["--target", "http://files.corp.internal/healthz", "--", "sh", "-c", script]);
    run(&mut command, LIMIT)
}

/// [`exec`] without a network: the program never runs, and the class is told.
#[track_caller]
fn is_kept_out(lab: &Lab, server: &Server, more: &[&str], class: &str) -> Outcome {
    // What adit itself fails with, so that it is not taken for the program's.
    let outcome = exec(lab, server, more, PEER).expect(125);
    assert!(outcome.stderr.contains(class), "{outcome}");
    outcome
}

/// [`exec`], which must succeed and be seen under an address of the tunnel.
#[track_caller]
fn reaches(lab: &Lab, server: &Server, more: &[&str], script: &str) -> Outcome {
    let outcome = exec(lab, server, more, script).expect(0);
    let text = outcome.text();
    assert!(INSIDE.contains(&text.lines().last().unwrap_or_default()), "{outcome}");
    outcome
}
