//! The laboratory: network namespaces with a real server of WireGuard or OpenVPN or a tailnet, and behind it a LAN with PostgreSQL, files, an echo
//! and a DNS server. The release binary runs in it as a user would run it.
//!
//! ```text
//! namespace client ──veth── namespace server ──veth── namespace lan
//! 192.0.2.2                 192.0.2.1, .53 (names)    10.77.0.10 services, 10.77.0.53 names
//! 2001:db8::2               2001:db8::1               fd77::10, fd77::53
//!                           wireguard-go or openvpn
//!                           10.66.0.1, fd66::1
//! ```
//!
//! A tailnet has machines of its own around the server (`support/tailnet`).
//!
//! Each test builds a laboratory of its own, with unique names, and removes it; one that a killed run left behind is
//! removed at the next start. A failing test prints the logs of all parties.

mod support;

mod boxes;
mod container;
mod engine;
mod exec;
mod failures;
mod fronts;
mod openvpn;
mod reaches;
mod sessions;
mod tailscale;
mod tun;
mod up;
