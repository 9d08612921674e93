//! What the control server knows: who may come in, who is there, and what each node is told.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::{Key, Rules};

/// The region of the only relay.
const REGION: u16 = 1;

/// A node as the server knows it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) key: String,
    pub(super) machine: [u8; 32],
    pub(super) disco: String,
    pub(super) address: Ipv4Addr,
    pub(super) ephemeral: bool,
    pub(super) tags: Vec<String>,
    pub(super) hostinfo: Value,
    pub(super) endpoints: Vec<Value>,
    pub(super) home: u64,
    /// How many streams follow the map: a node with one is online.
    pub(super) streams: u32,
    pub(super) authorized: bool,
    pub(super) expired: bool,
    /// When its key expires, in seconds since 1970.
    pub(super) expiry: Option<u64>,
    /// Whether its key is signed for tailnet lock.
    pub(super) signed: bool,
    pub(super) routes: Vec<String>,
    pub(super) login: String,
}

impl Known {
    fn is_expired(&self) -> bool {
        self.expired || self.expiry.is_some_and(|at| at <= unix_now())
    }
}

/// Seconds since 1970.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A sign-in that somebody must do.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) key: String,
    /// Who signed in, or why they may not.
    pub(super) outcome: Option<Result<String, String>>,
}

/// Everything.
#[derive(Debug)]
pub(super) struct State {
    pub(super) rules: Rules,
    pub(super) domain: String,
    pub(super) url: String,
    pub(super) derp: SocketAddr,
    pub(super) stun: SocketAddr,
    pub(super) keys: BTreeMap<String, Key>,
    pub(super) nodes: BTreeMap<i64, Known>,
    /// Logins, in the order in which they came.
    pub(super) users: Vec<String>,
    pub(super) pending: BTreeMap<String, Pending>,
    pub(super) filter: Value,
    pub(super) dns: Map<String, Value>,
    pub(super) approval: bool,
    pub(super) lock: bool,
    /// How long keys are good that are made from now on.
    pub(super) key_life: Option<Duration>,
    /// So many registrations are told to wait.
    pub(super) limited: u32,
    pub(super) health: Vec<String>,
    pub(super) made: i64,
    /// What every registration is answered with, if it is not to succeed.
    pub(super) refusal: Option<String>,
    pub(super) registrations: u32,
    pub(super) deleted: Vec<String>,
}

impl State {
    pub(super) fn new(rules: Rules, url: String, derp: SocketAddr, stun: SocketAddr) -> Self {
        let everybody =
            json!([{ "SrcIPs": ["*"], "DstPorts": [{ "IP": "*", "Ports": { "First": 0, "Last": 65535 } }] }]);
        Self {
            rules,
            domain: "tail.example".to_owned(),
            url,
            derp,
            stun,
            keys: BTreeMap::new(),
            nodes: BTreeMap::new(),
            users: Vec::new(),
            pending: BTreeMap::new(),
            filter: everybody,
            dns: Map::new(),
            approval: false,
            lock: false,
            key_life: None,
            limited: 0,
            health: Vec::new(),
            made: 0,
            refusal: None,
            registrations: 0,
            deleted: Vec::new(),
        }
    }

    pub(super) fn by_key(&mut self, key: &str) -> Option<&mut Known> {
        self.nodes.values_mut().find(|node| node.key == key)
    }

    /// Answers `/machine/register`. `None`: the answer comes when somebody has signed in.
    pub(super) fn register(&mut self, machine: [u8; 32], request: &Value) -> Option<Value> {
        self.registrations += 1;
        let text = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
        let (key, old) = (text("NodeKey"), text("OldNodeKey"));
        if text("Expiry").starts_with("1970-") {
            return Some(self.logout(&key));
        }
        if let Some(why) = &self.refusal {
            return Some(json!({ "Error": why }));
        }
        if let Some(node) = self.by_key(&key) {
            if node.machine != machine {
                return Some(json!({ "Error": "node key is in use by another machine" }));
            }
            if node.is_expired() {
                return Some(json!({ "NodeKeyExpired": true }));
            }
            return Some(
                json!({ "MachineAuthorized": node.authorized, "Login": { "LoginName": node.login } }),
            );
        }
        let followup = text("Followup");
        if !followup.is_empty() {
            let Some(pending) = self.pending.get(&followup) else { return Some(self.page(key)) };
            if pending.key != key {
                return Some(json!({ "Error": "the sign-in belongs to another node key" }));
            }
            let outcome = pending.outcome.clone()?;
            self.pending.remove(&followup);
            return Some(match outcome {
                Ok(login) => self.admit(machine, request, &old, login, Vec::new(), false),
                Err(why) => json!({ "Error": why }),
            });
        }
        let auth = request["Auth"]["AuthKey"].as_str().unwrap_or_default();
        if auth.is_empty() {
            return Some(self.page(key));
        }
        let rules = match self.keys.get_mut(auth) {
            None => return Some(json!({ "Error": "invalid pre auth key" })),
            Some(rules) if rules.expired => return Some(json!({ "Error": "authkey expired" })),
            Some(rules) if rules.used && !rules.reusable => {
                return Some(json!({ "Error": "authkey already used" }));
            }
            Some(rules) => rules,
        };
        rules.used = true;
        let rules = rules.clone();
        let asked = request["Hostinfo"]["RequestTags"].as_array().cloned().unwrap_or_default();
        let denied =
            asked.iter().filter_map(Value::as_str).find(|tag| !rules.tags.iter().any(|own| own == tag));
        if let Some(tag) = denied {
            return Some(json!({ "Error": format!("requested tags [{tag}] are invalid or not permitted") }));
        }
        Some(self.admit(machine, request, &old, "agent@example.com".to_owned(), rules.tags, rules.ephemeral))
    }

