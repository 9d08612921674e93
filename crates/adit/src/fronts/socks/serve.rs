//! The server's side of a SOCKS5 connection.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::message::{
    self, AUTH_VERSION, Command, NO_AUTH, NO_METHOD, PASSWORD, Parsed, Reply, SocksError, VERSION,
};
use super::udp;
use crate::fronts::Credentials;
use crate::fronts::accept::linger;
use crate::fronts::dial::Dialer;
use crate::fronts::target::Target;

/// How long a client may take over its side of the exchange.
const PATIENCE: Duration = Duration::from_secs(30);
const UNBOUND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Serves one connection until it is relayed, refused or broken.
pub(crate) async fn serve(
    mut client: TcpStream,
    dialer: &Dialer,
    credentials: Option<&Credentials>,
) -> io::Result<()> {
    let exchange = negotiate(&mut client, credentials);
    let command = match timeout(PATIENCE, exchange).await {
        Ok(Ok(command)) => command,
        Ok(Err(Broken::Protocol(error))) => {
            tracing::debug!(%error, "a SOCKS client was refused");
            if let Some(reply) = reply_to(&error) {
                client.write_all(&reply.encode(UNBOUND)).await?;
            }
            return linger(client).await;
        }
        Ok(Err(Broken::Io(error))) => return Err(error),
        Err(_) => return Ok(()),
    };
    match command {
        Command::Connect(target) => connect(client, dialer, target).await,
        Command::Associate(from) => udp::associate(client, dialer, from).await,
    }
}

async fn connect(mut client: TcpStream, dialer: &Dialer, target: Target) -> io::Result<()> {
    match dialer.dial(&target).await {
        Ok(dialled) => {
            let bound = dialled.local().unwrap_or(UNBOUND);
            client.write_all(&Reply::Succeeded.encode(bound)).await?;
            dialled.relay(client).await
        }
        Err(failure) => {
            tracing::debug!(%target, %failure, "a SOCKS connection was not made");
            client.write_all(&Reply::from(&failure).encode(UNBOUND)).await?;
            linger(client).await
        }
    }
}

enum Broken {
    Protocol(SocksError),
    Io(io::Error),
}

impl From<SocksError> for Broken {
    fn from(error: SocksError) -> Self {
        Self::Protocol(error)
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The code that tells a client of its mistake; `None` where the protocol is over already.
fn reply_to(error: &SocksError) -> Option<Reply> {
    match error {
        SocksError::Command(_) => Some(Reply::CommandNotSupported),
        SocksError::AddressType(_) => Some(Reply::AddressTypeNotSupported),
        SocksError::Target(_) => Some(Reply::GeneralFailure),
        SocksError::Version(_)
        | SocksError::Trailing
        | SocksError::NoMethod
        | SocksError::Credentials
        | SocksError::Fragment
        | SocksError::Truncated => None,
    }
}

async fn negotiate(client: &mut TcpStream, credentials: Option<&Credentials>) -> Result<Command, Broken> {
    let methods = read(client, message::parse_greeting).await?;
    let method = if credentials.is_some() { PASSWORD } else { NO_AUTH };
    if !methods.contains(&method) {
        client.write_all(&[VERSION, NO_METHOD]).await?;
        return Err(SocksError::NoMethod.into());
    }
    client.write_all(&[VERSION, method]).await?;
    if let Some(credentials) = credentials {
        let (user, password) = read(client, message::parse_credentials).await?;
        let admitted = credentials.admit(&user, &password);
        client.write_all(&[AUTH_VERSION, u8::from(!admitted)]).await?;
        if !admitted {
            return Err(SocksError::Credentials.into());
        }
    }
    read(client, message::parse_request).await
}

/// Reads exactly one message: what follows it belongs to the target.
async fn read<T>(
    client: &mut TcpStream,
    parse: impl Fn(&[u8]) -> Result<Parsed<T>, SocksError>,
) -> Result<T, Broken> {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes)? {
            Parsed::Done(message) => return Ok(message),
            Parsed::Needs(total) => {
                let have = bytes.len();
                bytes.resize(total, 0);
                client.read_exact(&mut bytes[have..]).await?;
            }
        }
    }
}
