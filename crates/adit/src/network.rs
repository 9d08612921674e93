//! The library: a private network within a program.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adit_path::{
    Answer, Destination, FlowStream, Listen, Listener, PingKind, Pong, Query, Status, Udp, UdpSocket,
};
use adit_verify::{Context as Words, NetworkDialer, Report, StageReport, Warning};
use tokio::sync::watch;

use crate::config::GRACE;
use crate::control::Client;
use crate::environment::{self, Environment, Way};
use crate::fronts::{Dialer, Target};
use crate::profile::Profile;
use crate::session::Session;
use crate::wanted::Wanted;
use crate::{Failure, failure};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(30);
/// How long a verification may take.
const VERIFY: Duration = Duration::from_secs(60);

/// A private network that this program has joined. Dropping it leaves the network.
///
/// Needs a tokio runtime with I/O and time enabled. Nothing of the machine changes: names and addresses inside
/// are reached through these methods alone.
pub struct Network {
    network: Arc<dyn adit_path::Network>,
    session: Option<Session>,
    profile: String,
    provider: String,
    grace: Duration,
    before: Vec<StageReport>,
    warnings: Vec<Warning>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl Network {
    /// Joins the network of a profile; returns when packets pass.
    ///
    /// # Errors
    /// Why no connection was made within the profile's time.
    pub async fn connect(profile: Profile) -> Result<Self, Failure> {
        let Environment { stage, mut warnings, failure } = environment::check(Way::Network);
        if let Some(failure) = failure {
            return Err(failure);
        }
        let doubts = profile.warnings.iter();
        warnings.extend(
            doubts.map(|doubt| Warning { class: doubt.class.clone(), summary: doubt.summary.clone() }),
        );
        let before = std::iter::once(stage).chain(profile.stages.iter().cloned()).collect();
        let options = profile.engine_options();
        let grace = profile.settings.grace.value;
        let session = Session::start(profile.tunnel, options)?;
        session.up(profile.timeout).await?;
        let provider = session.provider().word().to_owned();
        let network = session.network();
        Ok(Self { network, session: Some(session), profile: profile.name, provider, grace, before, warnings })
    }

    /// Uses the network of a running `adit up`, by its control socket.
    ///
    /// # Errors
    /// Nothing runs there, or it belongs to another user.
    pub async fn attach(socket: &Path) -> Result<Self, Failure> {
        let attached = async {
            let client = Client::connect(socket).await?;
            let info = client.info().await?;
            Ok::<_, crate::control::ClientError>((client, info.profile, info.provider))
        };
        let (client, profile, provider) =
            attached.await.map_err(|error| failure::of("env.not_running", error.to_string()))?;
        let (before, warnings) = (Vec::new(), Vec::new());
        let network = Arc::new(client);
        Ok(Self { network, session: None, profile, provider, grace: GRACE, before, warnings })
    }

    /// Verifies that these targets answer, written as for `--target`; without targets that the tunnel carries
    /// packets both ways.
    ///
    /// # Errors
    /// The first failure. All of them, with evidence, stand in [`report`](Self::report).
    pub async fn verify<T: Into<String>>(
        &self,
        targets: impl IntoIterator<Item = T>,
    ) -> Result<Report, Failure> {
        let report = self.report(targets).await?;
        match report.failure {
            Some(failure) => Err(failure),
            None => Ok(report),
        }
    }

    /// Like [`verify`](Self::verify), where a failed verification is a result too.
    ///
    /// # Errors
    /// A target is malformed.
    pub async fn report<T: Into<String>>(
        &self,
        targets: impl IntoIterator<Item = T>,
    ) -> Result<Report, Failure> {
        let wanted = Wanted {
            profile: self.profile.clone(),
            targets: targets.into_iter().map(T::into).collect(),
            timeout: VERIFY,
            ca_file: None,
            provider: self.provider.clone(),
            answered: self.session.as_ref().is_none_or(Session::answered),
            handshake: self.session.as_ref().and_then(Session::patience),
            grace: self.grace,
            before: self.before.clone(),
            warnings: self.warnings.clone(),
            identity: self.session.as_ref().and_then(|session| session.identity()).map(str::to_owned),
        };
        let dialer = NetworkDialer::new(Arc::clone(&self.network));
        Ok(adit_verify::verify(&*self.network, &dialer, &wanted.plan()?, &|_| {}).await)
    }

    /// Opens a TCP connection to `HOST:PORT`. Names are resolved inside.
    ///
    /// # Errors
    /// Why the target did not accept.
    pub async fn tcp_connect(&self, target: &str) -> Result<FlowStream, Failure> {
        let target = parse(target)?;
        let dialer = Dialer::new(Arc::clone(&self.network), CONNECT);
        let flow = dialer.dial_inside(&target).await.map_err(|failure| failure.describe(&target))?;
        flow.into_stream().map_err(|error| {
            failure::of("env.socket", "a pair of sockets cannot be made").seen(error.to_string())
        })
    }

    /// Opens a UDP endpoint inside the network.
    ///
    /// # Errors
    /// The port is taken, or the network has no route to the peer.
    pub async fn udp(&self, options: Udp) -> Result<UdpSocket, Failure> {
        let flow = self.network.udp(options).await.map_err(|failure| Words::default().udp(&failure))?;
        flow.into_socket().map_err(|error| {
            failure::of("env.socket", "a UDP endpoint cannot be made").seen(error.to_string())
        })
    }

    /// Listens for TCP connections of peers; port 0 chooses one.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn listen(&self, port: u16) -> Result<Listener, Failure> {
        let listening = self.network.listen(port, Listen::default()).await;
        listening.map_err(|failure| Words::default().with("port", port).listen(&failure))
    }

    /// Resolves a name inside the network.
    ///
    /// # Errors
    /// Why it has no answer.
    pub async fn resolve(&self, name: &str) -> Result<Answer, Failure> {
        let answer = self.network.resolve(Query::addresses(name)).await;
        answer.map_err(|failure| Words::default().with("name", name).resolve(&failure))
    }

    /// Sends one ICMP echo to a host and waits for the reply.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn ping(&self, host: &str, timeout: Duration) -> Result<Pong, Failure> {
        let address = match Target::new(host, 0).map_err(|error| failure::usage(error.to_string()))?.host {
            Destination::Address(address) => address,
            Destination::Name(name) => {
                let answer = self.resolve(&name).await?;
                let empty = || failure::of("dns.empty", format!("{name} has no address"));
                answer.addresses.first().copied().ok_or_else(empty)?
            }
        };
        let pong = self.network.ping(address, PingKind::Icmp { size: 56, timeout }).await;
        pong.map_err(|failure| Words::default().with("target", host).ping(&failure))
    }

    /// The state of the network, and every change of it.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.network.status()
    }

    /// The network as the boundary that everything else of this workspace asks.
    pub fn as_network(&self) -> Arc<dyn adit_path::Network> {
        Arc::clone(&self.network)
    }

    /// Leaves the network in order; connections end. Returns when that is done.
    pub fn shutdown(self) {
        if let Some(session) = self.session {
            session.shutdown();
        }
    }
}

fn parse(target: &str) -> Result<Target, Failure> {
    Target::parse(target, None).map_err(|error| failure::usage(error.to_string()))
}
