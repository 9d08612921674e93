//! The next release of OpenVPN, which the machine's own Debian may not have: packages of a later Debian, downloaded by
//! `apt-get` into a directory of their own. Nothing of the machine changes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::peers;
use crate::shell::{Result, Shell};

/// The program's name in `target/peers`.
const PROGRAM: &str = "openvpn-2.7";
const SUITE: &str = "trixie-backports";
const SUITES: [&str; 2] = ["trixie", SUITE];
/// Starts the program with the C library and OpenSSL that it was built for.
const START: &str = "#!/bin/sh\n\
    root=$(dirname \"$(readlink -f \"$0\")\")/root\n\
    libraries=$root/usr/lib/x86_64-linux-gnu\n\
    exec \"$libraries/ld-linux-x86-64.so.2\" --library-path \"$libraries\" \"$root/usr/sbin/openvpn\" \"$@\"\n";

/// Puts the program into `target/peers`; returns what is missing still.
pub(super) fn install(shell: &Shell) -> Vec<String> {
    let directory = shell.path("target/peers");
    let cache = peers::cache().unwrap_or_else(|| directory.clone());
    let whole = cache.join("peers").join(PROGRAM);
    let installed = download_once(shell, &whole)
        .and_then(|()| peers::link(&whole.join("openvpn"), &directory.join(PROGRAM)));
    installed.err().map(|why| format!("OpenVPN of {SUITE}: {why}")).into_iter().collect()
}

/// Downloads into a directory of its own and moves it to its place when it is whole.
fn download_once(shell: &Shell, whole: &Path) -> Result {
    if whole.is_dir() {
        return Ok(());
    }
    let partial = whole.with_extension(std::process::id().to_string());
    let moved = download(shell, &partial)
        .and_then(|()| fs::rename(&partial, whole).map_err(|error| format!("{}: {error}", whole.display())));
    if moved.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    match moved {
        // Somebody else was quicker.
        Err(_) if whole.is_dir() => Ok(()),
        moved => moved,
    }
}

/// Where the machine gets its own packages: other releases lie there too.
fn mirror(shell: &Shell) -> Result<String> {
    let mut command = shell.command("apt-get");
    command.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]);
    let printed = shell.output(&mut command)?;
    let first = printed.lines().next().map(str::trim).filter(|uri| !uri.is_empty());
    Ok(first.ok_or("apt knows no mirror of Debian (run apt-get update)")?.to_owned())
}

fn download(shell: &Shell, at: &Path) -> Result {
    let mirror = mirror(shell)?;
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let sources = SUITES.map(|suite| format!("deb [signed-by={keys}] {mirror} {suite} main\n")).concat();
    let apt = at.join("apt");
    for directory in ["apt/lists/partial", "apt/archives/partial", "root"] {
        let path = at.join(directory);
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let path = apt.display();
    let configuration = format!(
        "Dir::State \"{path}\";\nDir::State::status \"{path}/status\";\nDir::State::lists \"{path}/lists\";\n\
         Dir::Cache \"{path}\";\nDir::Cache::archives \"{path}/archives\";\n\
         Dir::Etc::sourcelist \"{path}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
         Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n\
         Acquire::Languages \"none\";\nAPT::Install-Recommends \"false\";\nAPT::Sandbox::User \"root\";\n"
    );
    for (name, text) in [("sources.list", sources.as_str()), ("status", ""), ("apt.conf", &configuration)] {
        write(&apt.join(name), text)?;
    }
    let run = |arguments: &[&str]| {
        let mut command = shell.command("apt-get");
        shell.run(command.env("APT_CONFIG", apt.join("apt.conf")).arg("-qq").args(arguments))
    };
    run(&["update"])?;
    run(&["install", "--yes", "--download-only", "-t", SUITE, "openvpn"])?;
    let archives = apt.join("archives");
    let packages = fs::read_dir(&archives).map_err(|error| format!("{}: {error}", archives.display()))?;
    for package in packages.flatten().map(|entry| entry.path()) {
        if package.extension().is_some_and(|extension| extension == "deb") {
            let mut command = shell.command("dpkg-deb");
            shell.run(command.arg("--extract").arg(package).arg(at.join("root")))?;
        }
    }
    let start = at.join("openvpn");
    write(&start, START)?;
    fs::set_permissions(&start, fs::Permissions::from_mode(0o755))
        .map_err(|error| format!("{}: {error}", start.display()))?;
    let _ = fs::remove_dir_all(&apt);
    shell.output(shell.command(&start).arg("--version")).map(drop)
}

fn write(path: &Path, text: &str) -> Result {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
