//! What the control server says of a node: it must wait, it is none any more, its key ends.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use adit::session::Session;
use adit_path::{Connect, Phase, Status};
use adit_sim::tailnet::{Key, Listed, Manner, Rules, Tailnet};
use adit_tunnel::Prompt;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::lab::{Lab, PATIENCE, node, node_with, text};
use super::verified;

/// Waits until the status of a session is so, and returns it.
fn status(session: &Session, mut so: impl FnMut(&Status) -> bool) -> Status {
    let until = Instant::now() + PATIENCE;
    loop {
        let status = session.network().status().borrow().clone();
        if so(&status) {
            return status;
        }
        assert!(Instant::now() < until, "it does not become so: {status:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn up(status: &Status) -> bool {
    status.phase == Phase::Up
}

fn warned(class: &'static str) -> impl Fn(&Status) -> bool {
    move |status| status.warnings.iter().any(|warning| warning.class == class)
}

fn listed(tailnet: &Tailnet, name: &str) -> Listed {
    tailnet.nodes().into_iter().find(|node| node.name == name).unwrap()
}

/// Runs `verify` until it says that somebody must act, lets `act` do it, and returns the exit code and the event.
fn verified_after(lab: &Lab, act: impl FnOnce(&Value)) -> (Option<i32>, Value) {
    let mut command = lab.command(&["verify", "--events", "-", "--timeout", "60s"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    let event = loop {
        let line = lines.next().unwrap_or_else(|| panic!("nobody was asked: {seen:#?}")).unwrap();
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        if event["event"] == "action_required" {
            break event;
        }
        seen.push(event);
    };
    act(&event);
    lines.for_each(drop);
    (child.wait().unwrap().code(), event)
}

#[test]
fn a_node_that_must_be_approved_says_so_waits_and_goes_on() {
    let lab = Lab::new("approval", Rules::Headscale);
    lab.tailnet.set_approval(true);
    lab.profile(&Key { reusable: true, ephemeral: true, ..Key::default() }, "");
    let (class, code, report) = verified(&lab, &["--timeout", "4s"]);
    assert_eq!((class.as_str(), code), ("ts.approval.pending", 13), "{report:#}");
    let (code, event) = verified_after(&lab, |_| lab.tailnet.approve("agent"));
    assert_eq!((code, &event["class"]), (Some(0), &"ts.approval.pending".into()), "{event:#}");
}

#[test]
fn a_node_that_tailnet_lock_keeps_out_names_the_command_and_goes_on_when_it_ran() {
    let lab = Lab::new("lock", Rules::Strict);
    lab.tailnet.set_lock(true);
    lab.profile(&Key { reusable: true, ephemeral: true, ..Key::default() }, "");
    let (class, code, report) = verified(&lab, &["--timeout", "4s"]);
    assert_eq!((class.as_str(), code), ("ts.lock.unsigned", 14), "{report:#}");
    let (code, event) = verified_after(&lab, |event| {
        let command = format!("tailscale lock sign {}", listed(&lab.tailnet, "agent").key);
        assert!(event["fix"].to_string().contains(&command), "{command}: {event:#}");
        lab.tailnet.sign("agent");
    });
    assert_eq!((code, &event["class"]), (Some(0), &"ts.lock.unsigned".into()), "{event:#}");
}

#[test]
fn a_server_that_limits_is_waited_for_and_one_that_streams_nothing_has_its_class() {
    let lab = Lab::new("limit", Rules::Headscale);
    lab.profile(&Key { reusable: true, ephemeral: true, ..Key::default() }, "");
    lab.tailnet.limit(2);
    assert_eq!(verified(&lab, &["--timeout", "60s"]).1, 0);
    lab.tailnet.limit(u32::MAX);
    let (class, code, report) = verified(&lab, &["--timeout", "40s"]);
    assert_eq!((class.as_str(), code), ("ts.limit", 20), "{report:#}");
    assert!(report["failure"]["evidence"].to_string().contains("429"), "{report:#}");
    lab.tailnet.limit(0);
    lab.tailnet.set_manner(Manner::Buffers);
    let (class, code, report) = verified(&lab, &["--timeout", "60s"]);
    assert_eq!((class.as_str(), code), ("ts.netmap.timeout", 20), "{report:#}");
}

#[test]
fn a_node_that_was_removed_joins_again_with_a_key_for_many_and_ends_with_a_key_for_one() {
    let tailnet = Tailnet::start(Rules::Headscale).unwrap();
    let many = tailnet.key(Key { reusable: true, ..Key::default() });
    let (many, one) = (node_with(&tailnet, "many", many), node(&tailnet, "one"));
    status(&many, up);
    status(&one, up);
    let before = listed(&tailnet, "many").address;
    tailnet.remove("many");
    let rejoined = status(&many, |now| up(now) && warned("ts.node.removed")(now));
    assert_ne!(listed(&tailnet, "many").address, before, "it is another node: {rejoined:#?}");
    tailnet.remove("one");
    let ended = status(&one, |now| now.phase == Phase::Failed);
    let fault = ended.fault.unwrap();
    assert_eq!(fault.class, "ts.node.removed", "{fault:?}");
    assert!(fault.evidence.iter().any(|seen| seen.contains("authkey already used")), "{fault:?}");
    many.shutdown();
    one.shutdown();
}

#[test]
fn another_process_with_the_same_key_is_noticed_and_what_servers_say_is_passed_on() {
    let tailnet = Tailnet::start(Rules::Strict).unwrap();
    let (first, second) = (node(&tailnet, "twin"), node(&tailnet, "twin"));
    status(&first, up);
    status(&second, |now| up(now) && warned("ts.name.collision")(now));
    assert!(!warned("ts.node.duplicate")(&status(&first, up)));
    let name = status(&first, |now| now.own.is_some()).own.unwrap().name;
    let name = name.split('.').next().unwrap();
    // Again and again, as another process would: the node's own words may come in between.
    status(&first, |now| {
        tailnet.impersonate(name);
        warned("ts.node.duplicate")(now)
    });
    status(&second, |now| {
        tailnet.relay_says("duplicate connection");
        warned("ts.node.duplicate")(now)
    });
    status(&second, |now| {
        tailnet.relay_says("");
        !warned("ts.node.duplicate")(now)
    });
    tailnet.set_health(&["the policy has an error"]);
    status(&second, warned("ts.health"));
    first.shutdown();
    second.shutdown();
}

#[test]
fn a_key_that_an_administrator_ends_is_replaced_or_somebody_is_asked_to_sign_in() {
    let tailnet = Tailnet::start(Rules::Headscale).unwrap();
    let key = tailnet.key(Key { reusable: true, ..Key::default() });
    let (many, one) = (node_with(&tailnet, "many", key), node(&tailnet, "one"));
    status(&many, up);
    status(&one, up);
    let (before, address) = (listed(&tailnet, "many").key, listed(&tailnet, "many").address);
    tailnet.expire("many");
    assert!(tailnet.wait(PATIENCE, |tailnet| listed(tailnet, "many").key != before), "by the auth key");
    status(&many, up);
    assert_eq!(listed(&tailnet, "many").address, address);
    tailnet.expire("one");
    let asked = status(&one, |now| now.prompt.is_some());
    assert_eq!(asked.fault.unwrap().class, "ts.nodekey.expired");
    let Some(Prompt::Open { url, .. }) = asked.prompt else { panic!("a page") };
    assert_eq!(tailnet.pages(), [url.as_str()]);
    tailnet.sign_in(&url, Ok("alice@example.com"));
    let back = status(&one, up);
    assert!(back.prompt.is_none() && back.fault.is_none(), "{back:#?}");
    many.shutdown();
    one.shutdown();
}

#[test]
fn a_stream_runs_on_while_the_node_key_is_replaced_ahead_of_its_end() {
    let lab = Lab::new("rotation", Rules::Strict);
    lab.tailnet.set_key_life(Some(Duration::from_secs(8)));
    let key = lab.tailnet.key(Key { reusable: true, ..Key::default() });
    let session = node_with(&lab.tailnet, "agent", key);
    let now = status(&session, |now| up(now) && warned("ts.nodekey.expiring")(now));
    assert!(now.own.unwrap().key_expires.is_some());
    let first = listed(&lab.tailnet, "agent").key;
    let echo = listed(&lab.tailnet, "staging-db").address;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let to = (std::net::IpAddr::from(echo), 7).into();
        let network = session.network();
        let connect = Connect { timeout: PATIENCE, ..Connect::default() };
        let mut stream = network.connect(to, connect).await.unwrap().into_stream().unwrap();
        let (mut rounds, until) = (0u64, Instant::now() + PATIENCE);
        let mut keys = vec![first];
        // Two replacements: the second is of a key that was itself one.
        while keys.len() < 3 {
            assert!(Instant::now() < until, "{keys:?} after {rounds} rounds");
            let mut answer = [0; 8];
            stream.write_all(&rounds.to_be_bytes()).await.unwrap();
            let read = timeout(Duration::from_secs(20), stream.read_exact(&mut answer)).await;
            read.unwrap_or_else(|_| panic!("{keys:?} {:#?}", network.status().borrow())).unwrap();
            assert_eq!(u64::from_be_bytes(answer), rounds);
            rounds += 1;
            let key = listed(&lab.tailnet, "agent").key;
            if keys.last() != Some(&key) {
                keys.push(key);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // And with the last key.
        stream.write_all(b"the last").await.unwrap();
        let mut answer = [0; 8];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"the last");
    });
    let now = status(&session, up);
    assert_eq!(now.fault, None);
    session.shutdown();
}

#[test]
fn a_running_session_tells_of_the_end_of_its_key_and_of_the_page_that_renews_it() {
    let lab = Lab::new("expiring", Rules::Headscale);
    lab.tailnet.set_key_life(Some(Duration::from_secs(12)));
    lab.profile(&Key::default(), "");
    let mut command = lab.command(&["up", "--events", "-"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until = |name: &str| loop {
        let event = serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap_or_default();
        if event["event"] == name {
            break event;
        }
    };
    let expiring = until("key_expiring");
    assert!(expiring["at"].as_str().unwrap().ends_with('Z'), "{expiring}");
    let page = until("auth_required")["url"].as_str().unwrap().to_owned();
    let shown = text(&lab.run(&["status"]).stdout);
    assert!(shown.contains(&page), "{shown}");
    let before = listed(&lab.tailnet, "agent").key;
    lab.tailnet.sign_in(&page, Ok("alice@example.com"));
    assert!(lab.tailnet.wait(PATIENCE, |tailnet| listed(tailnet, "agent").key != before));
    assert!(child.try_wait().unwrap().is_none(), "it runs on");
    assert_eq!(lab.run(&["down"]).status.code(), Some(0));
    child.wait().unwrap();
}
