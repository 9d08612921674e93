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
