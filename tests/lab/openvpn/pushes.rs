//! What servers push: topologies, framings, sizes, names, routes; and how they end a connection.

use std::time::Duration;

use super::{BOTH_WAYS, PEER, reaches};
use crate::support::{Lab, Part, Server, run};

const PARTS: &[Part] = &[Part::OpenVpn, Part::Names];

#[test]
fn every_topology_gives_an_address_that_works() {
    let Some(mut lab) = Lab::build("openvpn_topologies", PARTS) else { return };
    for topology in ["net30", "p2p", "subnet"] {
        let server = Server::new().server(&format!("topology {topology}"));
        lab.start_openvpn(&server);
        let outcome =
            super::exec(&lab, &server, &[], "curl -sf --max-time 20 http://four.corp.internal/peer");
        let outcome = outcome.expect(0);
        let expected = match topology {
            "net30" => "10.66.0.6",
            "p2p" => "10.66.0.4",
            _ => "10.66.0.2",
        };
        assert_eq!(outcome.text(), expected, "{topology}: {outcome}");
    }
}

#[test]
fn both_families_pass() {
    let Some(mut lab) = Lab::build("openvpn_families", PARTS) else { return };
    let server = Server::new();
    lab.start_openvpn(&server);
    for (host, inside) in [("four", "10.66.0.2"), ("six", "fd66::1000")] {
        let script = format!("curl -sf --max-time 20 http://{host}.corp.internal/peer");
        assert_eq!(super::exec(&lab, &server, &[], &script).expect(0).text(), inside);
    }
}

#[test]
fn framings_of_compression_are_spoken_without_compressing() {
    let Some(mut lab) = Lab::build("openvpn_compression", PARTS) else { return };
    for (server_lines, profile) in [
        ("comp-lzo no\npush \"comp-lzo no\"", ""),
        ("comp-lzo no", "comp-lzo no"),
        ("compress stub\npush \"compress stub\"", ""),
        ("compress stub-v2\npush \"compress stub-v2\"", ""),
        ("allow-compression asym\ncompress migrate", "comp-lzo"),
        ("allow-compression yes\ncompress lz4-v2\npush \"compress lz4-v2\"", ""),
        ("allow-compression yes\ncomp-lzo adaptive\npush \"comp-lzo adaptive\"", ""),
    ] {
        let server = Server::new().server(server_lines).profile(profile);
        lab.start_openvpn(&server);
        reaches(&lab, &server, &[], BOTH_WAYS);
    }
}

#[test]
fn fragments_and_small_segments_pass() {
    let Some(mut lab) = Lab::build("openvpn_fragment", PARTS) else { return };
    for lines in ["fragment 1200\nmssfix 1200", "mssfix 1100 mtu", "mssfix 1000 fixed", "tun-mtu 1400"] {
        let server = Server::new().server(lines).profile(lines);
        lab.start_openvpn(&server);
        reaches(&lab, &server, &[], BOTH_WAYS);
    }
    // Pushed by the server alone.
    let server = Server::new().server("tun-mtu 1300\npush \"tun-mtu 1300\"");
    lab.start_openvpn(&server);
    reaches(&lab, &server, &[], BOTH_WAYS);
}

#[test]
fn a_configuration_in_many_messages_and_both_ways_to_push_names_are_understood() {
    let Some(mut lab) = Lab::build("openvpn_continuation", PARTS) else { return };
    let routes: String = (0..60).map(|n| format!("push \"route 172.29.{n}.0 255.255.255.0\"\n")).collect();
    let names = "push \"dns server 1 address 10.77.0.53\"\npush \"dns server 1 resolve-domains internal\"\n\
                 push \"dns search-domains corp.internal\"";
    let server = Server::new().server(&(routes + names));
    lab.start_openvpn(&server);
    let outcome = super::exec(&lab, &server, &[], "curl -sf --max-time 20 http://files/peer").expect(0);
    assert!(super::INSIDE.contains(&outcome.text().as_str()), "{outcome}");
    let printed = lab.openvpn().printed();
    assert!(printed.contains("push-continuation 1"), "the push came in several messages: {printed}");
}

#[test]
fn tls_1_2_and_old_key_derivation_work() {
    let Some(mut lab) = Lab::build("openvpn_tls12", PARTS) else { return };
    let server = Server::new().server("tls-version-max 1.2\nreneg-bytes 900000");
    lab.start_openvpn(&server);
    super::reaches_until(&mut lab, &server, 2, "Control Channel: TLSv1.2");
}

