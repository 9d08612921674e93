//! `cargo xtask bench --peers KIND[:LABEL]=PATH…`: forwarders into a WireGuard tunnel beside each other, over a veth pair.
//!
//! All of them run at once, in one network namespace; wireguard-go is the server in another one. Rounds interleave, so
//! that a machine whose speed drifts is as unfair to one as to the other: ratios count, absolute numbers do not. The CPU
//! is that of the forwarder's process alone, for each byte that arrived.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::shell::{Result, Shell};

const USAGE: &str = "usage: cargo xtask bench --peers KIND[:LABEL]=PROGRAM… [--rounds N] [--seconds S]
kinds: adit, onetun, gvfwd-gso, gvfwd-chan (a forwarder on wireguard-go and gVisor's netstack)";

/// Inside the tunnel; the contestants follow from .10 on.
const SERVER: &str = "10.99.0.1";
const TARGET_PORT: u16 = 5201;
const FIRST_PORT: u16 = 21_001;
/// Clock ticks of `/proc/PID/stat` in a second (`USER_HZ`, which is fixed on x86 and Arm).
const TICKS: f64 = 100.0;

struct Contestant {
    label: String,
    kind: String,
    program: PathBuf,
    port: u16,
    address: String,
    private: String,
    public: String,
}

/// What a round gave: bits in a second, and CPU seconds for 10⁹ bytes.
#[derive(Clone, Copy)]
struct Sample {
    gbit: f64,
    cpu: f64,
}

/// Everything that must not outlive the run.
struct Stage {
    names: [String; 2],
    directory: PathBuf,
    children: Vec<Child>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself; there is nobody to tell of anything else.
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

pub(super) fn run(shell: &Shell, arguments: &[String]) -> Result {
    let (mut specs, mut rounds, mut seconds) = (Vec::new(), 5_usize, 2_u32);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--rounds" => rounds = number(words.next())?,
            "--seconds" => seconds = number(words.next())?,
            word => specs.push(word.split_once('=').ok_or(USAGE)?),
        }
    }
    if specs.is_empty() || rounds == 0 || seconds == 0 {
        return Err(USAGE.into());
    }
    if !shell.is_root() {
        return Err("network namespaces need root".into());
    }
    let server = shell.path("target/peers/wireguard-go");
    if !server.is_file() {
        return Err("wireguard-go is missing; `cargo xtask setup` builds it".into());
    }
    let contestants = specs
        .iter()
        .enumerate()
        .map(|(index, (what, program))| contestant(shell, index, what, program))
        .collect::<Result<Vec<_>>>()?;
    let mut stage = stage(shell)?;
    let private = key(shell, &["genkey"], "")?;
    start_server(shell, &mut stage, &server, &private, &contestants)?;
    let public = key(shell, &["pubkey"], &private)?;
    let mut pids = Vec::new();
    for contestant in &contestants {
        pids.push(start(&mut stage, contestant, &public)?);
    }
    for contestant in &contestants {
        wait_for(&stage.names[0], contestant)?;
    }
    let samples = measure(&stage, &contestants, &pids, rounds, seconds)?;
    print(&contestants, &samples);
    Ok(())
}

fn number<T: std::str::FromStr>(word: Option<&String>) -> Result<T> {
    word.and_then(|word| word.parse().ok()).ok_or_else(|| USAGE.to_owned())
}

fn contestant(shell: &Shell, index: usize, what: &str, program: &str) -> Result<Contestant> {
    let (kind, label) = what.split_once(':').unwrap_or((what, what));
    if !["adit", "onetun", "gvfwd-gso", "gvfwd-chan"].contains(&kind) {
        return Err(format!("`{kind}` is no kind of forwarder\n{USAGE}"));
    }
    let program = fs::canonicalize(program).map_err(|error| format!("{program}: {error}"))?;
    let private = key(shell, &["genkey"], "")?;
    let public = key(shell, &["pubkey"], &private)?;
    Ok(Contestant {
        label: label.to_owned(),
        kind: kind.to_owned(),
        program,
        port: FIRST_PORT + index as u16,
        address: format!("10.99.0.{}", 10 + index),
        private,
        public,
    })
}

fn key(shell: &Shell, arguments: &[&str], input: &str) -> Result<String> {
    // `wg pubkey` reads standard input; a shell is the shortest way to give it some.
    let mut command = shell.command("sh");
    command.args(["-c", "printf %s \"$2\" | wg $1", "wg", arguments[0], input]);
    Ok(shell.output(&mut command)?.trim().to_owned())
}

