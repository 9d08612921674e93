//! The laboratory proves itself: a client with root and a TUN device reaches what the sandboxed one must reach.

use std::time::Duration;

use crate::support::{Lab, Part, blob, run};

#[test]
fn a_client_with_a_tun_device_reaches_every_service() {
    let Some(mut lab) = Lab::build("reaches", &[Part::Postgres, Part::Names]) else { return };
    lab.join_with_wireguard_go();

    let count = lab.on_client(&[
        "psql",
        "-h",
        "staging-db.internal",
        "-U",
        "nobody",
        "-Atc",
        "select count(*) from orders",
    ]);
    assert_eq!(count.expect(0).text(), "3");

    for host in ["files", "six.corp.internal", "10.77.0.10"] {
        let peer =
            lab.on_client(&["curl", "-sf", "--max-time", "10", &format!("http://{host}/peer")]).expect(0);
        assert!(matches!(peer.text().as_str(), "10.66.0.2" | "fd66::2"), "{peer}");
    }

    let mut fetch = lab.client.command("curl");
    fetch.args(["-sf", "http://files.corp.internal/blob"]);
    let fetched = run(&mut fetch, Duration::from_secs(60)).expect(0);
    assert!(fetched.stdout == blob(), "64 MiB arrive as they were sent");
}

#[test]
fn private_addresses_are_out_of_reach_beside_the_tunnel() {
    let Some(lab) = Lab::build("beside", &[]) else { return };
    let public =
        lab.on_client(&["curl", "-sf", "--max-time", "10", "http://www.example.test/peer"]).expect(0);
    assert_eq!(public.text(), "192.0.2.2");
    let private = lab.on_client(&["curl", "-s", "--max-time", "2", "http://10.77.0.10/peer"]);
    assert_ne!(private.status.code(), Some(0), "{private}");
    let private = lab.on_client(&["curl", "-s", "--max-time", "2", "http://[fd77::10]/peer"]);
    assert_ne!(private.status.code(), Some(0), "{private}");
}
