//! `adit exec` as `nobody`: unmodified programs in the private network.

use std::fs;
use std::time::Duration;

use crate::support::{Lab, Outcome, Part, blob, run};

const LIMIT: Duration = Duration::from_secs(60);
const SERVICES: &[Part] = &[Part::Names];

/// Runs a program in the private network of a correct `lab.conf`, without a target.
#[track_caller]
fn exec(lab: &Lab, program: &[&str]) -> Outcome {
    let conf = lab.write("lab.conf", lab.conf());
    let mut command = lab.adit(&["exec", "--config", &conf.to_string_lossy(), "--"]);
    run(command.args(program), LIMIT)
}

#[test]
fn psql_counts_the_orders_once_the_database_has_answered() {
    let Some(lab) = Lab::build("exec_psql", &[Part::Postgres, Part::Names]) else { return };
    let conf = lab.write("lab.conf", lab.conf());
    let mut command = lab.adit(&["exec", "--config", &conf.to_string_lossy()]);
    command.args(["--target", "tcp://staging-db.internal:5432,postgres", "--"]);
    command.args(["psql", "-h", "staging-db.internal", "-Atc", "select count(*) from orders"]);
    let outcome = run(&mut command, LIMIT).expect(0);
    assert_eq!(outcome.text(), "3", "{outcome}");
}

#[test]
fn curl_downloads_a_blob_and_every_byte_is_right() {
    let Some(lab) = Lab::build("exec_curl", SERVICES) else { return };
    exec(&lab, &["curl", "-sf", "http://files.corp.internal/blob", "-o", "blob"]).expect(0);
    assert!(fs::read(lab.home().join("blob")).unwrap() == blob(), "64 MiB arrive as they were sent");
}

#[test]
fn curl_uploads_and_the_server_counts_every_byte() {
    let Some(lab) = Lab::build("exec_upload", SERVICES) else { return };
    fs::write(lab.home().join("upload"), blob()).unwrap();
    let upload = ["curl", "-sf", "--data-binary", "@upload", "http://files.corp.internal/count"];
    assert_eq!(exec(&lab, &upload).expect(0).text(), blob().len().to_string());
}

#[test]
fn names_resolve_by_search_domain_and_in_both_families() {
    let Some(lab) = Lab::build("exec_names", SERVICES) else { return };
    for (host, peer) in
        [("files", None), ("four.corp.internal", Some("10.66.0.2")), ("six.corp.internal", Some("fd66::2"))]
    {
        let outcome = exec(&lab, &["curl", "-sf", &format!("http://{host}/peer")]).expect(0);
        match peer {
            Some(peer) => assert_eq!(outcome.text(), peer, "{outcome}"),
            None => assert!(matches!(outcome.text().as_str(), "10.66.0.2" | "fd66::2"), "{outcome}"),
        }
    }
}

#[test]
fn public_traffic_stays_outside_the_tunnel() {
    let Some(lab) = Lab::build("exec_public", SERVICES) else { return };
    let outcome = exec(&lab, &["curl", "-sf", "http://www.example.test/peer"]).expect(0);
    assert_eq!(outcome.text(), "192.0.2.2", "{outcome}");
}

#[test]
fn a_refused_connection_is_refused() {
    let Some(lab) = Lab::build("exec_refused", SERVICES) else { return };
    let outcome = exec(&lab, &["bash", "-c", "exec 3<>/dev/tcp/10.77.0.10/81"]).expect(1);
    assert!(outcome.stderr.contains("Connection refused"), "{outcome}");
    assert!(outcome.took < Duration::from_secs(15), "a refusal is no time-out: {outcome}");
}

#[test]
fn a_silent_target_takes_the_programs_own_time_out() {
    let Some(lab) = Lab::build("exec_silent", SERVICES) else { return };
    // curl: 28 is "operation timed out".
    exec(&lab, &["curl", "-s", "--connect-timeout", "2", "http://10.77.1.66/"]).expect(28);
}

#[test]
fn a_name_that_does_not_exist_does_not_exist() {
    let Some(lab) = Lab::build("exec_nxdomain", SERVICES) else { return };
    // curl: 6 is "could not resolve host".
    exec(&lab, &["curl", "-s", "--max-time", "20", "http://nope.corp.internal/"]).expect(6);
}

