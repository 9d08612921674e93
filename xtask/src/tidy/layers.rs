//! The layers of ARCHITECTURE.md, read from cargo.

use serde_json::Value;

use crate::shell::{Result, Shell};

/// Each crate and its layer; a crate depends only on crates of lower layers.
const LAYERS: &[(&str, u8)] = &[
    ("adit-tunnel", 0),
    ("adit-openvpn", 1),
    ("adit-tailscale", 1),
    ("adit-wireguard", 1),
    ("adit-netstack", 1),
    ("adit-path", 2),
    ("adit-providers", 3),
    ("adit-verify", 3),
    ("adit-intercept", 3),
    ("adit-sim", 3),
    ("adit", 4),
    ("adit-benches", 5),
    ("adit-tests", 5),
    ("xtask", 5),
];

/// Edges inside a layer, and why: Tailscale seals with WireGuard sessions, which are what they are without it; and the
/// path whose allocations the tests count is the one that the benches measure.
const SIDEWAYS: &[(&str, &str)] = &[("adit-tailscale", "adit-wireguard"), ("adit-tests", "adit-benches")];

/// Packages that bring an operating system or a runtime, which nothing below layer 2 may link.
const IMPURE: &[&str] = &["tokio", "mio", "socket2", "quinn-udp", "rustix", "tun-rs"];

/// Packages with a lint table of their own, and why: `forbid` and `deny` cannot be relaxed from a manifest that inherits.
const OWN_LINTS: &[&str] = &["adit-tests"];

pub(crate) fn check(shell: &Shell) -> Result<Vec<String>> {
    let text =
        shell.output(&mut shell.cargo(["metadata", "--no-deps", "--locked", "--format-version", "1"]))?;
    let metadata: Value =
        serde_json::from_str(&text).map_err(|error| format!("cargo metadata printed no JSON: {error}"))?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let mut problems = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(layer) = layer(name) else {
            problems.push(format!(
                "{name} has no layer; give it one in ARCHITECTURE.md and xtask/src/tidy/layers.rs"
            ));
            continue;
        };
        problems.extend(dependencies(package, name, layer));
        problems.extend(inherited(package, name));
        if layer < 2 {
            problems.extend(purity(shell, name)?);
        }
    }
    Ok(problems)
}

fn layer(name: &str) -> Option<u8> {
    LAYERS.iter().find(|(known, _)| *known == name).map(|(_, layer)| *layer)
}

/// Normal and build dependencies go down; a test may use anything.
fn dependencies(package: &Value, name: &str, own: u8) -> Vec<String> {
    let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    dependencies
        .iter()
        .filter(|dependency| dependency["kind"] != "dev")
        .filter_map(|dependency| dependency["name"].as_str())
        .filter_map(|to| Some((to, layer(to)?)))
        .filter(|(to, layer)| *layer >= own && !SIDEWAYS.contains(&(name, to)))
        .map(|(to, layer)| format!("{name} (layer {own}) depends on {to} (layer {layer})"))
        .collect()
}

/// Versions, edition and lints are stated once, in the workspace.
fn inherited(package: &Value, name: &str) -> Vec<String> {
    let path = package["manifest_path"].as_str().unwrap_or_default();
    let manifest = std::fs::read_to_string(path).unwrap_or_default();
    let mut problems = Vec::new();
    for key in ["version", "edition", "rust-version", "license"] {
        if !manifest.contains(&format!("{key}.workspace = true")) {
            problems.push(format!("{name}: `{key}` is not inherited from the workspace"));
        }
    }
    if !OWN_LINTS.contains(&name) && !manifest.contains("[lints]\nworkspace = true") {
        problems.push(format!("{name}: the workspace's lints are not inherited"));
    }
    problems
}

/// What a crate below layer 2 links, with the features that its users turn on.
fn purity(shell: &Shell, name: &str) -> Result<Vec<String>> {
    let arguments = ["tree", "--locked", "--package", name, "--edges", "normal", "--prefix", "none"];
    let tree = shell.output(&mut shell.cargo(arguments))?;
    let linked = tree.lines().filter_map(|line| line.split_whitespace().next());
    Ok(linked
        .filter(|package| IMPURE.contains(package))
        .map(|package| {
            format!("{name} links {package}: nothing below layer 2 may touch the operating system")
        })
        .collect())
}
