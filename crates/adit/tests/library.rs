//! The library against a WireGuard peer in this process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::Command;

use adit::{Network, Profile};
use adit_path::{ConnectFailure, Network as _};
use common::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn the_example_fetches_a_page() {
    let lab = Lab::new("example");
    let example = Path::new(env!("CARGO_BIN_EXE_adit")).with_file_name("examples").join("fetch");
    let output = Command::new(example)
        .args(["lab.conf", SERVER, "/page"])
        .current_dir(&lab.directory)
        .output()
        .unwrap();
    let (page, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(page, "HTTP/1.0 200 OK\r\n\r\nyou asked: GET /page HTTP/1.0\r\n", "{errors}");
    assert!(output.status.success());
}

#[tokio::test]
async fn a_program_connects_verifies_listens_and_leaves() {
    let lab = Lab::new("library");
    let profile = Profile::from_file(lab.directory.join("lab.conf")).unwrap();
    let network = Network::connect(profile).await.unwrap();

    assert!(network.verify(["tcp://10.77.0.1:7"]).await.unwrap().ok);
    assert_eq!(network.verify(["tcp://10.77.0.1:9"]).await.unwrap_err().class, "target.refused");
    assert_eq!(network.verify(["nonsense"]).await.unwrap_err().class, "config.target");
    assert_eq!(network.tcp_connect("10.77.0.1:9").await.unwrap_err().class, "target.refused");
    assert_eq!(network.tcp_connect("10.77.0.1").await.unwrap_err().class, "usage");
    assert_eq!(network.resolve("db.internal").await.unwrap_err().class, "dns.no_server");

    let mut stream = network.tcp_connect("10.77.0.1:7").await.unwrap();
    stream.write_all(b"over and back").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "over and back");

    let mut listener = network.listen(8080).await.unwrap();
    let peer = ([10, 77, 0, 2], 8080).into();
    let (accepted, connected) =
        tokio::join!(listener.accept(), lab.server.connect(peer, adit_path::Connect::default()));
    let mut ours = accepted.unwrap().into_stream().unwrap();
    let mut theirs = connected.unwrap().into_stream().unwrap();
    theirs.write_all(b"hello").await.unwrap();
    theirs.shutdown().await.unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");

    let below = network.as_network();
    network.shutdown();
    let to = ([10, 77, 0, 1], 7).into();
    let closed = below.connect(to, adit_path::Connect::default()).await.unwrap_err();
    assert_eq!(closed, ConnectFailure::Closed);
}

#[tokio::test]
async fn a_program_uses_the_network_of_a_running_up() {
    let lab = Lab::new("attach");
    lab.ok(&["up", "--config", "lab.conf", "--detach"]);
    let network = Network::attach(&lab.directory.join("adit/lab.sock")).await.unwrap();
    assert!(network.verify(["tcp://10.77.0.1:7"]).await.unwrap().ok);
    lab.ok(&["down"]);
    let gone = Network::attach(&lab.directory.join("adit/lab.sock")).await.unwrap_err();
    assert_eq!(gone.class, "env.not_running");
}
