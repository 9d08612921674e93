//! What is sent. Fields that are zero are left out, as the reference does.

use std::collections::BTreeMap;

use serde::Serialize;

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// `tailcfg.RegisterRequest`
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::tailscale) struct RegisterRequest<'a> {
    pub(in crate::tailscale) version: u16,
    pub(in crate::tailscale) node_key: String,
    pub(in crate::tailscale) old_node_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::tailscale) auth: Option<AuthInfo<'a>>,
    /// RFC 3339; absent asks for the usual expiry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::tailscale) expiry: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(in crate::tailscale) followup: &'a str,
    pub(in crate::tailscale) hostinfo: &'a Hostinfo,
    #[serde(skip_serializing_if = "is_false")]
    pub(in crate::tailscale) ephemeral: bool,
}

/// `tailcfg.RegisterResponseAuth`. `Debug` does not show the key.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::tailscale) struct AuthInfo<'a> {
    pub(in crate::tailscale) auth_key: &'a str,
}

impl std::fmt::Debug for AuthInfo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthInfo(redacted)")
    }
}

/// `tailcfg.MapRequest`
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::tailscale) struct MapRequest<'a> {
    pub(in crate::tailscale) version: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(in crate::tailscale) compress: &'a str,
    #[serde(skip_serializing_if = "is_false")]
    pub(in crate::tailscale) keep_alive: bool,
    pub(in crate::tailscale) node_key: String,
    pub(in crate::tailscale) disco_key: String,
    #[serde(skip_serializing_if = "is_false")]
    pub(in crate::tailscale) stream: bool,
    pub(in crate::tailscale) hostinfo: &'a Hostinfo,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(in crate::tailscale) endpoints: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(in crate::tailscale) endpoint_types: Vec<u8>,
    #[serde(skip_serializing_if = "is_false")]
    pub(in crate::tailscale) omit_peers: bool,
}

/// `tailcfg.Hostinfo`: what a network's administrator sees of this machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::tailscale) struct Hostinfo {
    #[serde(rename = "IPNVersion")]
    pub(in crate::tailscale) ipn_version: String,
    #[serde(rename = "BackendLogID")]
    pub(in crate::tailscale) backend_log_id: String,
    #[serde(rename = "OS")]
    pub(in crate::tailscale) os: String,
    #[serde(rename = "OSVersion", skip_serializing_if = "String::is_empty")]
    pub(in crate::tailscale) os_version: String,
    pub(in crate::tailscale) app: String,
    pub(in crate::tailscale) hostname: String,
    #[serde(skip_serializing_if = "is_false")]
    pub(in crate::tailscale) shields_up: bool,
    pub(in crate::tailscale) no_logs_no_support: bool,
    pub(in crate::tailscale) machine: String,
    pub(in crate::tailscale) go_arch: String,
    #[serde(rename = "RoutableIPs", skip_serializing_if = "Vec::is_empty")]
    pub(in crate::tailscale) routable_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(in crate::tailscale) request_tags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::tailscale) net_info: Option<NetInfo>,
    pub(in crate::tailscale) userspace: bool,
    pub(in crate::tailscale) userspace_router: bool,
}

/// `tailcfg.NetInfo`
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::tailscale) struct NetInfo {
    #[serde(rename = "MappingVariesByDestIP", skip_serializing_if = "Option::is_none")]
    pub(in crate::tailscale) mapping_varies: Option<bool>,
    #[serde(rename = "WorkingIPv6", skip_serializing_if = "Option::is_none")]
    pub(in crate::tailscale) working_ipv6: Option<bool>,
    #[serde(rename = "WorkingUDP", skip_serializing_if = "Option::is_none")]
    pub(in crate::tailscale) working_udp: Option<bool>,
    #[serde(rename = "PreferredDERP", skip_serializing_if = "is_zero")]
    pub(in crate::tailscale) preferred_derp: i64,
    /// Seconds, by `REGION-v4` or `REGION-v6`.
    #[serde(rename = "DERPLatency", skip_serializing_if = "BTreeMap::is_empty")]
    pub(in crate::tailscale) derp_latency: BTreeMap<String, f64>,
}

impl From<&adit_tailscale::NetInfo> for NetInfo {
    fn from(info: &adit_tailscale::NetInfo) -> Self {
        let latency =
            |(region, family, time): &(adit_tailscale::netmap::RegionId, u8, std::time::Duration)| {
                (format!("{}-v{family}", region.0), time.as_secs_f64())
            };
        Self {
            mapping_varies: info.mapping_varies,
            working_ipv6: info.ipv6,
            working_udp: info.udp,
            preferred_derp: i64::from(info.preferred_derp.0),
            derp_latency: info.latencies.iter().map(latency).collect(),
        }
    }
}

/// `tailcfg.PingResponse`
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::tailscale) struct PingResponse<'a> {
    pub(in crate::tailscale) r#type: &'a str,
    #[serde(rename = "IP", skip_serializing_if = "str::is_empty")]
    pub(in crate::tailscale) ip: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(in crate::tailscale) err: &'a str,
}
