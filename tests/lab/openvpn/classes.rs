//! Further classes of failures, each made by the real server or by the way to it.

use std::io::Write as _;
use std::time::Duration;

use super::failures::{all_fail, fails};
use super::{LIMIT, PEER, exec, is_kept_out, reaches};
use crate::support::{Authority, Lab, Part, Process, Server, Wrap, client_params, pki, run, server_params};

const PARTS: &[Part] = &[Part::OpenVpn, Part::Names];

#[test]
fn a_tls_crypt_v2_key_that_the_server_does_not_take_is_told() {
    let Some(mut lab) = Lab::build("openvpn_v2_rejected", PARTS) else { return };
    let foreign = format!("<tls-crypt-v2>\n{}\n</tls-crypt-v2>", pki().keys.v2_foreign.trim_end());
    let with_foreign = |server: &Server| server.clone().wrap(Wrap::None).profile(&foreign);
    let refuse = lab.script("metadata", "exit 1");
    let verify = format!("script-security 2\ntls-crypt-v2-verify {}", refuse.display());
    // The server's own rules refuse a key that is its own.
    let server =
        Server::new().wrap(Wrap::CryptV2).server(&verify).profile("server-poll-timeout 8\nhand-window 8");
    lab.start_openvpn(&server);
    fails(&lab, &server, "ovpn.tlscryptv2.rejected", 22);
    // A datagram with a key of another server meets silence, as every wrong key does.
    let seen = fails(&lab, &with_foreign(&server), "ovpn.udp.silent", 21);
    assert!(seen.contains("a server that did not issue our client key stays silent"), "{seen}");
    let server = Server::new().wrap(Wrap::CryptV2).tcp(true);
    lab.start_openvpn(&server);
    fails(&lab, &with_foreign(&server), "ovpn.tlscryptv2.rejected", 22);
}

