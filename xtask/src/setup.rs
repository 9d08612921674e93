//! `cargo xtask setup`: installs what the tests need, and says what it could not install.

mod debian;
mod peers;

use std::fs;

use crate::shell::{Result, Shell};

/// A program that the tests start, and the Debian package that has it.
const PACKAGES: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("wg", "wireguard-tools"),
    ("openvpn", "openvpn"),
    ("openssl", "openssl"),
    ("tinyproxy", "tinyproxy"),
    ("squid", "squid"),
    ("microsocks", "microsocks"),
    ("danted", "dante-server"),
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

pub(crate) fn run(shell: &Shell, arguments: &[String]) -> Result {
    let asked = |option: &str| arguments.iter().any(|argument| argument == option);
    shell.step("setup");
    let mut missing = packages(shell);
    missing.extend(peers::install(shell));
    missing.extend(debian::install(shell));
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
