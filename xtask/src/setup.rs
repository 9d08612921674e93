//! `cargo xtask setup`: installs what the tests need, and says what it could not install.

use std::fs;
use std::path::Path;

use crate::shell::{Result, Shell};

/// A program that the tests start, and the Debian package that has it.
const PACKAGES: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("wg", "wireguard-tools"),
    ("openvpn", "openvpn"),
    ("openssl", "openssl"),
    ("tinyproxy", "tinyproxy"),
    ("microsocks", "microsocks"),
    ("dnsmasq", "dnsmasq-base"),
    ("runc", "runc"),
    ("curl", "curl"),
    ("iperf3", "iperf3"),
    ("psql", "postgresql-client"),
    ("/usr/bin/python3", "python3"),
    ("setpriv", "util-linux"),
    ("gcc", "gcc"),
    ("nft", "nftables"),
    ("faketime", "faketime"),
];

/// The module whose embedded JSON is the seccomp profile that Docker gives to every container.
const SECCOMP_MODULE: &str = "github.com/moby/profiles/seccomp@latest";
/// The WireGuard peer of the laboratory.
const WIREGUARD_MODULE: &str = "golang.zx2c4.com/wireguard@latest";

/// The peers of a tailnet: the module in `tests/peers` that pins them, and what it builds. The control server is pinned
/// apart, because together with the nodes it would lift them to a version between releases.
const TAILNET: &[(&str, &[&str])] = &[
    ("headscale", &["github.com/juanfont/headscale/cmd/headscale"]),
    (
        "tailscale",
        &["tailscale.com/cmd/derper", "tailscale.com/cmd/tailscale", "tailscale.com/cmd/tailscaled"],
    ),
];

pub(crate) fn run(shell: &Shell, arguments: &[String]) -> Result {
    let asked = |option: &str| arguments.iter().any(|argument| argument == option);
    shell.step("setup");
    let mut missing = packages(shell);
    missing.extend(peers(shell));
    if asked("--tailnet") {
        missing.extend(tailnet(shell));
    }
    if asked("--fuzz") && shell.find("cargo-fuzz").is_none() {
        shell.run(&mut shell.cargo(["install", "cargo-fuzz", "--locked"]))?;
    }
    if missing.is_empty() {
        println!("everything that the tests need is installed");
        return Ok(());
    }
    for line in &missing {
        println!("missing: {line}");
    }
    if shell.ci() {
        return Err(format!("{} things are missing, and CI must not skip tests", missing.len()));
    }
    println!("tests that need these are skipped, counted and named");
    Ok(())
}

/// Installs the Debian packages whose programs are missing; returns what is missing still.
fn packages(shell: &Shell) -> Vec<String> {
    let wanted = wanted_packages(shell);
    if wanted.is_empty() {
        return Vec::new();
    }
    println!("not installed: {}", wanted.join(" "));
    if !shell.is_root() {
        return vec![format!("{} (run as root: apt-get install {})", wanted.join(", "), wanted.join(" "))];
    }
    if let Err(why) = install(shell, &wanted) {
        return wanted_packages(shell).iter().map(|package| format!("{package} ({why})")).collect();
    }
    wanted_packages(shell)
        .iter()
        .map(|package| format!("{package} (installed, but its program is not found)"))
        .collect()
}

fn install(shell: &Shell, packages: &[&str]) -> Result {
    shell.run(shell.command("apt-get").args(["update", "-qq"]))?;
    let mut command = shell.command("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["install", "--yes", "--no-install-recommends", "-qq"]).args(packages);
    shell.run(&mut command)
}

fn wanted_packages(shell: &Shell) -> Vec<&'static str> {
    let mut wanted: Vec<&str> = PACKAGES
        .iter()
        .filter(|(program, _)| shell.find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if !has_postgres_server() {
        wanted.push("postgresql");
    }
    wanted
}

/// Whether some version's server is there: Debian keeps it out of `PATH`.
fn has_postgres_server() -> bool {
    fs::read_dir("/usr/lib/postgresql")
        .is_ok_and(|versions| versions.flatten().any(|version| version.path().join("bin/initdb").is_file()))
}

/// Builds wireguard-go and fetches the seccomp profile into target/peers; returns what is missing still.
fn peers(shell: &Shell) -> Vec<String> {
    let directory = shell.path("target/peers");
    if let Err(error) = fs::create_dir_all(&directory) {
        return vec![format!("{}: {error}", directory.display())];
    }
    let mut missing = Vec::new();
    if let Err(why) = wireguard_go(shell, &directory) {
        missing.push(format!("wireguard-go: {why}"));
    }
    if let Err(why) = seccomp_profile(shell, &directory) {
        missing.push(format!("Docker's seccomp profile: {why}"));
    }
    missing
}

fn wireguard_go(shell: &Shell, directory: &Path) -> Result {
    let installed = directory.join("wireguard-go");
    if installed.is_file() {
        return Ok(());
    }
    let mut command = go(shell, directory)?;
    command.args(["install", WIREGUARD_MODULE]).env("GOBIN", directory).env("CGO_ENABLED", "0");
    shell.run(&mut command)?;
    // `go install` names a program after its module.
    fs::rename(directory.join("wireguard"), &installed)
        .map_err(|error| format!("renaming to {}: {error}", installed.display()))
}

/// Builds the peers of a tailnet into target/peers; returns what is missing still. From nothing it takes a quarter of an
/// hour and 4 GB, so it is done when asked for.
fn tailnet(shell: &Shell) -> Vec<String> {
    let directory = shell.path("target/peers");
    let build = |module: &str, packages: &[&str]| -> Result {
        let program = |package: &&str| directory.join(package.rsplit('/').next().unwrap_or(package));
        if packages.iter().all(|package| program(package).is_file()) {
            return Ok(());
        }
        let mut command = go(shell, &directory)?;
        command.current_dir(shell.path("tests/peers").join(module)).env("CGO_ENABLED", "0");
        // The name of a directory: programs are put into it under their own names.
        command.args(["build", "-o"]).arg(directory.join("")).args(packages);
        shell.run(&mut command)
    };
    let mut missing = Vec::new();
    for (module, packages) in TAILNET {
        if let Err(why) = build(module, packages) {
            missing.push(format!("{}: {why}", packages.join(", ")));
        }
    }
    missing
}

fn seccomp_profile(shell: &Shell, directory: &Path) -> Result {
    let installed = directory.join("docker-seccomp.json");
    if installed.is_file() {
        return Ok(());
    }
    let mut command = go(shell, directory)?;
    command.args(["mod", "download", "-json", SECCOMP_MODULE]);
    let text = shell.output(&mut command)?;
    let module: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| format!("`go mod download -json` printed no JSON: {error}"))?;
    let folder = module["Dir"].as_str().ok_or("`go mod download -json` names no directory")?;
    let profile = Path::new(folder).join("default.json");
    fs::copy(&profile, &installed).map_err(|error| format!("copying {}: {error}", profile.display()))?;
    Ok(())
}

/// The go command with everything it writes below `target/peers`.
fn go(shell: &Shell, directory: &Path) -> Result<std::process::Command> {
    let program = shell.find("go").or_else(|| {
        let usual = Path::new("/usr/local/go/bin/go");
        usual.is_file().then(|| usual.to_path_buf())
    });
    let mut command = shell.command(program.ok_or("the go command is not installed")?);
    command.env("GOPATH", directory.join("go")).env("GOFLAGS", "-modcacherw").current_dir(directory);
    Ok(command)
}
