//! A tailnet on loopback: a control server with its secure channel, a relay and a STUN server, on sockets of this
//! machine.
//!
//! It is a server by the rules, not a script: nodes register with keys or a sign-in, learn of each other by deltas, and
//! are deleted when they leave. What an administrator would do, the methods of [`Tailnet`] do.

mod channel;
mod relay;
mod server;
mod state;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use adit_tailscale::SecretKey;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use server::Shared;
use state::State;

/// Which of the two known control servers is played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rules {
    /// As Tailscale's own: a streaming map request is read-only, so that only a "lite" update tells of a node; no early
    /// payload.
    Strict,
    /// As Headscale: what a streaming request says is taken too; an early payload comes first; a request for a map
    /// without a stream is answered with nothing.
    #[default]
    Headscale,
}

/// What stands between a node and the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// Nothing.
    #[default]
    Serves,
    /// A portal answers in place of the server.
    Portal,
    /// A proxy does not let protocols be switched.
    Strips,
    /// The server does not speak the node's version, and says nothing.
    Hangs,
    /// A proxy holds back what the server streams.
    Buffers,
}

/// An auth key's rules.
#[derive(Clone, Debug, Default)]
pub struct Key {
    /// Whether it admits more than one node.
    pub reusable: bool,
    /// Whether its nodes are deleted when they leave.
    pub ephemeral: bool,
    /// The tags of its nodes.
    pub tags: Vec<String>,
    /// Whether its day is over.
    pub expired: bool,
    /// Whether it has admitted a node.
    pub used: bool,
}

/// A node, as an administrator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name, the first label.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its node key in text form.
    pub key: String,
    /// Whether it follows the map.
    pub online: bool,
    /// Whether it is deleted when it leaves.
    pub ephemeral: bool,
    /// The region where it listens; 0 for none yet.
    pub home: u64,
    /// Its tags.
    pub tags: Vec<String>,
}

