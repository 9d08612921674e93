//! What is received. Every field may be absent or `null`; lists stay raw until they are read element by element.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// `tailcfg.RegisterResponse`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct RegisterResponse {
    pub(in crate::tailscale) login: Option<Login>,
    pub(in crate::tailscale) node_key_expired: Option<bool>,
    pub(in crate::tailscale) machine_authorized: Option<bool>,
    #[serde(rename = "AuthURL")]
    pub(in crate::tailscale) auth_url: Option<String>,
    pub(in crate::tailscale) error: Option<String>,
}

/// `tailcfg.Login`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct Login {
    pub(in crate::tailscale) login_name: Option<String>,
}

/// `tailcfg.MapResponse`, of which these fields are used.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct MapResponse<'a> {
    pub(in crate::tailscale) keep_alive: Option<bool>,
    #[serde(borrow)]
    pub(in crate::tailscale) ping_request: Option<&'a RawValue>,
    #[serde(rename = "PopBrowserURL")]
    pub(in crate::tailscale) pop_browser_url: Option<String>,
    #[serde(borrow)]
    pub(in crate::tailscale) node: Option<&'a RawValue>,
    #[serde(borrow, rename = "DERPMap")]
    pub(in crate::tailscale) derp_map: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(in crate::tailscale) peers: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(in crate::tailscale) peers_changed: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(in crate::tailscale) peers_removed: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(in crate::tailscale) peers_changed_patch: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(in crate::tailscale) user_profiles: Option<&'a RawValue>,
    /// Keys are node numbers, as text.
    pub(in crate::tailscale) peer_seen_change: Option<BTreeMap<String, bool>>,
    pub(in crate::tailscale) online_change: Option<BTreeMap<String, bool>>,
    #[serde(borrow, rename = "DNSConfig")]
    pub(in crate::tailscale) dns_config: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(in crate::tailscale) packet_filter: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(in crate::tailscale) packet_filters: Option<BTreeMap<String, Option<&'a RawValue>>>,
    /// An empty list means that all is well again.
    pub(in crate::tailscale) health: Option<Vec<String>>,
    pub(in crate::tailscale) control_time: Option<String>,
    #[serde(rename = "TKAInfo")]
    pub(in crate::tailscale) tka_info: Option<TkaInfo>,
}

/// `tailcfg.TKAInfo`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct TkaInfo {
    pub(in crate::tailscale) head: Option<String>,
    pub(in crate::tailscale) disabled: Option<bool>,
}

/// `tailcfg.PingRequest`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct PingRequest {
    #[serde(rename = "URL")]
    pub(in crate::tailscale) url: Option<String>,
    #[serde(rename = "URLIsNoise")]
    pub(in crate::tailscale) url_is_noise: Option<bool>,
    pub(in crate::tailscale) types: Option<String>,
    #[serde(rename = "IP")]
    pub(in crate::tailscale) ip: Option<String>,
    /// Base64.
    pub(in crate::tailscale) payload: Option<String>,
}

/// `tailcfg.Node`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct Node {
    #[serde(rename = "ID")]
    pub(in crate::tailscale) id: i64,
    #[serde(rename = "StableID")]
    pub(in crate::tailscale) stable_id: Option<String>,
    pub(in crate::tailscale) name: Option<String>,
    pub(in crate::tailscale) user: Option<i64>,
    pub(in crate::tailscale) key: Option<String>,
    pub(in crate::tailscale) key_expiry: Option<String>,
    pub(in crate::tailscale) key_signature: Option<String>,
    pub(in crate::tailscale) disco_key: Option<String>,
    pub(in crate::tailscale) addresses: Option<Vec<String>>,
    #[serde(rename = "AllowedIPs")]
    pub(in crate::tailscale) allowed_ips: Option<Vec<String>>,
    pub(in crate::tailscale) endpoints: Option<Vec<String>>,
    /// The older form of `HomeDERP`: `127.3.3.40:REGION`.
    #[serde(rename = "DERP")]
    pub(in crate::tailscale) derp: Option<String>,
    #[serde(rename = "HomeDERP")]
    pub(in crate::tailscale) home_derp: Option<i64>,
    pub(in crate::tailscale) cap: Option<i64>,
    pub(in crate::tailscale) tags: Option<Vec<String>>,
    pub(in crate::tailscale) last_seen: Option<String>,
    pub(in crate::tailscale) online: Option<bool>,
    pub(in crate::tailscale) machine_authorized: Option<bool>,
    pub(in crate::tailscale) capabilities: Option<Vec<String>>,
    pub(in crate::tailscale) cap_map: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    #[serde(rename = "UnsignedPeerAPIOnly")]
    pub(in crate::tailscale) unsigned_peer_api_only: Option<bool>,
    pub(in crate::tailscale) expired: Option<bool>,
    #[serde(rename = "SelfNodeV4MasqAddrForThisPeer")]
    pub(in crate::tailscale) masquerade_v4: Option<String>,
    #[serde(rename = "SelfNodeV6MasqAddrForThisPeer")]
    pub(in crate::tailscale) masquerade_v6: Option<String>,
    #[serde(rename = "IsWireGuardOnly")]
    pub(in crate::tailscale) is_wireguard_only: Option<bool>,
    pub(in crate::tailscale) is_jailed: Option<bool>,
}

