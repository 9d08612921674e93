//! What the intercepted child is asked, and how it finds out.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use super::Outcome;

/// The longest reply that is told; what a target answers is shown, not used.
pub(super) const MAX_REPLY: usize = 4096;
/// How long a datagram may stay without an answer before it is sent again. The parent ends it all.
const AGAIN: Duration = Duration::from_secs(1);

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Does it accept a connection?
    Tcp { host: String, port: u16 },
    /// What does it answer to a datagram?
    Udp { host: String, port: u16, payload: Vec<u8> },
    /// What does a name resolve to?
    Name { host: String },
}

impl Question {
    /// The child's arguments.
    pub(super) fn arguments(&self) -> impl Iterator<Item = String> {
        match self {
            Self::Tcp { host, port } => vec!["tcp".to_owned(), host.clone(), port.to_string()],
            Self::Udp { host, port, payload } => {
                vec!["udp".to_owned(), host.clone(), port.to_string(), hex(payload)]
            }
            Self::Name { host } => vec!["name".to_owned(), host.clone()],
        }
        .into_iter()
    }

    /// The question of the child's arguments.
    pub(super) fn of(arguments: &[&str]) -> Option<Self> {
        match *arguments {
            ["tcp", host, port] => Some(Self::Tcp { host: host.to_owned(), port: port.parse().ok()? }),
            ["udp", host, port, payload] => {
                let (port, payload) = (port.parse().ok()?, from_hex(payload)?);
                Some(Self::Udp { host: host.to_owned(), port, payload })
            }
            ["name", host] => Some(Self::Name { host: host.to_owned() }),
            _ => None,
        }
    }

    /// Asks as any program does.
    pub(super) fn ask(&self) -> (Outcome, Option<TcpStream>) {
        let failed = |error: &io::Error| Outcome::Failed { errno: error.raw_os_error().unwrap_or_default() };
        let (host, port) = match self {
            Self::Tcp { host, port } | Self::Udp { host, port, .. } => (host, *port),
            Self::Name { host } => (host, 0),
        };
        let addresses: Vec<SocketAddr> = match (host.as_str(), port).to_socket_addrs() {
            Ok(addresses) => addresses.collect(),
            Err(error) => return (Outcome::Unresolved { why: error.to_string() }, None),
        };
        match self {
            Self::Tcp { .. } => {
                let connected = TcpStream::connect(&*addresses);
                match connected.and_then(|socket| Ok((socket.peer_addr()?, socket))) {
                    Ok((peer, socket)) => (Outcome::Connected { peer }, Some(socket)),
                    Err(error) => (failed(&error), None),
                }
            }
            Self::Udp { payload, .. } => match exchange(&addresses, payload) {
                Ok(reply) => (Outcome::Replied { reply: hex(&reply) }, None),
                Err(error) => (failed(&error), None),
            },
            Self::Name { .. } => {
                let mut found: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
                found.dedup();
                (Outcome::Resolved { addresses: found }, None)
            }
        }
    }
}

/// Sends to the first address until a datagram comes back.
fn exchange(addresses: &[SocketAddr], payload: &[u8]) -> io::Result<Vec<u8>> {
    let to = addresses.first().ok_or(io::ErrorKind::NotFound)?;
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(AGAIN))?;
    let mut reply = vec![0; MAX_REPLY];
    loop {
        socket.send(payload)?;
        match socket.recv(&mut reply) {
            Ok(len) => {
                reply.truncate(len);
                return Ok(reply);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of hexadecimal digits.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_survives_the_command_line() {
        let host = || "db.internal".to_owned();
        for question in [
            Question::Tcp { host: host(), port: 5432 },
            Question::Udp { host: host(), port: 53, payload: vec![0, 1, 254, 255] },
            Question::Udp { host: host(), port: 7, payload: Vec::new() },
            Question::Name { host: host() },
        ] {
            let arguments: Vec<_> = question.arguments().collect();
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            assert_eq!(Question::of(&arguments), Some(question));
        }
        for wrong in [&["udp", "x", "1", "0"][..], &["tcp", "x", "port"], &["udp", "x", "1", "\u{fc}"], &[]] {
            assert_eq!(Question::of(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_datagram_is_sent_until_one_comes_back() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let served = std::thread::spawn(move || {
            let mut buffer = [0; 16];
            // The first is lost.
            server.recv_from(&mut buffer).unwrap();
            let (len, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&buffer[..len], from).unwrap();
        });
        assert_eq!(exchange(&[to], b"again").unwrap(), b"again");
        served.join().unwrap();
    }
}
