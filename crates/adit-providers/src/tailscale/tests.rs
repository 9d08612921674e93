//! A whole control side against a control server in this process.

use std::time::Duration;

use adit_tailscale::netmap::{NodeId, RegionId};
use adit_tailscale::{Command, Control as Said, Endpoint, EndpointKind, NetInfo, Report};
use adit_tunnel::Prompt;
use serde_json::json;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::testing::{FakeControl, Manner, Reply, Seen, first_message, message};
use super::*;
use crate::Secret;

const PATIENCE: Duration = Duration::from_secs(60);

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn reach(server: &FakeControl) -> Reach {
    Reach { control: server.url(), proxies: Proxies::default(), tls: client_config(trusted(None).unwrap()) }
}

/// A member that runs.
struct Running {
    output: Receiver<Output>,
    whereabouts: watch::Sender<Whereabouts>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ControlError>>,
}

impl Running {
    fn start(server: &FakeControl, auth_key: Option<&str>) -> Self {
        let (whereabouts, seen) = watch::channel(Whereabouts::default());
        let (output_out, output) = channel(1024);
        let (stop, stopped) = oneshot::channel();
        let membership = Membership {
            reach: reach(server),
            identity: Identity::generate().unwrap(),
            auth: auth_key.map_or(Auth::Person, |key| Auth::Key(Secret::new(key.as_bytes().to_vec()))),
            hostname: "adit".to_owned(),
            tags: vec!["tag:ci".to_owned()],
            ephemeral: true,
            shields_up: false,
        };
        let member = Member::new(membership, seen, output_out);
        let task = tokio::spawn(member.run(async {
            let _ = stopped.await;
        }));
        Self { output, whereabouts, stop: Some(stop), task }
    }

    async fn until<T>(&mut self, mut wanted: impl FnMut(Output) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = wanted(self.output.recv().await.expect("the member runs")) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, search).await.expect("the output comes")
    }

    async fn connected(&mut self) {
        self.until(|output| {
            matches!(output, Output::Command(Command::Control(Said::Connected))).then_some(())
        })
        .await;
    }

    async fn page(&mut self) -> String {
        self.until(|output| match output {
            Output::Command(Command::Control(Said::Prompt(Prompt::Open { url, .. }))) => Some(url),
            _ => None,
        })
        .await
    }

    async fn stop(mut self) -> Result<(), ControlError> {
        let _ = self.stop.take().map(|stop| stop.send(()));
        self.end().await
    }

    async fn end(self) -> Result<(), ControlError> {
        timeout(PATIENCE, self.task).await.expect("the member ends").unwrap()
    }
}

fn done() -> Reply {
    Reply::Json(
        json!({"User": {"ID": 1}, "Login": {"LoginName": "alice"}, "MachineAuthorized": true, "Unknown": null}),
    )
}

/// A map poll whose messages come through the sender.
fn poll(messages: &[serde_json::Value]) -> (Reply, UnboundedSender<Vec<u8>>) {
    let (sender, receiver) = unbounded_channel();
    for json in messages {
        sender.send(message(json)).unwrap();
    }
    (Reply::Map(receiver), sender)
}

fn register(seen: &Seen) -> bool {
    seen.path == "/machine/register"
}

fn lite(seen: &Seen) -> bool {
    seen.path == "/machine/map" && !seen.is_stream()
}

/// Answers everything as a server does to which a member belongs; the map poll never ends.
async fn ordinary(manner: Manner) -> (FakeControl, UnboundedReceiver<UnboundedSender<Vec<u8>>>) {
    let (polls, started) = unbounded_channel();
    let server = FakeControl::start(manner, move |seen| {
        if register(seen) {
            return done();
        }
        if seen.is_stream() {
            let (reply, sender) = poll(&[first_message()]);
            polls.send(sender).unwrap();
            return reply;
        }
        Reply::Json(json!({}))
    })
    .await;
    (server, started)
}

