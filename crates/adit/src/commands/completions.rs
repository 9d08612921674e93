//! `adit completions`

use std::io::Write as _;

use crate::cli::{self, CompletionsArgs, Context};
use crate::{Exit, Failure};

/// Prints the script of a shell.
pub(crate) fn run(_context: &mut Context, args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::definition(), "adit", &mut script);
    std::io::stdout().write_all(&script).map_err(cli::stdout_failed)?;
    Ok(Exit::Ok)
}
