//! `recvfrom`, `recvmsg` and `recvmmsg` with an address, on sockets that have private peers: the source is shown
//! as it is in the network.

use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::Interest;
use tokio::time::Instant;

use crate::abi::{Call, MessageHeader, Piece, parse_pieces};
use crate::send::{MAX_PIECES, waits};
use crate::sockaddr;
use crate::sockets::Handle;
use crate::supervisor::Supervisor;
use crate::sys::listener::Answer;
use crate::sys::socket::Received;
use crate::sys::{errno, readiness, socket};
use crate::trapped::{Trapped, Trouble};
use crate::udp::{Association, MAX_DATAGRAM};

/// Longer buffers for control messages are used in part.
const MAX_CONTROL: u64 = 4096;
/// How often a waiting call is checked for a program that has lost interest.
const CHECK: Duration = Duration::from_secs(1);

/// Decides a receive.
pub(crate) fn decide(supervisor: &Arc<Supervisor>, trapped: Trapped) {
    match plan(supervisor, &trapped) {
        Ok(None) => supervisor.finish(trapped, Ok(Answer::Continue)),
        Ok(Some(plan)) => match plan.attempt(&trapped) {
            Err(Trouble::Errno(libc::EAGAIN)) if waits(&plan.handle, plan.flags) => {
                supervisor.runtime.spawn(when_readable(supervisor.clone(), trapped, plan));
            }
            decision => supervisor.finish(trapped, decision),
        },
        Err(trouble) => supervisor.finish(trapped, Err(trouble)),
    }
}

/// What is needed to receive for a program.
struct Plan {
    handle: Handle,
    association: Arc<Association>,
    flags: i32,
    six: bool,
    targets: Vec<Target>,
}

/// Where one message goes in the program's memory.
struct Target {
    /// The `struct msghdr`, unless the call is `recvfrom`.
    header_at: u64,
    header: MessageHeader,
    pieces: Vec<Piece>,
}

/// What is to be received; `None` leaves the call to the kernel.
fn plan(supervisor: &Supervisor, trapped: &Trapped) -> Result<Option<Plan>, Trouble> {
    if supervisor.associations.is_empty() {
        return Ok(None);
    }
    let Some(inode) = trapped.inode(trapped.fd(0))? else { return Ok(None) };
    let Some(association) = supervisor.associations.get(inode) else { return Ok(None) };
    let (flags, targets) = match trapped.call {
        Call::RecvFrom => (trapped.args[3], vec![recvfrom_target(trapped)]),
        Call::RecvMsg => (trapped.args[2], vec![target(trapped, trapped.args[1])?]),
        _ => {
            let stride = MessageHeader::stride(trapped.arch) as u64;
            let count = trapped.args[2].min(MAX_PIECES);
            let targets = (0..count).map(|index| target(trapped, trapped.args[1] + index * stride));
            (trapped.args[3], targets.collect::<Result<_, _>>()?)
        }
    };
    let flags = flags as i32;
    let named = targets.iter().any(|target| target.header.name != 0);
    if !named || flags & libc::MSG_ERRQUEUE != 0 {
        return Ok(None);
    }
    let handle = supervisor.sockets.handle(trapped, trapped.fd(0))?;
    let six = socket::option(&handle, libc::SOL_SOCKET, libc::SO_DOMAIN)
        .is_ok_and(|domain| domain == libc::AF_INET6);
    Ok(Some(Plan { handle, association, flags, six, targets }))
}

fn recvfrom_target(trapped: &Trapped) -> Target {
    let [_, base, len, _, name, _] = trapped.args;
    Target {
        header_at: 0,
        header: MessageHeader { name, ..MessageHeader::default() },
        pieces: vec![Piece { base, len }],
    }
}

fn target(trapped: &Trapped, at: u64) -> Result<Target, Trouble> {
    let bytes = trapped.read(at, MessageHeader::size(trapped.arch))?;
    let header = MessageHeader::parse(&bytes, trapped.arch).ok_or(Trouble::Errno(libc::EFAULT))?;
    if header.piece_count > MAX_PIECES {
        return Err(Trouble::Errno(libc::EMSGSIZE));
    }
    let array = match header.piece_count {
        0 => Vec::new(),
        count => trapped.read(header.pieces, count as usize * 2 * trapped.arch.pointer())?,
    };
    Ok(Target { header_at: at, header, pieces: parse_pieces(&array, trapped.arch) })
}

