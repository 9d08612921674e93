//! `adit up` and the commands that attach to it, against a WireGuard peer in this process. No root, no device.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use adit_path::Network as _;
use common::*;
use tokio::io::AsyncReadExt;

fn alive(pid: u64) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !state.is_empty() && !state.contains(") Z ")
}

/// Sends through a TCP connection to a port of this machine, and returns what comes back.
fn through(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address.parse::<SocketAddr>().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    back
}

/// The packets of a capture file with raw IP packets.
fn captured(file: &[u8]) -> Vec<&[u8]> {
    let (header, mut records) = file.split_at(24);
    assert_eq!((&header[..4], &header[20..]), (&[0xd4, 0xc3, 0xb2, 0xa1][..], &[101, 0, 0, 0][..]));
    let mut packets = Vec::new();
    while let Some((record, rest)) = records.split_first_chunk::<16>() {
        let length = u32::from_le_bytes(record[8..12].try_into().unwrap()) as usize;
        let (packet, rest) = rest.split_at(length);
        packets.push(packet);
        records = rest;
    }
    packets
}

/// Waits for the end of a program, for as long as patience lasts.
fn ended(program: &mut std::process::Child) -> std::process::ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = program.try_wait().unwrap() {
            return status;
        }
        if began.elapsed() > PATIENCE {
            program.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn what_passes_inside_is_recorded_until_it_is_enough() {
    let lab = Lab::new("capture");
    let capture = |arguments: &[&str]| {
        let mut command = lab.command(&[&["capture", "-o", "inside.pcap"], arguments].concat());
        let mut capture = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 9];
        capture.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(text(&said), "recording");
        capture
    };
    let nobody = lab.run(&["capture"]);
    assert!(text(&nobody.stderr).contains("[env.not_running]"), "{}", text(&nobody.stderr));
    lab.ok(&["up", "--config", "lab.conf", "--detach"]);
    let mut first = capture(&["-c", "3"]);
    lab.ok(&["ping", SERVER, "--tcp", "7", "-c", "1"]);
    assert!(ended(&mut first).success());
    let file = std::fs::read(lab.directory.join("inside.pcap")).unwrap();
    let handshake = captured(&file);
    // SYN, SYN and ACK, ACK: from us to port 7, back, and to it again.
    let flags: Vec<u8> = handshake.iter().map(|packet| packet[33] & 0x12).collect();
    assert_eq!(flags, [0x02, 0x12, 0x10]);
    assert_eq!(handshake[0][16..20], [10, 77, 0, 1]);
    assert_eq!(handshake[0][22..24], [0, 7]);

    let mut second = capture(&[]);
    lab.ok(&["down"]);
    assert!(ended(&mut second).success(), "it ends with the network");
}

