//! The laboratory proves itself: Debian's own client reaches through every kind of server what adit must reach.

use std::time::Duration;

use crate::support::{Lab, Part, Server, Wrap, run};

#[test]
fn debians_client_reaches_the_services_through_every_kind_of_server() {
    let Some(mut lab) = Lab::build("openvpn_reaches", &[Part::OpenVpn, Part::Names]) else { return };
    for (tcp, wrap, cipher) in [
        (false, Wrap::None, "AES-256-GCM"),
        (true, Wrap::Auth, "AES-256-CBC"),
        (false, Wrap::Crypt, "CHACHA20-POLY1305"),
        (true, Wrap::CryptV2, "AES-256-GCM"),
    ] {
        let server = Server::new().tcp(tcp).wrap(wrap).cipher(cipher);
        lab.start_openvpn(&server);
        let client = lab.join_with_openvpn(&server);
        for host in ["files", "six.corp.internal"] {
            let mut curl = lab.client.command("curl");
            curl.args(["-sf", "--max-time", "10", &format!("http://{host}/peer")]);
            let peer = run(&mut curl, Duration::from_secs(20)).expect(0);
            assert!(matches!(peer.text().as_str(), "10.66.0.2" | "fd66::1000"), "{peer}");
        }
        drop(client);
    }
}