#[test]
fn a_node_joins_with_a_key_tells_where_it_is_and_leaves() {
    block(async {
        for manner in [Manner::Early, Manner::Plain] {
            let (mut server, mut polls) = ordinary(manner).await;
            let mut member = Running::start(&server, Some("tskey-auth-canary"));
            let asked = server.until(register).await.json();
            assert_eq!(asked["Auth"]["AuthKey"], "tskey-auth-canary");
            assert_eq!((&asked["Version"], &asked["Ephemeral"]), (&json!(130), &json!(true)));
            assert_eq!(asked["OldNodeKey"], format!("nodekey:{}", "0".repeat(64)));
            assert_eq!(asked["Hostinfo"]["RequestTags"], json!(["tag:ci"]));
            assert_eq!(
                (&asked["Hostinfo"]["OS"], &asked["Hostinfo"]["Hostname"]),
                (&json!("linux"), &json!("adit"))
            );
            let key = asked["NodeKey"].clone();
            let update = server.until(lite).await.json();
            assert_eq!((&update["OmitPeers"], &update["NodeKey"]), (&json!(true), &key));
            assert!(update["DiscoKey"].as_str().unwrap().starts_with("discokey:"));
            let stream = server.until(Seen::is_stream).await.json();
            assert_eq!((&stream["Compress"], &stream["KeepAlive"]), (&json!("zstd"), &json!(true)));
            member.connected().await;

            let poll = polls.recv().await.unwrap();
            let peer = json!({"PeersChanged": [{"ID": 2, "Key": format!("nodekey:{}", "2".repeat(64)), "Name": "db.tail.net."}]});
            let bytes = message(&peer);
            for piece in bytes.chunks(3) {
                poll.send(piece.to_vec()).unwrap();
            }
            poll.send(message(&json!({"KeepAlive": true}))).unwrap();
            let update = member
                .until(|output| match output {
                    Output::Command(Command::Netmap(update)) if !update.peers.changed.is_empty() => {
                        Some(update)
                    }
                    _ => None,
                })
                .await;
            assert_eq!(update.peers.changed[0].id, NodeId(2));

            let info = NetInfo { preferred_derp: RegionId(901), udp: Some(true), ..NetInfo::default() };
            assert!(member.whereabouts.send_if_modified(|now| now.take(Report::NetInfo(info))));
            let endpoint = Endpoint { address: "192.0.2.1:41641".parse().unwrap(), kind: EndpointKind::Stun };
            assert!(member.whereabouts.send_if_modified(|now| now.take(Report::Endpoints(vec![endpoint]))));
            let update = server.until(|seen| lite(seen) && seen.json()["Endpoints"].is_array()).await.json();
            assert_eq!(update["Hostinfo"]["NetInfo"]["PreferredDERP"], 901);
            assert_eq!(update["Hostinfo"]["NetInfo"]["WorkingUDP"], true);
            assert_eq!(
                (&update["Endpoints"], &update["EndpointTypes"]),
                (&json!(["192.0.2.1:41641"]), &json!([2]))
            );

            member.stop().await.unwrap();
            let left = server.until(|seen| register(seen) && seen.json()["Expiry"].is_string()).await.json();
            assert_eq!((&left["Expiry"], &left["NodeKey"]), (&json!("1970-01-01T00:02:03Z"), &key));
            assert!(left.get("Auth").is_none());
        }
    });
}

#[test]
fn a_key_that_is_refused_ends_the_member_with_its_class_and_it_does_not_leave() {
    block(async {
        for (text, class) in [
            ("authkey already used", "ts.key.used"),
            ("authkey expired", "ts.key.expired"),
            ("invalid pre auth key", "ts.key.invalid"),
            ("AuthKey not found", "ts.key.invalid"),
            ("API key revoked", "ts.key.revoked"),
            ("requested tags [tag:ci] are invalid or not permitted", "ts.tag.denied"),
            ("tailnet device limit reached", "ts.limit"),
            ("who are you & why", "ts.control.refused"),
        ] {
            let server =
                FakeControl::start(Manner::Early, move |_| Reply::Json(json!({"Error": text}))).await;
            let mut member = Running::start(&server, Some("tskey-auth-x"));
            let error = if class == "ts.limit" {
                let lost = member.until(|output| match output {
                    Output::Command(Command::Control(Said::Lost(fault))) => Some(fault),
                    _ => None,
                });
                let fault = lost.await;
                assert_eq!(fault.class, class);
                member.stop().await.unwrap();
                continue;
            } else {
                member.end().await.unwrap_err()
            };
            assert_eq!(error.class(), class, "{text}");
            assert!(error.problem.evidence[0].contains(text), "{error}");
        }
    });
}

