//! `adit up`: one process owns the tunnel, others attach to it.

use std::time::Duration;

use crate::support::{Lab, Part, run};

const LIMIT: Duration = Duration::from_secs(60);

/// An adit.toml with a profile `staging` for the laboratory.
fn profile(lab: &Lab) -> String {
    let conf = lab.write("lab.conf", lab.conf());
    let text = format!(
        "version = 1\ndefault = \"staging\"\n\n[profile.staging]\nprovider = \"wireguard\"\nconfig = \"{}\"\n\n\
         [profile.staging.verify]\ntimeout = \"30s\"\ntargets = [\"tcp://staging-db.internal:5432,postgres\"]\n",
        conf.display()
    );
    lab.write("adit.toml", text).to_string_lossy().into_owned()
}

#[test]
fn a_detached_up_serves_exec_until_down() {
    let Some(lab) = Lab::build("up", &[Part::Postgres, Part::Names]) else { return };
    let config = profile(&lab);
    let up =
        run(&mut lab.adit(&["up", "--config", &config, "--profile", "staging", "--detach"]), LIMIT).expect(0);
    let guard = Down(&lab);
    run(&mut lab.adit(&["status"]), LIMIT).expect(0);
    let status = run(&mut lab.adit(&["status", "--json"]), LIMIT).expect(0);
    assert!(serde_json::from_slice::<serde_json::Value>(&status.stdout).is_ok(), "{status}");

    let handshakes = lab.wg_show("latest-handshakes");
    let mut psql = lab.adit(&["exec", "--"]);
    psql.args(["psql", "-h", "staging-db.internal", "-Atc", "select count(*) from orders"]);
    assert_eq!(run(&mut psql, LIMIT).expect(0).text(), "3");
    assert_eq!(lab.wg_show("latest-handshakes"), handshakes, "exec uses the tunnel that is up:\n{up}");

    drop(guard);
    let status = run(&mut lab.adit(&["status"]), LIMIT);
    assert_ne!(status.status.code(), Some(0), "nothing runs after down: {status}");
}

/// Ends the daemon also when the test fails: it is no child of the test.
pub(crate) struct Down<'a>(pub(crate) &'a Lab);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let down = run(&mut self.0.adit(&["down"]), LIMIT);
        if !std::thread::panicking() {
            down.expect(0);
        }
    }
}
