//! `sendto`, `sendmsg` and `sendmmsg` with an address.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::abi::{Call, MessageHeader, parse_pieces};
use crate::sockaddr::{self, SockAddr};
use crate::sockets::Handle;
use crate::supervisor::{Place, Supervisor};
use crate::sys::listener::Answer;
use crate::sys::{errno, readiness, socket};
use crate::trapped::{Trapped, Trouble};
use crate::udp::{self, MAX_DATAGRAM};
use tokio::io::Interest;

/// `UIO_MAXIOV`: the kernel takes no more pieces, and no more messages, in one call.
pub(crate) const MAX_PIECES: u64 = 1024;
/// Longer control messages are not looked at.
const MAX_CONTROL: u64 = 4096;

/// One message of a program.
#[derive(Debug)]
struct Outgoing {
    place: Option<Place>,
    six: bool,
    /// The address as the program wrote it; empty for none.
    name: Vec<u8>,
    header: MessageHeader,
}

/// Decides a send.
pub(crate) fn decide(supervisor: &Arc<Supervisor>, trapped: Trapped) {
    let plan = match trapped.call {
        Call::SendTo => plan_sendto(supervisor, &trapped),
        Call::SendMsg => plan_messages(supervisor, &trapped, 1),
        _ => plan_messages(supervisor, &trapped, trapped.args[2].min(MAX_PIECES)),
    };
    let messages = match plan {
        Ok(messages) => messages,
        Err(trouble) => return supervisor.finish(trapped, Err(trouble)),
    };
    let private = messages.iter().any(|message| message.place.is_some());
    let foreign = private
        && match supervisor.is_foreign(&trapped) {
            Ok(foreign) => foreign,
            Err(trouble) => return supervisor.finish(trapped, Err(trouble)),
        };
    if !private || foreign {
        return supervisor.finish(trapped, Ok(Answer::Continue));
    }
    match carry_out(supervisor, &trapped, &messages) {
        Ok(Attempt::Done(answer)) => supervisor.finish(trapped, Ok(answer)),
        Ok(Attempt::Full(handle)) => {
            supervisor.runtime.spawn(when_writable(supervisor.clone(), trapped, messages, handle));
        }
        Err(trouble) => supervisor.finish(trapped, Err(trouble)),
    }
}

enum Attempt {
    Done(Answer),
    /// The socket's buffer is full, and the program waits.
    Full(Handle),
}

fn plan_sendto(supervisor: &Supervisor, trapped: &Trapped) -> Result<Vec<Outgoing>, Trouble> {
    let [_, base, len, _, name, name_len] = trapped.args;
    let header = MessageHeader { name, name_len: name_len as u32, ..MessageHeader::default() };
    // The payload is one piece, which stands in the arguments.
    let header = MessageHeader { pieces: base, piece_count: len, ..header };
    Ok(vec![destination(supervisor, trapped, header)?])
}

fn plan_messages(supervisor: &Supervisor, trapped: &Trapped, count: u64) -> Result<Vec<Outgoing>, Trouble> {
    let stride = MessageHeader::stride(trapped.arch);
    let size = MessageHeader::size(trapped.arch);
    let len = if count == 1 { size } else { stride * count as usize };
    let bytes = trapped.read(trapped.args[1], len)?;
    bytes
        .chunks(stride)
        .map(|bytes| {
            let header = MessageHeader::parse(bytes, trapped.arch).ok_or(Trouble::Errno(libc::EFAULT))?;
            destination(supervisor, trapped, header)
        })
        .collect()
}

