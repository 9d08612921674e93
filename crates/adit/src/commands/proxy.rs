//! `adit proxy`

use crate::access::Access;
use crate::cli::{Context, ProxyArgs};
use crate::commands::forward::until_signal;
use crate::commands::{front_failed, proxy_credentials, until_interrupted};
use crate::fronts::Proxy;
use crate::session::runtime;
use crate::{Exit, Failure, failure};

/// Serves SOCKS5 and HTTP on one port until a signal.
pub(crate) fn run(context: &mut Context, args: &ProxyArgs) -> Result<Exit, Failure> {
    let credentials = proxy_credentials(args.proxy_auth.as_ref(), &args.connect)?;
    runtime()?.block_on(async {
        // A port in use is said before anything is connected.
        let proxy = Proxy::bind(args.listen, credentials).await.map_err(|error| front_failed(&error))?;
        let address = proxy
            .address()
            .map_err(|error| failure::internal("the proxy has no address").seen(error.to_string()))?;
        let access = until_interrupted(Access::open(context, &args.connect)).await?;
        context.ui.result(&address.to_string())?;
        let outcome = tokio::select! {
            () = proxy.run(access.network()) => Ok(Exit::Ok),
            outcome = until_signal(&access) => outcome,
        };
        access.close();
        outcome
    })
}
