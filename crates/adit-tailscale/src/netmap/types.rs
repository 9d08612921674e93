//! The parts of a netmap. Names follow the fields of `tailcfg.MapResponse`; see the module for who makes them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use adit_tunnel::Prefix;

use crate::{DiscoKey, NodeKey};

/// The number of a node, by which deltas name it (`Node.ID`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub i64);

/// The number of a DERP region. 0 stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionId(pub u16);

/// What one message of the control server changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// Ourselves (`Node`); `None` changes nothing.
    pub node: Option<SelfNode>,
    /// The other nodes.
    pub peers: PeersUpdate,
    /// Logins of users that are new or changed, by number (`UserProfiles`).
    pub users: Vec<(i64, String)>,
    /// The relays (`DERPMap`); `None` changes nothing.
    pub derp: Option<DerpMapUpdate>,
    /// Names (`DNSConfig`); `None` changes nothing.
    pub dns: Option<Dns>,
    /// The packet filter, in order: `PacketFilter` is the chunk named `base`, `PacketFilters` has the others.
    pub filter: Vec<FilterChange>,
    /// Tailnet lock (`TKAInfo`); `None` changes nothing.
    pub lock: Option<TailnetLock>,
}

/// What one message changes of the peers. Applied in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeersUpdate {
    /// All peers (`Peers`). If there are any, they replace what is known, and `changed` and `removed` of the same message
    /// do not count; none change nothing.
    pub full: Vec<Peer>,
    /// Peers that are gone (`PeersRemoved`).
    pub removed: Vec<NodeId>,
    /// Peers that are new or changed, whole (`PeersChanged`).
    pub changed: Vec<Peer>,
    /// When peers were last seen (`PeerSeenChange`); `None` unsets it.
    pub seen: Vec<(NodeId, Option<SystemTime>)>,
    /// Whether peers are online (`OnlineChange`).
    pub online: Vec<(NodeId, bool)>,
    /// Single fields of peers (`PeersChangedPatch`); of a peer that is not known nothing is patched.
    pub patches: Vec<PeerPatch>,
}

/// Ourselves, as the server sees us.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SelfNode {
    /// The number of the node.
    pub id: NodeId,
    /// The lasting name of the node (`StableID`).
    pub stable_id: String,
    /// The full DNS name, in lower case, without trailing dot.
    pub name: String,
    /// The key that the server knows us by.
    pub key: NodeKey,
    /// The key of path discovery that the server has of us: of the process that spoke last.
    pub disco: DiscoKey,
    /// Our addresses in the tailnet.
    pub addresses: Vec<Prefix>,
    /// Addresses and approved routes: what peers send to us.
    pub allowed_ips: Vec<Prefix>,
    /// Tags, with `tag:`.
    pub tags: Vec<String>,
    /// Names of node capabilities (`CapMap` and `Capabilities`).
    pub capabilities: Vec<String>,
    /// Whether the device is approved (`MachineAuthorized`).
    pub authorized: bool,
    /// Whether our node key has expired.
    pub expired: bool,
    /// When it expires or has expired (`KeyExpiry`); `None` is never.
    pub key_expiry: Option<SystemTime>,
    /// Whether the node key is signed for tailnet lock (`KeySignature`).
    pub signed: bool,
}

/// Another node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peer {
    /// The number of the node.
    pub id: NodeId,
    /// The lasting name of the node (`StableID`).
    pub stable_id: String,
    /// The full DNS name, in lower case, without trailing dot.
    pub name: String,
    /// The number of the user that owns it.
    pub user: i64,
    /// Tags, with `tag:`.
    pub tags: Vec<String>,
    /// Its WireGuard key.
    pub key: NodeKey,
    /// Its key of path discovery; zero if it has none.
    pub disco: DiscoKey,
    /// Its addresses in the tailnet.
    pub addresses: Vec<Prefix>,
    /// The prefixes that it may send from and takes packets for. Where the server sends none, these are the addresses;
    /// for a peer that is `UnsignedPeerAPIOnly` too.
    pub allowed_ips: Vec<Prefix>,
    /// Where it may be found directly.
    pub endpoints: Vec<SocketAddr>,
    /// The region where it listens (`HomeDERP`, or the older `DERP`); 0 for none.
    pub home_derp: RegionId,
    /// Whether the server has a connection with it; `None` if it does not say, which is no reason not to try.
    pub online: Option<bool>,
    /// When it was last seen online.
    pub last_seen: Option<SystemTime>,
    /// Whether its key has expired, by flag or by the server's clock.
    pub expired: bool,
    /// What the peer can do (`Cap`, its capability version).
    pub capability_version: u32,
    /// Names of its node capabilities, for `cap:` sources of the filter.
    pub capabilities: Vec<String>,
    /// The IPv4 address that we have for this peer, if not our own.
    pub masquerade_v4: Option<IpAddr>,
    /// The IPv6 address that we have for this peer, if not our own.
    pub masquerade_v6: Option<IpAddr>,
    /// Whether it may only answer (`IsJailed`).
    pub jailed: bool,
    /// Whether it speaks WireGuard and nothing else: no disco, no DERP.
    pub wireguard_only: bool,
    /// Whether its key is signed for tailnet lock.
    pub signed: bool,
}