    /// A page at which somebody must sign in for this node key.
    fn page(&mut self, key: String) -> Value {
        self.made += 1;
        let page = format!("{}/register/hskey-authreq-{:024}", self.url, self.made);
        self.pending.insert(page.clone(), Pending { key, outcome: None });
        json!({ "AuthURL": page })
    }

    fn admit(
        &mut self,
        machine: [u8; 32],
        request: &Value,
        old: &str,
        login: String,
        tags: Vec<String>,
        ephemeral: bool,
    ) -> Value {
        let key = request["NodeKey"].as_str().unwrap_or_default().to_owned();
        let ephemeral = ephemeral || request["Ephemeral"] == true;
        let expiry = self.key_life.map(|life| unix_now() + life.as_secs());
        if let Some(node) = self.by_key(old) {
            (node.key, node.expired, node.expiry, node.signed) = (key, false, expiry, false);
            return json!({ "MachineAuthorized": node.authorized, "Login": { "LoginName": login } });
        }
        if self.user(&login) == 0 {
            self.users.push(login.clone());
        }
        self.made += 1;
        let (id, authorized) = (self.made, !self.approval);
        let wanted = request["Hostinfo"]["Hostname"].as_str().unwrap_or("node").to_owned();
        let taken = |name: &str| self.nodes.values().any(|node| node.name == name);
        let mut names =
            std::iter::once(wanted.clone()).chain((1..).map(|number| format!("{wanted}-{number}")));
        let name = names.find(|name| !taken(name)).unwrap_or(wanted);
        let [third, fourth] = u16::try_from(id).unwrap_or(u16::MAX).to_be_bytes();
        let node = Known {
            id,
            name,
            key,
            machine,
            disco: String::new(),
            address: Ipv4Addr::new(100, 64, third, fourth),
            ephemeral,
            tags,
            hostinfo: request["Hostinfo"].clone(),
            endpoints: Vec::new(),
            home: 0,
            streams: 0,
            authorized,
            expired: false,
            expiry,
            signed: false,
            routes: Vec::new(),
            login: login.clone(),
        };
        self.nodes.insert(id, node);
        json!({ "MachineAuthorized": authorized, "Login": { "LoginName": login } })
    }

    fn logout(&mut self, key: &str) -> Value {
        let Some(node) = self.by_key(key) else { return json!({ "Error": "node not found" }) };
        node.expired = true;
        let (id, name, ephemeral) = (node.id, node.name.clone(), node.ephemeral);
        if ephemeral {
            self.nodes.remove(&id);
            self.deleted.push(name);
        }
        json!({ "NodeKeyExpired": true, "User": { "ID": 0 } })
    }

    /// Takes what a map request says of its node, as these rules allow.
    pub(super) fn hear(&mut self, request: &Value) {
        if self.rules == Rules::Strict && request["Stream"] == true {
            return;
        }
        let key = request["NodeKey"].as_str().unwrap_or_default();
        let Some(node) = self.by_key(key) else { return };
        node.disco = request["DiscoKey"].as_str().unwrap_or_default().to_owned();
        if request["Hostinfo"].is_object() {
            node.hostinfo = request["Hostinfo"].clone();
        }
        if let Some(home) = node.hostinfo["NetInfo"]["PreferredDERP"].as_u64() {
            node.home = home;
        }
        if let Some(endpoints) = request["Endpoints"].as_array() {
            node.endpoints.clone_from(endpoints);
        }
    }

