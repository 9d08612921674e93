//! What a user is told when something is wrong: class, exit code, evidence, advice; each made by the real server.

use rcgen::date_time_ymd;

use super::LIMIT;
use crate::support::{Authority, Lab, Part, Server, Wrap, client_params, pki, run, server_params};

const PARTS: &[Part] = &[Part::OpenVpn, Part::Names];

/// Verifies a target through a server that runs; it must fail with this class and code. Returns summary and evidence.
#[track_caller]
pub(super) fn fails(lab: &Lab, server: &Server, class: &str, exit: i32) -> String {
    let profile = lab.ovpn(server);
    let mut command = lab.adit(&["verify", "--json", "--timeout", "30s", "--config", &profile]);
    command.args(["--target", "http://files.corp.internal/healthz"]);
    let outcome = run(&mut command, LIMIT);
    let told = outcome.failure(class, exit);
    format!("{}\n{}", told.summary, told.evidence)
}

#[test]
fn a_wrong_server_certificate_is_told_by_its_kind() {
    let Some(mut lab) = Lab::build("openvpn_bad_server", PARTS) else { return };
    let server = Server::new();
    lab.start_openvpn(&server);
    let other = Authority::new("Another");
    let seen = fails(&lab, &server.clone().ca(other.pem()), "ovpn.ca.wrong", 22);
    assert!(seen.contains("CN=Laboratory") && seen.contains("CN=Another"), "{seen}");
    let renewed = Authority::new("Laboratory");
    fails(&lab, &server.clone().ca(renewed.pem()), "ovpn.ca.wrong", 22);
    let seen = fails(&lab, &server.clone().profile("verify-x509-name other name"), "ovpn.server.name", 22);
    assert!(seen.contains("vpn.example.test"), "{seen}");

    let authority = &pki().authority;
    let mut old = server_params();
    old.not_after = date_time_ymd(2024, 1, 1);
    let mut young = server_params();
    young.not_before = date_time_ymd(2090, 1, 1);
    for (params, date) in [(old, "2024-01-01"), (young, "2090-01-01")] {
        let server = Server::new().identity(authority.issue(&params));
        lab.start_openvpn(&server);
        let seen = fails(&lab, &server, "ovpn.server.cert_time", 22);
        assert!(seen.contains(date), "{seen}");
    }
    // Another client plays the server.
    let server = Server::new().identity(authority.issue(&client_params()));
    lab.start_openvpn(&server);
    let seen = fails(&lab, &server, "ovpn.server.name", 22);
    assert!(seen.contains("clientAuth"), "{seen}");
}

#[test]
fn a_revoked_server_is_refused_and_pinned_ones_are_taken() {
    let Some(mut lab) = Lab::build("openvpn_revoked_server", PARTS) else { return };
    let mut params = server_params();
    params.serial_number = Some(rcgen::SerialNumber::from(0x99));
    let server = Server::new().identity(pki().authority.issue(&params));
    lab.start_openvpn(&server);
    let list = |serials: &[u64]| format!("<crl-verify>\n{}</crl-verify>", pki().authority.revoke(serials));
    super::reaches(&lab, &server.clone().profile(&list(&[0x98])), &[], super::PEER);
    fails(&lab, &server.clone().profile(&list(&[0x99])), "ovpn.server.cert_revoked", 22);

    // The same by files in directories: one that is named by the number, and one that OpenSSL would find.
    let directory = |name: &str, file: &str, content: String| {
        let path = lab.dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join(file), content).unwrap();
        path.display().to_string()
    };
    for (number, revoked) in [(0x98, false), (0x99, true)] {
        let path = directory(&format!("revoked{number}"), &number.to_string(), String::new());
        let server = server.clone().profile(&format!("crl-verify {path} dir"));
        match revoked {
            true => drop(fails(&lab, &server, "ovpn.server.cert_revoked", 22)),
            false => drop(super::reaches(&lab, &server, &[], super::PEER)),
        }
    }
    let path = directory("authorities", "0123abcd.0", pki().authority.pem());
    let server = server.ca(String::new()).profile(&format!("capath {path}"));
    super::reaches(&lab, &server, &[], super::PEER);
}