/// Fields of a peer that changed; `None` keeps a field.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeerPatch {
    /// Which peer.
    pub id: NodeId,
    /// Its home region.
    pub home_derp: Option<RegionId>,
    /// Its capability version.
    pub capability_version: Option<u32>,
    /// Its node capabilities.
    pub capabilities: Option<Vec<String>>,
    /// Its endpoints.
    pub endpoints: Option<Vec<SocketAddr>>,
    /// Its WireGuard key.
    pub key: Option<NodeKey>,
    /// Its key of path discovery.
    pub disco: Option<DiscoKey>,
    /// Whether it is online.
    pub online: Option<bool>,
    /// When it was last seen.
    pub last_seen: Option<SystemTime>,
    /// Whether its key has expired.
    pub expired: Option<bool>,
}

/// What a message changes of the DERP map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DerpMapUpdate {
    /// All regions; `None` keeps the ones that are known. A region that the server sent as `null` is left out.
    pub regions: Option<BTreeMap<RegionId, DerpRegion>>,
    /// Factors on the latency of regions (`HomeParams.RegionScore`); `None` keeps them.
    pub scores: Option<BTreeMap<RegionId, f64>>,
}

/// A place with relays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DerpRegion {
    /// A short name.
    pub code: String,
    /// A name for people.
    pub name: String,
    /// Whether it must not become our home (`Avoid`, `NoMeasureNoHome`).
    pub avoid: bool,
    /// Its servers, in the order in which to try them.
    pub nodes: Vec<DerpNode>,
}

/// What a family's address field of a DERP node says (`IPv4`, `IPv6`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DerpAddress {
    /// Nothing: the host name is to be resolved.
    #[default]
    Resolve,
    /// Use this address.
    Fixed(IpAddr),
    /// Something else, such as `none`: the family is off.
    Off,
}

/// How the certificate of a DERP node is checked (`CertName`, `InsecureForTests`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DerpCertificate {
    /// It must be valid for the host name.
    #[default]
    HostName,
    /// It must be valid for this name, which is not sent.
    Name(String),
    /// Its leaf must have this SHA-256 (`sha256-raw:`).
    Sha256([u8; 32]),
    /// It is not checked (`InsecureForTests`). The server came over an authenticated channel, and its relays see
    /// nothing but sealed packets.
    Unchecked,
}

/// A relay and STUN server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DerpNode {
    /// Its name in the region.
    pub name: String,
    /// Its DNS name, or an address literal.
    pub host: String,
    /// Its IPv4 address.
    pub v4: DerpAddress,
    /// Its IPv6 address.
    pub v6: DerpAddress,
    /// How its certificate is checked.
    pub certificate: DerpCertificate,
    /// The port of DERP: `DERPPort`, or 443 for 0.
    pub derp_port: u16,
    /// The port of STUN: `STUNPort`, or 3478 for 0; `None` for -1.
    pub stun_port: Option<u16>,
    /// Whether it relays nothing.
    pub stun_only: bool,
    /// Where to send STUN requests, if not to the host (`STUNTestIP`).
    pub stun_address: Option<IpAddr>,
}

/// Names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dns {
    /// Resolvers for everything (`Resolvers`).
    pub resolvers: Vec<Resolver>,
    /// Resolvers for names under a suffix (`Routes`). Without resolvers, the names are answered by the tailnet itself.
    pub routes: Vec<DnsRoute>,
    /// Search domains (`Domains`), in lower case, without dots at the ends.
    pub search: Vec<String>,
    /// Whether MagicDNS is on (`Proxied`).
    pub magic: bool,
    /// Records of the tailnet (`ExtraRecords`).
    pub records: Vec<ExtraRecord>,
}

/// A rule of split DNS.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DnsRoute {
    /// The suffix, in lower case, without dots at the ends.
    pub suffix: String,
    /// Who answers.
    pub resolvers: Vec<Resolver>,
}

/// A resolver.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolver {
    /// Plain DNS at this address; the port is 53 where none was given.
    Plain(SocketAddr),
    /// Another form (DNS over HTTPS or TLS), as text.
    Other(String),
}

/// An address record that is no node's (`ExtraRecords` with type A, AAAA or none).
#[derive(Clone, Debug, PartialEq)]
pub struct ExtraRecord {
    /// The name, in lower case, without trailing dot.
    pub name: String,
    /// The address.
    pub address: IpAddr,
}

/// A change of the packet filter.
#[derive(Clone, Debug, PartialEq)]
pub enum FilterChange {
    /// All chunks are dropped (key `*` with `null`).
    Clear,
    /// A chunk gets these rules.
    Set(String, Vec<FilterRule>),
    /// A chunk is dropped.
    Remove(String),
}

/// Some addresses.
#[derive(Clone, Debug, PartialEq)]
pub enum Addresses {
    /// All (`*`).
    Any,
    /// A prefix or a single address.
    Prefix(Prefix),
    /// From the first to the last (`a-b`).
    Range(IpAddr, IpAddr),
    /// Those of nodes with a node capability (`cap:`); in sources only.
    Capability(String),
}

/// Destinations of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterTarget {
    /// The addresses.
    pub addresses: Addresses,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

/// A rule, which allows packets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilterRule {
    /// Who may send.
    pub sources: Vec<Addresses>,
    /// What may be reached.
    pub targets: Vec<FilterTarget>,
    /// IP protocols; none stand for TCP, UDP and both ICMP.
    pub protocols: Vec<u8>,
}

/// Tailnet lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TailnetLock {
    /// Whether keys must be signed.
    pub on: bool,
}
