//! The netmap: what the control server says of the tailnet, parsed and typed.
//!
//! The control side reads the server's messages, skips elements that do not parse, and hands over an [`Update`] per
//! message. [`State`] is what the updates add up to.

mod state;
mod types;

pub use state::{Changes, State};
pub use types::{
    Addresses, DerpAddress, DerpCertificate, DerpMapUpdate, DerpNode, DerpRegion, Dns, DnsRoute, ExtraRecord,
    FilterChange, FilterRule, FilterTarget, NodeId, Peer, PeerPatch, PeersUpdate, RegionId, Resolver,
    SelfNode, TailnetLock, Update,
};
