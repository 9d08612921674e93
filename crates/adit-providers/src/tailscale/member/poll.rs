//! Staying in: the messages of the server, and what it must hear of us meanwhile.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_tailscale::Command;
use adit_tunnel::Prompt;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::super::control::{About, Control, Packing, Ping, web_page};
use super::super::error::{ControlError, Retry};
use super::super::wire::{self, MapResponse, PingRequest, rfc3339};
use super::entry::Entered;
use super::pause::Pause;
use super::said::{SOON, moment};
use super::{Member, Notice, Output};

/// News of the data side come in bursts and go out together.
const TOGETHER: Duration = Duration::from_millis(50);
/// Before an update that failed is sent again.
const AGAIN: Duration = Duration::from_secs(2);
/// A server whose clock differs by less has the same time as we.
const SAME_TIME: Duration = Duration::from_secs(60);
/// A machine whose clock is wrong by more than this believes no certificate either; it is the server that is elsewhere.
const PLAUSIBLE: Duration = Duration::from_secs(24 * 3600);
/// The end of a key, as two messages of a server with another time tell it.
const SAME_MOMENT: Duration = Duration::from_secs(1);

/// Without anything to tell, the server is asked this often whether it knows us: some delete a node and say nothing on
/// its stream.
const STILL_THERE: Duration = Duration::from_secs(120);
/// Before the server is told again which process we are, after another one has told it so.
const REASSERT: Duration = Duration::from_secs(30);
/// A key is renewed this long before its end, or when half of a shorter rest has passed.
const EARLY: Duration = Duration::from_secs(3600);
/// Before a renewal that failed for a passing reason is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(20);
/// An answer that belongs to the end of a stream comes within this time.
const ANSWER_BEHIND: Duration = Duration::from_secs(2);
/// Servers send the first map within a second or two; then somebody should hear of it. It is waited for longer.
const FIRST_MAP: Duration = Duration::from_secs(7);
/// The longest sleep: clocks are set.
const LONG: Duration = Duration::from_secs(3600);

/// Why a stream ended that did not fail.
pub(super) enum End {
    /// The server ended it.
    Stream,
    /// The node has another key, for which another stream is needed.
    Renewed,
}

/// When the node key must be replaced, by this machine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyLife {
    expiry: SystemTime,
    renew: SystemTime,
}

impl KeyLife {
    fn new(expiry: SystemTime, now: SystemTime) -> Self {
        let left = expiry.duration_since(now).unwrap_or_default();
        Self { expiry, renew: expiry - EARLY.min(left / 2) }
    }

    /// How long until something is to be done.
    fn rest(&self, now: SystemTime) -> Duration {
        let until = |at: SystemTime| at.duration_since(now).ok().filter(|rest| !rest.is_zero());
        let warn = self.expiry.checked_sub(SOON).and_then(until);
        let steps = [warn, until(self.renew), until(self.expiry)];
        steps.into_iter().flatten().min().unwrap_or(LONG).min(LONG)
    }
}

/// A renewal of the node key beside the stream.
#[derive(Default)]
struct Renewal {
    running: Option<JoinHandle<Result<Entered, ControlError>>>,
    /// After a failure: when it is tried again, if ever.
    again: Option<Instant>,
    begun: bool,
}

