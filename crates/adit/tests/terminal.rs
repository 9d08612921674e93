//! Questions to the person at a terminal.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use common::*;

const PROFILE: &str = "client\ndev tun\nproto udp\nremote 127.0.0.1 9\nnobind\nauth-user-pass\n\
    peer-fingerprint 00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff\n";

#[test]
fn a_person_is_asked_for_user_and_password_and_the_password_is_not_shown() {
    let lab = Lab::new("terminal");
    lab.write("corp.ovpn", PROFILE);
    let adit = env!("CARGO_BIN_EXE_adit");
    // script(1) gives it a terminal of its own.
    let mut child = Command::new("script")
        .args(["-qec", &format!("{adit} verify --config corp.ovpn --timeout 5s; echo code $?"), "/dev/null"])
        .current_dir(&lab.directory)
        .env_remove("CI")
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = String::new();
    let mut until = |wanted: &str| {
        let mut byte = [0];
        while !shown.contains(wanted) {
            assert_eq!(output.read(&mut byte).unwrap(), 1, "it ended without {wanted}: {shown}");
            shown.push(char::from(byte[0]));
        }
        shown.clone()
    };
    until("User: ");
    input.write_all(b"alice\n").unwrap();
    until("Password of alice: ");
    input.write_all(b"hunteg\x7fr2\n").unwrap();
    let shown = until("code ");
    assert!(!shown.contains("hunt"), "{shown}");
    assert!(!shown.contains("ovpn.creds.missing"), "{shown}");
    child.wait().unwrap();
}

#[test]
fn without_a_person_missing_credentials_are_an_error_with_the_fix() {
    let lab = Lab::new("no-terminal");
    lab.write("corp.ovpn", PROFILE);
    let output = lab.run(&["verify", "--config", "corp.ovpn"]);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(11), "{err}");
    assert!(err.contains("ovpn.creds.missing") && err.contains("--auth-user-pass"), "{err}");
}

/// What `adit verify` of a silent target shows at a terminal, with these variables and flags.
fn shown_at_a_terminal(lab: &Lab, variables: &[(&str, &str)], flags: &str) -> String {
    let adit = env!("CARGO_BIN_EXE_adit");
    let verify = format!("{adit} verify --config lab.conf --target tcp://10.77.0.9:5 --timeout 2s {flags}");
    let mut command = Command::new("script");
    command.args(["-qec", &verify, "/dev/null"]).current_dir(&lab.directory).stdin(Stdio::null());
    command.env_remove("CI").env_remove("NO_COLOR").env("TERM", "xterm");
    command.env("XDG_RUNTIME_DIR", &lab.directory).envs(variables.iter().copied());
    text(&command.output().unwrap().stdout)
}

#[test]
fn a_line_moves_while_something_is_waited_for_and_leaves_nothing_behind() {
    let lab = Lab::new("moving");
    let shown = shown_at_a_terminal(&lab, &[], "");
    let frames = shown.matches("waiting for the target: tcp://10.77.0.9:5").count();
    assert!(frames > 3, "{frames} frames: {shown:?}");
    // Whatever is printed stands on a line that was erased before.
    for piece in shown.split('\n') {
        let last = piece.rsplit("\r\x1b[K").next().unwrap();
        assert!(!last.contains("waiting for") || last.contains("seen:"), "left behind: {piece:?}");
    }
    assert!(shown.contains("[deadline]"), "{shown:?}");
    for still in [
        shown_at_a_terminal(&lab, &[], "--no-progress"),
        shown_at_a_terminal(&lab, &[("CI", "true")], ""),
        shown_at_a_terminal(&lab, &[("TERM", "dumb")], ""),
    ] {
        assert!(!still.contains("\x1b[K") && !still.contains("0 s of"), "{still:?}");
        assert!(still.contains("[deadline]"), "{still:?}");
    }
}