    /// What a node sees. `None`: it is no node any more.
    pub(super) fn view(&self, key: &str) -> Option<View> {
        let own = self.nodes.values().find(|node| node.key == key)?;
        let others =
            self.nodes.values().filter(|node| node.id != own.id && node.authorized && own.authorized);
        let filter = match self.rules {
            Rules::Strict => ("PacketFilter", self.filter.clone()),
            Rules::Headscale => ("PacketFilters", json!({ "base": self.filter })),
        };
        let mut rest = Map::new();
        rest.insert(filter.0.to_owned(), filter.1);
        rest.insert("DNSConfig".to_owned(), self.dns());
        rest.insert("DERPMap".to_owned(), self.derp_map());
        rest.insert("Health".to_owned(), json!(self.health));
        let profile =
            |(at, login): (usize, &String)| json!({ "ID": at + 1, "LoginName": login, "DisplayName": login });
        rest.insert("UserProfiles".to_owned(), self.users.iter().enumerate().map(profile).collect());
        if self.lock {
            rest.insert("TKAInfo".to_owned(), json!({ "Head": "AAAA" }));
        }
        Some(View {
            node: self.node(own),
            peers: others.map(|node| (node.id, self.node(node))).collect(),
            rest,
        })
    }

    /// The number of a user; 0 stands for none.
    fn user(&self, login: &str) -> usize {
        self.users.iter().position(|known| known == login).map_or(0, |at| at + 1)
    }

    fn node(&self, node: &Known) -> Value {
        let address = format!("{}/32", node.address);
        let mut allowed = node.routes.clone();
        allowed.push(address.clone());
        json!({
            "ID": node.id,
            "StableID": node.id.to_string(),
            "Name": format!("{}.{}.", node.name, self.domain),
            "User": self.user(&node.login),
            "Key": node.key,
            "DiscoKey": node.disco,
            "Addresses": [address],
            "AllowedIPs": allowed,
            "Endpoints": node.endpoints,
            "HomeDERP": node.home,
            "Hostinfo": { "Hostname": node.name, "OS": "linux" },
            "Created": "2026-11-01T00:00:00Z",
            "Cap": 130,
            "Tags": node.tags,
            "Online": node.streams > 0,
            "MachineAuthorized": node.authorized,
            "Expired": node.is_expired(),
            "KeyExpiry": match (node.expired, node.expiry) {
                (true, _) => "2020-01-01T00:00:00Z".to_owned(),
                (false, Some(at)) => adit_tunnel::rfc3339(at),
                (false, None) => "0001-01-01T00:00:00Z".to_owned(),
            },
            "KeySignature": if node.signed { "c2lnbmVk" } else { "" },
            "CapMap": { "https://tailscale.com/cap/is-admin": null },
        })
    }

    fn dns(&self) -> Value {
        let mut dns = self.dns.clone();
        dns.entry("Domains").or_insert_with(|| json!([self.domain]));
        dns.entry("Proxied").or_insert(Value::Bool(true));
        dns.entry("Routes").or_insert_with(|| json!({ format!("{}.", self.domain): null }));
        Value::Object(dns)
    }

    fn derp_map(&self) -> Value {
        let node = json!({
            "Name": "1a",
            "RegionID": REGION,
            "HostName": self.derp.ip().to_string(),
            "IPv4": self.derp.ip().to_string(),
            "IPv6": "none",
            "DERPPort": self.derp.port(),
            "STUNPort": self.stun.port(),
        });
        let region = json!({ "RegionID": REGION, "RegionCode": "lab", "RegionName": "Lab", "Nodes": [node] });
        json!({ "Regions": { REGION.to_string(): region } })
    }
}

/// What a node sees.
#[derive(Clone, Debug)]
pub(super) struct View {
    node: Value,
    peers: BTreeMap<i64, Value>,
    rest: Map<String, Value>,
}

impl View {
    /// The first message.
    pub(super) fn whole(&self) -> Value {
        let mut message = self.rest.clone();
        message.insert("Node".to_owned(), self.node.clone());
        message.insert("Peers".to_owned(), self.peers.values().cloned().collect());
        Value::Object(message)
    }

    /// What has changed since an earlier view; `None` if nothing has.
    pub(super) fn since(&self, before: &Self) -> Option<Value> {
        let mut message: Map<String, Value> =
            self.rest.iter().filter(|(key, value)| before.rest.get(*key) != Some(value)).map(own).collect();
        if self.node != before.node {
            message.insert("Node".to_owned(), self.node.clone());
        }
        let changed: Vec<&Value> = self
            .peers
            .iter()
            .filter(|(id, peer)| before.peers.get(id) != Some(peer))
            .map(|(_, peer)| peer)
            .collect();
        if !changed.is_empty() {
            message.insert("PeersChanged".to_owned(), json!(changed));
        }
        let removed: Vec<&i64> = before.peers.keys().filter(|id| !self.peers.contains_key(id)).collect();
        if !removed.is_empty() {
            message.insert("PeersRemoved".to_owned(), json!(removed));
        }
        (!message.is_empty()).then_some(Value::Object(message))
    }
}

fn own((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}
