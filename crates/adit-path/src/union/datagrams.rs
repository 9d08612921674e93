//! A UDP endpoint in several networks: each datagram goes to the network that routes its destination.

use std::sync::Arc;

use tokio::net::UnixDatagram;
use tokio::sync::mpsc;

use super::{Member, with_route};
use crate::{Udp, UdpFailure, UdpFlow, UdpMessage};

/// The longest message: header and datagram.
const MAX_MESSAGE: usize = UdpFlow::MAX_HEADER + 65_535;
/// Messages of the networks that may wait for the owner; more are lost, as on any network.
const WAITING: usize = 64;

/// Opens an endpoint in every network and joins them to one.
pub(super) async fn open(members: Arc<[Member]>, options: Udp) -> Result<UdpFlow, UdpFailure> {
    let mut flows = Vec::new();
    for member in members.iter() {
        flows.push(member.network.udp(options.clone()).await?);
    }
    let system = |error: std::io::Error| UdpFailure::System(error.to_string());
    let local = flows.first().ok_or(UdpFailure::Closed)?.local();
    let (ours, theirs) = UdpFlow::pair(local).map_err(system)?;
    let sockets = flows.into_iter().map(|flow| socket(flow.into_fd())).collect::<Result<Vec<_>, _>>();
    let (sockets, owner) = (sockets.map_err(system)?, Arc::new(socket(theirs).map_err(system)?));
    tokio::spawn(relay(members, sockets.into_iter().map(Arc::new).collect(), owner));
    Ok(ours)
}

fn socket(fd: std::os::fd::OwnedFd) -> std::io::Result<UnixDatagram> {
    // Sequenced packets through the datagram type: the system calls are the same.
    let socket = std::os::unix::net::UnixDatagram::from(fd);
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

/// Moves messages until the owner closes its end; a network that closed its own is left out.
async fn relay(members: Arc<[Member]>, sockets: Vec<Arc<UnixDatagram>>, owner: Arc<UnixDatagram>) {
    let (sender, mut inward) = mpsc::channel::<Vec<u8>>(WAITING);
    let readers: Vec<_> = sockets
        .iter()
        .map(|socket| tokio::spawn(read(Arc::clone(socket), sender.clone())).abort_handle())
        .collect();
    let mut message = vec![0; MAX_MESSAGE];
    loop {
        tokio::select! {
            received = owner.recv(&mut message) => {
                let Ok(len @ 1..) = received else { break };
                let Some(UdpMessage::Datagram { address, .. }) = UdpFlow::parse(&message[..len]) else { continue };
                if let Some(at) = with_route(&members, address.ip()) {
                    // A full buffer loses a datagram, as on any network.
                    let _lost = sockets[at].try_send(&message[..len]);
                }
            }
            Some(message) = inward.recv() => {
                let _lost = owner.try_send(&message);
            }
        }
    }
    for reader in readers {
        reader.abort();
    }
}

async fn read(socket: Arc<UnixDatagram>, sender: mpsc::Sender<Vec<u8>>) {
    let mut message = vec![0; MAX_MESSAGE];
    while let Ok(len @ 1..) = socket.recv(&mut message).await {
        if let Err(mpsc::error::TrySendError::Closed(_)) = sender.try_send(message[..len].to_vec()) {
            return;
        }
    }
}