impl Plan {
    /// Receives what is there.
    fn attempt(&self, trapped: &Trapped) -> Result<Answer, Trouble> {
        if !trapped.is_valid() {
            return Err(Trouble::Gone);
        }
        let mut received = 0;
        for target in &self.targets {
            match self.receive_one(trapped, target) {
                Ok(len) if matches!(trapped.call, Call::RecvFrom | Call::RecvMsg) => {
                    return Ok(Answer::Value(len as i64));
                }
                Ok(len) => {
                    let at = target.header_at + MessageHeader::size(trapped.arch) as u64;
                    trapped.write(at, &(len as u32).to_ne_bytes())?;
                    received += 1;
                }
                Err(_) if received > 0 => break,
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(Answer::Value(received))
    }

    fn receive_one(&self, trapped: &Trapped, target: &Target) -> Result<usize, Trouble> {
        let room = target.pieces.iter().fold(0_u64, |sum, piece| sum.saturating_add(piece.len));
        let mut payload = vec![0; (room as usize).min(MAX_DATAGRAM)];
        // The layout of control messages differs between 32 and 64 bits; a 32-bit program gets none.
        let native = trapped.arch.pointer() == size_of::<usize>() && target.header.control != 0;
        let mut control =
            vec![0; if native { target.header.control_len.min(MAX_CONTROL) as usize } else { 0 }];
        let flags = self.flags & !libc::MSG_WAITFORONE;
        let received = socket::receive(&self.handle, &mut payload, &mut control, flags)
            .map_err(|error| Trouble::Errno(errno(&error)))?;
        let written = received.len.min(payload.len());
        scatter(trapped, &payload[..written], &target.pieces)?;
        self.write_source(trapped, target, &received)?;
        if target.header_at != 0 {
            let at = target.header_at;
            trapped.write(target.header.control, &control[..received.control_len.min(control.len())])?;
            let control_len = (received.control_len as u64).to_ne_bytes();
            trapped.write(
                at + MessageHeader::control_len_offset(trapped.arch),
                &control_len[..trapped.arch.pointer()],
            )?;
            trapped.write(at + MessageHeader::flags_offset(trapped.arch), &received.flags.to_ne_bytes())?;
        }
        Ok(received.len)
    }

    fn write_source(&self, trapped: &Trapped, target: &Target, received: &Received) -> Result<(), Trouble> {
        let (Some(from), true) = (received.from, target.header.name != 0) else { return Ok(()) };
        let source = self.association.peer(from).unwrap_or(from);
        let bytes = sockaddr::write(source, self.six);
        let (len_at, room) = if target.header_at == 0 {
            let at = trapped.args[5];
            (at, trapped.read_u32(at)?)
        } else {
            (target.header_at + MessageHeader::name_len_offset(trapped.arch), target.header.name_len)
        };
        trapped.write(target.header.name, &bytes[..bytes.len().min(room as usize)])?;
        trapped.write(len_at, &(bytes.len() as u32).to_ne_bytes())
    }
}

fn scatter(trapped: &Trapped, mut payload: &[u8], pieces: &[Piece]) -> Result<(), Trouble> {
    for piece in pieces {
        let (now, rest) = payload.split_at(payload.len().min(piece.len as usize));
        if !now.is_empty() {
            trapped.write(piece.base, now)?;
        }
        payload = rest;
    }
    Ok(())
}

/// Receives when something comes, within the socket's `SO_RCVTIMEO`.
async fn when_readable(supervisor: Arc<Supervisor>, trapped: Trapped, plan: Plan) {
    let patience = sockopt::socket_timeout(&plan.handle, sockopt::Timeout::Recv).ok().flatten();
    let deadline = patience.map(|patience| Instant::now() + patience);
    let decision = loop {
        let socket = match readiness::copy(&plan.handle, Interest::READABLE) {
            Ok(socket) => socket,
            Err(error) => break Err(Trouble::Errno(errno(&error))),
        };
        let wake = deadline.unwrap_or_else(|| Instant::now() + CHECK).min(Instant::now() + CHECK);
        drop(tokio::time::timeout_at(wake, socket.readable()).await);
        match plan.attempt(&trapped) {
            Err(Trouble::Errno(libc::EAGAIN))
                if deadline.is_none_or(|deadline| Instant::now() < deadline) => {}
            decision => break decision,
        }
    };
    supervisor.finish(trapped, decision);
}
