//! Signing in once for many runs, and signing out.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Output, Stdio};

use adit_sim::tailnet::{Rules, Tailnet};
use serde_json::Value;

use crate::lab::{Lab, PATIENCE, text};

/// A profile that nothing lets in but a person.
fn unkeyed(name: &str) -> Lab {
    let lab = Lab::new(name, Rules::Headscale);
    let url = lab.tailnet.url();
    lab.write(
        "adit.toml",
        &format!(
            "version = 1\n[profile.staging]\nprovider = \"tailscale\"\nhostname = \"agent\"\ncontrol = \"{url}\"\n\
             plain_derp = true\n"
        ),
    );
    lab
}

/// Begins a command that waits for somebody; returns it with the page.
fn waiting(lab: &Lab, arguments: &[&str]) -> (Child, String) {
    let mut command = lab.command(arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    (child, page(lab, ""))
}

/// The page that waits for somebody, once there is another one than `last`.
fn page(lab: &Lab, last: &str) -> String {
    let other = |tailnet: &Tailnet| tailnet.pages().into_iter().find(|page| page != last);
    assert!(lab.tailnet.wait(PATIENCE, |tailnet| other(tailnet).is_some()), "a page is asked for");
    other(&lab.tailnet).unwrap()
}

#[track_caller]
fn ended(output: &Output, code: i32) -> (String, String) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    (out, err)
}

fn json(output: &Output, code: i32) -> Value {
    let (out, err) = ended(output, code);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"))
}

#[test]
fn one_approval_serves_many_runs_until_the_node_logs_out() {
    let lab = unkeyed("login");
    let keep = ["--state-dir", "state"];
    let (login, page) = waiting(&lab, &[&["login", "--qr", "--events", "events"], &keep[..]].concat());
    lab.tailnet.sign_in(&page, Ok("alice@example.com"));
    let (out, err) = ended(&login.wait_with_output().unwrap(), 0);
    assert!(out.starts_with("agent.tail.example (100.64.") && out.contains(" is kept in state/"), "{out}");
    assert!(err.lines().any(|line| line == page), "the page stands on a line of its own: {err}");
    assert!(err.contains('█'), "and as a QR code: {err}");
    let events = fs::read_to_string(lab.directory.join("events")).unwrap();
    let asked = events.lines().find(|line| line.contains("\"auth_required\"")).expect("it is an event");
    let asked: Value = serde_json::from_str(asked).unwrap();
    assert_eq!(asked["url"], page.as_str());
    assert!(asked["qr"].as_str().is_some_and(|qr| qr.contains('█')), "{asked:#}");
    let place = lab.directory.join("state/tailscale-staging");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&place), mode(&place.join("tailscale.json"))), (0o700, 0o600));

    // What was registered stays registered: no page and no key are needed.
    let target = ["--target", "tcp://staging-db:7"];
    for _ in 0..2 {
        let exec = [&["exec"], &keep[..], &target[..], &["--", "true"]].concat();
        ended(&lab.run(&exec), 0);
    }
    let agents = |lab: &Lab| lab.tailnet.nodes().iter().filter(|node| node.name.starts_with("agent")).count();
    assert_eq!((agents(&lab), lab.tailnet.pages().len()), (1, 0));

    ended(&lab.run(&[&["up", "--detach"], &keep[..]].concat()), 0);
    // Another profile's name, so that it does not attach.
    let second = lab.command(&[&["logout", "--json"], &keep[..]].concat()).output().unwrap();
    assert_eq!(json(&second, 10)["failure"]["class"], "ts.state.locked");
    ended(&lab.run(&["down"]), 0);

    let left = json(&lab.run(&[&["logout", "--json"], &keep[..]].concat()), 0);
    assert_eq!((&left["left"], &left["removed"]), (&true.into(), &true.into()), "{left:#}");
    assert!(!place.join("tailscale.json").exists());
    let nothing = json(&lab.run(&[&["logout", "--json"], &keep[..]].concat()), 0);
    assert_eq!(nothing["removed"], false, "{nothing:#}");
    let unknown = json(&lab.run(&[&["verify", "--json"], &keep[..]].concat()), 11);
    assert_eq!(unknown["failure"]["class"], "ts.key.missing", "{unknown:#}");
}

