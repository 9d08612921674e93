//! `adit up --mode tun`: a device with addresses, routes and DNS, for programs that know nothing of adit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Conf, Lab, Part, run};

const LIMIT: Duration = Duration::from_secs(60);
/// What the laboratory's client has before.
const ORIGINAL: &str = "nameserver 192.0.2.53\n";

/// `adit` as root of the sandbox, whose state lies in the laboratory.
pub(crate) fn adit(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = lab.client.command(lab.binary());
    command.args(arguments).env("XDG_RUNTIME_DIR", root_dir(lab, "root-run"));
    command.env("ADIT_STATE_DIR", state(lab));
    command
}

fn state(lab: &Lab) -> PathBuf {
    root_dir(lab, "state")
}

/// A directory of root alone.
fn root_dir(lab: &Lab, name: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = lab.dir.path().join(name);
    if !path.exists() {
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    path
}

/// A configuration that only root may read.
fn conf(lab: &Lab, conf: impl std::fmt::Display) -> String {
    let path = lab.write("lab.conf", conf);
    std::os::unix::fs::chown(&path, Some(0), Some(0)).unwrap();
    path.to_string_lossy().into_owned()
}

fn resolv(lab: &Lab) -> String {
    fs::read_to_string(lab.client.resolv_conf()).unwrap()
}

fn routes(lab: &Lab) -> String {
    let show = |family| run(lab.client.command("ip").args([family, "route"]), LIMIT).expect(0).text();
    format!("{}\n{}", show("-4"), show("-6"))
}

fn status(lab: &Lab) -> Value {
    let status = run(&mut adit(lab, &["status", "--json"]), LIMIT).expect(0);
    serde_json::from_slice(&status.stdout).unwrap()
}

/// What any program of the sandbox gets, without `exec`.
fn curl(lab: &Lab, url: &str) -> String {
    let mut curl = lab.client.command("curl");
    curl.args(["-sS", "--fail", "--max-time", "20", url]);
    run(&mut curl, LIMIT).expect(0).text()
}

/// Ends the daemon also when the test fails.
pub(crate) struct Down<'a>(pub(crate) &'a Lab);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let down = run(&mut adit(self.0, &["down"]), LIMIT);
        if !std::thread::panicking() {
            down.expect(0);
        }
    }
}

#[test]
fn every_program_reaches_the_network_and_everything_is_put_back() {
    let Some(lab) = Lab::build("tun", &[Part::Postgres, Part::Names]) else { return };
    let before = routes(&lab);
    // By name: the device's resolv.conf must not stand in the way of its own endpoint.
    let mut wanted = lab.conf();
    wanted.endpoint = "vpn.example.test:51820".into();
    let conf = conf(&lab, wanted);
    let target = "tcp://staging-db.internal:5432,postgres";
    let up = ["up", "--detach", "--json", "--mode", "tun", "--config", &conf, "--target", target];
    let up = run(&mut adit(&lab, &up), LIMIT).expect(0);
    let guard = Down(&lab);
    let report: Value = serde_json::from_slice(&up.stdout).unwrap();
    assert_eq!((&report["ok"], &report["mode"]), (&true.into(), &"tun".into()), "{up}");

    assert_eq!(curl(&lab, "http://four.corp.internal/peer"), "10.66.0.2");
    assert_eq!(curl(&lab, "http://six.corp.internal/peer"), "fd66::2");
    let mut psql = lab.client.command("psql");
    psql.args(["-h", "staging-db.internal", "-U", "nobody", "-Atc", "select count(*) from orders"]);
    assert_eq!(run(&mut psql, LIMIT).expect(0).text(), "3");
    // What is public stays outside.
    assert_eq!(curl(&lab, "http://192.0.2.80/peer"), "192.0.2.2");

    let during = routes(&lab);
    for route in ["10.77.0.0/16 dev adit0", "unreachable 10.77.0.0/16", "fd77::/64 dev adit0"] {
        assert!(during.contains(route), "{route} is missing:\n{during}");
    }
    assert!(resolv(&lab).ends_with("search corp.internal\nnameserver 10.77.0.53\nnameserver fd77::53\n"));
    let status = status(&lab);
    assert_eq!((&status["mode"], &status["device"]), (&"tun".into(), &"adit0".into()), "{status}");
    let shown = run(&mut adit(&lab, &["status"]), LIMIT).expect(0);
    assert!(shown.text().contains("device     adit0"), "{shown}");

    // Through the device as every program: a name that only the private resolver knows, a target that refuses.
    let verify =
        ["verify", "--json", "--target", "http://files.corp.internal/healthz", "--target", "command=true"];
    let verify = run(&mut adit(&lab, &verify), LIMIT).expect(0);
    let report: Value = serde_json::from_slice(&verify.stdout).unwrap();
    assert_eq!(report["mode"], "tun", "{verify}");
    let verify =
        run(&mut adit(&lab, &["verify", "--json", "--target", "tcp://10.77.1.67:80"]), LIMIT).expect(31);
    let report: Value = serde_json::from_slice(&verify.stdout).unwrap();
    assert_eq!(report["failure"]["class"], "wg.icmp.unreach", "{verify}");

    drop(guard);
    assert_eq!(routes(&lab), before);
    assert_eq!(resolv(&lab), ORIGINAL);
    let left: Vec<_> = fs::read_dir(state(&lab)).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["lock"], "only the lock's file is left");
}

