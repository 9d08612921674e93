//! The reference's own test control server, which plays by the rules of the hosted service, with the reference client
//! as the other node. Everything is on the loopback of one namespace.

use std::process::Command;

use serde_json::Value;

use super::LIMIT;
use crate::support::services::serve_tcp_echo;
use crate::support::{Lab, Outcome, Part, Process, peer, run, wait_until};

const KEY: &str = "tskey-auth-strict";

/// The laboratory with the control server; the reference client serves an echo at port 7.
struct Strict {
    // Processes before their namespaces.
    node: Option<Process>,
    _control: Process,
    control: String,
    admin: String,
    lab: Lab,
}

impl Strict {
    fn build(test: &str, flags: &[&str]) -> Option<Self> {
        let lab = Lab::build(test, &[Part::Tailnet])?;
        if !peer("testcontrol").is_file() {
            adit_tests::skip(test, "testcontrol is not built (cargo xtask setup)");
            return None;
        }
        let mut command = lab.client.command(peer("testcontrol"));
        command.args(flags);
        let mut process = Process::spawn("testcontrol", command, &lab.dir.logs());
        process.wait_for_times(2, "http://", LIMIT);
        let printed = process.printed();
        let line = printed.lines().find(|line| line.starts_with("http://")).expect("its addresses");
        let (control, admin) = line.split_once(' ').expect("two addresses");
        // The server makes its keys when somebody asks for them, and cannot take a handshake before.
        let this =
            Self { node: None, control: control.to_owned(), admin: admin.to_owned(), _control: process, lab };
        let url = this.control.clone();
        this.lab.on_client(&["curl", "-sf", &format!("{url}/key?v=130")]).expect(0);
        Some(this)
    }

    fn reference(&self, program: &str) -> Command {
        let mut command = self.lab.client.command(peer(program));
        command.arg("--socket").arg(self.lab.dir.path().join("reference.sock"));
        command
    }

    /// The reference client joins; returns its address.
    fn join_reference(&mut self) -> String {
        let mut daemon = self.reference("tailscaled");
        daemon.args(["--tun=userspace-networking", "--port=0", "--no-logs-no-support", "--statedir"]);
        daemon.arg(self.lab.dir.path().join("reference"));
        self.node = Some(Process::spawn("tailscaled", daemon, &self.lab.dir.logs()));
        let socket = self.lab.dir.path().join("reference.sock");
        wait_until("the reference client runs", LIMIT, || socket.exists());
        let mut up = self.reference("tailscale");
        up.args(["up", "--login-server", &self.control, "--auth-key", KEY, "--hostname", "staging-db"]);
        run(up.args(["--accept-dns=false", "--timeout=50s"]), LIMIT).expect(0);
        // In user space it hands connections to this machine's loopback.
        serve_tcp_echo(&self.lab.client, "127.0.0.1:7".parse().unwrap());
        run(self.reference("tailscale").args(["ip", "-4"]), LIMIT).expect(0).text()
    }

    fn admin(&self, path: &str) -> Value {
        let text = self.lab.on_client(&["curl", "-sf", &format!("{}{path}", self.admin)]).expect(0).text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// An adit.toml of a node called `agent`.
    fn profile(&self, auth: &str) -> String {
        let text = format!(
            "version = 1\n[profile.strict]\nprovider = \"tailscale\"\ncontrol = \"{}\"\nhostname = \"agent\"\n{auth}\n",
            self.control
        );
        super::path(self.lab.write("adit.toml", text))
    }

    fn with_key(&self) -> String {
        let key = super::path(self.lab.write("key", KEY));
        self.profile(&format!("auth = {{ key = \"file:{key}\" }}"))
    }

    fn exec(&self, profile: &str, target: &str, script: &str) -> Outcome {
        let flags = ["exec", "--config", profile, "--timeout", "50s", "--target", target];
        run(self.lab.adit(&flags).args(["--", "bash", "-c", script]), LIMIT)
    }

    /// Runs `verify` until it tells of `event`, lets `act` do what is asked for, and expects success.
    fn verify_until(&self, profile: &str, event: &str, act: impl FnOnce(&Value)) {
        let flags = ["verify", "--config", profile, "--timeout", "50s", "--events", "-"];
        let mut process = Process::spawn("verify", self.lab.adit(&flags), &self.lab.dir.logs());
        process.wait_for(&format!("{{\"event\":\"{event}\""), LIMIT);
        // A line may still be on its way.
        process.wait_for("\"time\"", LIMIT);
        let printed = process.printed();
        let events = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let told = events.into_iter().find(|told| told["event"] == event).expect("it was told");
        act(&told);
        assert_eq!(process.wait(LIMIT).code(), Some(0), "{}", process.printed());
    }
}

#[test]
fn a_node_joins_the_strict_server_with_a_key_and_exchanges_a_stream_with_the_reference_client() {
    let Some(mut strict) = Strict::build("a_node_joins_the_strict_server", &["-auth-key", KEY]) else {
        return;
    };
    let address = strict.join_reference();
    let outcome = strict.exec(
        &strict.with_key(),
        &format!("tcp://{address}:7"),
        &format!(
            "exec 3<>/dev/tcp/{address}/7; head -c 4000000 /dev/urandom > sent; cat sent >&3 & \
             head -c 4000000 <&3 | cmp - sent && echo the same"
        ),
    );
    assert_eq!(outcome.expect(0).text(), "the same");
    let names = strict.admin("/nodes").to_string();
    assert!(names.contains("staging-db") && names.contains("agent"), "{names}");
}

#[test]
fn somebody_signs_in_at_the_page_of_the_strict_server() {
    let Some(strict) = Strict::build("somebody_signs_in", &["-login"]) else { return };
    let profile = strict.profile("auth = { browser = true }");
    strict.verify_until(&profile, "auth_required", |told| {
        let page = told["url"].as_str().unwrap();
        assert_eq!(strict.admin(&format!("/login?page={page}")), true, "{page}");
    });
}

#[test]
fn a_device_of_the_strict_server_waits_for_approval() {
    let Some(strict) = Strict::build("waits_for_approval", &["-auth-key", KEY, "-approval"]) else { return };
    strict.verify_until(&strict.with_key(), "action_required", |told| {
        assert_eq!(told["class"], "ts.approval.pending");
        assert_eq!(strict.admin("/approve"), true);
    });
}

#[test]
fn a_session_whose_key_the_strict_server_ends_and_does_not_replace_ends_with_its_class() {
    let Some(strict) = Strict::build("whose_key_ends", &["-auth-key", KEY]) else { return };
    let profile = strict.with_key();
    let flags = ["up", "--config", &profile, "--timeout", "50s", "--events", "-"];
    let mut up = Process::spawn("up", strict.lab.adit(&flags), &strict.lab.dir.logs());
    up.wait_for("{\"event\":\"verified\"", LIMIT);
    // The server takes no other key either.
    assert_eq!(strict.admin("/expire?on=true"), true);
    assert_ne!(up.wait(LIMIT).code(), Some(0));
    up.wait_for("ts.nodekey.expired", LIMIT);
}
