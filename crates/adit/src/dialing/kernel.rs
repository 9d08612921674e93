//! Dialling as any program of the machine does, while a TUN device leads into the network.

use std::net::{IpAddr, ToSocketAddrs};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use adit_path::{BoxFuture, ConnectFailure, Destination, Network, Query, ResolveFailure};
use adit_verify::{DialFailure, Dialed, Dialer, NetworkDialer};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

/// Dials with the system's resolver and the kernel's sockets.
#[derive(Clone, Debug)]
pub(crate) struct KernelDialer {
    network: Shown,
    /// The engine behind a device asks the kernel too, and knows more about its errors.
    inside: NetworkDialer,
}

#[derive(Clone)]
struct Shown(Arc<dyn Network>);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Network")
    }
}

impl KernelDialer {
    /// `network` must be served by a TUN device of this network namespace.
    pub(crate) fn new(network: Arc<dyn Network>) -> Self {
        Self { inside: NetworkDialer::new(Arc::clone(&network)), network: Shown(network) }
    }

    /// The addresses of a name as a program finds them. One that leads past the tunnel is none of the target's.
    async fn lookup(&self, name: String, limit: Duration) -> Result<Vec<IpAddr>, DialFailure> {
        let asked = name.clone();
        let lookup = tokio::task::spawn_blocking(move || {
            let found = (asked.as_str(), 0).to_socket_addrs()?;
            Ok::<_, std::io::Error>(found.map(|address| address.ip()).collect::<Vec<_>>())
        });
        let why = match timeout(limit, lookup).await {
            Ok(Ok(Ok(found))) => {
                let owned = |address: &IpAddr| self.network.0.owns(&Destination::Address(*address));
                let inside: Vec<_> = found.iter().copied().filter(owned).collect();
                return match found.first() {
                    Some(address) if inside.is_empty() => {
                        Err(ResolveFailure::AnswerUnrouted { name, address: *address }.into())
                    }
                    _ => Ok(inside),
                };
            }
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {limit:?}"),
        };
        // The system's resolver says little; the network's own says which server answered what.
        match self.network.0.resolve(Query { timeout: limit, ..Query::addresses(&name) }).await {
            Err(failure) => Err(failure.into()),
            Ok(answer) if answer.addresses.is_empty() => Err(DialFailure::NoAddress(name)),
            Ok(_) => Err(DialFailure::Front(format!(
                "the network resolves {name}, and the resolver of this machine does not: {why}"
            ))),
        }
    }

    async fn dial_by_name(
        &self,
        host: Destination,
        port: u16,
        limit: Duration,
    ) -> Result<Dialed, DialFailure> {
        let until = Instant::now() + limit;
        let addresses = match host {
            Destination::Address(address) => vec![address],
            Destination::Name(name) => self.lookup(name, limit).await?,
        };
        let mut failure = DialFailure::Connect(ConnectFailure::TimedOut(limit));
        for (tried, address) in addresses.iter().enumerate() {
            let left = u32::try_from(addresses.len() - tried).unwrap_or(1);
            let share = until.saturating_duration_since(Instant::now()) / left;
            match self.inside.dial(Destination::Address(*address), port, share).await {
                Ok(dialed) => return Ok(dialed),
                Err(found) => failure = failure.or_telling(found),
            }
        }
        Err(failure)
    }
}

impl Dialer for KernelDialer {
    fn mode(&self) -> String {
        "tun".to_owned()
    }

    fn dial(
        &self,
        host: Destination,
        port: u16,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Dialed, DialFailure>> {
        Box::pin(self.dial_by_name(host, port, limit))
    }

    fn beneath(&self) -> Option<&dyn Dialer> {
        Some(&self.inside)
    }

    fn resolve(&self, name: String, limit: Duration) -> BoxFuture<'_, Result<Vec<IpAddr>, DialFailure>> {
        Box::pin(self.lookup(name, limit))
    }

    fn command(&self, command: String, limit: Duration) -> BoxFuture<'_, Result<(), DialFailure>> {
        Box::pin(plain_command(command, limit))
    }
}

/// Runs a command as a child of this process, without interception.
async fn plain_command(command: String, limit: Duration) -> Result<(), DialFailure> {
    let failed = |error: std::io::Error| DialFailure::Command(error.to_string());
    let mut child = Command::new("sh");
    child.args(["-c", &command]).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let mut child = child.spawn().map_err(failed)?;
    match timeout(limit, child.wait()).await {
        Err(_) => Err(DialFailure::Command(format!("the command did not end within {limit:?}"))),
        Ok(Err(error)) => Err(failed(error)),
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(DialFailure::Command(format!("the command ended with {status}"))),
    }
}