#[test]
fn somebody_signs_in_at_the_page_that_the_server_names_last() {
    block(async {
        let (approve, approved) = oneshot::channel();
        let mut approved = Some(approved);
        let mut step = 0;
        let server = FakeControl::start(Manner::Early, move |seen| {
            if seen.is_stream() {
                let (reply, sender) = poll(&[first_message()]);
                std::mem::forget(sender);
                return reply;
            }
            if !register(seen) || seen.json()["Expiry"].is_string() {
                return Reply::Json(json!({}));
            }
            step += 1;
            let followup = seen.json()["Followup"].clone();
            match step {
                1 => {
                    assert!(followup.is_null() && seen.json()["Auth"].is_null());
                    Reply::Json(json!({"AuthURL": "https://hs.example/register/one"}))
                }
                2 => {
                    assert_eq!(followup, "https://hs.example/register/one");
                    Reply::Json(json!({"AuthURL": "https://hs.example/register/two"}))
                }
                _ => {
                    assert_eq!(followup, "https://hs.example/register/two");
                    Reply::Later(approved.take().unwrap())
                }
            }
        })
        .await;
        let mut member = Running::start(&server, None);
        assert_eq!(member.page().await, "https://hs.example/register/one");
        assert_eq!(member.page().await, "https://hs.example/register/two");
        approve.send(json!({"MachineAuthorized": true})).unwrap();
        member.connected().await;
        member.stop().await.unwrap();
    });
}

#[test]
fn an_expired_node_key_is_replaced_and_the_data_side_hears_of_it_afterwards() {
    block(async {
        let mut first = None;
        let mut server = FakeControl::start(Manner::Plain, move |seen| {
            if seen.is_stream() {
                let (reply, sender) = poll(&[first_message()]);
                std::mem::forget(sender);
                return reply;
            }
            if register(seen) && first.is_none() {
                first = Some(seen.json()["NodeKey"].clone());
                return Reply::Json(json!({"NodeKeyExpired": true}));
            }
            if register(seen) { done() } else { Reply::Json(json!({})) }
        })
        .await;
        let mut member = Running::start(&server, Some("k"));
        let before = server.until(register).await.json()["NodeKey"].clone();
        let again = server.until(register).await.json();
        assert_eq!(again["OldNodeKey"], before);
        assert_ne!(again["NodeKey"], before);
        let secret = member
            .until(|output| match output {
                Output::Command(Command::NodeKey(secret)) => Some(secret),
                _ => None,
            })
            .await;
        assert_eq!(again["NodeKey"], adit_tailscale::NodeKey(secret.public_bytes()).to_string());
        assert_eq!(server.until(Seen::is_stream).await.json()["NodeKey"], again["NodeKey"]);
        member.stop().await.unwrap();
    });
}

#[test]
fn a_server_that_limits_is_asked_again_after_the_time_that_it_names() {
    block(async {
        let mut limited = false;
        let server = FakeControl::start(Manner::Plain, move |seen| {
            if register(seen) && !std::mem::replace(&mut limited, true) {
                return Reply::Status(429, Some(("retry-after", "1".to_owned())), "slow down");
            }
            if seen.is_stream() {
                let (reply, sender) = poll(&[first_message()]);
                std::mem::forget(sender);
                return reply;
            }
            done()
        })
        .await;
        let started = std::time::Instant::now();
        let mut member = Running::start(&server, Some("k"));
        let fault = member
            .until(|output| match output {
                Output::Command(Command::Control(Said::Lost(fault))) => Some(fault),
                _ => None,
            })
            .await;
        assert_eq!(fault.class, "ts.limit");
        member.connected().await;
        assert!(started.elapsed() >= Duration::from_secs(1));
        member.stop().await.unwrap();
    });
}

#[test]
fn a_stream_that_ends_or_is_nonsense_is_begun_again_without_a_registration() {
    block(async {
        let (mut server, mut polls) = ordinary(Manner::Early).await;
        let mut member = Running::start(&server, Some("k"));
        member.connected().await;
        drop(polls.recv().await.unwrap());
        member.connected().await;
        polls.recv().await.unwrap().send(vec![3, 0, 0, 0, b'x', b'y', b'z']).unwrap();
        member.connected().await;
        member.stop().await.unwrap();
        let mut registrations = 0;
        while let Ok(seen) = timeout(Duration::ZERO, server.until(|_| true)).await {
            registrations += usize::from(register(&seen) && seen.json()["Expiry"].is_null());
        }
        assert_eq!(registrations, 1);
    });
}

