//! `adit route`

use std::net::{IpAddr, SocketAddr};

use adit_path::{Answer, Destination, Network, Query, Status};
use adit_tunnel::{NameScope, Prefix};
use adit_verify::Context as Words;
use serde_json::{Value, json};

use crate::access::Access;
use crate::cli::{Context, RouteArgs};
use crate::commands::until_interrupted;
use crate::fronts::Target;
use crate::session::runtime;
use crate::{Exit, Failure, failure};

/// Which way the packets to an address go.
#[derive(Debug, PartialEq)]
struct Way {
    address: IpAddr,
    /// Whether it is into the network.
    private: bool,
    /// The longest route that covers the address.
    route: Option<Prefix>,
    /// The longest exclusion that covers it.
    excluded: Option<Prefix>,
    /// The far end that it belongs to, and where that is.
    peer: Option<(String, Option<SocketAddr>)>,
}

/// Says which way packets to a host go, and by which rule; nothing is sent to the host.
pub(crate) fn run(context: &mut Context, args: &RouteArgs) -> Result<Exit, Failure> {
    let target = Target::new(&args.host, 0).map_err(|error| failure::usage(error.to_string()))?;
    runtime()?.block_on(until_interrupted(async {
        let access = Access::open(context, &args.connect).await?;
        let network = access.network();
        let status = network.status().borrow().clone();
        let (name, addresses) = match &target.host {
            Destination::Address(address) => (None, Ok(vec![*address])),
            Destination::Name(name) => resolve(&*network, &status, name).await,
        };
        let ways: Option<Vec<Way>> = addresses.as_ref().ok().map(|addresses| {
            addresses.iter().map(|&address| Way::find(&*network, &status, address)).collect()
        });
        access.close();
        let ways = ways.unwrap_or_default();
        if context.global.json {
            context.ui.json(&shown(&args.host, name.as_ref(), &ways))?;
        } else {
            let lines = name.iter().map(Name::sentence).chain(ways.iter().map(Way::sentence));
            context.ui.result(&lines.collect::<Vec<_>>().join("\n"))?;
        }
        addresses.map(|_| Exit::Ok)
    }))
}

/// Whose a name is, and who answered for it.
#[derive(Debug)]
struct Name {
    name: String,
    scope: NameScope,
    answer: Option<Answer>,
}

/// Asks the network for a name, if it is one of its own.
async fn resolve(
    network: &dyn Network,
    status: &Status,
    name: &str,
) -> (Option<Name>, Result<Vec<IpAddr>, Failure>) {
    let scope = status.config.as_ref().map_or(NameScope::Public, |config| config.name_scope(name));
    let mut found = Name { name: name.to_owned(), scope, answer: None };
    if scope == NameScope::Public {
        return (Some(found), Ok(Vec::new()));
    }
    match network.resolve(Query::addresses(name)).await {
        Ok(answer) => {
            let addresses = answer.addresses.clone();
            found.answer = Some(answer);
            (Some(found), Ok(addresses))
        }
        // The machine's own resolver is asked for it then.
        Err(_) if scope == NameScope::Either => (Some(found), Ok(Vec::new())),
        Err(failure) => (Some(found), Err(Words::default().with("name", name).resolve(&failure))),
    }
}

impl Name {
    fn sentence(&self) -> String {
        let name = &self.name;
        let answered = self.answer.as_ref().map(|answer| {
            let server =
                answer.server.map_or_else(|| "the configuration".to_owned(), |server| server.to_string());
            format!("answered by {server} ({})", answer.rule)
        });
        match (self.scope, answered) {
            (NameScope::Private, Some(answered)) => format!("{name}: a private name, {answered}"),
            (NameScope::Private, None) => {
                format!(
                    "{name}: a private name, which the network does not answer; it is never asked outside"
                )
            }
            (NameScope::Either, Some(answered)) => format!("{name}: asked of the network first, {answered}"),
            (NameScope::Either, None) => {
                format!(
                    "{name}: the network, asked first, does not know it; the machine's own resolver does or not"
                )
            }
            (NameScope::Public, _) => {
                format!(
                    "{name}: a public name, for the machine's own resolver; each of its addresses has its own way"
                )
            }
        }
    }
}

impl Way {
    fn find(network: &dyn Network, status: &Status, address: IpAddr) -> Self {
        let longest = |prefixes: &[Prefix]| {
            prefixes
                .iter()
                .filter(|prefix| prefix.contains(address))
                .max_by_key(|prefix| prefix.length())
                .copied()
        };
        let private = network.owns(&Destination::Address(address));
        let config = status.config.as_ref();
        let peer = status
            .peers
            .iter()
            .filter_map(|peer| Some((longest(&peer.prefixes)?.length(), peer)))
            .max_by_key(|(length, _)| *length)
            .filter(|_| private)
            .map(|(_, peer)| (peer.name.clone(), peer.endpoint));
        Self {
            address,
            private,
            route: config.and_then(|config| longest(&config.routes)),
            excluded: config.and_then(|config| longest(&config.excluded)),
            peer,
        }
    }

    fn sentence(&self) -> String {
        let Self { address, private, route, excluded, peer } = self;
        if *private {
            let by = route.map_or_else(String::new, |route| format!(" by the route {route}"));
            let to = match peer {
                Some((name, Some(endpoint))) => format!(", to {name} at {endpoint}"),
                Some((name, None)) => format!(", to {name}, of which no address is known"),
                None => String::new(),
            };
            return format!("{address}: into the network{by}{to}");
        }
        let why = match (route, excluded) {
            (_, Some(excluded)) => format!("{excluded} is excluded from its routes"),
            // Loopback and its like, whatever the routes say.
            (Some(_), None) => "such addresses are always the machine's own".to_owned(),
            (None, None) => "no route of it covers the address".to_owned(),
        };
        format!("{address}: not into the network; {why}")
    }
}

fn shown(host: &str, name: Option<&Name>, ways: &[Way]) -> Value {
    let name = name.map(|name| {
        json!({
            "scope": match name.scope {
                NameScope::Private => "private",
                NameScope::Either => "either",
                NameScope::Public => "public",
            },
            "server": name.answer.as_ref().and_then(|answer| answer.server),
            "rule": name.answer.as_ref().map(|answer| answer.rule.to_string()),
        })
    });
    let ways: Vec<Value> = ways
        .iter()
        .map(|way| {
            json!({
                "address": way.address,
                "private": way.private,
                "route": way.route.map(|route| route.to_string()),
                "excluded": way.excluded.map(|excluded| excluded.to_string()),
                "peer": way.peer.as_ref().map(|(name, _)| name),
                "endpoint": way.peer.as_ref().and_then(|(_, endpoint)| *endpoint),
            })
        })
        .collect();
    json!({ "schema": "adit.route/1", "host": host, "name": name, "ways": ways })
}
