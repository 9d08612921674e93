//! `cargo xtask dist`: the one static file, checked to be one.

use std::fs;
use std::path::Path;

use crate::shell::{Result, Shell};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Static; without tables for unwinding: a panic ends the process, and a stripped file has no names for a backtrace.
/// Equal functions stand once, and a relative relocation takes a bit in place of 24 bytes (`DT_RELR`, System V ABI).
const FLAGS: &str = "-C target-feature=+crt-static -C force-unwind-tables=no \
    -C link-arg=-Wl,--icf=all -C link-arg=-Wl,-z,pack-relative-relocs";
/// The size that the binary promises to stay below.
const LIMIT: u64 = 10_000_000;

pub(crate) fn run(shell: &Shell, _arguments: &[String]) -> Result {
    shell.step("build");
    let arguments = ["build", "--profile", "dist", "--package", "adit", "--target", TARGET, "--locked"];
    shell.run(shell.cargo(arguments).env("RUSTFLAGS", FLAGS))?;

    let built = shell.path(&format!("target/{TARGET}/dist/adit"));
    let bytes = fs::read(&built).map_err(|error| format!("reading {}: {error}", built.display()))?;
    let size = bytes.len() as u64;
    println!("{} bytes", size);
    if size >= LIMIT {
        return Err(format!("the binary has {size} bytes; it promises fewer than {LIMIT}"));
    }
    if let Some(loader) = interpreter(&bytes)? {
        return Err(format!("the binary is not static: it asks for {loader}"));
    }

    shell.step("start in an empty root directory");
    starts_alone(shell, &built)?;

    let directory = shell.path("dist");
    fs::create_dir_all(&directory).map_err(|error| format!("creating {}: {error}", directory.display()))?;
    let name = format!("adit-{TARGET}");
    let copy = directory.join(&name);
    fs::copy(&built, &copy).map_err(|error| format!("copying to {}: {error}", copy.display()))?;
    let sum = shell.output(shell.command("sha256sum").arg(&name).current_dir(&directory))?;
    let sums = directory.join(format!("{name}.sha256"));
    fs::write(&sums, &sum).map_err(|error| format!("writing {}: {error}", sums.display()))?;
    print!("{sum}");
    Ok(())
}

/// Runs the binary where there is no other file at all: no loader, no libc, no /etc, no /proc.
fn starts_alone(shell: &Shell, binary: &Path) -> Result {
    let root = shell.path("target/empty-root");
    if root.exists() {
        fs::remove_dir_all(&root).map_err(|error| format!("emptying {}: {error}", root.display()))?;
    }
    fs::create_dir_all(&root).map_err(|error| format!("creating {}: {error}", root.display()))?;
    fs::copy(binary, root.join("adit")).map_err(|error| format!("copying to {}: {error}", root.display()))?;
    let mut command = if shell.is_root() {
        let mut command = shell.command("chroot");
        command.arg(&root);
        command
    } else {
        let mut command = shell.command("unshare");
        command.arg("--map-root-user").arg("--root").arg(&root);
        command
    };
    let version = shell.output(command.args(["/adit", "--version"]))?;
    print!("{version}");
    if version.starts_with("adit ") { Ok(()) } else { Err(format!("`adit --version` printed {version:?}")) }
}

/// The program interpreter that an ELF file asks for; a static file has none (System V ABI, "Program Header").
fn interpreter(file: &[u8]) -> Result<Option<String>> {
    const PT_INTERP: u64 = 3;
    let number = |offset: usize, size: usize| -> Option<u64> {
        let bytes = file.get(offset..offset.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    // Offsets of a 64-bit little-endian file: e_phoff, e_phentsize, e_phnum.
    if file.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err("the binary is no 64-bit little-endian ELF file".into());
    }
    let parse = || -> Option<Option<String>> {
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        for index in 0..count {
            let entry = usize::try_from(table + index * size).ok()?;
            if number(entry, 4)? != PT_INTERP {
                continue;
            }
            let start = usize::try_from(number(entry + 8, 8)?).ok()?;
            let length = usize::try_from(number(entry + 32, 8)?).ok()?;
            let name = file.get(start..start.checked_add(length)?)?;
            return Some(Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()));
        }
        Some(None)
    };
    parse().ok_or_else(|| "the program headers end outside the file".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_names_its_interpreter() {
        let own = fs::read("/proc/self/exe").unwrap();
        let loader = interpreter(&own).unwrap();
        assert!(
            loader.is_some_and(|name| name.contains("ld-linux")),
            "cargo builds dynamic test programs here"
        );
    }

    #[test]
    fn a_file_that_ends_early_is_refused() {
        assert!(interpreter(b"\x7fELF\x02\x01 and no more").is_err());
        assert!(interpreter(b"#!/bin/sh\n").is_err());
    }
}
