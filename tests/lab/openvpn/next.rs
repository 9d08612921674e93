//! What servers of OpenVPN 2.7 do that those of 2.6 do not: epochs of keys, updates of what was pushed, alerts of TLS.

use std::time::Duration;

use rcgen::SerialNumber;

use super::failures::fails;
use super::pushes::manage;
use super::{INSIDE, LIMIT, PEER, reaches, reaches_until};
use crate::support::{
    Authority, Lab, Part, Process, Server, Wrap, client_params, pki, run, server_params, wait_until,
};
use crate::up::Down;

const PARTS: &[Part] = &[Part::OpenVpn, Part::Names];

fn epochs(test: &str, tcp: bool) {
    let Some(mut lab) = Lab::build_next(test, PARTS) else { return };
    for wrap in [Wrap::None, Wrap::Auth, Wrap::Crypt, Wrap::CryptV2] {
        for cipher in ["AES-256-GCM", "CHACHA20-POLY1305", "AES-256-CBC"] {
            let server = Server::new().next().tcp(tcp).wrap(wrap).cipher(cipher);
            lab.start_openvpn(&server);
            reaches(&lab, &server, &[], PEER);
            let printed = lab.openvpn().printed();
            assert!(printed.contains("OpenVPN 2.7"), "{printed}");
            let pushed = printed.lines().find(|line| line.contains("PUSH_REPLY")).unwrap_or_default();
            let aead = !cipher.contains("CBC");
            assert_eq!(pushed.contains("aead-epoch"), aead, "{wrap:?}, {cipher}: {pushed}");
            for trouble in ["TLS Error", "Authenticate/Decrypt packet error", "bad packet"] {
                assert!(!printed.contains(trouble), "{wrap:?}, {cipher}: {trouble}: {printed}");
            }
        }
    }
}

#[test]
fn every_wrap_and_cipher_passes_over_udp() {
    epochs("openvpn_next_udp", false);
}

#[test]
fn every_wrap_and_cipher_passes_over_tcp() {
    epochs("openvpn_next_tcp", true);
}

#[test]
fn renegotiations_are_followed_from_both_sides() {
    let Some(mut lab) = Lab::build_next("openvpn_next_reneg", PARTS) else { return };
    for (server, profile) in [("reneg-bytes 900000", ""), ("", "reneg-bytes 6000000")] {
        let server = Server::new().next().wrap(Wrap::CryptV2).server(server).profile(profile);
        lab.start_openvpn(&server);
        reaches_until(&mut lab, &server, 3, "Control Channel: TLSv1.3");
    }
}

/// The network of the status report, in JSON.
fn network(lab: &Lab) -> String {
    let status = run(&mut lab.adit(&["status", "--json"]), LIMIT).expect(0);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    status["network"]["config"].to_string()
}

#[test]
fn routes_and_names_change_while_connected() {
    let Some(mut lab) = Lab::build_next("openvpn_push_update", PARTS) else { return };
    let socket = lab.dir.path().join("manage");
    let server = Server::new().next().server(&format!("management {} unix", socket.display()));
    let server =
        server.server("push \"dns server 1 address 10.77.0.53\"\npush \"dns search-domains internal\"");
    lab.start_openvpn(&server);
    run(&mut lab.adit(&["up", "--detach", "--config", &lab.ovpn(&server)]), LIMIT).expect(0);
    let down = Down(&lab);
    let before = network(&lab);
    assert!(before.contains("10.77.0.0") && before.contains("10.77.0.53"), "{before}");
    let update = |options: &str| {
        let answer = manage(&lab, &format!("print ask('push-update-broad \"{options}\"');"));
        assert!(answer.contains("SUCCESS"), "{answer}");
    };
    // A kind that is named is replaced as a whole, and others stay.
    update("route 172.30.9.0 255.255.255.0, route 10.77.0.10 255.255.255.255");
    wait_until("the routes change", LIMIT, || network(&lab).contains("172.30.9.0"));
    let after = network(&lab);
    assert!(
        !after.contains("10.77.0.0") && after.contains("10.77.0.53") && after.contains("fd77::"),
        "{after}"
    );
    let outcome = run(
        &mut lab.adit(&["exec", "--", "curl", "-sf", "--max-time", "20", "http://10.77.0.10/peer"]),
        LIMIT,
    );
    assert!(INSIDE.contains(&outcome.expect(0).text().as_str()));
    // What `dns` had replaced would come back.
    update("-dns, -dhcp-option, ?nobody knows this");
    wait_until("the resolver goes", LIMIT, || !network(&lab).contains("10.77.0.53"));
    drop(down);
}

/// Over UDP this release forgets the client before the alert has left.
#[test]
fn alerts_tell_what_is_wrong_with_our_certificate() {
    let Some(mut lab) = Lab::build_next("openvpn_alerts", PARTS) else { return };
    let list = lab.dir.path().join("revoked.pem");
    std::fs::write(&list, pki().authority.revoke(&[0x78])).unwrap();
    let server = Server::new().next().tcp(true).server(&format!("crl-verify {}", list.display()));
    lab.start_openvpn(&server);
    reaches(&lab, &server, &[], PEER);
    let mut revoked = client_params();
    revoked.serial_number = Some(SerialNumber::from(0x78));
    let revoked = pki().authority.issue(&revoked);
    let foreign = Authority::new("Another").issue(&client_params());
    let servers = pki().authority.issue(&server_params());
    for (identity, class) in [
        (revoked, "ovpn.client.cert_revoked"),
        (foreign, "ovpn.client.cert_unknown"),
        (servers, "ovpn.client.cert_unknown"),
    ] {
        fails(&lab, &server.clone().client(identity), class, 12);
    }
}

#[test]
fn alerts_tell_that_versions_of_tls_have_nothing_in_common() {
    let Some(mut lab) = Lab::build_next("openvpn_tls_alerts", PARTS) else { return };
    for (server, profile, class) in [
        ("tls-version-max 1.2", "tls-version-min 1.3", "ovpn.tls.version"),
        ("tls-version-min 1.3", "tls-version-max 1.2", "ovpn.tls.version"),
    ] {
        let server = Server::new().next().tcp(true).server(server).profile(profile);
        lab.start_openvpn(&server);
        fails(&lab, &server, class, 22);
    }
}

#[test]
fn debians_client_of_the_older_release_is_served_as_well() {
    let Some(mut lab) = Lab::build_next("openvpn_next_reaches", PARTS) else { return };
    let server = Server::new().next();
    lab.start_openvpn(&server);
    let client: Process = lab.join_with_openvpn(&server);
    let mut curl = lab.client.command("curl");
    curl.args(["-sf", "--max-time", "10", "http://files/peer"]);
    let peer = run(&mut curl, Duration::from_secs(20)).expect(0);
    assert!(INSIDE.contains(&peer.text().as_str()), "{peer}");
    drop(client);
}
