//! `adit completions`

use crate::cli::{self, CompletionsArgs, Context};
use crate::{Exit, Failure};

/// Prints the script of a shell.
pub(crate) fn run(context: &mut Context, args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::definition(), "adit", &mut script);
    context.ui.stdout(&[&script])?;
    Ok(Exit::Ok)
}