/// Where a message goes.
fn destination(
    supervisor: &Supervisor,
    trapped: &Trapped,
    header: MessageHeader,
) -> Result<Outgoing, Trouble> {
    let mut outgoing = Outgoing { place: None, six: false, name: Vec::new(), header };
    if header.name == 0 || header.name_len == 0 {
        return Ok(outgoing);
    }
    // sendmsg(2) cuts a length that is too large, sendto(2) refuses it.
    let len = match (header.name_len as i32, trapped.call) {
        (len, _) if len < 0 => return Err(Trouble::Errno(libc::EINVAL)),
        (len, Call::SendTo) if len as usize > sockaddr::MAX_LEN => return Err(Trouble::Errno(libc::EINVAL)),
        (len, _) => (len as usize).min(sockaddr::MAX_LEN),
    };
    outgoing.name = trapped.read(header.name, len)?;
    let to = match SockAddr::parse(&outgoing.name) {
        SockAddr::Inet { to, six } => {
            outgoing.six = six;
            to
        }
        SockAddr::Unspecified { as_inet: Some(to) } => SocketAddr::V4(to),
        _ => return Ok(outgoing),
    };
    outgoing.place = Some(supervisor.place(to)).filter(|place| *place != Place::Public);
    Ok(outgoing)
}

fn carry_out(
    supervisor: &Arc<Supervisor>,
    trapped: &Trapped,
    messages: &[Outgoing],
) -> Result<Attempt, Trouble> {
    let handle = supervisor.sockets.handle(trapped, trapped.fd(0))?;
    let flags = match trapped.call {
        Call::SendMsg => trapped.args[2],
        _ => trapped.args[3],
    } as i32;
    match socket::option(&handle, libc::SOL_SOCKET, libc::SO_TYPE) {
        Ok(libc::SOCK_DGRAM) => {}
        // Data in the SYN (RFC 7413) would leave before anybody was asked; programs connect without it then.
        Ok(libc::SOCK_STREAM) if flags & libc::MSG_FASTOPEN != 0 => {
            return Ok(Attempt::Done(Answer::Errno(libc::EOPNOTSUPP)));
        }
        // The address means nothing to a connected stream, and a stream that is not connected sends nothing.
        Ok(libc::SOCK_STREAM) => return Ok(Attempt::Done(Answer::Continue)),
        _ => return Ok(Attempt::Done(Answer::Errno(libc::EACCES))),
    }
    let mut sent = 0_u64;
    for (index, message) in messages.iter().enumerate() {
        match send_one(supervisor, trapped, &handle, message, flags) {
            Ok(len) if trapped.call == Call::SendMmsg => {
                let element = trapped.args[1] + (index * MessageHeader::stride(trapped.arch)) as u64;
                trapped
                    .write(element + MessageHeader::size(trapped.arch) as u64, &(len as u32).to_ne_bytes())?;
                sent += 1;
            }
            Ok(len) => return Ok(Attempt::Done(Answer::Value(len as i64))),
            // What was sent is reported; the rest comes again.
            Err(_) if sent > 0 => break,
            Err(Trouble::Errno(libc::EAGAIN)) if waits(&handle, flags) => return Ok(Attempt::Full(handle)),
            Err(trouble) => return Err(trouble),
        }
    }
    Ok(Attempt::Done(Answer::Value(sent as i64)))
}

/// Whether the call waits for room.
pub(crate) fn waits(handle: &Handle, flags: i32) -> bool {
    flags & libc::MSG_DONTWAIT == 0 && socket::is_blocking(handle).unwrap_or(false)
}

fn send_one(
    supervisor: &Arc<Supervisor>,
    trapped: &Trapped,
    handle: &Handle,
    message: &Outgoing,
    flags: i32,
) -> Result<usize, Trouble> {
    let payload = payload(trapped, &message.header)?;
    let control = match message.header.control {
        0 => Vec::new(),
        at => trapped.read(at, message.header.control_len.min(MAX_CONTROL) as usize)?,
    };
    if !trapped.is_valid() {
        return Err(Trouble::Gone);
    }
    let sent = match message.place {
        Some(place) => {
            if has_segment_size(&control, trapped.arch.pointer()) {
                // The relay sees single datagrams; QUIC libraries go on without segmentation.
                return Err(Trouble::Errno(libc::EIO));
            }
            let relay = udp::relay(supervisor, handle, place)?;
            // Control messages choose source addresses and interfaces, which the relay does not have.
            socket::send(handle, &payload, &sockaddr::write(relay, message.six), &[], flags)
        }
        // A public message among private ones goes as it stands.
        None => socket::send(handle, &payload, &message.name, &control, flags),
    };
    sent.map_err(|error| Trouble::Errno(errno(&error)))
}

