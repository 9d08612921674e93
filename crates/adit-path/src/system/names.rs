//! The private resolver over sockets of the kernel: the same rules and the same failures as over the netstack.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use adit_netstack::dns::{Action, Question, Resolver};
use adit_tunnel::{DnsConfig, NetConfig, Prefix};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::on_thread;
use crate::{Answer, Query, ResolveFailure};

pub(crate) async fn resolve(config: NetConfig, query: Query) -> Result<Answer, ResolveFailure> {
    let work = move || run(&config, query);
    on_thread("adit-resolve", work, |error| Err(ResolveFailure::Exhausted(error.to_string()))).await
}

/// Asks `servers` for the addresses of a public name; none if there are none to be had. Waits.
pub(crate) fn lookup(servers: Vec<IpAddr>, name: &str, timeout: Duration) -> Vec<IpAddr> {
    // The public network routes everything.
    let everywhere = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
    let routes = everywhere.into_iter().filter_map(|address| Prefix::new(address, 0)).collect();
    let dns = DnsConfig { servers, ..DnsConfig::default() };
    let config = NetConfig { dns, routes, ..NetConfig::default() };
    let query = Query { timeout, ..Query::addresses(name) };
    run(&config, query).map(|answer| answer.addresses).unwrap_or_else(|failure| {
        tracing::debug!(%name, %failure, "the machine's own servers do not resolve the name");
        Vec::new()
    })
}

fn run(config: &NetConfig, query: Query) -> Result<Answer, ResolveFailure> {
    let seed = getrandom::u64().map_err(|error| ResolveFailure::Exhausted(error.to_string()))?;
    let mut resolver = Resolver::new(seed);
    resolver.configure(config);
    let started = Instant::now();
    let question =
        Question { name: query.name, record: query.record.map(|record| record.0), timeout: query.timeout };
    let asked = resolver.query(started, question);
    let mut sockets: HashMap<u64, UdpSocket> = HashMap::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        while let Some(action) = resolver.poll_action() {
            let now = Instant::now();
            match action {
                Action::Udp { exchange, to, message } => match ask(to, &message) {
                    Ok(socket) => drop(sockets.insert(exchange, socket)),
                    Err(_) => resolver.handle_failure(now, exchange),
                },
                Action::Tcp { exchange, to, message } => match converse(to, &message, query.timeout) {
                    Ok(answer) => resolver.handle_message(Instant::now(), exchange, to, &answer),
                    Err(_) => resolver.handle_failure(Instant::now(), exchange),
                },
                Action::Close { exchange } => drop(sockets.remove(&exchange)),
            }
        }
        while let Some((id, result)) = resolver.poll_event() {
            if id == asked {
                return result.map(Answer::from).map_err(ResolveFailure::from);
            }
        }
        wait(&sockets, resolver.poll_timeout().map(|deadline| deadline.at));
        let now = Instant::now();
        for (exchange, socket) in &sockets {
            match socket.recv_from(&mut buffer) {
                Ok((len, from)) => resolver.handle_message(now, *exchange, from, &buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => resolver.handle_failure(now, *exchange),
            }
        }
        resolver.handle_timeout(now);
    }
}

fn ask(to: SocketAddr, message: &[u8]) -> io::Result<UdpSocket> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    socket.send(message)?;
    Ok(socket)
}

/// One question over TCP (RFC 7766 §8: each message behind its length).
fn converse(to: SocketAddr, message: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    let len = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes()[..], message].concat())?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn wait(sockets: &HashMap<u64, UdpSocket>, until: Option<Instant>) {
    let mut fds: Vec<_> = sockets.values().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
    // Rounded up, so that the deadline has passed when the wait is over.
    let left = until.map(|at| at.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    // What an error of the wait is about shows at the sockets.
    let _ = poll(&mut fds, left.as_ref());
}
