//! The end of a node that was kept from run to run.

use tokio::time::timeout;

use super::super::control::{Connector, Reach};
use super::super::error::{ControlError, Retry};
use super::super::keys::Identity;
use super::{LEAVE, hostinfo};

/// Ends a node: an ephemeral one is deleted, another one stays in the server's list and must sign in again. Returns whether
/// the server knew it. The server is given three seconds after it was reached.
///
/// # Errors
///
/// The server is not reached, or does not answer.
pub async fn log_out(reach: Reach, identity: &Identity) -> Result<bool, ControlError> {
    let control = Connector::new(reach).connect(&identity.machine).await?;
    let hostinfo = hostinfo(String::new(), Vec::new(), false, identity);
    match timeout(LEAVE, control.logout(identity.keys.node_key(), &hostinfo)).await {
        Ok(Ok(())) => Ok(true),
        // It was reached, and refuses what it does not know.
        Ok(Err(error)) if error.retry == Retry::Never => {
            tracing::debug!(%error, "the control server does not know the node");
            Ok(false)
        }
        Ok(Err(error)) => Err(error),
        Err(_) => {
            Err(ControlError::later("ts.control.tcp", "the control server does not answer the goodbye"))
        }
    }
}
