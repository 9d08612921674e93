//! A network that remembers why connections failed: a program under interception learns only an error number.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adit_path::{
    Answer, BoxFuture, Connect, ConnectFailure, Destination, Flow, Listen, ListenFailure, Listener, Network,
    PingFailure, PingKind, Pong, Query, ResolveFailure, Status, Udp, UdpFailure, UdpFlow,
};
use tokio::sync::watch;

/// Failures that are remembered; a verification has few targets.
const MOST: usize = 256;

/// Passes every question on.
pub(super) struct Recorder {
    network: Arc<dyn Network>,
    /// How long a connection may take, in milliseconds. A program is more patient than a check, and a network says at
    /// the end of its time what it has heard meanwhile.
    patience: AtomicU64,
    failures: Mutex<HashMap<SocketAddr, ConnectFailure>>,
}

impl Recorder {
    pub(super) fn new(network: Arc<dyn Network>) -> Self {
        Self { network, patience: AtomicU64::new(u64::MAX), failures: Mutex::default() }
    }

    /// Limits connections that begin from now on to a little less than this, so that their outcome is in time.
    pub(super) fn limit(&self, limit: Duration) {
        let most = u64::try_from(limit.as_millis() * 9 / 10).unwrap_or(u64::MAX);
        self.patience.store(most, Ordering::Relaxed);
    }

    /// Why the last connections to a port of one of these addresses failed, or of any address if there are none. What
    /// was heard of one address says more than the silence of another.
    pub(super) fn failure(&self, addresses: &[IpAddr], port: u16) -> Option<ConnectFailure> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let meant =
            |at: &SocketAddr| at.port() == port && (addresses.is_empty() || addresses.contains(&at.ip()));
        let meant = failures.iter().filter(|(at, _)| meant(at)).map(|(_, failure)| failure);
        meant.min_by_key(|failure| matches!(failure, ConnectFailure::TimedOut(_))).cloned()
    }
}

impl Network for Recorder {
    fn owns(&self, destination: &Destination) -> bool {
        self.network.owns(destination)
    }

    fn resolve(&self, query: Query) -> BoxFuture<'_, Result<Answer, ResolveFailure>> {
        self.network.resolve(query)
    }

    fn connect(&self, to: SocketAddr, options: Connect) -> BoxFuture<'_, Result<Flow, ConnectFailure>> {
        Box::pin(async move {
            let patience = Duration::from_millis(self.patience.load(Ordering::Relaxed));
            let options = Connect { timeout: options.timeout.min(patience), ..options };
            let outcome = self.network.connect(to, options).await;
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            match &outcome {
                Err(failure) if failures.len() < MOST || failures.contains_key(&to) => {
                    failures.insert(to, failure.clone());
                }
                _ => drop(failures.remove(&to)),
            }
            outcome
        })
    }

    fn udp(&self, options: Udp) -> BoxFuture<'_, Result<UdpFlow, UdpFailure>> {
        self.network.udp(options)
    }

    fn listen(&self, port: u16, options: Listen) -> BoxFuture<'_, Result<Listener, ListenFailure>> {
        self.network.listen(port, options)
    }

    fn ping(&self, to: IpAddr, kind: PingKind) -> BoxFuture<'_, Result<Pong, PingFailure>> {
        self.network.ping(to, kind)
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.network.status()
    }
}

#[cfg(test)]
mod tests {
    use adit_sim::{Host, ScriptedNetwork, Service};

    use super::*;

    #[tokio::test]
    async fn an_answer_of_one_address_says_more_than_the_silence_of_another() {
        let (says, silent) = (IpAddr::from([10, 77, 0, 5]), IpAddr::from([10, 77, 0, 6]));
        let network = ScriptedNetwork::new()
            .host(says, Host::new().tcp(5432, Service::Unreachable(3, 13)))
            .host(silent, Host::silent());
        let recorder = Recorder::new(Arc::new(network));
        for address in [silent, says, silent] {
            let options = Connect { timeout: Duration::from_millis(20), ..Connect::default() };
            recorder.connect(SocketAddr::new(address, 5432), options).await.unwrap_err();
        }
        let told = recorder.failure(&[says, silent], 5432);
        assert!(matches!(told, Some(ConnectFailure::Unreachable { kind: 3, code: 13, .. })), "{told:?}");
        assert!(matches!(recorder.failure(&[silent], 5432), Some(ConnectFailure::TimedOut(_))));
    }
}