fn stage(shell: &Shell) -> Result<Stage> {
    let id = std::process::id();
    let names = [format!("adit-bench{id}-c"), format!("adit-bench{id}-s")];
    let directory = std::env::temp_dir().join(format!("adit-bench{id}"));
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let stage = Stage { names, directory, children: Vec::new() };
    let [client, server] = &stage.names;
    for line in [
        format!("netns add {client}"),
        format!("netns add {server}"),
        format!("-n {client} link set lo up"),
        format!("-n {server} link set lo up"),
        format!("-n {client} link add name veth0 type veth peer name veth0 netns {server}"),
        format!("-n {client} addr add 192.0.2.1/24 dev veth0"),
        format!("-n {server} addr add 192.0.2.2/24 dev veth0"),
        format!("-n {client} link set veth0 up"),
        format!("-n {server} link set veth0 up"),
    ] {
        shell.output(shell.command("ip").args(line.split(' ')))?;
    }
    Ok(stage)
}

fn start_server(
    shell: &Shell,
    stage: &mut Stage,
    program: &Path,
    private: &str,
    contestants: &[Contestant],
) -> Result {
    let netns = stage.names[1].clone();
    // The name is also that of the control socket, which all namespaces share.
    let interface = format!("awb{}", std::process::id());
    let mut child = inside(&netns, program);
    stage.children.push(spawn(child.args(["-f", &interface]))?);
    let socket = PathBuf::from(format!("/var/run/wireguard/{interface}.sock"));
    until("wireguard-go opens its control socket", || socket.exists())?;
    let mut conf = format!("[Interface]\nPrivateKey = {private}\nListenPort = 51820\n");
    for contestant in contestants {
        conf +=
            &format!("[Peer]\nPublicKey = {}\nAllowedIPs = {}/32\n", contestant.public, contestant.address);
    }
    let file = stage.directory.join("server.conf");
    fs::write(&file, conf).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut setconf = inside(&netns, "wg");
    shell.output(setconf.args(["setconf", &interface]).arg(&file))?;
    for line in [
        format!("-n {netns} addr add {SERVER}/24 dev {interface}"),
        format!("-n {netns} link set {interface} mtu 1420 up"),
    ] {
        shell.output(shell.command("ip").args(line.split(' ')))?;
    }
    let mut sink = inside(&netns, "iperf3");
    stage.children.push(spawn(sink.args(["-s", "-p", &TARGET_PORT.to_string()]))?);
    Ok(())
}

/// Starts a forwarder from its port on loopback to the server inside; returns its process.
fn start(stage: &mut Stage, contestant: &Contestant, server: &str) -> Result<u32> {
    let Contestant { kind, program, port, address, private, .. } = contestant;
    let mut command = inside(&stage.names[0], program);
    match kind.as_str() {
        "adit" => {
            let file = stage.directory.join(format!("{port}.conf"));
            let conf = format!(
                "[Interface]\nPrivateKey = {private}\nAddress = {address}/32\nMTU = 1420\n\
                 [Peer]\nPublicKey = {server}\nEndpoint = 192.0.2.2:51820\nAllowedIPs = 10.99.0.0/24\n"
            );
            fs::write(&file, conf).map_err(|error| format!("{}: {error}", file.display()))?;
            shut(&file)?;
            command.arg("forward").arg(format!("127.0.0.1:{port}:{SERVER}:{TARGET_PORT}"));
            command.arg("--config").arg(&file);
            // Whatever runs on this machine otherwise is not asked.
            command.env("ADIT_SOCKET", stage.directory.join(format!("{port}.sock")));
        }
        "onetun" => {
            command.arg(format!("127.0.0.1:{port}:{SERVER}:{TARGET_PORT}:TCP"));
            command.args(["--private-key", private, "--endpoint-public-key", server]);
            command.args([
                "--endpoint-addr",
                "192.0.2.2:51820",
                "--source-peer-ip",
                address,
                "--log",
                "error",
            ]);
        }
        gvfwd => {
            let mode = gvfwd.trim_start_matches("gvfwd-");
            command.args(["-mode", mode, "-priv", private, "-pub", server, "-endpoint", "192.0.2.2:51820"]);
            command.args(["-ip", address, "-listen", &format!("127.0.0.1:{port}")]);
            command.args(["-target", &format!("{SERVER}:{TARGET_PORT}")]);
        }
    }
    let child = spawn(&mut command)?;
    let pid = child.id();
    stage.children.push(child);
    Ok(pid)
}

fn shut(file: &Path) -> Result {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))
        .map_err(|error| format!("{}: {error}", file.display()))
}

/// A command in a namespace. `ip` replaces itself by the program, so the process is the program's.
fn inside(netns: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns]).arg(program).stdin(Stdio::null());
    command
}

fn spawn(command: &mut Command) -> Result<Child> {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map_err(|error| format!("{command:?} did not start: {error}"))
}