#[test]
fn a_node_that_the_server_forgot_registers_again() {
    block(async {
        let mut updates = 0;
        let mut server = FakeControl::start(Manner::Plain, move |seen| {
            if seen.is_stream() {
                let (reply, sender) = poll(&[first_message()]);
                std::mem::forget(sender);
                return reply;
            }
            if lite(seen) {
                updates += 1;
                if updates == 1 {
                    return Reply::Status(404, None, "node not found");
                }
            }
            done()
        })
        .await;
        let mut member = Running::start(&server, Some("k"));
        server.until(register).await;
        server.until(register).await;
        member.connected().await;
        member.stop().await.unwrap();
    });
}

#[test]
fn a_server_with_a_new_key_is_found_again_and_one_that_lies_is_not_believed() {
    block(async {
        let (server, _polls) = ordinary(Manner::Early).await;
        let identity = Identity::generate().unwrap();
        let mut connector = Connector::new(reach(&server));
        connector.connect(&identity.machine).await.unwrap();
        server.rekey();
        connector.connect(&identity.machine).await.unwrap();
        server.lie();
        // The known key is still right; a new connector gets the wrong one.
        connector.connect(&identity.machine).await.unwrap();
        let error = Connector::new(reach(&server)).connect(&identity.machine).await.unwrap_err();
        assert_eq!(error.class(), "ts.control.key");
    });
}

#[test]
fn what_stands_in_the_way_has_its_class() {
    block(async {
        let machine = Identity::generate().unwrap().machine;
        for (manner, class) in [
            (Manner::Hangs, "ts.control.version"),
            (Manner::Refuses, "ts.control.upgrade"),
            (Manner::Portal, "ts.captive"),
        ] {
            let server = FakeControl::start(manner, |_| Reply::Json(json!({}))).await;
            let error = Connector::new(reach(&server)).connect(&machine).await.unwrap_err();
            assert_eq!(error.class(), class, "{error}");
        }
        let proxies = Proxies::default();
        let tls = client_config(trusted(None).unwrap());
        for (url, class) in [("http://192.0.2.1", "config.value"), ("http://127.0.0.1:9", "ts.control.tcp")] {
            let reach = Reach {
                control: ControlUrl::parse(url).unwrap(),
                proxies: proxies.clone(),
                tls: tls.clone(),
            };
            let error = Connector::new(reach).connect(&machine).await.unwrap_err();
            assert_eq!(error.class(), class, "{error}");
        }
    });
}

#[test]
fn pings_are_answered_once_and_only_to_the_control_server() {
    block(async {
        let (mut server, mut polls) = ordinary(Manner::Early).await;
        let mut member = Running::start(&server, Some("k"));
        let poll = polls.recv().await.unwrap();
        use base64::Engine as _;
        let payload = base64::engine::general_purpose::STANDARD
            .encode("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi");
        for ping in [
            json!({"URL": "https://elsewhere.example/x"}),
            json!({"URL": "https://unused/machine/ping-response?id=1", "URLIsNoise": true}),
            json!({"URL": "https://unused/machine/ping-response?id=1", "URLIsNoise": true}),
            json!({"URL": "https://unused/machine/c2n/1", "URLIsNoise": true, "Types": "c2n", "Payload": payload}),
        ] {
            poll.send(message(&json!({"PingRequest": ping, "KeepAlive": true}))).unwrap();
        }
        let ping = |seen: &Seen| seen.path != "/machine/map" && !register(seen);
        let mut seen = [server.until(ping).await, server.until(ping).await];
        seen.sort_by(|a, b| b.method.cmp(&a.method));
        assert_eq!((seen[1].method.as_str(), seen[1].path.as_str()), ("HEAD", "/machine/ping-response"));
        assert_eq!((seen[0].method.as_str(), seen[0].path.as_str()), ("POST", "/machine/c2n/1"));
        assert_eq!(seen[0].body, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
        member.connected().await;
        member.stop().await.unwrap();
    });
}

#[test]
fn a_server_that_is_gone_is_waited_for_and_stopping_takes_no_time() {
    block(async {
        let (server, _polls) = ordinary(Manner::Early).await;
        let mut closed = server;
        closed.at = "127.0.0.1:9".parse().unwrap();
        let mut member = Running::start(&closed, Some("k"));
        for _ in 0..2 {
            let fault = member
                .until(|output| match output {
                    Output::Command(Command::Control(Said::Lost(fault))) => Some(fault),
                    _ => None,
                })
                .await;
            assert_eq!(fault.class, "ts.control.tcp");
        }
        member.stop().await.unwrap();
    });
}
