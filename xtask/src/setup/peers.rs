//! The peers of the laboratory that are built from source: Go programs, each pinned by a module in `tests/peers`.
//!
//! From nothing the tailnet's take a quarter of an hour and 4 GB. So what is built and what is downloaded lies in a
//! cache of the user, and `target/peers` holds links into it: a fresh clone builds nothing again.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{Result, Shell};

/// A module of `tests/peers`, and its packages with the names that their programs get.
struct Module {
    name: &'static str,
    programs: &'static [(&'static str, &'static str)],
}

/// The control server of the tailnet is pinned apart from the nodes: together, it would lift them to a version between
/// two releases.
const MODULES: &[Module] = &[
    Module { name: "wireguard", programs: &[("golang.zx2c4.com/wireguard", "wireguard-go")] },
    Module { name: "headscale", programs: &[("github.com/juanfont/headscale/cmd/headscale", "headscale")] },
    Module {
        name: "tailscale",
        programs: &[
            ("tailscale.com/cmd/derper", "derper"),
            ("tailscale.com/cmd/tailscale", "tailscale"),
            ("tailscale.com/cmd/tailscaled", "tailscaled"),
        ],
    },
    Module { name: "testcontrol", programs: &[("adit.test/peers/testcontrol", "testcontrol")] },
];

/// The module whose embedded JSON is the seccomp profile that Docker gives to every container.
const SECCOMP_MODULE: &str = "github.com/moby/profiles/seccomp@latest";

/// Puts the peers and the seccomp profile into `target/peers`; returns what is missing still.
pub(super) fn install(shell: &Shell) -> Vec<String> {
    let directory = shell.path("target/peers");
    if let Err(error) = fs::create_dir_all(&directory) {
        return vec![format!("{}: {error}", directory.display())];
    }
    let cache = cache().unwrap_or_else(|| directory.clone());
    let mut missing = Vec::new();
    for module in MODULES {
        if let Err(why) = programs(shell, module, &cache, &directory) {
            let names: Vec<&str> = module.programs.iter().map(|(_, program)| *program).collect();
            missing.push(format!("{}: {why}", names.join(", ")));
        }
    }
    if let Err(why) = seccomp_profile(shell, &cache, &directory) {
        missing.push(format!("Docker's seccomp profile: {why}"));
    }
    missing
}

/// The user's cache for this repository, by the XDG base directories.
pub(super) fn cache() -> Option<PathBuf> {
    let of = |variable: &str| {
        std::env::var_os(variable).map(PathBuf::from).filter(|directory| directory.is_absolute())
    };
    let base = of("XDG_CACHE_HOME").or_else(|| of("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("adit"))
}

/// Builds a module's programs unless the cache has them, and links them into `directory`.
fn programs(shell: &Shell, module: &Module, cache: &Path, directory: &Path) -> Result {
    let source = shell.path("tests/peers").join(module.name);
    let version = shell.output(go(shell, cache)?.args(["env", "GOVERSION"]))?;
    let built = cache.join("peers").join(format!("{}-{:016x}", module.name, key(&source, &version)?));
    if !built.is_dir() {
        build(shell, module, cache, &source, &built)?;
    }
    for (_, program) in module.programs {
        link(&built.join(program), &directory.join(program))?;
    }
    Ok(())
}

/// What a build depends on: the pinned sources and the compiler.
fn key(source: &Path, version: &str) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    let unlisted = |error| format!("{}: {error}", source.display());
    let entries = fs::read_dir(source).map_err(unlisted)?.collect::<std::io::Result<Vec<_>>>();
    let mut paths: Vec<_> = entries.map_err(unlisted)?.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    for path in paths {
        let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        hasher.write(&bytes);
    }
    hasher.write(version.trim().as_bytes());
    Ok(hasher.finish())
}

/// Builds into a directory of its own and moves it to its place when it is whole: another clone may build too, and a
/// build may be interrupted.
fn build(shell: &Shell, module: &Module, cache: &Path, source: &Path, built: &Path) -> Result {
    let partial = built.with_extension(std::process::id().to_string());
    for (package, program) in module.programs {
        let mut command = go(shell, cache)?;
        command.current_dir(source).env("CGO_ENABLED", "0").args(["build", "-o"]);
        shell.run(command.arg(partial.join(program)).arg(package))?;
    }
    if let Err(error) = fs::rename(&partial, built) {
        // Somebody else was quicker.
        let _ = fs::remove_dir_all(&partial);
        if !built.is_dir() {
            return Err(format!("moving to {}: {error}", built.display()));
        }
    }
    Ok(())
}

/// Makes `at` a link to a program in the cache.
pub(super) fn link(to: &Path, at: &Path) -> Result {
    if fs::read_link(at).is_ok_and(|target| target == to) {
        return Ok(());
    }
    // What an earlier build left here, if anything.
    let _ = fs::remove_file(at);
    std::os::unix::fs::symlink(to, at).map_err(|error| format!("{}: {error}", at.display()))
}

fn seccomp_profile(shell: &Shell, cache: &Path, directory: &Path) -> Result {
    let installed = directory.join("docker-seccomp.json");
    if installed.is_file() {
        return Ok(());
    }
    let mut command = go(shell, cache)?;
    command.args(["mod", "download", "-json", SECCOMP_MODULE]);
    let text = shell.output(&mut command)?;
    let module: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| format!("`go mod download -json` printed no JSON: {error}"))?;
    let folder = module["Dir"].as_str().ok_or("`go mod download -json` names no directory")?;
    let profile = Path::new(folder).join("default.json");
    fs::copy(&profile, &installed).map_err(|error| format!("copying {}: {error}", profile.display()))?;
    Ok(())
}

/// The go command, outside of any module, with the sources it downloads in the cache.
fn go(shell: &Shell, cache: &Path) -> Result<Command> {
    let program = shell.find("go").or_else(|| {
        let usual = Path::new("/usr/local/go/bin/go");
        usual.is_file().then(|| usual.to_path_buf())
    });
    fs::create_dir_all(cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    let mut command = shell.command(program.ok_or("the go command is not installed")?);
    command.env("GOPATH", cache.join("go")).env("GOFLAGS", "-modcacherw").current_dir(cache);
    Ok(command)
}
