//! Answers the DNS messages of the program: from inside the network, or by the server that it meant.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use adit_path::{Destination, Phase, Query, RecordType, ResolveFailure, Udp};
use adit_tunnel::NameScope;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::dns::{self, Fallback, Knowledge, Verdict};
use crate::supervisor::Supervisor;
use crate::tcp::dial_network;

/// How long the network's resolver may take; programs ask again after five seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the program's own server may take.
const FORWARD: Duration = Duration::from_secs(10);
/// The largest message.
const MAX_MESSAGE: usize = 65_535;
/// How long a TCP connection for questions may be silent (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(30);

/// The reply to a message that the program sent to `server`; `None` if there is none.
pub(crate) async fn answer(
    supervisor: &Supervisor,
    message: &[u8],
    server: SocketAddr,
    stream: bool,
) -> Option<Vec<u8>> {
    match judge(supervisor, message) {
        Verdict::Drop => None,
        Verdict::Reply(reply) => Some(reply),
        Verdict::Forward => forward(supervisor, message, server, stream).await,
        Verdict::Ask { name, record, fallback } => match ask(supervisor, name, record, fallback).await {
            Ok(answer) => {
                let limit = if stream { MAX_MESSAGE } else { dns::udp_limit(message) };
                dns::reply(message, &answer, limit)
            }
            Err(failure) => {
                let unknown = matches!(failure, ResolveFailure::NoSuchName { .. });
                tracing::debug!(%failure, ?fallback, "the network has no answer");
                match fallback {
                    Fallback::IfUnanswered => forward(supervisor, message, server, stream).await,
                    Fallback::IfUnknown if unknown => forward(supervisor, message, server, stream).await,
                    Fallback::IfUnknown | Fallback::Never => dns::reply_failure(message, &failure),
                }
            }
        },
    }
}

fn judge(supervisor: &Supervisor, message: &[u8]) -> Verdict {
    let conf = supervisor.resolv_conf();
    let status = supervisor.network.status();
    let scope = |name: &str| {
        let status = status.borrow();
        status.config.as_ref().map_or(NameScope::Public, |config| config.name_scope(name))
    };
    let owns = |destination: &Destination| supervisor.network.owns(destination);
    dns::judge(message, &Knowledge { owns: &owns, scope: &scope, own_search: &conf.search })
}

/// Asks the network; one that is coming up gets its time.
async fn ask(
    supervisor: &Supervisor,
    name: String,
    record: u16,
    fallback: Fallback,
) -> Result<adit_path::Answer, ResolveFailure> {
    let query = Query { name, record: Some(RecordType(record)), timeout: PATIENCE };
    match supervisor.network.resolve(query.clone()).await {
        Err(failure @ ResolveFailure::Down(_)) if fallback != Fallback::IfUnanswered => {
            let mut status = supervisor.network.status();
            let decided =
                status.wait_for(|status| matches!(status.phase, Phase::Up | Phase::Failed | Phase::Closed));
            match tokio::time::timeout(supervisor.options.wait.min(PATIENCE), decided).await {
                Ok(Ok(status)) if status.phase == Phase::Up => {}
                _ => return Err(failure),
            }
            supervisor.network.resolve(query).await
        }
        result => result,
    }
}

/// Sends a message on to the server that the program meant, unchanged; returns its reply, unchanged.
async fn forward(
    supervisor: &Supervisor,
    message: &[u8],
    server: SocketAddr,
    stream: bool,
) -> Option<Vec<u8>> {
    // The program's server may itself lie in the private network.
    let inside = supervisor.network.owns(&Destination::Address(server.ip()));
    let exchange = async {
        match (stream, inside) {
            (false, false) => by_udp(message, server).await,
            (false, true) => by_private_udp(supervisor, message, server).await,
            (true, false) => over(TcpStream::connect(server).await?, message).await,
            (true, true) => {
                let flow = dial_network(supervisor, server, None).await;
                over(flow.map_err(io::Error::from_raw_os_error)?.into_stream()?, message).await
            }
        }
    };
    match tokio::time::timeout(FORWARD, exchange).await {
        Ok(Ok(reply)) => Some(reply),
        Ok(Err(error)) => {
            tracing::debug!(%server, %error, "the program's name server");
            None
        }
        Err(_) => None,
    }
}

async fn by_udp(message: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(message).await?;
    let mut reply = vec![0; MAX_MESSAGE];
    loop {
        let len = socket.recv(&mut reply).await?;
        if is_reply(message, &reply[..len]) {
            reply.truncate(len);
            return Ok(reply);
        }
    }
}

async fn by_private_udp(supervisor: &Supervisor, message: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let flow = supervisor.network.udp(Udp { port: 0, peer: Some(server) }).await.map_err(io::Error::other)?;
    let socket = flow.into_socket()?;
    socket.send_to(message, server).await?;
    let mut reply = vec![0; MAX_MESSAGE];
    loop {
        let (len, from) = socket.recv_from(&mut reply).await?;
        if from == server && is_reply(message, &reply[..len]) {
            reply.truncate(len);
            return Ok(reply);
        }
    }
}

fn is_reply(query: &[u8], reply: &[u8]) -> bool {
    reply.len() >= 12 && query.len() >= 2 && reply[..2] == query[..2]
}

async fn over(mut stream: impl AsyncRead + AsyncWrite + Unpin, message: &[u8]) -> io::Result<Vec<u8>> {
    write_message(&mut stream, message).await?;
    read_message(&mut stream).await
}

/// Serves a program's TCP connection to its name server (RFC 7766): one question after the other.
pub(crate) async fn serve_stream(supervisor: Arc<Supervisor>, relay: OwnedFd, server: SocketAddr) {
    let stream = std::net::TcpStream::from(relay);
    let Ok(mut stream) = TcpStream::from_std(stream) else { return };
    while let Ok(Ok(message)) = tokio::time::timeout(IDLE, read_message(&mut stream)).await {
        let Some(reply) = answer(&supervisor, &message, server, true).await else { return };
        if write_message(&mut stream, &reply).await.is_err() {
            return;
        }
    }
}

async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let len = stream.read_u16().await?;
    let mut message = vec![0; usize::from(len)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend(len.to_be_bytes());
    framed.extend(message);
    stream.write_all(&framed).await
}
