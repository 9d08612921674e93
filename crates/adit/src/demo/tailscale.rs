//! The embedded network as a tailnet: a control server, a relay and a STUN server on loopback, and a node with services.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use adit_path::EngineOptions;
use adit_providers::Secret;
use adit_providers::tailscale::{Auth, ControlUrl, Proxies, Reach, client_config};
use adit_sim::tailnet::{Key, Listed, Rules, Tailnet};
use adit_tunnel::HostPort;
use rustls::RootCertStore;
use serde_json::json;

use super::{DOMAIN, failed};
use crate::session::{Session, TunnelConfig};
use crate::tailnet::TailnetConfig;
use crate::{Failure, failure};

/// How long the node with the services may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// The name of the node with the services.
const SERVER: &str = "services";
/// The name that the member asks for.
const MEMBER: &str = "demo";

/// A tailnet with its node.
pub(super) struct Started {
    pub(super) tailnet: Tailnet,
    /// The node with the services.
    pub(super) server: Session,
    /// Its address.
    pub(super) address: Ipv4Addr,
    pub(super) member: TailnetConfig,
    /// Where the control server listens.
    pub(super) endpoint: HostPort,
}

/// Starts the servers and the node, and makes a key for a member.
pub(super) fn start() -> Result<Started, Failure> {
    let tailnet = Tailnet::start(Rules::Strict).map_err(|error| failed(&error))?;
    let server =
        Session::start(TunnelConfig::Tailscale(Box::new(node(&tailnet, SERVER)?)), EngineOptions::default())?;
    let reachable = |node: &Listed| node.online && node.home != 0;
    if !tailnet.wait(PATIENCE, |tailnet| tailnet.nodes().iter().any(reachable)) {
        return Err(failed(&io::Error::other(format!(
            "its node did not join {} within {PATIENCE:?}",
            tailnet.url()
        ))));
    }
    let listed = tailnet.nodes().into_iter().find(reachable);
    let address = listed.ok_or_else(|| failed(&io::Error::other("its node has left")))?.address;
    // Without resolvers, a domain is the tailnet's own.
    tailnet.set_dns("Routes", json!({ DOMAIN: [{ "Addr": address }], tailnet.domain(): null }));
    let member = node(&tailnet, MEMBER)?;
    let ControlUrl { host, port, .. } = member.reach.control.clone();
    Ok(Started { tailnet, server, address, member, endpoint: HostPort { host, port } })
}

/// A node that joins with a key of its own and leaves when its session ends.
fn node(tailnet: &Tailnet, name: &str) -> Result<TailnetConfig, Failure> {
    let key = tailnet.key(Key { reusable: true, ephemeral: true, ..Key::default() });
    let control = ControlUrl::parse(&tailnet.url())
        .map_err(|error| failure::internal("the URL of the embedded tailnet").seen(error.to_string()))?;
    // Nothing here speaks TLS, so nobody's certificate needs to be believed.
    let roots = Arc::new(RootCertStore::empty());
    let reach = Reach { control, proxies: Proxies::default(), tls: client_config(Arc::clone(&roots)) };
    let auth = Auth::Key(Secret::new(key.into_bytes()));
    let config = TailnetConfig::new(reach, auth, name.to_owned(), roots);
    Ok(TailnetConfig { ephemeral: true, plain_derp: true, ..config })
}
