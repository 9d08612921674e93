//! `cargo xtask bench`: the criterion benches, or with `--peers` other forwarders beside ours over a veth pair.

mod peers;

use crate::shell::{Result, Shell};

pub(crate) fn run(shell: &Shell, arguments: &[String]) -> Result {
    if let [first, rest @ ..] = arguments
        && first == "--peers"
    {
        return peers::run(shell, rest);
    }
    let mut command = shell.cargo(["bench", "--package", "adit-benches", "--"]);
    command.args(arguments);
    shell.run(&mut command)
}