/// A running tailnet. Dropping it ends it.
pub struct Tailnet {
    at: SocketAddr,
    shared: Arc<Shared>,
    relay: relay::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Tailnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tailnet").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Tailnet {
    /// Starts the servers, on a thread of their own.
    ///
    /// # Errors
    /// Of the system: no sockets, thread or randomness.
    pub fn start(rules: Rules) -> io::Result<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| io::Error::other(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (listener, relay) = runtime.block_on(async {
            Ok::<_, io::Error>((TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?, relay::start().await?))
        })?;
        let at = listener.local_addr()?;
        let shared = Arc::new(Shared {
            key: SecretKey::from_bytes(secret),
            manner: Mutex::default(),
            state: Mutex::new(State::new(rules, format!("http://{at}"), relay.derp, relay.stun)),
            changed: watch::Sender::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let (ready, running) = sync_channel(1);
        let thread = thread::Builder::new().name("adit-sim-tailnet".to_owned()).spawn(move || {
            runtime.block_on(async {
                let _ = ready.send(());
                tokio::select! {
                    () = server::serve(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        })?;
        running.recv().map_err(io::Error::other)?;
        Ok(Self { at, shared, relay: relay.handle, stop: Some(stop), thread: Some(thread) })
    }

    /// The URL of the control server.
    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// The domain of its nodes.
    pub fn domain(&self) -> String {
        self.shared.state().domain.clone()
    }

    /// Makes an auth key with these rules.
    pub fn key(&self, rules: Key) -> String {
        self.shared.change(|state| {
            state.made += 1;
            let key = format!(
                "tskey-auth-lab{}-{:016x}",
                state.made,
                state.made.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64)
            );
            state.keys.insert(key.clone(), rules);
            key
        })
    }

    /// The nodes.
    pub fn nodes(&self) -> Vec<Listed> {
        let listed = |node: &state::Known| Listed {
            name: node.name.clone(),
            address: node.address,
            key: node.key.clone(),
            online: node.streams > 0,
            ephemeral: node.ephemeral,
            home: node.home,
            tags: node.tags.clone(),
        };
        self.shared.state().nodes.values().map(listed).collect()
    }

    /// The names of nodes that were deleted because they left.
    pub fn deleted(&self) -> Vec<String> {
        self.shared.state().deleted.clone()
    }

    /// How many registrations came.
    pub fn registrations(&self) -> u32 {
        self.shared.state().registrations
    }

    /// Waits until the state is so; false if it does not become so in time.
    pub fn wait(&self, limit: Duration, mut so: impl FnMut(&Self) -> bool) -> bool {
        let until = Instant::now() + limit;
        while !so(self) {
            if Instant::now() >= until {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// The pages at which somebody must sign in.
    pub fn pages(&self) -> Vec<String> {
        let state = self.shared.state();
        state
            .pending
            .iter()
            .filter(|(_, pending)| pending.outcome.is_none())
            .map(|(page, _)| page.clone())
            .collect()
    }

    /// Somebody signs in at a page; `Err` has the words of a refusal.
    pub fn sign_in(&self, page: &str, outcome: Result<&str, &str>) {
        self.shared.change(|state| {
            if let Some(pending) = state.pending.get_mut(page) {
                pending.outcome = Some(outcome.map(str::to_owned).map_err(str::to_owned));
            }
        });
    }

    /// A page is too old: whoever waits for a sign-in there is shown another one.
    pub fn expire_page(&self, page: &str) {
        self.shared.change(|state| drop(state.pending.remove(page)));
    }

    /// Which connections the packet filters of all nodes allow: `FilterRule`s of the protocol, as JSON.
    pub fn set_filter(&self, rules: Value) {
        self.shared.change(|state| state.filter = rules);
    }

    /// Sets a field of `DNSConfig`.
    pub fn set_dns(&self, field: &str, value: Value) {
        self.shared.change(|state| state.dns.insert(field.to_owned(), value));
    }

    /// Whether new nodes wait for an administrator.
    pub fn set_approval(&self, on: bool) {
        self.shared.change(|state| state.approval = on);
    }

    /// Approves a node.
    pub fn approve(&self, name: &str) {
        self.with(name, |node| node.authorized = true);
    }

    /// Whether tailnet lock is on; no node's key is signed.
    pub fn set_lock(&self, on: bool) {
        self.shared.change(|state| state.lock = on);
    }

    /// Somebody signs a node's key on a signing node.
    pub fn sign(&self, name: &str) {
        self.with(name, |node| node.signed = true);
    }

    /// How long node keys are good that are made from now on; the server says nothing when one ends.
    pub fn set_key_life(&self, life: Option<Duration>) {
        self.shared.change(|state| state.key_life = life);
    }

    /// Tells the next registrations to wait a second (HTTP 429).
    pub fn limit(&self, registrations: u32) {
        self.shared.change(|state| state.limited = registrations);
    }

    /// Another process tells the server its disco key with a node's key.
    pub fn impersonate(&self, name: &str) {
        self.with(name, |node| node.disco = format!("discokey:{}", "5".repeat(64)));
    }

    /// The relay tells all its clients what is wrong with their connection; nothing ends it.
    pub fn relay_says(&self, text: &str) {
        self.relay.say(text);
    }

    /// Answers every registration with these words, or as usual.
    pub fn refuse(&self, words: Option<&str>) {
        self.shared.change(|state| state.refusal = words.map(str::to_owned));
    }

    /// What stands between nodes and the server from now on.
    pub fn set_manner(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// Approves routes that a node leads to, in place of earlier ones.
    pub fn set_routes(&self, name: &str, routes: &[&str]) {
        self.with(name, |node| node.routes = routes.iter().map(|route| (*route).to_owned()).collect());
    }

    /// A node's key is no longer good.
    pub fn expire(&self, name: &str) {
        self.with(name, |node| node.expired = true);
    }

    /// An administrator deletes a node.
    pub fn remove(&self, name: &str) {
        self.shared.change(|state| state.nodes.retain(|_, node| node.name != name));
    }

    /// What the server says about everybody's health.
    pub fn set_health(&self, words: &[&str]) {
        self.shared.change(|state| state.health = words.iter().map(|text| (*text).to_owned()).collect());
    }

    /// A rule for [`set_filter`](Self::set_filter): everybody may reach this TCP port of everybody.
    pub fn port_rule(port: u16) -> Value {
        json!({ "SrcIPs": ["*"], "IPProto": [6], "DstPorts": [{ "IP": "*", "Ports": { "First": port, "Last": port } }] })
    }

    fn with(&self, name: &str, change: impl FnOnce(&mut state::Known)) {
        self.shared.change(|state| {
            if let Some(node) = state.nodes.values_mut().find(|node| node.name == name) {
                change(node);
            }
        });
    }
}

impl Drop for Tailnet {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by its thread.
            let _ended = thread.join();
        }
    }
}
