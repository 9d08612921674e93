//! Running unmodified programs in a [`Network`](adit_path::Network), without privileges.
//!
//! [`Launcher`] starts a program under a seccomp filter that hands its `connect`, `sendto`, `getpeername` and
//! kin to this process (`seccomp_unotify(2)`). What concerns a private destination is carried out in the
//! private network; loopback, Unix sockets and public traffic stay the kernel's. [`probe`] says what the machine
//! allows.
//!
//! This is no sandbox: a program that wants to avoid the filter's purpose runs with the same user and can. It is
//! a promise about accidents: a private address or name never takes the public path.

mod abi;
mod bpf;
mod census;
mod dns;
mod environment;
mod failure;
mod filter;
mod front;
mod launcher;
mod options;
pub mod probe;
mod receive;
mod resolv;
mod resolver;
mod send;
mod sockaddr;
mod sockets;
mod supervisor;
mod sys;
mod tcp;
mod trapped;
mod udp;

/// What a process does before it touches a secret.
pub mod hygiene {
    pub use crate::sys::hygiene::{deny_dumps, take_descriptor, take_variable};
}

/// What is read of programs and of the machine, as functions over bytes.
pub mod wire {
    pub use crate::abi::{Arch, MessageHeader, Piece, parse_pieces};
    pub use crate::dns::{Fallback, Knowledge, Verdict, judge, reply, reply_failure, udp_limit};
    pub use crate::resolv::ResolvConf;
    pub use crate::sockaddr::{MAX_LEN, SockAddr, unmap, write};
}

pub use environment::ProxyEnvironment;
pub use failure::LaunchFailure;
pub use front::stand_in_front;
pub use launcher::{Exit, Launcher, Program, Running};
pub use options::{Backend, OnOpaque, Options, UdpMode};
pub use probe::Ladder;
