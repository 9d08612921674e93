//! Links that lose and reorder packets, and that add some of their own.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::LIMIT;
use super::ways::{counter, goes_on};
use crate::support::{Forwarder, Impairment, Lab, Part, Process, Server, Wrap, run, wait_until};
use crate::up::Down;

const PARTS: &[Part] = &[Part::OpenVpn, Part::Names];
/// The forwarder's address; ports tell clients apart.
const AT: &str = "192.0.2.3";

/// Begins, sends a part of a mebibyte through the network and back, and stays.
const WORK: &str = r#"set -e; echo begins
    head -c 131072 /dev/urandom > "up$1"
    curl -sf --max-time 60 -H 'Expect:' --data-binary "@up$1" http://files.corp.internal/echo -o "down$1"
    [ "$(sha256sum < "up$1")" = "$(sha256sum < "down$1")" ] && echo intact
    exec sleep 60"#;

/// Runs [`WORK`] through a forwarder.
fn work(lab: &Lab, server: &Server, port: u16) -> Process {
    let server = server.clone().profile(&format!("remote {AT} {port} udp"));
    let mut command = lab.adit(&["exec", "--config", &lab.ovpn(&server), "--"]);
    command.args(["sh", "-c", WORK, "work", &port.to_string()]);
    Process::spawn(&format!("work{port}"), command, &lab.dir.logs())
}

#[test]
fn a_link_that_loses_a_tenth_and_reorders_a_quarter_connects_within_ten_seconds_and_carries_data_intact() {
    let Some(mut lab) = Lab::build("openvpn_lossy", PARTS) else { return };
    // The largest packets of the control channel, and as many clients as there are seeds.
    let server = Server::new().wrap(Wrap::CryptV2).server("duplicate-cn");
    lab.start_openvpn(&server);
    lab.adit(&[]);
    let late_starts = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for seed in 1..=4 {
            let (lab, server, late_starts) = (&lab, &server, &late_starts);
            scope.spawn(move || {
                let port = 2000 + seed as u16;
                let impairment = Impairment { loss: 10, reorder: 25, seed, ..Impairment::default() };
                let at = format!("{AT}:{port}");
                let link = Forwarder::start(&lab.server, &at, "192.0.2.1:1194", impairment);
                let mut work = work(lab, server, port);
                let started = Instant::now();
                work.wait_for("begins", LIMIT);
                late_starts
                    .fetch_add(u64::from(started.elapsed() > Duration::from_secs(10)), Ordering::Relaxed);
                work.wait_for("intact", LIMIT);
                let counts = link.counts();
                let [lost, late] = [&counts.lost, &counts.late].map(|count| count.load(Ordering::Relaxed));
                assert!(lost > 0 && late > 0, "seed {seed}: {counts:?}");
            });
        }
    });
    // The server repeats a packet after two seconds, then after four: one that is lost thrice takes longer, whoever calls.
    let late = late_starts.into_inner();
    assert!(late <= 1, "{late} of four took more than ten seconds");
}

/// The most memory that a process ever had, in KiB.
fn peak(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a process has memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("in KiB")
}

#[test]
fn ten_thousand_hostile_packets_before_the_login_neither_keep_a_client_out_nor_fill_its_memory() {
    let Some(mut lab) = Lab::build("openvpn_hostile", PARTS) else { return };
    for wrap in [Wrap::None, Wrap::Auth, Wrap::Crypt, Wrap::CryptV2] {
        let server = Server::new().wrap(wrap).server("duplicate-cn");
        lab.start_openvpn(&server);
        let peaks = [0, 10_000].map(|hostile| {
            let port = 2000 + u16::from(hostile > 0);
            let impairment = Impairment { hostile, seed: 7, ..Impairment::default() };
            let link = Forwarder::start(&lab.server, &format!("{AT}:{port}"), "192.0.2.1:1194", impairment);
            let mut work = work(&lab, &server, port);
            work.wait_for("intact", LIMIT);
            assert_eq!(link.counts().hostile.load(Ordering::Relaxed), hostile);
            peak(&work)
        });
        println!("{wrap:?}: {} KiB in peace, {} KiB under attack", peaks[0], peaks[1]);
        assert!(peaks[1] < peaks[0] + 4096, "{wrap:?}: {peaks:?} KiB");
    }
}

#[test]
fn packets_that_come_twice_are_taken_once_and_told() {
    let Some(mut lab) = Lab::build("openvpn_twice", PARTS) else { return };
    let server = Server::new();
    lab.start_openvpn(&server);
    let impairment = Impairment { twice: 50, seed: 9, ..Impairment::default() };
    let link = Forwarder::start(&lab.server, &format!("{AT}:2000"), "192.0.2.1:1194", impairment);
    let profile = lab.ovpn(&server.profile(&format!("remote {AT} 2000 udp")));
    run(&mut lab.adit(&["up", "--detach", "--config", &profile]), LIMIT).expect(0);
    let down = Down(&lab);
    let mut command =
        lab.adit(&["exec", "--", "sh", "-c", WORK.trim_end_matches("exec sleep 60"), "work", "1"]);
    let outcome = run(&mut command, LIMIT).expect(0);
    assert!(outcome.text().contains("intact"), "{outcome}");
    let status = run(&mut lab.adit(&["status"]), LIMIT).expect(0);
    assert!(status.text().contains("[ovpn.replay]"), "{status}");
    drop((down, link));
}

#[test]
fn keys_that_cannot_be_renewed_are_told_and_a_new_connection_has_new_ones() {
    let Some(mut lab) = Lab::build("openvpn_no_renewal", PARTS) else { return };
    let server = Server::new().server("keepalive 2 20");
    lab.start_openvpn(&server);
    let impairment = Impairment { no_renewal: true, ..Impairment::default() };
    let link = Forwarder::start(&lab.server, &format!("{AT}:2000"), "192.0.2.1:1194", impairment);
    let server = server.profile(&format!("remote {AT} 2000 udp\nreneg-sec 4\nhand-window 3\ntran-window 8"));
    let counter = counter(&lab, &server);
    wait_until("the end of the keys is told", LIMIT, || counter.printed().contains("[ovpn.reneg]"));
    goes_on(&counter, 20, LIMIT);
    drop((counter, link));
}