/// The payload of a message.
fn payload(trapped: &Trapped, header: &MessageHeader) -> Result<Vec<u8>, Trouble> {
    if trapped.call == Call::SendTo {
        let len = usize::try_from(header.piece_count).unwrap_or(usize::MAX);
        return match len {
            0 => Ok(Vec::new()),
            len if len > MAX_DATAGRAM => Err(Trouble::Errno(libc::EMSGSIZE)),
            len => trapped.read(header.pieces, len),
        };
    }
    if header.piece_count > MAX_PIECES {
        return Err(Trouble::Errno(libc::EMSGSIZE));
    }
    let array = trapped.read(header.pieces, header.piece_count as usize * 2 * trapped.arch.pointer())?;
    let mut payload = Vec::new();
    for piece in parse_pieces(&array, trapped.arch) {
        let len = usize::try_from(piece.len).unwrap_or(usize::MAX);
        if len > MAX_DATAGRAM - payload.len() {
            return Err(Trouble::Errno(libc::EMSGSIZE));
        }
        if len > 0 {
            payload.extend(trapped.read(piece.base, len)?);
        }
    }
    Ok(payload)
}

/// Whether control messages ask for segmentation (`UDP_SEGMENT`, udp(7)).
fn has_segment_size(control: &[u8], word: usize) -> bool {
    let mut rest = control;
    while rest.len() >= word + 8 {
        let len = match word {
            8 => rest.first_chunk().map_or(0, |len| u64::from_ne_bytes(*len) as usize),
            _ => rest.first_chunk().map_or(0, |len| u32::from_ne_bytes(*len) as usize),
        };
        let number = |at: usize| rest.get(at..)?.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
        if (number(word), number(word + 4)) == (Some(libc::SOL_UDP), Some(libc::UDP_SEGMENT)) {
            return true;
        }
        let step = len.clamp(word + 8, rest.len()).next_multiple_of(word);
        rest = rest.get(step..).unwrap_or_default();
    }
    false
}

/// Sends when the socket has room again.
async fn when_writable(
    supervisor: Arc<Supervisor>,
    trapped: Trapped,
    messages: Vec<Outgoing>,
    handle: Handle,
) {
    let decision = loop {
        match readiness::copy(&handle, Interest::WRITABLE) {
            Ok(socket) => drop(socket.writable().await),
            Err(error) => break Err(Trouble::Errno(errno(&error))),
        }
        match carry_out(&supervisor, &trapped, &messages) {
            Ok(Attempt::Full(_)) => {}
            Ok(Attempt::Done(answer)) => break Ok(answer),
            Err(trouble) => break Err(trouble),
        }
    };
    supervisor.finish(trapped, decision);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_size_is_found_behind_other_control_messages() {
        let message = |level: i32, kind: i32, data: &[u8]| {
            let mut bytes = ((16 + data.len()) as u64).to_ne_bytes().to_vec();
            bytes.extend(level.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes
        };
        let tos = message(libc::IPPROTO_IP, libc::IP_TOS, &[0; 4]);
        let segment = message(libc::SOL_UDP, libc::UDP_SEGMENT, &[0; 2]);
        assert!(!has_segment_size(&tos, 8));
        assert!(has_segment_size(&[tos, segment].concat(), 8));
        assert!(!has_segment_size(&[0xff; 40], 8), "a length that lies");
    }
}