fn until(what: &str, mut done: impl FnMut() -> bool) -> Result {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > Duration::from_secs(20) {
            return Err(format!("not within 20 seconds: {what}"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn wait_for(netns: &str, contestant: &Contestant) -> Result {
    until(&format!("{} carries a first connection", contestant.label), || {
        iperf(netns, contestant.port, 1, false, &["-n", "1000"]).is_ok()
    })
}

/// One measured transfer; returns the bytes that arrived and for how long they did.
fn iperf(netns: &str, port: u16, seconds: u32, down: bool, more: &[&str]) -> Result<(f64, f64)> {
    let mut command = inside(netns, "timeout");
    command.args([&(seconds + 8).to_string(), "iperf3", "-J", "-c", "127.0.0.1", "-p", &port.to_string()]);
    command.args(more);
    if more.is_empty() {
        command.args(["-t", &seconds.to_string()]);
    }
    if down {
        command.arg("-R");
    }
    let output = command.output().map_err(|error| format!("iperf3 did not start: {error}"))?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("iperf3 printed no report: {error}"))?;
    let sum = &report["end"]["sum_received"];
    match (report["error"].as_str(), sum["bytes"].as_f64(), sum["seconds"].as_f64()) {
        (None, Some(bytes), Some(seconds)) => Ok((bytes, seconds)),
        (error, ..) => Err(error.unwrap_or("the report has no sum").to_owned()),
    }
}

fn measure(
    stage: &Stage,
    contestants: &[Contestant],
    pids: &[u32],
    rounds: usize,
    seconds: u32,
) -> Result<BTreeMap<(usize, bool), Vec<Sample>>> {
    let mut samples: BTreeMap<(usize, bool), Vec<Sample>> = BTreeMap::new();
    for round in 0..rounds {
        for down in [false, true] {
            for step in 0..contestants.len() {
                // Whoever goes first in one round does not in the next.
                let index = (step + round) % contestants.len();
                let before = ticks(pids[index])?;
                let sample = match iperf(&stage.names[0], contestants[index].port, seconds, down, &[]) {
                    Ok((bytes, time)) if bytes > 0.0 && time > 0.0 => {
                        let cpu = (ticks(pids[index])? - before) / TICKS;
                        Sample { gbit: bytes * 8.0 / time / 1e9, cpu: cpu / (bytes / 1e9) }
                    }
                    // A transfer that stood still is a result too.
                    Ok(_) | Err(_) => Sample { gbit: 0.0, cpu: f64::NAN },
                };
                println!(
                    "round {round}, {:<4} {:<12} {:6.3} Gbit/s {:7.2} CPU-s/GB",
                    if down { "down" } else { "up" },
                    contestants[index].label,
                    sample.gbit,
                    sample.cpu,
                );
                samples.entry((index, down)).or_default().push(sample);
            }
        }
    }
    Ok(samples)
}

/// User and system time of a process (proc_pid_stat(5)).
fn ticks(pid: u32) -> Result<f64> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|_| "a contestant has died".to_owned())?;
    // The second field, the name, may contain anything but ends with the last parenthesis.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let field = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
    field(11)
        .zip(field(12))
        .map(|(user, system)| user + system)
        .ok_or("the kernel's words have changed".into())
}

fn print(contestants: &[Contestant], samples: &BTreeMap<(usize, bool), Vec<Sample>>) {
    println!(
        "\n{:<12} {:>26} {:>26} {:>22} {:>22}",
        "", "up, Gbit/s", "down, Gbit/s", "up, CPU-s/GB", "down, CPU-s/GB"
    );
    for (index, contestant) in contestants.iter().enumerate() {
        let cell = |down: bool, value: fn(&Sample) -> f64| {
            let values = samples.get(&(index, down)).map(Vec::as_slice).unwrap_or_default();
            let (low, middle, high) = spread(values.iter().map(value).collect());
            format!("{middle:.2} ({low:.2}..{high:.2})")
        };
        println!(
            "{:<12} {:>26} {:>26} {:>22} {:>22}",
            contestant.label,
            cell(false, |sample| sample.gbit),
            cell(true, |sample| sample.gbit),
            cell(false, |sample| sample.cpu),
            cell(true, |sample| sample.cpu),
        );
    }
    println!("\nratios to {}, round by round, median:", contestants[0].label);
    for (index, contestant) in contestants.iter().enumerate().skip(1) {
        let ratio = |down: bool, value: fn(&Sample) -> f64| {
            let of = |index: usize| samples.get(&(index, down)).map(Vec::as_slice).unwrap_or_default();
            let pairs = of(0).iter().zip(of(index));
            spread(pairs.map(|(first, other)| value(first) / value(other)).collect()).1
        };
        println!(
            "  {} / {:<12} Gbit/s {:.2} up, {:.2} down; CPU-s/GB {:.2} up, {:.2} down",
            contestants[0].label,
            contestant.label,
            ratio(false, |sample| sample.gbit),
            ratio(true, |sample| sample.gbit),
            ratio(false, |sample| sample.cpu),
            ratio(true, |sample| sample.cpu),
        );
    }
}

/// The least, the middle and the greatest of the values that are numbers.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.retain(|value| !value.is_nan());
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)))
}
