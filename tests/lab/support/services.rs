//! Services that run as threads of the test, on sockets inside a namespace.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::namespace::Namespace;

/// The size of `/blob`: 64 MiB.
pub(crate) const BLOB: usize = 64 << 20;

/// The byte of `/blob` at a position; no period divides a power of two, so that a shifted block shows.
fn blob_byte(position: usize) -> u8 {
    (position % 251) as u8 ^ (position / 65_521) as u8
}

/// The whole of `/blob`.
pub(crate) fn blob() -> Vec<u8> {
    (0..BLOB).map(blob_byte).collect()
}

/// Listens for TCP in a namespace and gives each connection a thread.
pub(crate) fn serve_tcp(
    namespace: &Namespace,
    at: SocketAddr,
    serve: impl Fn(TcpStream, SocketAddr) + Send + Sync + Clone + 'static,
) {
    let listener = namespace.enter(|| TcpListener::bind(at).unwrap_or_else(|error| panic!("{at}: {error}")));
    std::thread::spawn(move || {
        while let Ok((stream, peer)) = listener.accept() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream, peer));
        }
    });
}

/// Echoes datagrams. Each answer comes from the address that was asked.
pub(crate) fn serve_udp_echo(namespace: &Namespace, at: SocketAddr) {
    let socket = namespace.enter(|| UdpSocket::bind(at).unwrap_or_else(|error| panic!("{at}: {error}")));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            // A client may be gone already.
            let _ = socket.send_to(&buffer[..length], peer);
        }
    });
}

/// Echoes a TCP stream until the peer shuts down, then says `bye` and shuts down too.
pub(crate) fn serve_tcp_echo(namespace: &Namespace, at: SocketAddr) {
    serve_tcp(namespace, at, |mut stream, _| {
        let mut buffer = vec![0; 65_536];
        while let Ok(length) = stream.read(&mut buffer) {
            if length == 0 {
                let _ = stream.write_all(b"bye\n");
                return;
            }
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    });
}

/// Hands each connection to the service at a socket in the file system, which every namespace sees.
pub(crate) fn serve_socket(namespace: &Namespace, at: SocketAddr, socket: &Path) {
    let socket = socket.to_path_buf();
    serve_tcp(namespace, at, move |client, _| {
        // Without a service there is no connection, as the client sees.
        let Ok(service) = UnixStream::connect(&socket) else { return };
        let (mut to_service, mut from_service) = (service.try_clone().unwrap(), service);
        let (mut to_client, mut from_client) = (client.try_clone().unwrap(), client);
        let upward = std::thread::spawn(move || {
            let _ = std::io::copy(&mut from_client, &mut to_service);
            let _ = to_service.shutdown(Shutdown::Write);
        });
        let _ = std::io::copy(&mut from_service, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
        let _ = upward.join();
    });
}

/// An HTTPS server whose certificate for `name` is valid from 2020 until the year; returns the certificate of its
/// authority as PEM.
pub(crate) fn serve_https(namespace: &Namespace, at: &str, name: &str, until: i32) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    let certificate = params.signed_by(&key, &authority).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap();
    let config = Arc::new(config);
    serve_tcp(namespace, at.parse().unwrap(), move |stream, _| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = BufReader::new(StreamOwned::new(connection, stream));
        // A client that does not like the certificate goes away.
        let _ = stream.read_line(&mut String::new());
        let _ = write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n");
    });
    authority.pem()
}

/// A small HTTP/1.1 server: `/blob` has 64 MiB, `/page` 8 KiB in one piece, `/peer` names the client, `/healthz` says
/// `ok`, POST `/count` counts the bytes of the body, POST `/echo` sends it back, everything else is 404.
pub(crate) fn serve_http(namespace: &Namespace, at: SocketAddr) {
    serve_tcp(namespace, at, |stream, peer| {
        let _ = stream.set_nodelay(true);
        let mut reader = BufReader::new(stream);
        while let Some((line, length)) = read_head(&mut reader) {
            if respond(&mut reader, &line, length, peer).is_err() {
                return;
            }
        }
    });
}

/// Reads a request's head: its first line and the length of its body.
fn read_head(reader: &mut BufReader<TcpStream>) -> Option<(String, usize)> {
    let mut first = String::new();
    if reader.read_line(&mut first).ok()? == 0 {
        return None;
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            return Some((first.trim_end().to_owned(), length));
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
}

fn respond(
    reader: &mut BufReader<TcpStream>,
    line: &str,
    length: usize,
    peer: SocketAddr,
) -> std::io::Result<()> {
    let mut body = Vec::new();
    let received = if line.starts_with("POST /echo ") {
        reader.by_ref().take(length as u64).read_to_end(&mut body)? as u64
    } else {
        std::io::copy(&mut reader.by_ref().take(length as u64), &mut std::io::sink())?
    };
    let stream = reader.get_mut();
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    // A proxy's client may send the absolute form (RFC 9112 §3.2.2).
    let path = path.strip_prefix("http://").map_or(path, |rest| rest.find('/').map_or("/", |at| &rest[at..]));
    match path {
        "/blob" => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {BLOB}\r\n\r\n")?;
            if method == "HEAD" {
                return Ok(());
            }
            for start in (0..BLOB).step_by(1 << 18) {
                let block: Vec<u8> = (start..start + (1 << 18)).map(blob_byte).collect();
                stream.write_all(&block)?;
            }
            Ok(())
        }
        "/page" => text(stream, "200 OK", &"page ".repeat(8192 / 5)),
        "/peer" => text(stream, "200 OK", &format!("{}\n", canonical(peer.ip()))),
        "/healthz" => text(stream, "200 OK", "ok\n"),
        "/echo" => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())?;
            stream.write_all(&body)
        }
        "/count" => text(stream, "200 OK", &format!("{received}\n")),
        "/reset" => {
            // Closing with unread input makes the kernel send RST instead of FIN (RFC 9293 §3.6.1, RFC 2525 §2.17).
            rustix::net::sockopt::set_socket_linger(&*stream, Some(std::time::Duration::ZERO))?;
            stream.shutdown(Shutdown::Read)?;
            Err(std::io::ErrorKind::ConnectionReset.into())
        }
        _ => text(stream, "404 Not Found", "there is nothing\n"),
    }
}

fn text(stream: &mut TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes())
}

fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