#[test]
fn a_server_may_decide_late_what_it_gives() {
    let Some(mut lab) = Lab::build("openvpn_client_connect", PARTS) else { return };
    let script = lab.script(
        "connect",
        r#"echo 2 > "$client_connect_deferred_file"
        (sleep 1; echo 'ifconfig-push 10.66.0.99 255.255.255.0' > "$1"; echo 1 > "$client_connect_deferred_file") &"#,
    );
    let server = Server::new().server(&format!("script-security 3\nclient-connect {}", script.display()));
    lab.start_openvpn(&server);
    let outcome =
        super::exec(&lab, &server, &[], "curl -sf --max-time 20 http://four.corp.internal/peer").expect(0);
    assert_eq!(outcome.text(), "10.66.0.99", "{outcome}");
}

/// Speaks with the server's management interface.
pub(super) fn manage(lab: &Lab, script: &str) -> String {
    let socket = lab.dir.path().join("manage");
    let program = format!(
        r#"use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => "{}") or die "$!"; $s->autoflush(1);
        sub ask {{ print $s "$_[0]\n"; my $all = ""; while (my $l = <$s>) {{ $all .= $l; last if $l =~ /^(END|SUCCESS|ERROR)/; }} $all }}
        {script}"#,
        socket.display()
    );
    let mut command = std::process::Command::new("perl");
    run(command.args(["-e", &program]), Duration::from_secs(10)).expect(0).text()
}

/// Ends the only client with these words.
const KILL: &str = r#"my ($cid) = ask("status 2") =~ /CLIENT_LIST,client1,(?:[^,]*,){8}(\d+)/ or die "no client"; print ask("client-kill $cid $words");"#;

#[test]
fn a_restart_from_the_server_is_followed_and_connections_go_on() {
    let Some(mut lab) = Lab::build("openvpn_restart", PARTS) else { return };
    let socket = lab.dir.path().join("manage");
    let server = Server::new().server(&format!("management {} unix", socket.display()));
    lab.start_openvpn(&server);
    let mut counter = super::ways::counter(&lab, &server);
    for words in ["RESTART,[N]elsewhere", "RESTART,[P]keep"] {
        let answer = manage(&lab, &format!("my $words = '{words}'; {KILL}"));
        assert!(answer.contains("SUCCESS"), "{answer}");
        super::ways::goes_on(&counter, 20, Duration::from_secs(10));
    }
    let answer = manage(&lab, &format!("my $words = 'HALT,maintenance'; {KILL}"));
    assert!(answer.contains("SUCCESS"), "{answer}");
    let status = counter.wait(Duration::from_secs(20));
    assert_ne!(status.code(), Some(0), "the program lost its network");
    // Whoever ran the program is told who ended what, and why.
    let printed = counter.printed();
    for words in ["elsewhere", "keep", "[ovpn.restart]", "maintenance", "[ovpn.halt]"] {
        assert!(printed.contains(words), "{words}: {printed}");
    }
}

#[test]
fn a_profile_may_refuse_what_is_pushed() {
    let Some(mut lab) = Lab::build("openvpn_filters", PARTS) else { return };
    let server = Server::new().server("push \"route 10.77.9.0 255.255.255.0\"");
    lab.start_openvpn(&server);
    let own = "route-nopull\nroute 10.77.0.0 255.255.0.0\ndhcp-option DNS 10.77.0.53\ndhcp-option DOMAIN corp.internal";
    let outcome = super::exec(
        &lab,
        &server.clone().profile(own),
        &[],
        "curl -sf --max-time 20 http://four.corp.internal/peer",
    );
    assert_eq!(outcome.expect(0).text(), "10.66.0.2");
    let filter = "pull-filter ignore \"route-ipv6\"\npull-filter accept \"route \"";
    reaches(&lab, &server.profile(filter), &[], PEER);
}

#[test]
fn a_name_in_a_route_leads_its_addresses_into_the_tunnel() {
    let Some(mut lab) = Lab::build("openvpn_route_name", PARTS) else { return };
    let server = Server::new();
    lab.start_openvpn(&server);
    let script = "curl -sf --max-time 20 http://www.example.test/peer";
    assert_eq!(super::exec(&lab, &server, &[], script).expect(0).text(), "192.0.2.2");
    let server = server.profile("route www.example.test\nroute nowhere.example.test");
    assert_eq!(super::exec(&lab, &server, &[], script).expect(0).text(), "10.66.0.2");
}
