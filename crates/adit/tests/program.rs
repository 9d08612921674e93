//! What a program under `adit exec` gets: its environment, signals, and a way into the network by proxy variables.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use common::*;

/// The configuration of the laboratory without its key.
fn without_key(lab: &Lab) -> String {
    let text = fs::read_to_string(lab.directory.join("lab.conf")).unwrap();
    assert!(text.contains(CLIENT_KEY));
    text.lines().filter(|line| !line.contains(CLIENT_KEY)).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_program_inherits_no_secret_and_no_flag_of_ours() {
    let lab = Lab::new("inherit");
    lab.write("bare.conf", &without_key(&lab));
    for consume in [&["--consume"][..], &[]] {
        let flags = ["exec", "--config", "bare.conf", "--private-key", "env:MY_WG_KEY"];
        let mut command = lab.command(&[&flags, consume, &["--", "env"]].concat());
        let output = command.env("MY_WG_KEY", CLIENT_KEY).env("ADIT_TIMEOUT", "30s").output().unwrap();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{err}");
        assert!(
            !out.contains(CLIENT_KEY) && !out.contains("MY_WG_KEY") && !out.contains("ADIT_TIMEOUT"),
            "{out}"
        );
        assert!(out.contains("ADIT_PROFILE=bare\n") && out.contains("ADIT_ADDR4=10.77.0.2\n"), "{out}");
        assert!(!err.contains(CLIENT_KEY), "{err}");
    }
}

#[test]
fn proxy_variables_lead_a_program_into_the_network_with_a_warning() {
    let lab = Lab::new("proxied");
    let script = "at=${http_proxy#http://}; user=${at%@*}; at=${at#*@}; \
                  exec 3<>/dev/tcp/${at%:*}/${at#*:}; \
                  printf 'CONNECT 10.77.0.1:7 HTTP/1.1\\r\\nProxy-Authorization: Basic %s\\r\\n\\r\\nproxied\\n' \
                  \"$(printf %s \"$user\" | base64)\" >&3; head -n 3 <&3 | tail -n 1; exit 7";
    let output = lab.run(&["exec", "--config", "lab.conf", "--mode", "env", "--", "bash", "-c", script]);
    let err = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(7), "proxied\n"), "{err}");
    assert!(err.contains("psql") && err.contains("do not"), "the warning names what will not work: {err}");
}

#[test]
fn a_signal_for_us_is_one_for_the_program() {
    let lab = Lab::new("signal");
    for mode in ["env", "auto"] {
        let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done";
        let flags = ["exec", "--config", "lab.conf", "--mode", mode, "--", "bash", "-c", script];
        let mut child = lab.command(&flags).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{mode}");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(9), "{mode}");
    }
}

#[test]
fn a_program_that_is_not_there_is_127_and_one_that_cannot_run_126() {
    let lab = Lab::new("missing");
    lab.write("data", "no program");
    for mode in ["env", "auto"] {
        for (program, code) in [("/nowhere/program", 127), ("./data", 126)] {
            let output = lab.run(&["exec", "--config", "lab.conf", "--mode", mode, "--", program]);
            assert_eq!(output.status.code(), Some(code), "{mode} {program}: {}", text(&output.stderr));
        }
    }
}

