//! The control side of a node as one task: joins, stays in, tells the server where we are, and leaves.

mod entry;
mod logout;
mod pause;
mod poll;
mod said;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_tailscale::{Command, Endpoint, Report};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::api::KeyMaker;
use super::control::{Connector, Control, Reach};
use super::error::{ControlError, Retry};
use super::keys::{Identity, secret};
use super::wire::{Hostinfo, NetInfo};
use crate::Secret;
use entry::{Entered, Entry};
pub use logout::log_out;
use pause::Pause;
use poll::{End, KeyLife};

/// Leaving takes no longer: whoever waits for us has been told to go.
const LEAVE: Duration = Duration::from_secs(3);

/// What lets a node in.
#[derive(Clone, Debug)]
pub enum Auth {
    /// An auth key.
    Key(Secret),
    /// A new auth key for each registration, which uses it once.
    Made(KeyMaker),
    /// Somebody who signs in.
    Person,
}

/// What a node joins with.
#[derive(Debug)]
pub struct Membership {
    /// The control server.
    pub reach: Reach,
    /// Who we are.
    pub identity: Identity,
    /// What lets us in.
    pub auth: Auth,
    /// The name that we ask for.
    pub hostname: String,
    /// The tags that we ask for, with `tag:`.
    pub tags: Vec<String>,
    /// Whether the node is deleted when we leave.
    pub ephemeral: bool,
    /// Whether nobody may connect to us.
    pub shields_up: bool,
}

/// Where the data side is, as far as the server must know. The newest says all, so that none needs to wait.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Whereabouts {
    /// Where we can be found.
    pub endpoints: Vec<Endpoint>,
    /// How we are connected, once that is known.
    pub net_info: Option<adit_tailscale::NetInfo>,
}

impl Whereabouts {
    /// Takes a report over. Returns whether the server must hear of it.
    pub fn take(&mut self, report: Report) -> bool {
        match report {
            Report::Endpoints(endpoints) => self.endpoints = endpoints,
            Report::NetInfo(info) => self.net_info = Some(info),
            _ => return false,
        }
        true
    }
}

/// What comes out of the control side.
#[derive(Debug)]
pub enum Output {
    /// For the data side.
    Command(Command),
    /// For people.
    Notice(Notice),
}

/// What people may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// We are a node; whose, if the server says so.
    Joined {
        /// The login.
        login: String,
    },
    /// The name that the server gave us, in full.
    Name(String),
    /// When our node key expires; `None` if it does not.
    KeyExpiry(Option<SystemTime>),
}

/// The control side of a node.
#[derive(Debug)]
pub struct Member {
    connector: Connector,
    identity: Identity,
    auth: Auth,
    ephemeral: bool,
    hostinfo: Hostinfo,
    endpoints: Vec<Endpoint>,
    whereabouts: watch::Receiver<Whereabouts>,
    output: mpsc::Sender<Output>,
    control: Option<Arc<Control>>,
    /// Whether the server has accepted our node key.
    joined: bool,
    /// Whether it may have accepted one: then there is something to leave.
    known: bool,
    /// Whether the node key must be replaced.
    expired: bool,
    /// Whether the server said that it knows no such node, after it had been one.
    removed: bool,
    /// Whether it was a member before.
    was_member: bool,
    /// The request to be let in that has no answer yet.
    entry: Option<Arc<Mutex<Entry>>>,
    /// When the node key must be replaced.
    key_life: Option<KeyLife>,
    /// What has been said already, so that it is said once.
    said: said::Said,
}

impl Member {
    /// Nothing is sent before [`run`](Self::run). `whereabouts` are the data side's; `output` is for it and for people.
    pub fn new(
        membership: Membership,
        whereabouts: watch::Receiver<Whereabouts>,
        output: mpsc::Sender<Output>,
    ) -> Self {
        let Membership { reach, identity, auth, hostname, tags, ephemeral, shields_up } = membership;
        let hostinfo = hostinfo(hostname, tags, shields_up, &identity);
        Self {
            connector: Connector::new(reach),
            identity,
            auth,
            ephemeral,
            hostinfo,
            endpoints: Vec::new(),
            whereabouts,
            output,
            control: None,
            joined: false,
            known: false,
            expired: false,
            removed: false,
            was_member: false,
            entry: None,
            key_life: None,
            said: said::Said::default(),
        }
    }