#[test]
fn a_wrong_client_certificate_is_told() {
    let Some(mut lab) = Lab::build("openvpn_bad_client", PARTS) else { return };
    let list = lab.dir.path().join("revoked.pem");
    std::fs::write(&list, pki().authority.revoke(&[0x78])).unwrap();
    let server = Server::new().server(&format!("crl-verify {}", list.display()));
    lab.start_openvpn(&server);
    super::reaches(&lab, &server, &[], super::PEER);

    let mut old = client_params();
    old.not_after = date_time_ymd(2024, 1, 1);
    let seen =
        fails(&lab, &server.clone().client(pki().authority.issue(&old)), "ovpn.client.cert_expired", 12);
    assert!(seen.contains("2024"), "{seen}");
    let mut young = client_params();
    young.not_before = date_time_ymd(2090, 1, 1);
    fails(&lab, &server.clone().client(pki().authority.issue(&young)), "ovpn.client.cert_future", 12);
    // Debian's 2.6 sends no alert: silence after our certificate is all there is.
    let mut revoked = client_params();
    revoked.serial_number = Some(rcgen::SerialNumber::from(0x78));
    let revoked = server.clone().client(pki().authority.issue(&revoked)).profile("hand-window 5");
    fails(&lab, &revoked, "ovpn.tls.timeout", 22);
}

/// [`fails`] for several at a time: what is silent takes its time.
pub(super) fn all_fail(lab: &Lab, cases: &[(Server, &str, i32)]) {
    // The copy of the binary and the directories are made once.
    lab.adit(&[]);
    std::thread::scope(|scope| {
        for (server, class, exit) in cases {
            scope.spawn(move || fails(lab, server, class, *exit));
        }
    });
}

#[test]
fn silence_and_refusal_are_told_apart() {
    let Some(mut lab) = Lab::build("openvpn_silence", PARTS) else { return };
    let server = Server::new().profile("server-poll-timeout 4");
    let tcp = server.clone().tcp(true);
    let nobody = server.clone().profile("remote nowhere.example.test 1194 udp");
    let cases = [
        (server.clone(), "ovpn.tcp.refused", 20),
        (tcp.clone(), "ovpn.tcp.refused", 20),
        (nobody, "ovpn.remote.dns", 20),
    ];
    all_fail(&lab, &cases);
    // A wrong key is silence on UDP and a closed connection on TCP.
    lab.start_openvpn(&server);
    let wrong = [Wrap::None, Wrap::Auth].map(|wrap| (server.clone().wrap(wrap), "ovpn.udp.silent", 21));
    all_fail(&lab, &wrong);
    lab.start_openvpn(&tcp);
    all_fail(&lab, &[(tcp.clone().wrap(Wrap::Auth), "ovpn.tcp.closed", 22)]);
}

#[test]
fn nothing_in_common_is_told_with_both_sides() {
    let Some(mut lab) = Lab::build("openvpn_ciphers", PARTS) else { return };
    let server = Server::new().cipher("AES-128-GCM");
    lab.start_openvpn(&server);
    let seen = fails(&lab, &server.clone().cipher("AES-256-GCM"), "ovpn.cipher", 22);
    assert!(seen.contains("AES-256-GCM"), "{seen}");
    let old = Server::new().server("tls-version-max 1.2").profile("tls-version-min 1.3\nhand-window 5");
    lab.start_openvpn(&old);
    let profile = lab.ovpn(&old);
    let mut command = lab.adit(&["verify", "--json", "--timeout", "30s", "--config", &profile]);
    let outcome = run(&mut command, LIMIT).expect(22);
    assert!(outcome.text().contains("ovpn.tls."), "{outcome}");
}

#[test]
fn a_server_without_names_or_routes_is_told() {
    let Some(mut lab) = Lab::build("openvpn_no_names", PARTS) else { return };
    let server = Server::new().profile("pull-filter ignore \"dhcp-option\"");
    lab.start_openvpn(&server);
    fails(&lab, &server, "ovpn.dns.none", 30);
    let server = Server::new().profile("pull-filter ignore \"route \"\npull-filter ignore \"route-ipv6\"");
    let profile = lab.ovpn(&server);
    let mut command = lab.adit(&["verify", "--json", "--timeout", "30s", "--config", &profile]);
    let outcome = run(command.args(["--target", "tcp://10.77.0.10:80"]), LIMIT).expect(23);
    assert!(outcome.text().contains("ovpn.route.none"), "{outcome}");
}
