//! `cargo xtask demo`: the same as `cargo run --release -- demo`.

use std::process::Stdio;

use crate::shell::{Result, Shell};

pub(crate) fn run(shell: &Shell, arguments: &[String]) -> Result {
    let mut command = shell.cargo(["run", "--release", "--package", "adit", "--", "demo"]);
    command.args(arguments).stdin(Stdio::inherit());
    shell.run(&mut command)
}