    /// Joins and stays in until `stop`, or until nothing but a new start helps, which the data side is told. Then an
    /// ephemeral node leaves, within three seconds.
    ///
    /// # Errors
    ///
    /// What ended it, if `stop` did not.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), ControlError> {
        let stop = pin!(stop);
        let failed = tokio::select! {
            error = self.stay() => Some(error),
            () = stop => None,
        };
        // Whoever waits for us hears it before we leave.
        if let Some(error) = &failed {
            self.tell(adit_tailscale::Control::Failed(error.fault())).await;
        }
        if self.known && self.ephemeral {
            let left = timeout(LEAVE, self.leave()).await;
            // A server that refuses knows of no such node: the sign-in was not completed.
            let gone =
                matches!(&left, Ok(Ok(()))) || matches!(&left, Ok(Err(error)) if error.retry == Retry::Never);
            if !gone {
                tracing::warn!(?left, "the node could not be removed; the control server removes it later");
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Returns only what cannot be repaired by trying again.
    async fn stay(&mut self) -> ControlError {
        let mut pause = Pause::default();
        loop {
            let result = self.session(&mut pause).await;
            self.control = None;
            let wait = match result {
                // Servers end streams when they restart.
                Ok(()) => pause.short(),
                Err(error) => {
                    tracing::debug!(%error, "the control session ended");
                    match error.retry {
                        Retry::Never => return error,
                        Retry::Later => {
                            self.tell(match error.class() {
                                "ts.nodekey.expired" | "ts.node.removed" => {
                                    adit_tailscale::Control::Excluded(error.fault())
                                }
                                _ => adit_tailscale::Control::Lost(error.fault()),
                            })
                            .await;
                            pause.longer()
                        }
                        Retry::After(wait) => {
                            self.tell(adit_tailscale::Control::Lost(error.fault())).await;
                            wait + pause.short()
                        }
                    }
                }
            };
            sleep(wait).await;
        }
    }

    /// One connection, from its beginning to its end.
    async fn session(&mut self, pause: &mut Pause) -> Result<(), ControlError> {
        let control = Arc::new(self.connector.connect(&self.identity.machine).await?);
        self.control = Some(control.clone());
        if !self.joined {
            self.join(&control).await?;
        }
        let result = loop {
            match self.poll(&control, pause).await {
                // With another key it is another stream, on the same connection.
                Ok(End::Renewed) => {}
                Ok(End::Stream) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        match &result {
            // A server that has taken a new key does not know the old one.
            Err(error) if error.class() == "ts.node.removed" => {
                (self.joined, self.removed) = (false, self.entry.is_none());
            }
            Err(error) if error.class() == "ts.nodekey.expired" => {
                (self.joined, self.expired) = (false, true)
            }
            _ => {}
        }
        result
    }

    /// The request to be let in, the one that was begun before if there is one. With `renew`, it asks for another node
    /// key.
    fn entry(&mut self, renew: bool) -> Result<Arc<Mutex<Entry>>, ControlError> {
        if let Some(entry) = &self.entry {
            return Ok(Arc::clone(entry));
        }
        let entry = Arc::new(Mutex::new(Entry {
            reach: self.connector.reach().clone(),
            auth: self.auth.clone(),
            hostinfo: self.hostinfo.clone(),
            ephemeral: self.ephemeral,
            current: self.identity.keys.node_key(),
            renewed: if renew { Some(new_secret()?) } else { None },
            page: None,
            or_person: self.was_member && !self.removed,
            output: self.output.clone(),
        }));
        self.entry = Some(Arc::clone(&entry));
        Ok(entry)
    }

    async fn join(&mut self, control: &Control) -> Result<(), ControlError> {
        let entry = self.entry(self.expired)?;
        // The answer may not find us here any more.
        let known = std::mem::replace(&mut self.known, true);
        match entry.lock().await.run(control).await {
            Ok(entered) => {
                self.entered(entered).await;
                Ok(())
            }
            Err(error) if error.retry == Retry::Never => {
                self.known = known;
                self.entry = None;
                Err(if self.removed { removed(&error) } else { error })
            }
            Err(error) => Err(error),
        }
    }

    /// The server has let us in.
    async fn entered(&mut self, entered: Entered) {
        if let Some(secret) = entered.renewed {
            self.identity.keys.node = secret.clone();
            self.key_life = None;
            self.send(Output::Command(Command::NodeKey(secret))).await;
        }
        self.said.rejoined |= self.removed;
        (self.joined, self.expired, self.removed, self.was_member, self.entry) =
            (true, false, false, true, None);
        self.send(Output::Notice(Notice::Joined { login: entered.login })).await;
    }

    async fn leave(&mut self) -> Result<(), ControlError> {
        let control = match self.control.take() {
            Some(control) => control,
            None => Arc::new(self.connector.connect(&self.identity.machine).await?),
        };
        control.logout(self.identity.keys.node_key(), &self.hostinfo).await
    }

    async fn tell(&self, control: adit_tailscale::Control) {
        self.send(Output::Command(Command::Control(control))).await;
    }

    async fn send(&self, output: Output) {
        // Whoever has dropped the other end hears nothing any more; `stop` follows.
        let _ = self.output.send(output).await;
    }

    /// Takes over where the data side is now; returns whether the server must hear of it.
    fn look(&mut self) -> bool {
        let now = self.whereabouts.borrow_and_update().clone();
        let info = now.net_info.as_ref().map(NetInfo::from);
        let news = self.endpoints != now.endpoints || self.hostinfo.net_info != info;
        (self.endpoints, self.hostinfo.net_info) = (now.endpoints, info);
        news
    }
}

fn new_secret() -> Result<adit_tailscale::SecretKey, ControlError> {
    secret()
        .map_err(|error| ControlError::never("internal", "there is no randomness").seen(error.to_string()))
}

/// The node was removed, and what would have let it in again did not.
fn removed(error: &ControlError) -> ControlError {
    let mut removed = ControlError::never("ts.node.removed", "this node was removed from the network")
        .seen(format!("it could not join again: {}", error.problem));
    removed.problem.evidence.extend(error.problem.evidence.iter().cloned());
    removed
}

fn hostinfo(hostname: String, tags: Vec<String>, shields_up: bool, identity: &Identity) -> Hostinfo {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let machine = std::env::consts::ARCH;
    Hostinfo {
        // Servers compare the version in front with those of the reference.
        ipn_version: format!("1.98.0-adit{}", env!("CARGO_PKG_VERSION")),
        backend_log_id: identity.log_id.clone(),
        os: "linux".to_owned(),
        os_version: release.trim().to_owned(),
        app: "adit".to_owned(),
        hostname,
        shields_up,
        no_logs_no_support: true,
        go_arch: match machine {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_owned(),
        machine: machine.to_owned(),
        request_tags: tags,
        userspace: true,
        userspace_router: true,
        ..Hostinfo::default()
    }
}
