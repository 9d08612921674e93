//! From a message of the control server to what it changes.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use adit_tailscale::NodeKey;
use adit_tailscale::netmap::{
    DerpAddress, DerpCertificate, DerpMapUpdate, DerpNode, DerpRegion, Dns, DnsRoute, ExtraRecord,
    FilterChange, FilterRule, FilterTarget, NodeId, Peer, PeerPatch, PeersUpdate, RegionId, Resolver,
    SelfNode, TailnetLock, Update,
};
use adit_tunnel::Prefix;
use serde_json::value::RawValue;

use super::super::noise::printable;
use super::addresses::{legacy_region, name, parsed, region, resolver, set};
use super::read::{element, elements};
use super::response::{self, MapResponse};
use super::time::rfc3339;

/// The chunk that `PacketFilter` is.
const BASE: &str = "base";

/// What a message changes. `now` is the server's time, by which keys expire; `local` is ours, for what is seen now.
pub(in crate::tailscale) fn update(message: &MapResponse<'_>, now: SystemTime, local: SystemTime) -> Update {
    Update {
        node: message.node.and_then(|raw| element("Node", raw)).map(|node| self_node(node, now)),
        peers: peers(message, now, local),
        users: elements::<response::UserProfile>("UserProfiles", message.user_profiles)
            .into_iter()
            .filter_map(user)
            .collect(),
        derp: message.derp_map.and_then(|raw| element("DERPMap", raw)).map(derp_map),
        dns: message.dns_config.and_then(|raw| element("DNSConfig", raw)).map(dns),
        filter: filter(message),
        lock: message.tka_info.as_ref().map(|info| TailnetLock {
            on: info.head.as_ref().is_some_and(|head| !head.is_empty()) && info.disabled != Some(true),
        }),
    }
}

/// The number and the login of a user.
fn user(profile: response::UserProfile) -> Option<(i64, String)> {
    let login = profile.login_name.filter(|login| !login.is_empty()).or(profile.display_name)?;
    Some((profile.id, printable(login.as_bytes())))
}

