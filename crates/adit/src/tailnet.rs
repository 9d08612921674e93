//! A node of a tailnet: the data side in the engine, and the control side on a thread of its own beside it.

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use adit_path::Engine;
use adit_providers::StateDir;
use adit_providers::tailscale::{
    Auth, ControlUrl, Identity, Member, Membership, Notice, Output, Reach, Whereabouts,
};
use adit_tailscale::{AcceptRoutes, Command, Config, Report, Reporting, Tailscale};
use rustls::RootCertStore;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::interval;

use crate::{Failure, failure, machine};

/// Words of the control side that wait for the data side; then the control side waits too.
const OUTPUTS: usize = 16;

/// How long the end of the control side is waited for.
const LAST_WORD: Duration = Duration::from_secs(4);

/// What a node of a tailnet is started with.
#[derive(Clone, Debug)]
pub struct TailnetConfig {
    /// The control server, and the way there.
    pub reach: Reach,
    /// What lets the node in.
    pub auth: Auth,
    /// The name that it asks for.
    pub hostname: String,
    /// The tags that it asks for, with `tag:`.
    pub tags: Vec<String>,
    /// Whether the node is deleted when the session ends.
    pub ephemeral: bool,
    /// Whether nobody may connect to it.
    pub shields_up: bool,
    /// Whose certificates of relays are believed.
    pub roots: Arc<RootCertStore>,
    /// The local UDP port; `None` lets the system choose.
    pub port: Option<u16>,
    /// Whether peers are reached directly where that is possible.
    pub udp: bool,
    /// Which subnet routes are used.
    pub accept_routes: AcceptRoutes,
    /// Whether the tailnet's resolvers and records are used.
    pub accept_dns: bool,
    /// The exit node: a name, an address or a `StableID`.
    pub exit_node: Option<String>,
    /// Whether relays on loopback and private addresses are spoken to without TLS.
    pub plain_derp: bool,
    /// Where the node's identity is kept; `None` keeps it in memory.
    pub kept: Option<Arc<Kept>>,
}

/// A state directory with the identity that it held.
#[derive(Debug)]
pub struct Kept {
    /// The directory, locked against other processes.
    pub state: StateDir,
    /// The node that was kept there.
    pub identity: Option<Identity>,
}

/// How often it is looked whether this machine has other addresses.
const ADDRESSES: Duration = Duration::from_secs(5);

/// The data side, with its reports on their way to the control side.
pub(crate) type Node = Reporting<Box<dyn FnMut(Report) + Send>>;

impl TailnetConfig {
    /// A node that takes everything the network offers, stays when the session ends, and lets its peers in.
    #[must_use]
    pub fn new(reach: Reach, auth: Auth, hostname: String, roots: Arc<RootCertStore>) -> Self {
        Self {
            reach,
            auth,
            hostname,
            tags: Vec::new(),
            ephemeral: false,
            shields_up: false,
            roots,
            port: None,
            udp: true,
            accept_routes: AcceptRoutes::All,
            accept_dns: true,
            exit_node: None,
            plain_derp: false,
            kept: None,
        }
    }

    /// The data side, and what the control side starts with.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(crate) fn split(self, seed: u64) -> Result<(Node, Beside), Failure> {
        let known = self.kept.as_ref().and_then(|kept| kept.identity.clone());
        let identity = match known {
            Some(identity) => identity,
            None => Identity::generate().map_err(|error| {
                failure::internal("the system gives no randomness").seen(error.to_string())
            })?,
        };
        let addresses = machine::addresses();
        let mut keep_out = machine::networks();
        keep_out.extend(machine::resolvers());
        let node = Config {
            keys: identity.keys.clone(),
            roots: self.roots,
            port: self.port,
            udp: self.udp,
            local_addresses: addresses.clone(),
            keep_out,
            accept_routes: self.accept_routes,
            accept_dns: self.accept_dns,
            exit_node: self.exit_node,
            shields_up: self.shields_up,
            proxy: self.reach.proxies.of(true, &self.reach.control.host).cloned(),
            plain_derp: self.plain_derp,
        };
        let (report, whereabouts) = watch::channel(Whereabouts::default());
        let take: Box<dyn FnMut(Report) + Send> = Box::new(move |event| {
            report.send_if_modified(|now| now.take(event));
        });
        let node = Reporting::new(Tailscale::new(node, seed, Instant::now()), take);
        let membership = Membership {
            reach: self.reach,
            identity,
            auth: self.auth,
            hostname: self.hostname,
            tags: self.tags,
            ephemeral: self.ephemeral,
            shields_up: self.shields_up,
        };
        Ok((node, Beside { membership, whereabouts, addresses, kept: self.kept }))
    }
}