impl Renewal {
    async fn ended(&mut self) -> Result<Entered, ControlError> {
        let Some(running) = &mut self.running else { return pending().await };
        let result = running.await;
        self.running = None;
        result.unwrap_or_else(|error| {
            Err(ControlError::never("internal", "a renewal ended").seen(error.to_string()))
        })
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

/// Updates on their way to the server.
#[derive(Default)]
struct Updates {
    /// When the next is due.
    due: Option<Instant>,
    /// When the last was sent.
    sent: Option<Instant>,
    running: Option<JoinHandle<Result<(), ControlError>>>,
}

impl Updates {
    async fn next(&mut self) -> Outcome {
        if let Some(running) = &mut self.running {
            let result = running.await;
            self.running = None;
            return Outcome::Sent(result.unwrap_or(Ok(())));
        }
        let still_there = *self.sent.get_or_insert_with(Instant::now) + STILL_THERE;
        sleep_until(self.due.map_or(still_there, |due| due.min(still_there))).await;
        (self.due, self.sent) = (None, Some(Instant::now()));
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
    ) -> Result<End, ControlError> {
        self.look();
        self.said.ours_shown = false;
        // Servers that only read the stream's request learn our disco key from this.
        control.update(&self.about()).await?;
        let mut stream = control.map(&self.about(), Packing::Zstd).await?;
        let mut updates = Updates::default();
        let mut renewal = Renewal::default();
        let (mut first, mut listening) = (true, true);
        let (late, mut late_said) = (Instant::now() + FIRST_MAP, false);
        loop {
            let key = self.key_due(&renewal);
            tokio::select! {
                message = stream.next() => {
                    let Some(message) = message? else { return self.stream_ended(&mut renewal).await };
                    if self.message(control, &message, first).await? && first {
                        first = false;
                        pause.reset();
                        self.tell(adit_tailscale::Control::Connected).await;
                    }
                    if self.said.duplicate && updates.due.is_none() {
                        updates.due = Some(Instant::now() + REASSERT);
                    }
                }
                () = sleep_until(late), if first && !late_said => {
                    late_said = true;
                    let nothing = ControlError::later("ts.netmap.timeout", "the control server sends no map of the network")
                        .seen(format!("the node is registered, and no message came within {FIRST_MAP:?}"));
                    self.tell(adit_tailscale::Control::Lost(nothing.fault())).await;
                }
                () = sleep_until(key) => self.look_at_key(control, &mut renewal).await?,
                ended = renewal.ended() => match ended {
                    Ok(entered) => {
                        self.entered(entered).await;
                        return Ok(End::Renewed);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the node's key was not renewed");
                        if error.retry == Retry::Never {
                            self.entry = None;
                        } else {
                            renewal.again = Some(Instant::now() + RENEW_AGAIN);
                        }
                    }
                },
                changed = self.whereabouts.changed(), if listening => match changed {
                    Ok(()) => if self.look() && updates.due.is_none() {
                        updates.due = Some(Instant::now() + TOGETHER);
                    },
                    Err(_) => listening = false,
                },
                outcome = updates.next() => match outcome {
                    Outcome::Due => updates.running = Some(self.update(control)),
                    Outcome::Sent(Ok(())) => {}
                    Outcome::Sent(Err(error)) if error.class() == "ts.node.removed" => return Err(error),
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
                return Err(ControlError::later("ts.nodekey.expired", "the node's key has expired")
                    .seen("the control server says so"));
            }
            self.name(&node.name).await;
            // By our clock.
            self.expiry(node.key_expiry.map(|at| local + at.duration_since(now).unwrap_or_default())).await;
            self.process(node.disco);
        }
        if let Some(health) = message.health.clone() {
            self.said.health = health;
        }
        self.warn().await;
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
        let other = !assigned.is_empty() && assigned != wanted;
        self.said.collision = other.then(|| (wanted.clone(), assigned.to_owned()));
    }

    async fn expiry(&mut self, expiry: Option<SystemTime>) {
        let known = self.said.expiry.filter(|_| self.key_life.is_some());
        let same = match (expiry, known) {
            (Some(new), Some(known)) => apart(new, known) < SAME_MOMENT,
            (new, known) => new == known && self.said.expiry == expiry,
        };
        if same {
            return;
        }
        self.said.expiry = expiry;
        self.key_life = expiry.map(|at| KeyLife::new(at, SystemTime::now()));
        self.send(Output::Notice(Notice::KeyExpiry(expiry))).await;
    }

    /// Looks which process the server takes for us.
    fn process(&mut self, disco: adit_tailscale::DiscoKey) {
        if disco == self.identity.keys.disco_key() {
            (self.said.ours_shown, self.said.duplicate) = (true, false);
        } else if self.said.ours_shown && !disco.is_zero() {
            self.said.duplicate = true;
        }
    }

    /// Tells what people should know, if that is news.
    async fn warn(&mut self) {
        if let Some(news) = self.said.news(SystemTime::now()) {
            let problems = news.into_iter().map(super::super::error::fault).collect();
            self.tell(adit_tailscale::Control::Warnings(problems)).await;
        }
    }

    /// When the node key must be looked at.
    fn key_due(&self, renewal: &Renewal) -> Instant {
        let rest = self.key_life.map_or(LONG, |life| life.rest(SystemTime::now()));
        let due = Instant::now() + rest;
        renewal.again.map_or(due, |again| due.min(again))
    }

    /// The stream ends: because the server took a new key, whose answer is on its way, or for a reason of its own.
    async fn stream_ended(&mut self, renewal: &mut Renewal) -> Result<End, ControlError> {
        if renewal.running.is_none() {
            return Ok(End::Stream);
        }
        match timeout(ANSWER_BEHIND, renewal.ended()).await {
            Ok(Ok(entered)) => {
                self.entered(entered).await;
                Ok(End::Renewed)
            }
            _ => Ok(End::Stream),
        }
    }

    /// Warns of the end of the node key, replaces it ahead, and says so when it is there.
    async fn look_at_key(
        &mut self,
        control: &Arc<Control>,
        renewal: &mut Renewal,
    ) -> Result<(), ControlError> {
        let Some(life) = self.key_life else { return Ok(()) };
        self.warn().await;
        let now = SystemTime::now();
        let again = renewal.again.take_if(|at| Instant::now() >= *at).is_some();
        if now >= life.renew && (!renewal.begun || again) {
            renewal.begun = true;
            let (entry, control) = (self.entry(true)?, Arc::clone(control));
            renewal.running = Some(tokio::spawn(async move { entry.lock().await.run(&control).await }));
        } else if now >= life.expiry {
            let expired = ControlError::later("ts.nodekey.expired", "the node's key has expired")
                .seen(format!("its last moment was {}", moment(life.expiry)));
            if renewal.running.is_none() {
                return Err(expired);
            }
            // Somebody is signing in, and the page that was shown stays the right one.
            self.tell(adit_tailscale::Control::Excluded(expired.fault())).await;
        }
        Ok(())
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
    if (SAME_TIME..PLAUSIBLE).contains(&apart(server, local)) { server } else { local }
}

fn apart(a: SystemTime, b: SystemTime) -> Duration {
    a.duration_since(b).unwrap_or_else(|error| error.duration())
}
