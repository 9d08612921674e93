//! `adit version`

use serde_json::json;

use crate::cli::Context;
use crate::{Exit, Failure};

/// Prints the version.
pub(crate) fn run(context: &mut Context) -> Result<Exit, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if context.global.json {
        context.ui.json(&json!({
            "schema": "adit.version/1",
            "version": version,
            "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        }))?;
    } else {
        context.ui.result(&format!("adit {version}"))?;
    }
    Ok(Exit::Ok)
}