#[test]
fn without_any_file_the_directory_says_which_server_knows_the_node() {
    let lab = Lab::new("login-bare", Rules::Strict);
    let url = lab.tailnet.url();
    let keep = ["--state", "state", "--hostname", "bare"];
    let (login, page) = waiting(&lab, &[&["login", "--login-server", &url], &keep[..]].concat());
    lab.tailnet.sign_in(&page, Ok("alice@example.com"));
    let (out, _) = ended(&login.wait_with_output().unwrap(), 0);
    assert!(out.starts_with("bare.tail.example ("), "{out}");
    // It is known: another login needs nobody.
    let again = json(&lab.run(&[&["login", "--json"], &keep[..]].concat()), 0);
    assert_eq!((&again["name"], &again["control"]), (&"bare.tail.example".into(), &url.as_str().into()));
    let left = json(&lab.run(&["logout", "--json", "--state", "state"]), 0);
    assert_eq!(left["left"], true, "{left:#}");
}

#[test]
fn a_page_that_has_become_old_is_replaced_by_another() {
    let lab = unkeyed("login-old");
    let (login, first) = waiting(&lab, &["login", "--state-dir", "state", "--events", "events"]);
    // A page that is old before it was shown need not be shown.
    let shown = || fs::read_to_string(lab.directory.join("events")).is_ok_and(|text| text.contains(&first));
    assert!(lab.tailnet.wait(PATIENCE, |_| shown()), "the page is shown");
    lab.tailnet.expire_page(&first);
    let second = page(&lab, &first);
    lab.tailnet.sign_in(&second, Ok("alice@example.com"));
    let (_, err) = ended(&login.wait_with_output().unwrap(), 0);
    for page in [first, second] {
        assert!(err.lines().any(|line| line == page), "{page}: {err}");
    }
}

#[test]
fn a_sign_in_that_is_denied_or_does_not_come_has_its_class() {
    let lab = unkeyed("login-denied");
    let (login, page) = waiting(&lab, &["login", "--json", "--state-dir", "state"]);
    lab.tailnet.sign_in(&page, Err("registration rejected by the administrator"));
    let denied = json(&login.wait_with_output().unwrap(), 12)["failure"].clone();
    assert_eq!(denied["class"], "ts.control.refused", "{denied:#}");
    assert!(denied["evidence"].to_string().contains("rejected by the administrator"), "{denied:#}");
    assert!(!lab.directory.join("state/tailscale-staging/tailscale.json").exists(), "nothing is kept");

    for arguments in [
        &["login", "--json", "--timeout", "10s", "--state-dir", "state"][..],
        &["verify", "--json", "--timeout", "15s", "--browser"],
    ] {
        let late = json(&lab.run(arguments), 13)["failure"].clone();
        assert_eq!(late["class"], "ts.login.timeout", "{late:#}");
        assert!(
            late["summary"].as_str().is_some_and(|said| said.contains("/register/hskey-authreq-")),
            "{late:#}"
        );
    }
}

#[test]
fn a_directory_that_is_missing_or_cannot_be_written_is_told() {
    let lab = unkeyed("login-state");
    let nowhere = json(&lab.run(&["login", "--json"]), 2);
    assert!(nowhere["failure"]["fix"].to_string().contains("adit login --state-dir DIR"), "{nowhere:#}");
    let proc = json(&lab.run(&["login", "--json", "--state-dir", "/proc/adit"]), 10);
    assert_eq!(proc["failure"]["class"], "ts.state.locked", "{proc:#}");
    assert_eq!(lab.tailnet.registrations(), 1, "only the laboratory's own node");
}

#[test]
fn a_server_that_is_out_of_reach_is_not_waited_for_like_a_person() {
    let lab = Lab::new("login-away", Rules::Strict);
    let away = lab.run(&["login", "--json", "--state", "state", "--login-server", "http://127.0.0.1:1"]);
    let away = json(&away, 20)["failure"].clone();
    assert_eq!(away["class"], "ts.control.tcp", "{away:#}");
}
