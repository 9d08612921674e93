//! `cargo xtask ci`: what CI runs, in order.

use crate::shell::{Result, Shell};
use crate::{dist, test, tidy};

pub(crate) fn run(shell: &Shell, _arguments: &[String]) -> Result {
    shell.step("fmt");
    shell.run(&mut shell.cargo(["fmt", "--all", "--check"]))?;

    shell.step("clippy");
    shell.run(&mut shell.cargo([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "--deny",
        "warnings",
    ]))?;

    shell.step("clippy: scenarios in virtual time");
    shell.run(&mut shell.cargo([
        "clippy",
        "--package",
        "adit-tests",
        "--features",
        "sim",
        "--test",
        "scenarios",
        "--locked",
        "--",
        "--deny",
        "warnings",
    ]))?;

    shell.step("doc");
    shell.run(
        shell.cargo(["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "--deny warnings"),
    )?;

    shell.step("tidy");
    tidy::run(shell, &[])?;

    test::run(shell, &[])?;
    dist::run(shell, &[])
}