#[test]
fn datagrams_come_back_to_a_connected_socket_and_to_an_open_one() {
    let Some(lab) = Lab::build("exec_udp", SERVICES) else { return };
    let connected = "exec 3<>/dev/udp/files.corp.internal/7; echo hello >&3; head -n1 <&3";
    assert_eq!(exec(&lab, &["bash", "-c", connected]).expect(0).text(), "hello");

    // sendto and recvfrom, which must name the server as the source.
    let open = r#"use Socket;
        socket(my $s, PF_INET, SOCK_DGRAM, 0) or die "socket: $!";
        my $to = pack_sockaddr_in(7, inet_aton("10.77.0.10"));
        for my $size (1, 1200, 9000) {
            send($s, "x" x $size, 0, $to) == $size or die "send: $!";
            my $from = recv($s, my $got, 65535, 0) or die "recv: $!";
            my ($port, $address) = unpack_sockaddr_in($from);
            print length($got), " ", inet_ntoa($address), ":", $port, "\n";
        }"#;
    let outcome = exec(&lab, &["perl", "-e", open]).expect(0);
    assert_eq!(outcome.text(), "1 10.77.0.10:7\n1200 10.77.0.10:7\n9000 10.77.0.10:7", "{outcome}");
}

#[test]
fn a_half_closed_connection_still_brings_the_answer() {
    let Some(lab) = Lab::build("exec_half", SERVICES) else { return };
    let half = r#"use Socket;
        socket(my $s, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
        connect($s, pack_sockaddr_in(7, inet_aton("10.77.0.10"))) or die "connect: $!";
        my ($port, $address) = unpack_sockaddr_in(getpeername($s));
        print inet_ntoa($address), ":", $port, "\n";
        syswrite($s, "hello\n") or die "write: $!";
        shutdown($s, 1);
        print while <$s>;"#;
    let outcome = exec(&lab, &["perl", "-e", half]).expect(0);
    assert_eq!(outcome.text(), "10.77.0.10:7\nhello\nbye", "{outcome}");
}

#[test]
fn the_programs_exit_code_is_passed_on() {
    let Some(lab) = Lab::build("exec_codes", SERVICES) else { return };
    exec(&lab, &["sh", "-c", "exit 7"]).expect(7);
    exec(&lab, &["sh", "-c", "kill -TERM $$"]).expect(128 + 15);
    exec(&lab, &["/etc/passwd"]).expect(126);
    exec(&lab, &["no-such-program"]).expect(127);
}

#[test]
fn children_of_the_program_are_in_the_network_too() {
    let Some(lab) = Lab::build("exec_children", SERVICES) else { return };
    let script = "for i in 1 2 3 4; do (curl -sf http://10.77.0.10/healthz) & done; wait";
    assert_eq!(exec(&lab, &["sh", "-c", script]).expect(0).text(), "ok\nok\nok\nok");
}

#[test]
fn nothing_private_leaves_while_the_tunnel_is_dead() {
    let Some(mut lab) = Lab::build("exec_closed", SERVICES) else { return };
    // The server forwards from the client's link now: what leaves past the tunnel would find the LAN.
    lab.server.sysctl("net.ipv4.conf.up0.forwarding", "1");
    lab.lan.ip("route add 192.0.2.0/24 via 10.77.0.1\n");
    let beside = lab.on_client(&["curl", "-sf", "--max-time", "5", "http://10.77.0.10/peer"]).expect(0);
    assert_eq!(beside.text(), "192.0.2.2", "the way past the tunnel is open");

    let conf = lab.write("lab.conf", lab.conf());
    let inside = exec(&lab, &["curl", "-sf", "--max-time", "5", "http://10.77.0.10/peer"]).expect(0);
    assert_eq!(inside.text(), "10.66.0.2", "the tunnel is the only way for a program under exec");

    lab.wireguard.take().expect("it runs").stop();
    let mut command = lab.adit(&["exec", "--timeout", "10s", "--config", &conf.to_string_lossy(), "--"]);
    let outcome = run(command.args(["curl", "-s", "--max-time", "5", "http://10.77.0.10/peer"]), LIMIT);
    assert_ne!(outcome.status.code(), Some(0), "{outcome}");
    assert!(!outcome.text().contains("192.0.2.2"), "{outcome}");
}
