//! Small servers over any byte stream: what the demo and the tests put behind a tunnel.
//!
//! They speak enough of their protocols for unmodified clients (`psql`, `curl`, `dig`), and no more. Each serves
//! one connection and returns when it ends; every message has a limit.

mod client;
mod dns;
mod http;
mod postgres;

use std::io;

use adit_path::UdpSocket;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

pub use client::{ClientError, Rows, http_get, postgres_query};
pub use dns::{Zone, dns_tcp, dns_udp};
pub use http::http;
pub use postgres::{Database, postgres};

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Sends back what it receives until the peer ends its direction (RFC 862).
///
/// # Errors
///
/// The connection broke.
pub async fn echo(stream: impl Duplex) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    tokio::io::copy(&mut reader, &mut writer).await?;
    writer.shutdown().await
}

/// Sends back every datagram (RFC 862) until the endpoint is closed.
///
/// # Errors
///
/// The endpoint broke; that the network closed it is no error.
pub async fn udp_echo(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = vec![0; 65_535];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((len, from)) => socket.send_to(&buffer[..len], from).await?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
