//! Log lines on stderr.

use tracing_subscriber::EnvFilter;

use super::Ui;
use super::moving::Beside;
use crate::cli::{Global, LogFormat};
use crate::{Failure, failure};

/// Installs the process's log subscriber.
///
/// # Errors
///
/// The directives of `--log` cannot be read.
pub fn start(global: &Global, ui: &Ui) -> Result<(), Failure> {
    let directives =
        global.log.clone().unwrap_or_else(|| by_verbosity(global.quiet, global.verbose).to_owned());
    let filter = EnvFilter::try_new(&directives).map_err(|error| {
        failure::usage(format!("`{directives}` is no list of log directives"))
            .seen(error.to_string())
            .with_fix(vec!["write directives like adit=debug or info,adit_path=trace".to_owned()])
    })?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Beside).with_ansi(ui.color());
    // A subscriber that is already there belongs to whoever embeds this function; it stays.
    let _ = match global.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}

fn by_verbosity(quiet: bool, verbose: u8) -> &'static str {
    match (quiet, verbose) {
        (true, _) => "error",
        // boringtun warns of every repeated handshake; the verdict about them is ours.
        (false, 0) => "warn,boringtun=error",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    }
}