/// `tailcfg.UserProfile`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct UserProfile {
    #[serde(rename = "ID")]
    pub(in crate::tailscale) id: i64,
    pub(in crate::tailscale) login_name: Option<String>,
    pub(in crate::tailscale) display_name: Option<String>,
}

/// `tailcfg.PeerChange`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct PeerChange {
    #[serde(rename = "NodeID")]
    pub(in crate::tailscale) node_id: i64,
    #[serde(rename = "DERPRegion")]
    pub(in crate::tailscale) derp_region: Option<i64>,
    pub(in crate::tailscale) cap: Option<i64>,
    pub(in crate::tailscale) cap_map: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    pub(in crate::tailscale) endpoints: Option<Vec<String>>,
    pub(in crate::tailscale) key: Option<String>,
    pub(in crate::tailscale) disco_key: Option<String>,
    pub(in crate::tailscale) online: Option<bool>,
    pub(in crate::tailscale) last_seen: Option<String>,
    pub(in crate::tailscale) key_expiry: Option<String>,
}

/// `tailcfg.DERPMap`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct DerpMap<'a> {
    pub(in crate::tailscale) home_params: Option<HomeParams>,
    #[serde(borrow)]
    pub(in crate::tailscale) regions: Option<BTreeMap<String, Option<&'a RawValue>>>,
}

/// `tailcfg.DERPHomeParams`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct HomeParams {
    pub(in crate::tailscale) region_score: Option<BTreeMap<String, f64>>,
}

/// `tailcfg.DERPRegion`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct DerpRegion<'a> {
    pub(in crate::tailscale) region_code: Option<String>,
    pub(in crate::tailscale) region_name: Option<String>,
    pub(in crate::tailscale) avoid: Option<bool>,
    pub(in crate::tailscale) no_measure_no_home: Option<bool>,
    #[serde(borrow)]
    pub(in crate::tailscale) nodes: Option<&'a RawValue>,
}

/// `tailcfg.DERPNode`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct DerpNode {
    pub(in crate::tailscale) name: Option<String>,
    pub(in crate::tailscale) host_name: Option<String>,
    pub(in crate::tailscale) cert_name: Option<String>,
    #[serde(rename = "IPv4")]
    pub(in crate::tailscale) ipv4: Option<String>,
    #[serde(rename = "IPv6")]
    pub(in crate::tailscale) ipv6: Option<String>,
    #[serde(rename = "STUNPort")]
    pub(in crate::tailscale) stun_port: Option<i64>,
    #[serde(rename = "STUNOnly")]
    pub(in crate::tailscale) stun_only: Option<bool>,
    #[serde(rename = "DERPPort")]
    pub(in crate::tailscale) derp_port: Option<i64>,
    pub(in crate::tailscale) insecure_for_tests: Option<bool>,
    #[serde(rename = "STUNTestIP")]
    pub(in crate::tailscale) stun_test_ip: Option<String>,
}

/// `tailcfg.DNSConfig`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct DnsConfig<'a> {
    #[serde(borrow)]
    pub(in crate::tailscale) resolvers: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(in crate::tailscale) routes: Option<BTreeMap<String, Option<&'a RawValue>>>,
    pub(in crate::tailscale) domains: Option<Vec<String>>,
    pub(in crate::tailscale) proxied: Option<bool>,
    /// The older form of `Resolvers`: addresses.
    pub(in crate::tailscale) nameservers: Option<Vec<String>>,
    #[serde(borrow)]
    pub(in crate::tailscale) extra_records: Option<&'a RawValue>,
}

/// `dnstype.Resolver`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct Resolver {
    pub(in crate::tailscale) addr: Option<String>,
}

/// `tailcfg.DNSRecord`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct DnsRecord {
    pub(in crate::tailscale) name: Option<String>,
    pub(in crate::tailscale) r#type: Option<String>,
    pub(in crate::tailscale) value: Option<String>,
}

/// `tailcfg.FilterRule`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct FilterRule {
    #[serde(rename = "SrcIPs")]
    pub(in crate::tailscale) src_ips: Option<Vec<String>>,
    /// The older way to write prefixes: the length for the source at the same place.
    pub(in crate::tailscale) src_bits: Option<Vec<i64>>,
    pub(in crate::tailscale) dst_ports: Option<Vec<NetPortRange>>,
    #[serde(rename = "IPProto")]
    pub(in crate::tailscale) ip_proto: Option<Vec<i64>>,
}

/// `tailcfg.NetPortRange`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct NetPortRange {
    #[serde(rename = "IP")]
    pub(in crate::tailscale) ip: Option<String>,
    pub(in crate::tailscale) bits: Option<i64>,
    pub(in crate::tailscale) ports: Option<PortRange>,
}

/// `tailcfg.PortRange`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::tailscale) struct PortRange {
    pub(in crate::tailscale) first: Option<u16>,
    pub(in crate::tailscale) last: Option<u16>,
}
