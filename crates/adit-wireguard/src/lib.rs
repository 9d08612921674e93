//! WireGuard as a [`Tunnel`](adit_tunnel::Tunnel): a pure state machine over boringtun.