#[test]
fn a_detached_up_serves_the_commands_that_attach_until_down() {
    let lab = Lab::new("detached");
    lab.ok(&[
        "up",
        "--config",
        "lab.conf",
        "--detach",
        "--target",
        "tcp://10.77.0.1:7",
        "--proxy=127.0.0.1:0",
        "--forward",
        "0:10.77.0.1:7",
    ]);
    let status: serde_json::Value = serde_json::from_str(&lab.ok(&["status", "--json"])).unwrap();
    assert_eq!(status["profile"], "lab");
    assert_eq!(status["network"]["phase"], "up");
    assert_eq!(status["last_verify"]["verified"], "targets");
    assert!(!lab.ok(&["status", "--json"]).contains(CLIENT_KEY), "no credential is told");
    for check in ["live", "ready", "startup"] {
        lab.ok(&["status", "--check", check]);
    }

    let forward = status["fronts"]["forward"][0].as_str().unwrap().to_owned();
    assert_eq!(through(&forward[..forward.len() - ":10.77.0.1:7".len()], b"forwarded"), b"forwarded");
    let added = lab.ok(&["forward", "0:10.77.0.1:7"]);
    let (added, _) = added.trim().rsplit_once(":10.77.0.1:7").unwrap();
    assert_eq!(through(added, b"added"), b"added");
    let proxy = status["fronts"]["proxy"][0].as_str().unwrap();
    let answer = through(proxy, b"CONNECT 10.77.0.1:7 HTTP/1.1\r\n\r\nproxied");
    assert_eq!(text(&answer), "HTTP/1.1 200 Connection established\r\n\r\nproxied");

    let mut nc =
        lab.command(&["nc", SERVER, "7"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    nc.stdin.take().unwrap().write_all(b"piped").unwrap();
    assert_eq!(text(&nc.wait_with_output().unwrap().stdout), "piped");
    assert!(lab.ok(&["ping", SERVER, "--tcp", "7", "-c", "1"]).contains("10.77.0.1:7 accepts"));
    let refused = lab.run(&["nc", SERVER, "9"]);
    assert_eq!(refused.status.code(), Some(31), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("[target.refused]"), "{}", text(&refused.stderr));

    let second = lab.run(&["up", "--config", "lab.conf", "--detach"]);
    assert_eq!(second.status.code(), Some(10));
    assert!(text(&second.stderr).contains("already running"), "{}", text(&second.stderr));

    let pid = status["pid"].as_u64().unwrap();
    assert!(alive(pid));
    lab.ok(&["down"]);
    assert_eq!(lab.leftovers(), Vec::<String>::new());
    assert_eq!(lab.run(&["status"]).status.code(), Some(10));
    lab.ok(&["down"]);
    let began = Instant::now();
    while alive(pid) {
        assert!(began.elapsed() < PATIENCE, "the daemon does not end");
        std::thread::yield_now();
    }
}

#[test]
fn a_profile_brings_its_fronts_and_is_found_again_without_its_name() {
    let lab = Lab::new("profile");
    lab.write(
        "adit.toml",
        "version = 1\n\
         [profile.staging]\nprovider = \"wireguard\"\nconfig = \"lab.conf\"\n\
         [profile.staging.verify]\ntargets = [\"tcp://10.77.0.1:7\"]\n\
         [[profile.staging.forward]]\nlisten = \"127.0.0.1:0\"\nto = \"10.77.0.1:7\"\n\
         [profile.other]\nprovider = \"wireguard\"\nconfig = \"lab.conf\"\n",
    );
    lab.ok(&["up", "--config", "adit.toml", "--profile", "staging", "--detach"]);
    let status: serde_json::Value = serde_json::from_str(&lab.ok(&["status", "--json"])).unwrap();
    assert_eq!(status["profile"], "staging");
    assert_eq!(status["last_verify"]["verified"], "targets");
    let forward =
        status["fronts"]["forward"][0].as_str().unwrap().trim_end_matches(":10.77.0.1:7").to_owned();
    assert_eq!(through(&forward, b"forwarded"), b"forwarded");
    let other = lab.run(&["status", "--profile", "other"]);
    assert!(
        text(&other.stderr).contains("no adit is running for the profile other"),
        "{}",
        text(&other.stderr)
    );
    assert!(lab.ok(&["ping", SERVER, "--tcp", "7", "-c", "1"]).contains("accepts"));
    lab.ok(&["down"]);
    assert_eq!(lab.leftovers(), Vec::<String>::new());
}

/// A program that knows nothing of adit, and asks the echo service.
const PROGRAM: [&str; 4] =
    ["--", "bash", "-c", "exec 3<>/dev/tcp/10.77.0.1/7 && echo unmodified >&3 && head -n 1 <&3; exit 7"];

#[test]
fn programs_run_in_a_running_up_and_without_one() {
    let lab = Lab::new("exec");
    let exec = |flags: &[&str]| {
        let output = lab.run(&[&["exec"], flags, &PROGRAM].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let private = ["--config", "lab.conf", "--target", "tcp://10.77.0.1:7"];
    let (code, out, err) = exec(&private);
    assert_eq!((code, out.as_str()), (Some(7), "unmodified\n"), "{err}");
    let (code, out, err) = exec(&["--config", "lab.conf", "--target", "tcp://10.77.0.1:9"]);
    assert_eq!((code, out.as_str()), (Some(125), ""), "the program does not run: {err}");
    assert!(err.contains("[target.refused]"), "{err}");

    lab.ok(&["up", "--config", "lab.conf", "--detach"]);
    let (code, out, err) = exec(&[]);
    assert_eq!((code, out.as_str()), (Some(7), "unmodified\n"), "{err}");
    let (code, ..) = exec(&["--target", "tcp://10.77.0.1:9"]);
    assert_eq!(code, Some(125));
}

#[test]
fn targets_are_verified_in_a_running_up_and_without_one() {
    let lab = Lab::new("verify");
    let verify = |flags: &[&str]| {
        let output = lab.run(&[&["verify", "--json"], flags].concat());
        let report = serde_json::from_slice(&output.stdout).unwrap_or(serde_json::Value::Null);
        (output.status.code(), report, text(&output.stderr))
    };
    let (code, report, err) = verify(&["--config", "lab.conf", "--target", "tcp://10.77.0.1:7"]);
    assert_eq!((code, report["verified"].as_str()), (Some(0), Some("targets")), "{err}");
    let (code, report, err) = verify(&["--config", "lab.conf"]);
    assert_eq!((code, report["verified"].as_str()), (Some(0), Some("tunnel-only")), "{err}");
    let (code, report, err) = verify(&["--config", "lab.conf", "--target", "tcp://10.77.0.1:9"]);
    assert_eq!((code, report["failure"]["class"].as_str()), (Some(31), Some("target.refused")), "{err}");

    lab.ok(&["up", "--config", "lab.conf", "--detach", "--target", "tcp://10.77.0.1:7"]);
    let (code, report, err) = verify(&[]);
    assert_eq!((code, report["verified"].as_str()), (Some(0), Some("targets")), "{err}");
    let (code, report, err) = verify(&["--target", "tcp://10.77.0.1:9"]);
    assert_eq!((code, report["failure"]["class"].as_str()), (Some(31), Some("target.refused")), "{err}");
}

#[test]
fn a_detached_up_holds_no_stream_of_its_caller() {
    let lab = Lab::new("streams");
    // `output` returns when every copy of the pipes is closed, and not before.
    let output =
        lab.run(&["up", "--config", "lab.conf", "--detach", "--target", "tcp://10.77.0.1:7", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["ok"].as_bool(), report["schema"].as_str()), (Some(true), Some("adit.verify/1")));
    lab.ok(&["down"]);
}

#[test]
fn a_failed_verification_leaves_nothing_behind_and_passes_its_code_on() {
    let lab = Lab::new("failed");
    for detach in [&["--detach"][..], &[]] {
        let mut arguments = vec!["up", "--config", "lab.conf", "--target", "tcp://10.77.0.1:9"];
        arguments.extend(detach);
        let output = lab.run(&arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(31), "{errors}");
        assert!(errors.contains("[target.refused]"), "{errors}");
        assert_eq!(lab.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn a_killed_up_is_replaced_and_its_end_is_seen() {
    let lab = Lab::new("killed");
    let up = ["up", "--config", "lab.conf", "--detach", "--target", "tcp://10.77.0.1:7"];
    lab.ok(&up);
    let status: serde_json::Value = serde_json::from_str(&lab.ok(&["status", "--json"])).unwrap();
    let pid = rustix::process::Pid::from_raw(status["pid"].as_i64().unwrap() as i32).unwrap();
    let mut watch = lab.command(&["status", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut shown = std::io::BufReader::new(watch.stdout.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("flows") {
        assert_ne!(std::io::BufRead::read_line(&mut shown, &mut seen).unwrap(), 0, "{seen}");
    }
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    shown.read_to_string(&mut seen).unwrap();
    assert!(seen.contains("closed"), "{seen}");
    watch.wait().unwrap();
    assert_eq!(lab.run(&["status"]).status.code(), Some(10));
    lab.ok(&up);
    lab.ok(&["status", "--check", "ready"]);
}

#[test]
fn a_server_here_is_exposed_to_peers() {
    let lab = Lab::new("exposed");
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    lab.ok(&[
        "up",
        "--config",
        "lab.conf",
        "--detach",
        "--target",
        "tcp://10.77.0.1:7",
        "--expose",
        &port.to_string(),
    ]);
    let served = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        stream.write_all(b"welcome").unwrap();
    });
    let peer = SocketAddr::from(([10, 77, 0, 2], port));
    let answer = lab.runtime.block_on(async {
        let flow = lab.server.connect(peer, adit_path::Connect::default()).await.unwrap();
        let mut answer = String::new();
        flow.into_stream().unwrap().read_to_string(&mut answer).await.unwrap();
        answer
    });
    assert_eq!(answer, "welcome");
    served.join().unwrap();
    let nobody = lab.runtime.block_on(lab.server.connect(peer, adit_path::Connect::default()));
    assert_eq!(nobody.unwrap_err(), adit_path::ConnectFailure::Refused);
}

#[test]
fn every_server_here_is_exposed_as_it_comes_and_goes_but_not_adits_own() {
    let lab = Lab::new("all");
    lab.ok(&[
        "up",
        "--config",
        "lab.conf",
        "--detach",
        "--target",
        "tcp://10.77.0.1:7",
        "--proxy=127.0.0.1:0",
        "--expose",
        "all",
    ]);
    let status: serde_json::Value = serde_json::from_str(&lab.ok(&["status", "--json"])).unwrap();
    assert_eq!(status["fronts"]["expose"][0], "all");
    // It comes after `up`, so it is found, not named.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let peer = |port| SocketAddr::from(([10, 77, 0, 2], port));
    let connect = |port| lab.runtime.block_on(lab.server.connect(peer(port), adit_path::Connect::default()));
    let until = |accepts: bool| {
        let began = Instant::now();
        while connect(port).is_ok() != accepts {
            assert!(began.elapsed() < PATIENCE, "exposed: {}", !accepts);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    until(true);
    let proxy = status["fronts"]["proxy"][0].as_str().unwrap().parse::<SocketAddr>().unwrap();
    assert_eq!(connect(proxy.port()).unwrap_err(), adit_path::ConnectFailure::Refused);
    drop(server);
    until(false);
}

#[test]
fn files_of_one_name_in_two_directories_are_two_networks() {
    let (lab, other) = (Lab::new("names"), Lab::in_network("namesake", 78));
    let theirs = other.directory.join("lab.conf");
    let theirs = theirs.to_str().unwrap();
    lab.ok(&["up", "--config", "lab.conf", "--detach", "--target", "tcp://10.77.0.1:7"]);
    // Only the first is up: the second file means a network that is not.
    let away = lab.run(&["status", "--config", theirs]);
    assert_eq!(away.status.code(), Some(10));
    assert!(
        text(&away.stderr).contains("no adit is running for the profile lab of"),
        "{}",
        text(&away.stderr)
    );
    lab.ok(&["nc", "--config", theirs, "10.78.0.1", "7"]);

    lab.ok(&["up", "--config", theirs, "--detach", "--target", "tcp://10.78.0.1:7"]);
    let status = |flags: &[&str]| {
        let shown = lab.ok(&[&["status", "--json"], flags].concat());
        serde_json::from_str::<serde_json::Value>(&shown).unwrap()
    };
    let (first, second) = (status(&["--config", "lab.conf"]), status(&["--config", theirs]));
    let name = second["profile"].as_str().unwrap();
    assert_eq!(first["profile"], "lab");
    assert!(name.starts_with("lab-") && name.len() == 8, "{name}");
    assert_eq!(second["file"], std::fs::canonicalize(theirs).unwrap().to_str().unwrap());
    assert_eq!(status(&["--profile", "lab"])["pid"], first["pid"]);
    assert_eq!(status(&["--profile", name])["pid"], second["pid"]);
    let unclear = lab.run(&["status"]);
    assert_eq!(unclear.status.code(), Some(2));
    assert!(text(&unclear.stderr).contains(theirs), "{}", text(&unclear.stderr));
    let again = lab.run(&["up", "--config", theirs, "--detach"]);
    assert!(text(&again.stderr).contains("already running"), "{}", text(&again.stderr));

    lab.ok(&["down", "--config", "lab.conf"]);
    // Its name is free now, and still the second network is not started twice.
    let again = lab.run(&["up", "--config", theirs, "--detach"]);
    assert!(text(&again.stderr).contains("already running"), "{}", text(&again.stderr));
    lab.ok(&["down", "--config", theirs]);
    assert_eq!(lab.leftovers(), Vec::<String>::new());
}

#[test]
fn up_ends_with_another_process_and_when_idle() {
    let lab = Lab::new("lifetime");
    let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = other.id().to_string();
    let target = ["--target", "tcp://10.77.0.1:7"];
    let mut up =
        lab.command(&["up", "--config", "lab.conf", "--exit-with", &pid]).args(target).spawn().unwrap();
    wait_for_ready(&lab);
    drop(other.stdin.take());
    other.wait().unwrap();
    assert_eq!(up.wait().unwrap().code(), Some(0));
    let idle = lab.command(&["up", "--config", "lab.conf", "--max-idle", "100ms"]).args(target).status();
    assert_eq!(idle.unwrap().code(), Some(0));
    assert_eq!(lab.leftovers(), Vec::<String>::new());
}

fn wait_for_ready(lab: &Lab) {
    let began = Instant::now();
    while !lab.run(&["status", "--check", "ready"]).status.success() {
        assert!(began.elapsed() < PATIENCE, "it does not come up");
    }
}

#[test]
fn a_port_in_use_is_named_before_anything_is_connected() {
    let lab = Lab::new("port");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = lab.run(&["up", "--config", "lab.conf", &format!("--proxy={address}")]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(10), "{errors}");
    assert!(errors.contains("[env.port_in_use]"), "{errors}");
    assert!(errors.contains(&format!("(pid {})", std::process::id())), "{errors}");
    assert!(Path::new(&lab.directory).exists() && lab.leftovers().is_empty());
}

/// The report of a verification with these flags, and its exit code.
fn report(command: &mut Command) -> (serde_json::Value, Option<i32>) {
    let output = command.output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(serde_json::Value::Null);
    assert_eq!(report["schema"], "adit.verify/1", "{}", text(&output.stderr));
    (report, output.status.code())
}

fn stages(report: &serde_json::Value) -> Vec<(String, String)> {
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    report["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| (word(&stage["id"]), word(&stage["status"])))
        .collect()
}

#[test]
fn the_stages_before_the_network_run_and_fail_like_all_others() {
    let lab = Lab::new("stages");
    let verify = ["verify", "--config", "lab.conf", "--target", "tcp://10.77.0.1:7", "--json"];
    let mut command = lab.command(&verify);
    let (passed, code) = report(command.args(["--events", "events"]));
    assert_eq!(code, Some(0));
    let ok = |id: &str| (id.to_owned(), "ok".to_owned());
    assert_eq!(stages(&passed)[..3], [ok("env"), ok("config"), ok("credential")]);
    assert!(passed["stages"][0]["evidence"]["files"].as_u64() > Some(0), "{passed}");
    assert_eq!(passed["stages"][1]["evidence"]["file"], "lab.conf");
    let events = std::fs::read_to_string(lab.directory.join("events")).unwrap();
    let ids: Vec<String> = events
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|event| event["event"] == "verifying")
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids[..3], ["env", "config", "credential"], "each is told while it happens");

    let good = std::fs::read_to_string(lab.directory.join("lab.conf")).unwrap();
    lab.write("lab.conf", &good.replace("AllowedIPs", "AllowdIPs"));
    let (failed, code) = report(&mut lab.command(&verify));
    assert_eq!((code, failed["failure"]["class"].as_str()), (Some(2), Some("wg.config.parse")));
    assert_eq!(stages(&failed), [ok("env"), ("config".to_owned(), "fail".to_owned())]);
    assert_eq!(failed["failure"]["location"]["line"], 6);
    lab.write("lab.conf", &good.replace(&format!("PrivateKey = {CLIENT_KEY}\n"), ""));
    let (failed, code) = report(&mut lab.command(&verify));
    assert_eq!((code, failed["failure"]["class"].as_str()), (Some(11), Some("wg.key.missing")));
    assert_eq!(stages(&failed), [ok("env"), ok("config"), ("credential".to_owned(), "fail".to_owned())]);

    // A hook shows its user nothing but this.
    let hook = lab.run(&["up", "--config", "lab.conf", "--format", "fabro-hook"]);
    let decision: serde_json::Value = serde_json::from_slice(&hook.stdout).unwrap();
    assert_eq!((hook.status.code(), decision["class"].as_str()), (Some(2), Some("wg.key.missing")));
    let hook = lab.run(&["status", "--format", "fabro-hook"]);
    let decision: serde_json::Value = serde_json::from_slice(&hook.stdout).unwrap();
    assert_eq!((hook.status.code(), decision["class"].as_str()), (Some(2), Some("env.not_running")));
}

/// `adit verify` under another program, which changes what the machine looks like.
fn verify_under(lab: &Lab, wrapper: &[&str]) -> (serde_json::Value, Option<i32>) {
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(env!("CARGO_BIN_EXE_adit"));
    command.args(["verify", "--config", "lab.conf", "--target", "tcp://10.77.0.1:7", "--json"]);
    report(command.current_dir(&lab.directory).env("XDG_RUNTIME_DIR", &lab.directory))
}

#[test]
fn a_machine_that_lacks_something_is_told_so_by_the_stage_env() {
    let lab = Lab::new("lacks");
    let (failed, code) = verify_under(&lab, &["prlimit", "--nofile=48:48"]);
    assert_eq!((code, failed["failure"]["class"].as_str()), (Some(10), Some("env.fd_limit")), "{failed}");
    assert!(failed["failure"]["fix"][0].as_str().unwrap().contains("ulimit -n"), "{failed}");
    assert_eq!(stages(&failed), [("env".to_owned(), "fail".to_owned())]);

    let warned = |wrapper: &[&str], class: &str| {
        let (report, code) = verify_under(&lab, wrapper);
        assert_eq!((code, report["stages"][0]["class"].as_str()), (Some(0), Some(class)), "{report}");
        assert_eq!(report["warnings"][0]["class"], class);
    };
    // First, because a server takes no handshake that is older than the last.
    if Command::new("faketime").arg("--version").output().is_ok() || std::env::var_os("CI").is_some() {
        let real_waits = "FAKETIME_DONT_FAKE_MONOTONIC=1";
        warned(&["env", real_waits, "faketime", "-m", "-f", "-10y"], "env.clock");
    }
    // 60 MiB of address space hold the program, and leave 15 for buffers.
    warned(&["prlimit", "--as=62914560"], "env.memory");
}