/// A key that can be read, or none.
fn key<T: std::str::FromStr + Default>(text: Option<&str>) -> T {
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn expired(flag: Option<bool>, expiry: Option<&str>, now: SystemTime) -> bool {
    flag == Some(true) || expiry.and_then(rfc3339).is_some_and(|expiry| expiry <= now)
}

fn capabilities(node: &mut response::Node) -> Vec<String> {
    let mut names = node.capabilities.take().unwrap_or_default();
    names.extend(node.cap_map.take().unwrap_or_default().into_keys());
    names.sort_unstable();
    names.dedup();
    names
}

/// `AllowedIPs` where it is a list; where it is absent, the addresses.
fn allowed(node: &mut response::Node, addresses: &[Prefix]) -> Vec<Prefix> {
    match node.allowed_ips.take() {
        Some(list) => parsed("AllowedIPs", Some(list)),
        None => addresses.to_vec(),
    }
}

fn self_node(mut node: response::Node, now: SystemTime) -> SelfNode {
    let addresses: Vec<Prefix> = parsed("Addresses", node.addresses.take());
    let allowed_ips = allowed(&mut node, &addresses);
    SelfNode {
        id: NodeId(node.id),
        expired: expired(node.expired, node.key_expiry.as_deref(), now),
        key_expiry: node.key_expiry.as_deref().and_then(rfc3339),
        capabilities: capabilities(&mut node),
        allowed_ips,
        addresses,
        stable_id: node.stable_id.unwrap_or_default(),
        name: name(node.name),
        key: key(node.key.as_deref()),
        disco: key(node.disco_key.as_deref()),
        tags: node.tags.unwrap_or_default(),
        // A field that is false is left out.
        authorized: node.machine_authorized.unwrap_or(false),
        signed: node.key_signature.is_some_and(|signature| !signature.is_empty()),
    }
}

fn peer(mut node: response::Node, now: SystemTime) -> Option<Peer> {
    let Some(peer_key) = node.key.as_deref().and_then(|key| key.parse::<NodeKey>().ok()) else {
        tracing::warn!(node = node.id, "a peer has no key that can be read and is left out");
        return None;
    };
    let addresses: Vec<Prefix> = parsed("Addresses", node.addresses.take());
    let allowed_ips = if node.unsigned_peer_api_only == Some(true) {
        addresses.clone()
    } else {
        allowed(&mut node, &addresses)
    };
    let home =
        node.home_derp.filter(|home| *home != 0).or_else(|| node.derp.as_deref().and_then(legacy_region));
    let masquerade = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
    Some(Peer {
        id: NodeId(node.id),
        expired: expired(node.expired, node.key_expiry.as_deref(), now),
        capabilities: capabilities(&mut node),
        allowed_ips,
        addresses,
        home_derp: region(home),
        masquerade_v4: masquerade(&node.masquerade_v4),
        masquerade_v6: masquerade(&node.masquerade_v6),
        stable_id: node.stable_id.unwrap_or_default(),
        name: name(node.name),
        user: node.user.unwrap_or(0),
        tags: node.tags.unwrap_or_default(),
        key: peer_key,
        disco: key(node.disco_key.as_deref()),
        endpoints: parsed::<SocketAddr>("Endpoints", node.endpoints),
        online: node.online,
        last_seen: node.last_seen.as_deref().and_then(rfc3339),
        capability_version: node.cap.and_then(|cap| u32::try_from(cap).ok()).unwrap_or(0),
        jailed: node.is_jailed == Some(true),
        wireguard_only: node.is_wireguard_only == Some(true),
        signed: node.key_signature.is_some_and(|signature| !signature.is_empty()),
    })
}

fn peers(message: &MapResponse<'_>, now: SystemTime, local: SystemTime) -> PeersUpdate {
    let nodes = |what, raw: Option<&RawValue>| -> Vec<Peer> {
        elements::<response::Node>(what, raw).into_iter().filter_map(|node| peer(node, now)).collect()
    };
    let id = |text: &String| text.parse().ok().map(NodeId);
    let seen = message.peer_seen_change.iter().flatten();
    let online = message.online_change.iter().flatten();
    PeersUpdate {
        full: nodes("Peers", message.peers),
        removed: elements::<i64>("PeersRemoved", message.peers_removed).into_iter().map(NodeId).collect(),
        changed: nodes("PeersChanged", message.peers_changed),
        seen: seen.filter_map(|(node, seen)| Some((id(node)?, seen.then_some(local)))).collect(),
        online: online.filter_map(|(node, online)| Some((id(node)?, *online))).collect(),
        patches: elements("PeersChangedPatch", message.peers_changed_patch)
            .into_iter()
            .map(|change| patch(change, now))
            .collect(),
    }
}

fn patch(change: response::PeerChange, now: SystemTime) -> PeerPatch {
    PeerPatch {
        id: NodeId(change.node_id),
        home_derp: change.derp_region.map(|number| region(Some(number))),
        capability_version: change.cap.and_then(|cap| u32::try_from(cap).ok()),
        capabilities: change.cap_map.map(|map| map.into_keys().collect()),
        endpoints: change.endpoints.map(|list| parsed("Endpoints", Some(list))),
        key: change.key.and_then(|key| key.parse().ok()),
        disco: change.disco_key.and_then(|key| key.parse().ok()),
        online: change.online,
        last_seen: change.last_seen.as_deref().and_then(rfc3339),
        expired: change.key_expiry.as_deref().map(|expiry| expired(None, Some(expiry), now)),
    }
}

fn derp_map(map: response::DerpMap<'_>) -> DerpMapUpdate {
    let number = |text: &String| text.parse::<u16>().ok().filter(|number| *number != 0).map(RegionId);
    let regions = map.regions.map(|regions| {
        let read = |(id, raw): (&String, &Option<&RawValue>)| {
            Some((number(id)?, derp_region(element("DERP region", (*raw)?)?)))
        };
        regions.iter().filter_map(read).collect()
    });
    let scores = map.home_params.and_then(|params| params.region_score).map(|scores| {
        let usable = scores.iter().filter(|(_, score)| score.is_finite() && **score > 0.0);
        usable.filter_map(|(id, score)| Some((number(id)?, *score))).collect()
    });
    DerpMapUpdate { regions, scores }
}

fn derp_region(region: response::DerpRegion<'_>) -> DerpRegion {
    DerpRegion {
        nodes: elements("DERP nodes", region.nodes).into_iter().map(derp_node).collect(),
        code: region.region_code.unwrap_or_default(),
        name: region.region_name.unwrap_or_default(),
        avoid: region.avoid == Some(true) || region.no_measure_no_home == Some(true),
    }
}

fn derp_node(node: response::DerpNode) -> DerpNode {
    let address = |text: Option<String>| match text.as_deref() {
        None | Some("") => DerpAddress::Resolve,
        Some(text) => text.parse().map_or(DerpAddress::Off, DerpAddress::Fixed),
    };
    let port = |number: Option<i64>, usual: u16| match number {
        None | Some(0) => Some(usual),
        Some(number) => u16::try_from(number).ok(),
    };
    DerpNode {
        v4: address(node.ipv4),
        v6: address(node.ipv6),
        certificate: certificate(node.cert_name, node.insecure_for_tests == Some(true)),
        derp_port: port(node.derp_port, 443).unwrap_or(443),
        stun_port: port(node.stun_port, 3478),
        stun_only: node.stun_only == Some(true),
        stun_address: node.stun_test_ip.and_then(|text| text.parse().ok()),
        name: node.name.unwrap_or_default(),
        host: name(node.host_name),
    }
}

fn certificate(name: Option<String>, unchecked: bool) -> DerpCertificate {
    let name = name.unwrap_or_default();
    let digest =
        name.strip_prefix("sha256-raw:").map(|digits| format!("nodekey:{digits}").parse::<NodeKey>());
    match digest {
        // 32 bytes in hexadecimal digits have a reader already.
        Some(Ok(NodeKey(digest))) => DerpCertificate::Sha256(digest),
        // A pin that cannot be read must not become a weaker check: no certificate has this name.
        Some(Err(_)) => DerpCertificate::Name(name),
        None if unchecked => DerpCertificate::Unchecked,
        None if name.is_empty() => DerpCertificate::HostName,
        None => DerpCertificate::Name(name),
    }
}

fn resolvers(what: &'static str, raw: Option<&RawValue>) -> Vec<Resolver> {
    let found = elements::<response::Resolver>(what, raw);
    found.into_iter().filter_map(|found| resolver(&found.addr.unwrap_or_default())).collect()
}

fn dns(config: response::DnsConfig<'_>) -> Dns {
    let mut all = resolvers("Resolvers", config.resolvers);
    if all.is_empty() {
        all.extend(config.nameservers.unwrap_or_default().iter().filter_map(|text| resolver(text)));
    }
    let routes = config.routes.unwrap_or_default().into_iter();
    let records = elements::<response::DnsRecord>("ExtraRecords", config.extra_records);
    Dns {
        resolvers: all,
        routes: routes
            .map(|(suffix, raw)| DnsRoute { suffix: name(Some(suffix)), resolvers: resolvers("Routes", raw) })
            .collect(),
        search: config.domains.unwrap_or_default().into_iter().map(|domain| name(Some(domain))).collect(),
        magic: config.proxied == Some(true),
        records: records.into_iter().filter_map(record).collect(),
    }
}

/// An address record; other types are not answered by the tailnet.
fn record(record: response::DnsRecord) -> Option<ExtraRecord> {
    let address: IpAddr = record.value?.parse().ok()?;
    let fits = match record.r#type.as_deref() {
        None | Some("") => true,
        Some("A") => address.is_ipv4(),
        Some("AAAA") => address.is_ipv6(),
        Some(_) => false,
    };
    fits.then(|| ExtraRecord { name: name(record.name), address })
}