/// Whether every thread of a process has ended, and so all its files are closed; nobody may have reaped it yet.
fn has_ended(pid: Pid) -> bool {
    let process = Path::new("/proc").join(pid.as_raw_pid().to_string());
    let Ok(stat) = fs::read_to_string(process.join("stat")) else { return true };
    let is_zombie = stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    is_zombie && fs::read_dir(process.join("task")).map_or(0, Iterator::count) <= 1
}

#[test]
fn what_a_killed_run_left_is_guarded_and_put_back_at_the_next_start() {
    let Some(lab) = Lab::build("tun_killed", &[Part::Names]) else { return };
    let before = routes(&lab);
    let mut wanted = lab.conf();
    wanted.endpoint = "vpn.example.test:51820".into();
    let conf = conf(&lab, wanted);
    let kill = || {
        run(&mut adit(&lab, &["up", "--detach", "--mode", "tun", "--config", &conf]), LIMIT).expect(0);
        let pid = status(&lab)["pid"].as_i64().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        // The device goes before the locks do.
        let gone = || !routes(&lab).contains("dev adit0") && has_ended(pid);
        crate::support::wait_until("the device and the process are gone", LIMIT, gone);
        // Its routes went with the device; the guards keep private packets from taking another way.
        assert!(routes(&lab).contains("unreachable 10.77.0.0/16"), "{}", routes(&lab));
        assert!(resolv(&lab).contains("10.77.0.53"), "{}", resolv(&lab));
    };
    kill();
    // Nothing resolves here now, and yet the next start finds its endpoint.
    run(&mut adit(&lab, &["up", "--detach", "--mode", "tun", "--config", &conf]), LIMIT).expect(0);
    assert_eq!(curl(&lab, "http://files.corp.internal/healthz"), "ok");
    drop(Down(&lab));
    assert_eq!((routes(&lab), resolv(&lab)), (before.clone(), ORIGINAL.to_owned()));

    kill();
    let down = run(&mut adit(&lab, &["down"]), LIMIT).expect(0);
    assert!(down.stderr.contains("put back"), "{down}");
    assert_eq!((routes(&lab), resolv(&lab)), (before.clone(), ORIGINAL.to_owned()));

    // A start without a device puts things back too.
    kill();
    run(&mut adit(&lab, &["up", "--detach", "--mode", "userspace", "--config", &conf]), LIMIT).expect(0);
    let userspace = Down(&lab);
    assert_eq!((routes(&lab), resolv(&lab)), (before, ORIGINAL.to_owned()));
    assert_eq!(status(&lab)["mode"], "userspace");
    drop(userspace);
}

