//! The parts of the laboratory.

#![allow(dead_code, reason = "each theme uses other parts of the laboratory")]

mod conf;
mod container;
mod impair;
mod laboratory;
mod namespace;
mod openvpn;
mod process;
mod report;
mod sandbox;
pub(crate) mod services;
mod tailnet;

pub(crate) use conf::Conf;
pub(crate) use container::in_container;
pub(crate) use impair::{Forwarder, Impairment};
pub(crate) use laboratory::{Lab, Part, peer, wait_until};
pub(crate) use openvpn::{Authority, Server, Wrap, client_params, pki, server_params};
pub(crate) use process::{Outcome, Process, run, run_with_input};
pub(crate) use services::{blob, serve_http};
pub(crate) use tailnet::{DOMAIN, Machine, Nat, Tailnet};