/// What the control side starts with.
#[derive(Debug)]
pub(crate) struct Beside {
    membership: Membership,
    whereabouts: watch::Receiver<Whereabouts>,
    addresses: Vec<IpAddr>,
    kept: Option<Arc<Kept>>,
}

impl Beside {
    /// Our node key, as administrators know it.
    pub(crate) fn node_key(&self) -> String {
        self.membership.identity.keys.node_key().to_string()
    }

    /// Runs the control side, on a thread of its own: it waits for servers and people, and must go on where the rest of
    /// the program does not.
    ///
    /// # Errors
    /// Of the system: no thread.
    pub(crate) fn start(self, engine: Arc<Engine<Node>>) -> io::Result<ControlSide> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let (done, end) = sync_channel(1);
        thread::Builder::new().name("adit-control".to_owned()).spawn(move || {
            runtime.block_on(self.run(&engine, stopped));
            // Nobody may wait for it.
            let _ = done.try_send(());
        })?;
        Ok(ControlSide { stop: Mutex::new(Some(stop)), end: Arc::new(Mutex::new(end)) })
    }

    async fn run(self, engine: &Engine<Node>, stopped: oneshot::Receiver<()>) {
        let Self { membership, whereabouts, mut addresses, kept } = self;
        let (output, mut outputs) = mpsc::channel(OUTPUTS);
        let control = membership.reach.control.clone();
        let keep = Keeper { kept, control, identity: membership.identity.clone() };
        let member = Member::new(membership, whereabouts, output);
        // A session that is dropped without a word ends as well.
        let stop = async { drop(stopped.await) };
        let mut ended = pin!(member.run(stop));
        let mut look = interval(ADDRESSES);
        let mut keep = keep;
        loop {
            tokio::select! {
                output = outputs.recv() => match output {
                    Some(output) => deliver(engine, &mut keep, output).await,
                    None => break,
                },
                result = &mut ended => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "the control side ended");
                    }
                    break;
                }
                _ = look.tick() => {
                    let now = machine::addresses();
                    if now != addresses {
                        addresses.clone_from(&now);
                        engine.deliver(Command::LocalAddresses(now)).await;
                    }
                }
            }
        }
        while let Ok(output) = outputs.try_recv() {
            deliver(engine, &mut keep, output).await;
        }
    }
}

async fn deliver(engine: &Engine<Node>, keep: &mut Keeper, output: Output) {
    match output {
        Output::Command(command) => {
            if let Command::NodeKey(key) = &command {
                keep.identity.keys.node = key.clone();
                keep.save();
            }
            engine.deliver(command).await;
        }
        Output::Notice(notice) => {
            tracing::debug!(?notice, "control");
            if matches!(notice, Notice::Joined { .. }) {
                keep.save();
            }
        }
    }
}

/// Writes the node's identity down when the server knows it.
struct Keeper {
    kept: Option<Arc<Kept>>,
    control: ControlUrl,
    identity: Identity,
}

impl Keeper {
    fn save(&self) {
        let Some(kept) = &self.kept else { return };
        if let Err(error) = self.identity.save(&kept.state, &self.control) {
            tracing::warn!(%error, "the node's identity could not be kept");
        }
    }
}

/// The control side of a running node.
#[derive(Debug)]
pub(crate) struct ControlSide {
    stop: Mutex<Option<oneshot::Sender<()>>>,
    end: Arc<Mutex<std::sync::mpsc::Receiver<()>>>,
}

/// A node that is leaving.
#[derive(Debug)]
pub(crate) struct Leaving {
    end: Arc<Mutex<std::sync::mpsc::Receiver<()>>>,
}

impl ControlSide {
    /// Asks it to end; an ephemeral node leaves its network.
    pub(crate) fn leave(&self) -> Leaving {
        drop(self.stop.lock().unwrap_or_else(PoisonError::into_inner).take());
        Leaving { end: Arc::clone(&self.end) }
    }
}

impl Leaving {
    /// Waits until it has ended. It bounds its leave-taking itself; this is for a system that does not run it.
    pub(crate) fn wait(self) {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        // An error: it has ended, and was waited for before.
        let _ = end.recv_timeout(LAST_WORD);
    }
}