#[test]
fn a_private_key_may_come_through_a_descriptor() {
    let lab = Lab::new("descriptor");
    lab.write("bare.conf", &without_key(&lab));
    lab.write("key", CLIENT_KEY);
    let binary = env!("CARGO_BIN_EXE_adit");
    let script = format!(
        "exec {binary} exec --config bare.conf --private-key fd:3 -- sh -c 'readlink /proc/$$/fd/*; true' 3<key"
    );
    let mut command = lab.command(&[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(&lab.directory).stdin(Stdio::null());
    for (name, value) in command.stdin(Stdio::null()).get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    let output = shell.output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(out.lines().count() >= 3, "{out}");
    assert!(!out.lines().any(|path| path.ends_with("/key")), "the key's descriptor stays with us: {out}");
}

#[test]
fn a_program_runs_in_two_networks_at_once() {
    let (lab, other) = (Lab::new("both"), Lab::in_network("both-other", 78));
    lab.write("other.conf", &fs::read_to_string(other.directory.join("lab.conf")).unwrap());
    lab.write(
        "adit.toml",
        "version = 1\n[profile.one]\nconfig = \"lab.conf\"\n[profile.two]\nconfig = \"other.conf\"\n",
    );
    let script =
        "for to in 10.77.0.1 10.78.0.1; do exec 3<>/dev/tcp/$to/7; echo $to >&3; head -n 1 <&3; done";
    let both = ["exec", "--profile", "one", "--also", "two", "--", "bash", "-c", script];
    for running in [false, true] {
        // The second network is one of its own first, then that of a running `up`.
        if running {
            lab.ok(&["up", "--profile", "two", "--detach"]);
        }
        assert_eq!(lab.ok(&both), "10.77.0.1\n10.78.0.1\n");
    }
    lab.ok(&["down", "--profile", "two"]);
    let missing = lab.run(&["exec", "--profile", "one", "--also", "three", "--", "true"]);
    assert_eq!(missing.status.code(), Some(2), "{}", text(&missing.stderr));
}

/// Processes of this program that work in the laboratory's directory.
fn ours(lab: &Lab) -> Vec<String> {
    let adit = fs::canonicalize(env!("CARGO_BIN_EXE_adit")).unwrap();
    let directory = fs::canonicalize(&lab.directory).unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let link = |process: &std::path::Path, name: &str| fs::read_link(process.join(name)).ok();
    entries
        .filter(|process| link(process, "exe").as_ref() == Some(&adit))
        .filter(|process| link(process, "cwd").as_ref() == Some(&directory))
        .map(|process| process.display().to_string())
        .collect()
}

#[test]
fn exec_ends_with_its_program_and_what_that_leaves_behind_keeps_the_network() {
    let lab = Lab::new("left-behind");
    let made = Command::new("mkfifo").arg(lab.directory.join("go")).status().unwrap();
    assert!(made.success());
    let daemon =
        "read go <go; exec 3<>/dev/tcp/10.77.0.1/7; echo still here >&3; head -n 1 <&3 >part; mv part said";
    let script = format!("setsid bash -c '{daemon}' </dev/null >/dev/null 2>&1 & exit 7");
    // The output ends as well: nobody holds the caller's streams.
    let output = lab.run(&["exec", "--config", "lab.conf", "--", "bash", "-c", &script]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_eq!(ours(&lab).len(), 1, "the supervisor stays");
    fs::write(lab.directory.join("go"), "go\n").unwrap();
    let began = std::time::Instant::now();
    let until = |done: &dyn Fn() -> bool, what: &str| {
        while !done() {
            assert!(began.elapsed() < PATIENCE, "{what}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    until(&|| lab.directory.join("said").exists(), "the daemon does not reach the network");
    assert_eq!(fs::read_to_string(lab.directory.join("said")).unwrap(), "still here\n");
    until(&|| ours(&lab).is_empty(), "the supervisor does not end with the last process");
}

#[test]
fn targets_of_every_kind_are_asked_from_a_program() {
    let lab = Lab::new("asked");
    let log = "error,adit::dialing=debug";
    let verify = ["verify", "--config", "lab.conf", "--json", "--log", log];
    let output =
        lab.run(&[&verify[..], &["--target", "udp://10.77.0.1:7", "--target", "tcp://10.77.0.1:7"]].concat());
    let (report, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{err}");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["mode"], "userspace+seccomp-notify");
    for asked in ["Udp {", "Tcp {"] {
        assert!(err.contains(&format!("a child asks question={asked}")), "{asked}: {err}");
    }
    // A port where nobody answers is silent for both.
    let silent = ["--target", "udp://10.77.0.1:9", "--timeout", "20s"];
    let output = lab.run(&[&verify[..], &silent].concat());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let class = report["failure"]["class"].as_str().unwrap();
    assert!(class.starts_with("target.") && output.status.code() == Some(31), "{report}");
}
