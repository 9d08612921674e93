//! The questions of a [`Network`](crate::Network) answered by the kernel, where a TUN device leads into the tunnel.
//!
//! Everything here may wait, so every question has a thread of its own; programs do not come this way, only checks,
//! proxies and forwards.

mod icmp;
mod names;
mod ping;
mod relay;
mod tcp;
mod udp;

use std::io;
use std::net::IpAddr;
use std::thread;

use tokio::sync::oneshot;

pub(crate) use self::names::{lookup, resolve};
pub(crate) use self::ping::ping;
pub(crate) use self::tcp::{connect, listen};
pub(crate) use self::udp::open;

/// Runs `work` on a thread of its own; `failed` is the answer if there is none to be had.
async fn on_thread<A: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> A + Send + 'static,
    failed: impl FnOnce(io::Error) -> A,
) -> A {
    let (reply, answer) = oneshot::channel();
    let started = thread::Builder::new().name(name.to_owned()).spawn(move || {
        // An asker that no longer waits needs no answer.
        let _ = reply.send(work());
    });
    match started {
        Ok(_) => match answer.await {
            Ok(answer) => answer,
            Err(_) => failed(io::Error::other("the thread ended without an answer")),
        },
        Err(error) => failed(error),
    }
}

/// The address of the tunnel's own that is of the family of `to`.
fn own_address(addresses: &[IpAddr], to: IpAddr) -> Option<IpAddr> {
    addresses.iter().find(|own| own.is_ipv4() == to.is_ipv4()).copied()
}
