//! WireGuard interfaces and OpenVPN connections on a simulated internet, in virtual time. Every scenario that draws lots runs with several
//! seeds and prints the one that failed, with the command that repeats it.
//!
//! `cargo test -p adit-tests --features sim --test scenarios`

mod lab;

mod failures;
mod flows;
mod handshakes;
mod links;
mod moves;
mod openvpn;
mod relayed;
mod symptoms;
mod tailscale;
