//! {UDP, TCP} × {none, tls-auth, tls-crypt, tls-crypt-v2} × {AES-256-GCM, ChaCha20-Poly1305, AES-256-CBC}: each connects,
//! verifies a target by its name, moves a mebibyte each way, renegotiates, and says goodbye.

use std::time::Duration;

use super::reaches_until;
use crate::support::{Lab, Part, Server, Wrap};

const CIPHERS: [&str; 3] = ["AES-256-GCM", "CHACHA20-POLY1305", "AES-256-CBC"];

fn cells(test: &str, tcp: bool, wrap: Wrap) {
    let Some(mut lab) = Lab::build(test, &[Part::OpenVpn, Part::Names]) else { return };
    for cipher in CIPHERS {
        let server = Server::new().tcp(tcp).wrap(wrap).cipher(cipher);
        // Keys are renewed when one has carried this much: the server begins with one cipher, the client with the others.
        // Data moves until it has happened, and not so much longer that it happens again: an end whose renegotiation is
        // under way hears no goodbye.
        let server_begins = cipher == "CHACHA20-POLY1305";
        let server = match server_begins {
            true => server.server("reneg-bytes 900000"),
            false => server.profile("reneg-bytes 6000000"),
        };
        lab.start_openvpn(&server);
        reaches_until(&mut lab, &server, 2, "Control Channel: TLSv1.3");
        let log = lab.openvpn();
        // A server that wakes up for our goodbye and finds a renegotiation due begins that, and reads no goodbye.
        if !server_begins {
            log.wait_for("exit message received by peer", Duration::from_secs(5));
        }
        let printed = log.printed();
        assert!(
            printed.contains(&format!("Data Channel: Cipher '{cipher}' initialized")),
            "{cipher}: {printed}"
        );
        let handshakes = printed.matches("Control Channel: TLSv1.3").count();
        assert!(handshakes >= 2, "{cipher}: {handshakes} handshakes: {printed}");
        assert_eq!(printed.contains("TLS: soft reset"), server_begins, "{cipher}: {printed}");
        for trouble in ["TLS Error", "Authenticate/Decrypt packet error", "bad packet", "WARNING: Bad"] {
            assert!(!printed.contains(trouble), "{cipher}: {trouble}: {printed}");
        }
    }
}

#[test]
fn udp_with_no_protection() {
    cells("openvpn_udp_none", false, Wrap::None);
}

#[test]
fn udp_with_tls_auth() {
    cells("openvpn_udp_auth", false, Wrap::Auth);
}

#[test]
fn udp_with_tls_crypt() {
    cells("openvpn_udp_crypt", false, Wrap::Crypt);
}

#[test]
fn udp_with_tls_crypt_v2() {
    cells("openvpn_udp_v2", false, Wrap::CryptV2);
}

#[test]
fn tcp_with_no_protection() {
    cells("openvpn_tcp_none", true, Wrap::None);
}

#[test]
fn tcp_with_tls_auth() {
    cells("openvpn_tcp_auth", true, Wrap::Auth);
}

#[test]
fn tcp_with_tls_crypt() {
    cells("openvpn_tcp_crypt", true, Wrap::Crypt);
}

#[test]
fn tcp_with_tls_crypt_v2() {
    cells("openvpn_tcp_v2", true, Wrap::CryptV2);
}
