//! Which way packets go, and which may go at all.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;

#[test]
fn the_way_of_a_host_is_told_with_its_reason() {
    let lab = Lab::new("route");
    let route = |host: &str| lab.ok(&["route", "--config", "lab.conf", host]);
    let private = route(SERVER);
    assert!(private.starts_with("10.77.0.1: into the network by the route 10.77.0.0/24, to "), "{private}");
    assert!(private.contains(" at 127.0.0.1:"), "{private}");
    let public = route("192.0.2.7");
    assert_eq!(public, "192.0.2.7: not into the network; no route of it covers the address\n");
    let name = route("www.example.com");
    assert!(name.starts_with("www.example.com: a public name"), "{name}");
    let json = lab.ok(&["route", "--config", "lab.conf", "--json", SERVER]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let way = &json["ways"][0];
    assert_eq!(
        (&json["schema"], &way["private"], &way["route"]),
        (&"adit.route/1".into(), &true.into(), &"10.77.0.0/24".into())
    );
    let wrong = lab.run(&["route", "--config", "lab.conf", "a b"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong.stderr));
}

/// Everybody in the routes of the network answers here; the profile allows one of them.
#[test]
fn what_the_profile_does_not_allow_is_denied_with_its_class() {
    let lab = Lab::new("allow");
    let profile = |allow: &str| {
        lab.write(
            "adit.toml",
            &format!("version = 1\ndefault = \"a\"\n[profile.a]\nconfig = \"lab.conf\"\n{allow}"),
        );
    };
    let verify = || lab.run(&["verify", "--config", "adit.toml", "--target", "tcp://10.77.0.1:7"]);
    profile("[profile.a.allow]\nout = [\"10.77.0.1\"]\n");
    let output = verify();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));

    profile("[profile.a.allow]\nout = [\"10.77.0.128/25\"]\n");
    let output = verify();
    let shown = text(&output.stderr);
    assert_eq!(output.status.code(), Some(14), "{shown}");
    assert!(shown.contains("policy.denied") && shown.contains("[profile.NAME.allow]"), "{shown}");
    let program =
        lab.run(&["exec", "--config", "adit.toml", "--", "bash", "-c", "exec 3<>/dev/tcp/10.77.0.1/7"]);
    assert_eq!(program.status.code(), Some(1), "{}", text(&program.stderr));
    let shown = text(&program.stderr);
    assert!(shown.contains("Permission denied"), "the program sees EACCES: {shown}");

    profile("mode = \"tun\"\n[profile.a.allow]\nout = [\"10.77.0.1\"]\n");
    let refused = verify();
    assert!(text(&refused.stderr).contains("cannot keep"), "{}", text(&refused.stderr));
    profile("[profile.a.allow]\nout = [\"db.internal:5432\"]\n");
    let refused = verify();
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("adit.toml:6:8"), "{}", text(&refused.stderr));
}
