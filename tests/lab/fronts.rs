//! Proxies, forwards, `nc`, and servers in the sandbox that peers reach.

use std::time::Duration;

use crate::support::{Lab, Part, Process, blob, run, run_with_input, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// Starts `adit up` in the foreground with further arguments and waits until it serves.
fn up(lab: &Lab, arguments: &[&str]) -> Process {
    let conf = lab.write("lab.conf", lab.conf());
    let mut command = lab.adit(&["up", "--config", &conf.to_string_lossy()]);
    command.args(["--target", "http://files.corp.internal/healthz"]).args(arguments);
    let process = Process::spawn("up", command, &lab.dir.logs());
    wait_until("`adit status --check ready`", LIMIT, || {
        run(&mut lab.adit(&["status", "--check", "ready"]), LIMIT).status.success()
    });
    process
}

#[test]
fn socks_and_http_clients_reach_private_names_through_one_port() {
    let Some(lab) = Lab::build("proxy", &[Part::Names]) else { return };
    let _up = up(&lab, &["--proxy=127.0.0.1:1055"]);
    for proxy in ["socks5h://127.0.0.1:1055", "http://127.0.0.1:1055"] {
        let curl = ["curl", "-sf", "--max-time", "20", "-x", proxy, "http://files.corp.internal/blob"];
        let mut command = lab.nobody(curl[0]);
        let outcome = run(command.args(&curl[1..]), LIMIT).expect(0);
        assert!(outcome.stdout == blob(), "{proxy}");
    }
    let mut command = lab.nobody("curl");
    command.args([
        "-sf",
        "--max-time",
        "20",
        "-p",
        "-x",
        "http://127.0.0.1:1055",
        "http://files.corp.internal/peer",
    ]);
    assert!(run(&mut command, LIMIT).expect(0).text().starts_with("10.66.0.2"), "CONNECT");
}

#[test]
fn nc_is_a_pipe_to_a_private_port() {
    let Some(lab) = Lab::build("nc", &[Part::Names]) else { return };
    let _up = up(&lab, &[]);
    let mut command = lab.adit(&["nc", "files.corp.internal", "7"]);
    let outcome = run_with_input(&mut command, b"hello\n", LIMIT).expect(0);
    assert_eq!(outcome.text(), "hello\nbye", "{outcome}");
}

#[test]
fn a_forward_leads_to_a_private_port_for_tcp_and_udp() {
    let Some(lab) = Lab::build("forward", &[Part::Names]) else { return };
    let _up = up(&lab, &[]);
    let mut forward = lab.adit(&["forward", "127.0.0.1:8080:files.corp.internal:80"]);
    forward.arg("127.0.0.1:8007:files.corp.internal:7/udp");
    let _forward = Process::spawn("forward", forward, &lab.dir.logs());
    wait_until("the forward listens", LIMIT, || {
        run(lab.nobody("curl").args(["-s", "--max-time", "5", "http://127.0.0.1:8080/healthz"]), LIMIT).text()
            == "ok"
    });
    let udp = "exec 3<>/dev/udp/127.0.0.1/8007; echo hello >&3; head -n1 <&3";
    assert_eq!(run(lab.nobody("timeout").args(["10", "bash", "-c", udp]), LIMIT).expect(0).text(), "hello");
}

#[test]
fn an_exposed_port_is_reached_by_peers_and_no_other_is() {
    let Some(lab) = Lab::build("expose", &[Part::Names]) else { return };
    let _up = up(&lab, &["--expose", "8000"]);
    crate::support::serve_http(&lab.client, "127.0.0.1:8000".parse().unwrap());
    crate::support::serve_http(&lab.client, "127.0.0.1:8001".parse().unwrap());
    let from_lan = |port: u16| {
        let mut command = lab.lan.command("curl");
        run(command.args(["-sf", "--max-time", "10", &format!("http://10.66.0.2:{port}/healthz")]), LIMIT)
    };
    assert_eq!(from_lan(8000).expect(0).text(), "ok");
    assert_ne!(from_lan(8001).status.code(), Some(0), "what is not exposed is not reachable");
}
