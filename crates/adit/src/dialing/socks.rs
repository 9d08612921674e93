//! The client's side of the proxies that this program serves: SOCKS5 (RFC 1928) for both transports, and CONNECT
//! (RFC 9110 §9.3.6).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_path::Destination;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use crate::fronts::{Credentials, parse_socks_datagram};

/// How long a datagram may stay without an answer before it is sent again.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest head of a proxy's answer.
const MAX_HEAD: usize = 4096;

const CONNECT: u8 = 1;
const ASSOCIATE: u8 = 3;

/// A connection through a SOCKS5 proxy, which resolves names.
pub(super) async fn connect(
    at: SocketAddr,
    credentials: Option<&Credentials>,
    host: &Destination,
    port: u16,
) -> io::Result<TcpStream> {
    let mut stream = greet(at, credentials).await?;
    ask(&mut stream, CONNECT, host, port).await?;
    Ok(stream)
}

/// Sends a datagram through a SOCKS5 proxy (RFC 1928 §7) until one comes back; `None` when `limit` is over.
pub(super) async fn exchange(
    at: SocketAddr,
    credentials: Option<&Credentials>,
    host: &Destination,
    port: u16,
    payload: &[u8],
    limit: Duration,
) -> io::Result<Option<Vec<u8>>> {
    let until = Instant::now() + limit;
    // The association lasts as long as this connection.
    let mut control = greet(at, credentials).await?;
    let anywhere = Destination::Address(IpAddr::from([0, 0, 0, 0]));
    let relay = ask(&mut control, ASSOCIATE, &anywhere, 0).await?;
    let relay = if relay.ip().is_unspecified() { SocketAddr::new(at.ip(), relay.port()) } else { relay };
    let socket = UdpSocket::bind(SocketAddr::new(at.ip(), 0)).await?;
    socket.connect(relay).await?;
    let mut message = vec![0, 0, 0];
    push_address(&mut message, host, port)?;
    message.extend(payload);
    let mut buffer = vec![0; 65_535];
    while Instant::now() < until {
        socket.send(&message).await?;
        let wait = AGAIN.min(until.saturating_duration_since(Instant::now()));
        if let Ok(received) = timeout(wait, socket.recv(&mut buffer)).await {
            let (_, reply) = parse_socks_datagram(&buffer[..received?]).map_err(io::Error::other)?;
            return Ok(Some(reply.to_vec()));
        }
    }
    Ok(None)
}

/// A connection through a proxy's CONNECT.
pub(super) async fn http_connect(
    at: SocketAddr,
    credentials: Option<&Credentials>,
    host: &Destination,
    port: u16,
) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(at).await?;
    let authority = match host {
        Destination::Address(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        host => format!("{host}:{port}"),
    };
    let login = credentials.map(|credentials| format!("Proxy-Authorization: {}\r\n", credentials.basic()));
    let request =
        format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{}\r\n", login.unwrap_or_default());
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        head.push(stream.read_u8().await?);
    }
    let line =
        String::from_utf8_lossy(head.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    match line.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(stream),
        _ => Err(io::Error::other(format!("it answers CONNECT with `{line}`"))),
    }
}

/// Connects and is admitted.
async fn greet(at: SocketAddr, credentials: Option<&Credentials>) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(at).await?;
    let method = if credentials.is_some() { 2 } else { 0 };
    stream.write_all(&[5, 1, method]).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    if chosen != [5, method] {
        return Err(io::Error::other("it wants another way of authentication"));
    }
    if let Some(credentials) = credentials {
        stream.write_all(&credentials.login()).await?;
        let mut admitted = [0; 2];
        stream.read_exact(&mut admitted).await?;
        if admitted[1] != 0 {
            return Err(io::Error::other("it does not admit its own credentials"));
        }
    }
    Ok(stream)
}

/// Sends a request; returns the address in the reply.
async fn ask(stream: &mut TcpStream, command: u8, host: &Destination, port: u16) -> io::Result<SocketAddr> {
    let mut request = vec![5, command, 0];
    push_address(&mut request, host, port)?;
    stream.write_all(&request).await?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await?;
    if reply[1] != 0 {
        return Err(io::Error::other(format!("reply code {}", reply[1])));
    }
    let address = match reply[3] {
        1 => {
            let mut octets = [0; 4];
            stream.read_exact(&mut octets).await?;
            IpAddr::from(octets)
        }
        4 => {
            let mut octets = [0; 16];
            stream.read_exact(&mut octets).await?;
            IpAddr::from(octets)
        }
        _ => return Err(io::Error::other("its reply holds no address")),
    };
    Ok(SocketAddr::new(address, stream.read_u16().await?))
}

fn push_address(message: &mut Vec<u8>, host: &Destination, port: u16) -> io::Result<()> {
    match host {
        Destination::Address(IpAddr::V4(address)) => {
            message.push(1);
            message.extend(address.octets());
        }
        Destination::Address(IpAddr::V6(address)) => {
            message.push(4);
            message.extend(address.octets());
        }
        Destination::Name(name) => {
            message.extend([3, u8::try_from(name.len()).map_err(io::Error::other)?]);
            message.extend(name.as_bytes());
        }
    }
    message.extend(port.to_be_bytes());
    Ok(())
}