#[test]
fn a_default_route_keeps_the_endpoint_outside() {
    let Some(lab) = Lab::build("tun_default", &[Part::Names]) else { return };
    // The public resolver is off the link, so that the tunnel's default route would take it in.
    lab.server.ip("addr add 198.51.100.53/32 dev lo");
    lab.client.set_resolv_conf(ORIGINAL);
    let mut wanted = lab.conf();
    wanted.endpoint = "vpn.example.test:51820".into();
    wanted.allowed_ips = vec!["0.0.0.0/0".into(), "::/0".into()];
    let conf = conf(&lab, wanted);
    let up =
        ["up", "--detach", "--mode", "tun", "--config", &conf, "--target", "tcp://files.corp.internal:80"];
    run(&mut adit(&lab, &up), LIMIT).expect(0);
    let guard = Down(&lab);
    let way = |to: &str| run(lab.client.command("ip").args(["route", "get", to]), LIMIT).expect(0).text();
    assert!(way("203.0.113.9").contains("dev adit0"), "{}", way("203.0.113.9"));
    assert!(way("192.0.2.1").contains("dev eth0"), "{}", way("192.0.2.1"));
    assert_eq!(curl(&lab, "http://files.corp.internal/healthz"), "ok");
    drop(guard);
    assert!(way("203.0.113.9").contains("via 192.0.2.1"), "{}", way("203.0.113.9"));
}

/// `up --mode tun` with a configuration that it must refuse; returns what it said.
#[track_caller]
fn refused(lab: &Lab, wanted: &Conf, exit: i32) -> String {
    let before = routes(lab);
    let conf = conf(lab, wanted);
    let up = run(&mut adit(lab, &["up", "--mode", "tun", "--timeout", "10s", "--config", &conf]), LIMIT);
    let up = up.expect(exit);
    assert_eq!((routes(lab), resolv(lab)), (before, ORIGINAL.to_owned()), "nothing was changed: {up}");
    up.stderr
}

#[test]
fn routes_that_would_cut_the_sandbox_off_are_refused() {
    let Some(lab) = Lab::build("tun_clash", &[]) else { return };
    let mut wanted = lab.conf();
    wanted.allowed_ips = vec!["10.77.0.0/16".into(), "192.0.0.0/16".into()];
    let said = refused(&lab, &wanted, 23);
    assert!(said.contains("[wg.allowedips.clash]"), "{said}");
    assert!(
        said.contains("192.0.0.0/16") && said.contains("192.0.2.0/24") && said.contains("eth0"),
        "{said}"
    );
    assert!(said.contains("--mode userspace"), "{said}");

    wanted.allowed_ips = vec!["169.254.169.254/32".into()];
    let said = refused(&lab, &wanted, 23);
    assert!(said.contains("[wg.allowedips.clash]") && said.contains("169.254.0.0/16"), "{said}");

    lab.client.set_resolv_conf("nameserver 198.51.100.53\n");
    wanted.allowed_ips = vec!["198.51.100.0/24".into()];
    let conf = conf(&lab, &wanted);
    let said = run(&mut adit(&lab, &["up", "--mode", "tun", "--config", &conf]), LIMIT).expect(23).stderr;
    assert!(said.contains("198.51.100.53"), "{said}");
}

#[test]
fn where_no_device_is_allowed_one_sentence_says_so_and_auto_goes_without() {
    let Some(lab) = Lab::build("tun_nobody", &[Part::Names]) else { return };
    let conf = lab.write("lab.conf", lab.conf()).to_string_lossy().into_owned();
    let up = run(&mut lab.adit(&["up", "--mode", "tun", "--config", &conf]), LIMIT).expect(10);
    assert!(up.stderr.contains("[env.no_tun]") && up.stderr.contains("CAP_NET_ADMIN"), "{up}");
    assert!(up.stderr.contains("--mode userspace") && up.stderr.contains("--device /dev/net/tun"), "{up}");

    let up = run(&mut lab.adit(&["up", "--detach", "--mode", "auto", "--config", &conf]), LIMIT).expect(0);
    assert!(up.stderr.contains("no TUN device: ") && up.stderr.contains("CAP_NET_ADMIN"), "{up}");
    let status = run(&mut lab.adit(&["status", "--json"]), LIMIT).expect(0);
    run(&mut lab.adit(&["down"]), LIMIT).expect(0);
    assert!(status.text().contains("\"userspace\""), "{status}");
}

#[test]
fn auto_takes_a_device_where_it_is_allowed_and_nobody_named_a_mode_gets_none() {
    let Some(lab) = Lab::build("tun_auto", &[Part::Names]) else { return };
    let conf = conf(&lab, lab.conf());
    for (arguments, mode) in [(&["--mode", "auto"][..], "tun"), (&[][..], "userspace")] {
        let mut up = adit(&lab, &["up", "--detach", "--config", &conf]);
        run(up.args(arguments), LIMIT).expect(0);
        let guard = Down(&lab);
        assert_eq!(status(&lab)["mode"], mode);
        drop(guard);
    }
}