/// `PacketFilter` is the chunk `base`; in `PacketFilters` the key `*` with `null` clears all and comes first.
fn filter(message: &MapResponse<'_>) -> Vec<FilterChange> {
    let mut changes = Vec::new();
    if let Some(raw) = message.packet_filter {
        changes.push(FilterChange::Set(BASE.to_owned(), rules(raw)));
    }
    let start = changes.len();
    for (chunk, raw) in message.packet_filters.iter().flatten() {
        match raw {
            None if chunk == "*" => changes.insert(start, FilterChange::Clear),
            None => changes.push(FilterChange::Remove(chunk.clone())),
            Some(raw) => changes.push(FilterChange::Set(chunk.clone(), rules(raw))),
        }
    }
    changes
}

/// The rules that can be read. One that cannot be read allows nothing, which is the safe side.
fn rules(raw: &RawValue) -> Vec<FilterRule> {
    elements::<response::FilterRule>("packet filter", Some(raw)).into_iter().filter_map(rule).collect()
}

fn rule(rule: response::FilterRule) -> Option<FilterRule> {
    let bits = rule.src_bits.unwrap_or_default();
    let sources = rule.src_ips.unwrap_or_default();
    let sources: Vec<_> =
        sources.iter().enumerate().filter_map(|(index, text)| set(text, bits.get(index).copied())).collect();
    let targets: Vec<_> = rule.dst_ports.unwrap_or_default().into_iter().filter_map(target).collect();
    // Protocols that are no numbers of IP are dropped; a rule that loses all of them would mean the usual ones.
    let wanted = rule.ip_proto.unwrap_or_default();
    let protocols: Vec<u8> = wanted.iter().filter_map(|number| u8::try_from(*number).ok()).collect();
    let usable = !sources.is_empty() && !targets.is_empty() && (wanted.is_empty() || !protocols.is_empty());
    usable.then_some(FilterRule { sources, targets, protocols })
}

fn target(range: response::NetPortRange) -> Option<FilterTarget> {
    let addresses = set(&range.ip?, range.bits)?;
    let ports = range.ports?;
    let (first, last) = (ports.first.unwrap_or(0), ports.last.unwrap_or(0));
    (first <= last).then_some(FilterTarget { addresses, first, last })
}
