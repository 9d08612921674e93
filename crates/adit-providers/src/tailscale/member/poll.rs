//! Staying in: the messages of the server, and what it must hear of us meanwhile.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_tailscale::Command;
use adit_tunnel::Prompt;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::super::control::{About, Control, Packing, Ping, web_page};
use super::super::error::ControlError;
use super::super::noise::printable;
use super::super::wire::{self, MapResponse, PingRequest, rfc3339};
use super::pause::Pause;
use super::{Member, Notice, Output};
use crate::Problem;

/// News of the data side come in bursts and go out together.
const TOGETHER: Duration = Duration::from_millis(50);
/// Before an update that failed is sent again.
const AGAIN: Duration = Duration::from_secs(2);
/// A server whose clock differs by less has the same time as we.
const SAME_TIME: Duration = Duration::from_secs(60);

/// What has been said already.
#[derive(Debug, Default)]
pub(super) struct Said {
    name: String,
    expiry: Option<Option<SystemTime>>,
    page: Option<String>,
    health: Vec<String>,
    ping: String,
}

/// Updates on their way to the server.
#[derive(Default)]
struct Updates {
    /// When the next is due.
    due: Option<Instant>,
    running: Option<JoinHandle<Result<(), ControlError>>>,
}

impl Updates {
    async fn next(&mut self) -> Outcome {
        if let Some(running) = &mut self.running {
            let result = running.await;
            self.running = None;
            return Outcome::Sent(result.unwrap_or(Ok(())));
        }
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
        self.due = None;
        Outcome::Due
    }
}

enum Outcome {
    Due,
    Sent(Result<(), ControlError>),
}

impl Drop for Updates {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

impl Member {
    fn about(&self) -> About<'_> {
        About { keys: &self.identity.keys, hostinfo: &self.hostinfo, endpoints: &self.endpoints }
    }

    /// Follows the server's messages until the stream ends.
    pub(super) async fn poll(
        &mut self,
        control: &Arc<Control>,
        pause: &mut Pause,
    ) -> Result<(), ControlError> {
        self.look();
        // Servers that only read the stream's request learn our disco key from this.
        control.update(&self.about()).await?;
        let mut stream = control.map(&self.about(), Packing::Zstd).await?;
        let mut updates = Updates::default();
        let mut first = true;
        let mut listening = true;
        loop {
            tokio::select! {
                message = stream.next() => {
                    let Some(message) = message? else { return Ok(()) };
                    if self.message(control, &message, first).await? && first {
                        first = false;
                        pause.reset();
                        self.tell(adit_tailscale::Control::Connected).await;
                    }
                }
                changed = self.whereabouts.changed(), if listening => match changed {
                    Ok(()) => if self.look() && updates.due.is_none() {
                        updates.due = Some(Instant::now() + TOGETHER);
                    },
                    Err(_) => listening = false,
                },
                outcome = updates.next() => match outcome {
                    Outcome::Due => updates.running = Some(self.update(control)),
                    Outcome::Sent(Ok(())) => {}
                    Outcome::Sent(Err(error)) => {
                        tracing::debug!(%error, "the control server did not take an update");
                        updates.due = Some(Instant::now() + AGAIN);
                    }
                },
            }
        }
    }

    fn update(&self, control: &Arc<Control>) -> JoinHandle<Result<(), ControlError>> {
        let control = control.clone();
        let (keys, hostinfo, endpoints) =
            (self.identity.keys.clone(), self.hostinfo.clone(), self.endpoints.clone());
        tokio::spawn(async move {
            control.update(&About { keys: &keys, hostinfo: &hostinfo, endpoints: &endpoints }).await
        })
    }

    /// Takes a message; returns whether it was more than a sign of life.
    async fn message(
        &mut self,
        control: &Arc<Control>,
        json: &[u8],
        first: bool,
    ) -> Result<bool, ControlError> {
        let message: MapResponse<'_> = serde_json::from_slice(json).map_err(|error| {
            ControlError::later("ts.control.protocol", "a message of the control server cannot be read")
                .seen(error.to_string())
        })?;
        if let Some(request) = message.ping_request.and_then(|raw| serde_json::from_str(raw.get()).ok()) {
            self.ping(control, request);
        }
        if message.keep_alive == Some(true) {
            return Ok(false);
        }
        if first && message.node.is_none() {
            return Err(ControlError::later(
                "ts.control.protocol",
                "the first message of the control server does not say who we are",
            ));
        }
        let local = SystemTime::now();
        let now = server_time(message.control_time.as_deref(), local);
        let update = wire::update(&message, now, local);
        if let Some(node) = &update.node {
            if node.expired {
                self.expired = true;
                self.joined = false;
                return Err(ControlError::later("ts.nodekey.expired", "the node's key has expired"));
            }
            self.name(&node.name).await;
        }
        if let Some(expiry) = message.node.and_then(wire::key_expiry) {
            self.expiry(expiry).await;
        }
        if let Some(health) = &message.health
            && *health != self.said.health
        {
            self.said.health.clone_from(health);
            let shown = health.iter().take(16).map(|text| printable(text.as_bytes())).collect();
            self.send(Output::Notice(Notice::Health(shown))).await;
        }
        self.page(message.pop_browser_url.clone()).await;
        self.send(Output::Command(Command::Netmap(Box::new(update)))).await;
        Ok(true)
    }

    async fn page(&mut self, url: Option<String>) {
        let Some(url) = url.filter(|url| !url.is_empty()) else { return };
        if self.said.page.as_ref() == Some(&url) {
            return;
        }
        self.said.page = Some(url.clone());
        match web_page(url) {
            Ok(url) => self.tell(adit_tailscale::Control::Prompt(Prompt::Open { url, timeout: None })).await,
            Err(error) => tracing::warn!(%error, "the control server names a page that is none"),
        }
    }

    async fn name(&mut self, name: &str) {
        if self.said.name == name {
            return;
        }
        self.said.name = name.to_owned();
        self.send(Output::Notice(Notice::Name(name.to_owned()))).await;
        let (wanted, assigned) = (&self.hostinfo.hostname, name.split('.').next().unwrap_or_default());
        if !assigned.is_empty() && assigned != wanted {
            let problem = Problem::new(
                "ts.name.collision",
                format!("the node is called {assigned}, because {wanted} was taken"),
            );
            self.send(Output::Notice(Notice::Warning(problem))).await;
        }
    }

    async fn expiry(&mut self, expiry: Option<SystemTime>) {
        if self.said.expiry != Some(expiry) {
            self.said.expiry = Some(expiry);
            self.send(Output::Notice(Notice::KeyExpiry(expiry))).await;
        }
    }

    fn ping(&mut self, control: &Arc<Control>, request: PingRequest) {
        let url = request.url.clone().unwrap_or_default();
        // Servers repeat a request until it is answered.
        if self.said.ping == url {
            return;
        }
        self.said.ping = url;
        let Some(ping) = Ping::read(request, &self.connector.reach().control) else {
            tracing::debug!("a ping of the control server names a place that is none of it");
            return;
        };
        let (control, key) = (control.clone(), self.identity.keys.node_key());
        tokio::spawn(async move { control.answer(&ping, key).await });
    }
}

/// The server's time, where it differs.
fn server_time(text: Option<&str>, local: SystemTime) -> SystemTime {
    let Some(server) = text.and_then(rfc3339) else { return local };
    let apart = server.duration_since(local).unwrap_or_else(|error| error.duration());
    if apart < SAME_TIME { local } else { server }
}
