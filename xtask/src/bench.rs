//! `cargo xtask bench`: the criterion benches; `--test` runs each once.

use crate::shell::{Result, Shell};

pub(crate) fn run(shell: &Shell, arguments: &[String]) -> Result {
    if !shell.path("benches/Cargo.toml").is_file() {
        return Err("there is no package in benches/".into());
    }
    let mut command = shell.cargo(["bench", "--package", "adit-benches", "--"]);
    command.args(arguments);
    shell.run(&mut command)
}
