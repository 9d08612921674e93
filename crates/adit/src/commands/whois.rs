//! `adit whois`

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use adit_path::{Network, Status};
use adit_tunnel::{PeerStatus, Prefix};
use adit_verify::Context as Words;
use serde_json::{Value, json};

use crate::access::Access;
use crate::cli::{Context, WhoisArgs};
use crate::commands::ping::resolve;
use crate::commands::until_interrupted;
use crate::config::Provider;
use crate::session::runtime;
use crate::{Exit, Failure};

/// Names the node behind an address.
pub(crate) fn run(context: &mut Context, args: &WhoisArgs) -> Result<Exit, Failure> {
    runtime()?.block_on(until_interrupted(async {
        let access = Access::tailnet(context, &args.connect, "whois").await?;
        let found = whois(&*access.network(), &args.address).await;
        access.close();
        let (address, node) = found?;
        if context.global.json {
            context.ui.json(&node.json(address))?;
        } else {
            context.ui.result(node.text().trim_end())?;
        }
        Ok(Exit::Ok)
    }))
}

/// A node, as an address leads to it.
#[derive(Debug, PartialEq)]
struct Node {
    ours: bool,
    name: String,
    addresses: Vec<IpAddr>,
    user: Option<String>,
    tags: Vec<String>,
    online: Option<bool>,
    /// The route through the node, where the address is not its own.
    route: Option<Prefix>,
}

async fn whois(network: &dyn Network, text: &str) -> Result<(IpAddr, Node), Failure> {
    let words = Words { provider: Some(Provider::Tailscale.word().to_owned()), ..Words::default() };
    let words = words.with("host", text).with("target", text);
    let address = match text.parse::<SocketAddr>() {
        Ok(address) => address.ip(),
        Err(_) => resolve(network, text, &words).await?,
    };
    let address = address.to_canonical();
    let status = network.status().borrow().clone();
    match Node::find(&status, address) {
        Some(node) => Ok((address, node)),
        None => Err(Failure::of("ts.peer.unknown", &words.words)
            .saying(format!("no node of the network has the address {address}, or leads to it"))
            .seen(format!("{} nodes are known", status.peers.len()))),
    }
}

impl Node {
    fn find(status: &Status, address: IpAddr) -> Option<Self> {
        let ours: Vec<IpAddr> =
            status.config.iter().flat_map(|config| &config.addresses).map(Prefix::address).collect();
        if ours.contains(&address) {
            let own = status.own.clone().unwrap_or_default();
            return Some(Self {
                ours: true,
                name: own.name,
                addresses: ours,
                user: None,
                tags: own.tags,
                online: None,
                route: None,
            });
        }
        let own = |peer: &&PeerStatus| peer.addresses.contains(&address);
        if let Some(peer) = status.peers.iter().find(own) {
            return Some(Self::of(peer, None));
        }
        let routes =
            status.peers.iter().flat_map(|peer| peer.prefixes.iter().map(move |prefix| (prefix, peer)));
        let covering = routes.filter(|(prefix, _)| prefix.contains(address));
        let (prefix, peer) = covering.max_by_key(|(prefix, _)| prefix.length())?;
        Some(Self::of(peer, Some(*prefix)))
    }

    fn of(peer: &PeerStatus, route: Option<Prefix>) -> Self {
        Self {
            ours: false,
            name: peer.name.clone(),
            addresses: peer.addresses.clone(),
            user: peer.user.clone(),
            tags: peer.tags.clone(),
            online: peer.online,
            route,
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut row = |key: &str, value: &str| {
            let _ = writeln!(text, "{key:<10} {value}");
        };
        let list =
            |addresses: &[IpAddr]| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
        let ours = if self.ours { "  (this node)" } else { "" };
        row("name", &format!("{}{ours}", self.name));
        row("addresses", &list(&self.addresses));
        if let Some(user) = &self.user {
            row("user", user);
        }
        if !self.tags.is_empty() {
            row("tags", &self.tags.join(", "));
        }
        match self.online {
            Some(true) => row("online", "yes"),
            Some(false) => row("online", "no"),
            None => {}
        }
        if let Some(route) = &self.route {
            row("leads to", &route.to_string());
        }
        text
    }

    fn json(&self, address: IpAddr) -> Value {
        json!({
            "schema": "adit.whois/1",
            "address": address,
            "self": self.ours,
            "name": self.name,
            "addresses": self.addresses,
            "user": self.user,
            "tags": self.tags,
            "online": self.online,
            "route": self.route.map(|route| route.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use adit_tunnel::{NetConfig, OwnName};

    use super::*;

    fn status() -> Status {
        let peer = |name: &str, address: &str, more: &[&str]| PeerStatus {
            name: name.to_owned(),
            addresses: vec![address.parse().unwrap()],
            prefixes: more.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            online: Some(true),
            ..PeerStatus::default()
        };
        let gateway = PeerStatus {
            tags: vec!["tag:router".to_owned()],
            ..peer("gw.tail", "100.64.0.3", &["100.64.0.3/32", "10.8.0.0/16"])
        };
        let near = PeerStatus {
            user: Some("alice@example.com".to_owned()),
            ..peer("near.tail", "100.64.0.4", &["100.64.0.4/32", "10.8.5.0/24"])
        };
        Status {
            config: Some(NetConfig {
                addresses: vec!["100.64.0.1/32".parse().unwrap()],
                ..NetConfig::default()
            }),
            own: Some(OwnName { name: "me.tail".to_owned(), ..OwnName::default() }),
            peers: vec![gateway, near],
            ..Status::default()
        }
    }

    fn find(address: &str) -> Option<Node> {
        Node::find(&status(), address.parse().unwrap())
    }

    #[test]
    fn an_address_is_a_nodes_own_or_behind_the_one_with_the_longest_route() {
        let own = find("100.64.0.4").unwrap();
        assert_eq!((own.name.as_str(), own.route), ("near.tail", None));
        assert!(own.text().contains("user       alice@example.com\n"), "{}", own.text());
        let behind = find("10.8.5.7").unwrap();
        assert_eq!((behind.name.as_str(), behind.route), ("near.tail", Some("10.8.5.0/24".parse().unwrap())));
        let other = find("10.8.6.7").unwrap();
        assert_eq!(other.json("10.8.6.7".parse().unwrap())["route"], "10.8.0.0/16");
        assert!(other.text().contains("tags       tag:router\n"), "{}", other.text());
        let this = find("100.64.0.1").unwrap();
        assert!(this.ours && this.text().starts_with("name       me.tail  (this node)\n"), "{}", this.text());
        assert_eq!(find("100.64.0.9"), None);
    }
}
