//! What each fuzz target does with its bytes. `fuzz/fuzz_targets` calls these under libFuzzer on the nightly compiler,
//! the test `corpus` calls them with the committed corpora on the stable one. Each asserts more than that nothing panics.

mod channel;
mod config;
mod control;
mod dns;
mod fronts;
mod openvpn;
mod openvpn_control;
mod packet;
mod profile;
mod program;
mod stack;
mod tailnet;
mod tailscale;
mod tcp;
mod wireguard;

pub use channel::{control_answer, control_records};
pub use config::{adit_toml, wg_quick};
pub use control::control_message;
pub use dns::dns_message;
pub use fronts::{http_head, socks_message};
pub use openvpn::{openvpn_data, openvpn_push};
pub use openvpn_control::{openvpn_client, openvpn_control};
pub use packet::ip_packet;
pub use profile::{openvpn_keys, openvpn_profile};
pub use program::{program_dns, program_memory};
pub use stack::stack_packet;
pub use tailnet::{derp_stream, disco_message, stun_message, tailscale_datagram};
pub use tailscale::tailscale_map;
pub use tcp::tcp_acks;
pub use wireguard::wireguard_datagram;

/// A fuzz target: its name, which is that of its corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("adit_toml", adit_toml),
    ("control_answer", control_answer),
    ("control_message", control_message),
    ("control_records", control_records),
    ("derp_stream", derp_stream),
    ("disco_message", disco_message),
    ("dns_message", dns_message),
    ("http_head", http_head),
    ("ip_packet", ip_packet),
    ("openvpn_client", openvpn_client),
    ("openvpn_control", openvpn_control),
    ("openvpn_data", openvpn_data),
    ("openvpn_keys", openvpn_keys),
    ("openvpn_profile", openvpn_profile),
    ("openvpn_push", openvpn_push),
    ("program_dns", program_dns),
    ("program_memory", program_memory),
    ("socks_message", socks_message),
    ("stack_packet", stack_packet),
    ("stun_message", stun_message),
    ("tailscale_datagram", tailscale_datagram),
    ("tailscale_map", tailscale_map),
    ("tcp_acks", tcp_acks),
    ("wg_quick", wg_quick),
    ("wireguard_datagram", wireguard_datagram),
];

/// Takes bytes apart into pieces, each behind its length in two bytes; the last one may be short. At most 64.
fn pieces(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (piece, rest) = rest.split_at(length);
        bytes = rest;
        Some(piece)
    })
    .take(64)
}