#[test]
fn a_way_that_does_not_lead_to_the_server_is_told() {
    let Some(mut lab) = Lab::build("openvpn_ways_wrong", PARTS) else { return };
    let server = Server::new().profile("server-poll-timeout 4");
    lab.start_openvpn(&server);
    // A neighbour that is not there; a network that is not; a family that the name has not; another protocol.
    lab.client.ip("route add unreachable 198.51.100.0/24\n");
    lab.server.nft("add table inet lab");
    lab.server.nft("add chain inet lab in { type filter hook input priority 0; }");
    lab.server.nft("add rule inet lab in tcp dport 1999 drop");
    crate::support::services::serve_tcp(&lab.server, "192.0.2.80:25".parse().unwrap(), |mut stream, _| {
        let _ = stream.write_all(b"220 mail.example.test ESMTP\r\n");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    crate::support::services::serve_udp_echo(&lab.server, "192.0.2.80:1195".parse().unwrap());
    let to = |remote: &str| server.clone().profile(&format!("remote {remote}"));
    all_fail(
        &lab,
        &[
            (to("198.51.100.1 1194 udp"), "ovpn.udp.unreachable", 20),
            (to("192.0.2.1 1999 tcp"), "ovpn.tcp.timeout", 21),
            (to("vpn.example.test 1194 udp6"), "ovpn.remote.family", 20),
            (to("192.0.2.80 25 tcp"), "ovpn.protocol", 22),
            (to("192.0.2.80 1195 udp"), "ovpn.tlsauth.mismatch", 22),
        ],
    );
}

#[test]
fn a_server_without_protection_is_told_from_a_silent_one() {
    let Some(mut lab) = Lab::build("openvpn_bare", PARTS) else { return };
    let server = Server::new().wrap(Wrap::None).profile("server-poll-timeout 4");
    lab.start_openvpn(&server);
    all_fail(&lab, &[(server.wrap(Wrap::Auth), "ovpn.tlsauth.mismatch", 22)]);
}

#[test]
fn what_a_server_pushes_and_cannot_be_used_is_told() {
    let Some(mut lab) = Lab::build("openvpn_bad_push", PARTS) else { return };
    for (lines, class, exit) in [
        ("push \"ifconfig-ipv6 nonsense fd66::1\"\npush \"peer-id nonsense\"", "ovpn.push.invalid", 22),
        ("push \"protocol-flags teleport\"", "ovpn.push.unsupported", 23),
    ] {
        let server = Server::new().server(lines);
        lab.start_openvpn(&server);
        fails(&lab, &server, class, exit);
    }
    // A server that never decides.
    let script = lab.script("never", r#"echo 2 > "$client_connect_deferred_file""#);
    let lines = format!("script-security 3\nclient-connect {}", script.display());
    let server = Server::new().server(&lines).profile("hand-window 6");
    lab.start_openvpn(&server);
    fails(&lab, &server, "ovpn.push.timeout", 22);
}

#[test]
fn a_pool_without_an_address_for_us_is_told() {
    let Some(mut lab) = Lab::build("openvpn_pool", PARTS) else { return };
    let one = "mode server\ntls-server\ntopology subnet\npush \"topology subnet\"\nifconfig 10.66.0.1 255.255.255.0\n\
               ifconfig-pool 10.66.0.2 10.66.0.3 255.255.255.0\nduplicate-cn";
    let server = Server::new().without_pool().server(one);
    lab.start_openvpn(&server);
    let profile = lab.ovpn(&server);
    let _others = ["first", "second"].map(|name| {
        let mut command = lab.adit(&["exec", "--config", &profile, "--"]);
        command.args(["sh", "-c", "echo here; exec sleep 120"]);
        let mut process = Process::spawn(name, command, &lab.dir.logs());
        process.wait_for("here", LIMIT);
        process
    });
    fails(&lab, &server, "ovpn.addr.none", 23);
}

#[test]
fn what_no_server_may_push_is_refused_counted_and_reported() {
    let Some(mut lab) = Lab::build("openvpn_refused_push", PARTS) else { return };
    let hostile = "push \"route 127.0.0.0 255.0.0.0\"\npush \"route 169.254.169.254 255.255.255.255\"\n\
                   push \"route 192.0.2.0 255.255.255.0\"\npush \"dhcp-option DNS 127.0.0.1\"\npush \"tun-mtu 9\"\n\
                   push \"up /bin/false\"";
    let server = Server::new().server(hostile);
    lab.start_openvpn(&server);
    let profile = lab.ovpn(&server);
    let mut command = lab.adit(&["verify", "--json", "--timeout", "30s", "--config", &profile]);
    let outcome = run(command.args(["--target", "http://files.corp.internal/healthz"]), LIMIT).expect(0);
    let report: serde_json::Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let warning = &report["warnings"][0];
    assert_eq!(warning["class"], "ovpn.push.refused", "{outcome}");
    let summary = warning["summary"].as_str().unwrap_or_default();
    assert!(summary.contains("127.0.0.") && summary.contains("more were refused"), "{outcome}");

    run(&mut lab.adit(&["up", "--detach", "--config", &profile]), LIMIT).expect(0);
    let down = crate::up::Down(&lab);
    let status = run(&mut lab.adit(&["status"]), LIMIT).expect(0);
    assert!(status.text().contains("[ovpn.push.refused]"), "{status}");
    let status = run(&mut lab.adit(&["status", "--json"]), LIMIT).expect(0);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let told = status["network"]["warnings"][0]["evidence"].to_string();
    for quoted in ["169.254.169.254", "route 192.0.2.0", "DNS 127.0.0.1", "tun-mtu 9", "up /bin/false"] {
        assert!(told.contains(quoted), "{quoted}: {told}");
    }
    let routes = status["network"]["config"]["routes"].to_string();
    assert!(
        !routes.contains("127.0.0") && !routes.contains("169.254") && !routes.contains("192.0.2"),
        "{routes}"
    );
    drop(down);
}

#[test]
fn an_address_that_this_machine_has_already_is_told() {
    let Some(mut lab) = Lab::build("openvpn_clash", PARTS) else { return };
    lab.client.ip(
        "link add other type veth peer name another\naddr add 10.66.0.200/24 dev other\nlink set other up\n",
    );
    let server = Server::new();
    lab.start_openvpn(&server);
    let seen = fails(&lab, &server, "ovpn.addr.clash", 23);
    assert!(seen.contains("10.66.0."), "{seen}");
}

#[test]
fn data_channels_that_do_not_fit_are_told_before_anything_waits_for_them() {
    let Some(mut lab) = Lab::build("openvpn_misfits", PARTS) else { return };
    let server = Server::new().cipher("AES-256-CBC");
    lab.start_openvpn(&server);
    let seen = fails(&lab, &server.profile("auth SHA512"), "ovpn.data.decrypt", 22);
    assert!(seen.contains("SHA256") && seen.contains("SHA512"), "{seen}");
    let server = Server::new().server("comp-lzo no");
    lab.start_openvpn(&server);
    fails(&lab, &server, "ovpn.compress", 22);
    // A framing that the server states too, and that leaves packets as they are.
    let server = Server::new().server("compress stub-v2");
    lab.start_openvpn(&server);
    reaches(&lab, &server, &[], PEER);
}

#[test]
fn large_packets_that_vanish_are_told() {
    let Some(mut lab) = Lab::build("openvpn_black_hole", PARTS) else { return };
    let server = Server::new();
    lab.start_openvpn(&server);
    for chain in ["input", "output"] {
        lab.server.nft(&format!("add table inet hole{chain}"));
        lab.server.nft(&format!("add chain inet hole{chain} c {{ type filter hook {chain} priority 0; }}"));
        lab.server.nft(&format!("add rule inet hole{chain} c udp length > 1300 drop"));
    }
    let profile = lab.ovpn(&server);
    let mut command = lab.adit(&["verify", "--json", "--timeout", "40s", "--config", &profile]);
    let outcome = run(command.args(["--target", "http://files.corp.internal/page"]), LIMIT);
    assert!(outcome.text().contains("\"ovpn.mtu\""), "{outcome}");
    // What the advice says helps.
    let script = "curl -sf --max-time 20 http://files.corp.internal/page | wc -c";
    let outcome = exec(&lab, &server.profile("mssfix 1200"), &[], script).expect(0);
    assert_eq!(outcome.text(), "8190", "{outcome}");
}

#[test]
fn a_clock_that_differs_is_named_where_a_certificate_is_out_of_its_time() {
    let Some(mut lab) = Lab::build("openvpn_clock", PARTS) else { return };
    let mut params = server_params();
    params.not_before = rcgen::date_time_ymd(2041, 1, 1);
    let server = Server::new().identity(pki().authority.issue(&params));
    lab.start_openvpn_at(&server, "2041-06-01 12:00:00");
    let seen = fails(&lab, &server, "ovpn.server.cert_time", 22);
    assert!(seen.contains("2041-01-01") && seen.contains("the server's clock differs"), "{seen}");
}

#[test]
fn a_certificate_of_another_authority_is_told_by_a_stream() {
    let Some(mut lab) = Lab::build("openvpn_foreign_client", PARTS) else { return };
    let server = Server::new().tcp(true);
    lab.start_openvpn(&server);
    let foreign = Authority::new("Another").issue(&client_params());
    fails(&lab, &server.client(foreign), "ovpn.client.cert_unknown", 12);
}

/// The words of whoever ended a connection reach the person who runs a program.
#[test]
fn words_at_the_end_of_a_connection_are_printed() {
    let Some(mut lab) = Lab::build("openvpn_last_words", PARTS) else { return };
    let server = Server::new().server("push \"inactive 3 1000000\"");
    lab.start_openvpn(&server);
    let outcome = exec(&lab, &server, &[], "sleep 8");
    assert!(outcome.stderr.contains("[ovpn.inactive]"), "{outcome}");
}

#[test]
fn a_server_that_can_never_tell_is_told_as_such() {
    let Some(mut lab) = Lab::build("openvpn_never_tells", PARTS) else { return };
    let script = lab.script(
        "check",
        r#"printf 'TEMP[backoff 1]:the directory sleeps' > "$auth_failed_reason_file"; exit 1"#,
    );
    let verify = format!("script-security 3\nauth-user-pass-verify {} via-file", script.display());
    let server = Server::new().server(&verify).profile("<auth-user-pass>\nalice\nsecret\n</auth-user-pass>");
    lab.start_openvpn(&server);
    let outcome = is_kept_out(&lab, &server, &["--timeout", "6s"], "ovpn.auth.temp");
    assert!(outcome.stderr.contains("the directory sleeps"), "{outcome}");
}

#[test]
fn a_login_session_that_is_over_is_told_and_the_password_opens_the_next() {
    let Some(mut lab) = Lab::build("openvpn_session_over", PARTS) else { return };
    let script = lab.script("check", "exit 0");
    let verify = format!(
        "script-security 3\nauth-user-pass-verify {} via-file\nauth-gen-token 4\nreneg-sec 6\nhand-window 3",
        script.display()
    );
    let server = Server::new().server(&verify).profile("<auth-user-pass>\nalice\nsecret\n</auth-user-pass>");
    lab.start_openvpn(&server);
    let profile = lab.ovpn(&server);
    let mut command = lab.adit(&["exec", "--config", &profile, "--"]);
    command.args(["sh", "-c", "echo here; exec sleep 120"]);
    let mut process = Process::spawn("program", command, &lab.dir.logs());
    process.wait_for("[ovpn.auth.session]", Duration::from_secs(40));
    process.wait_for("the network is back", LIMIT);
}

#[test]
fn two_clients_with_one_certificate_are_told_that_they_are() {
    let Some(mut lab) = Lab::build("openvpn_twins", PARTS) else { return };
    let server = Server::new();
    lab.start_openvpn(&server);
    // Both have something to say all the time, so each notices at once that it was replaced.
    let talk = "while :; do curl -s -o /dev/null --max-time 2 http://10.77.0.10/peer; sleep 0.1; done";
    let twins = ["one", "other"].map(|name| {
        let mut command = lab.adit(&["exec", "--config", &lab.ovpn(&server), "--"]);
        command.args(["sh", "-c", talk]);
        Process::spawn(name, command, &lab.dir.logs())
    });
    let told = || twins.iter().any(|twin| twin.printed().contains("[ovpn.duplicate_cn]"));
    crate::support::wait_until("one is told why", Duration::from_secs(90), told);
}
