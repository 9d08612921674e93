//! Becoming a member, for as long as that takes: a registration, somebody who signs in, a new node key.

use std::time::Duration;

use adit_tailscale::{Command, NodeKey, SecretKey};
use adit_tunnel::Prompt;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::super::control::{Control, Reach, Registered, Registration};
use super::super::error::{ControlError, Retry};
use super::super::wire::Hostinfo;
use super::{Auth, Output, new_secret};

/// Between two requests for a login that the server answers at once with the same page.
const LOGIN_PAUSE: Duration = Duration::from_secs(2);

/// A request to be let in. It owns what it needs, so that it can run beside the map poll.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) reach: Reach,
    pub(super) auth: Auth,
    pub(super) hostinfo: Hostinfo,
    pub(super) ephemeral: bool,
    /// The node key that the server knows, or shall know.
    pub(super) current: NodeKey,
    /// The node key that takes its place.
    pub(super) renewed: Option<SecretKey>,
    /// The page where somebody must sign in.
    pub(super) page: Option<String>,
    /// Whether somebody is asked to sign in where the auth key is not accepted: for a node that was a member before.
    pub(super) or_person: bool,
    pub(super) output: mpsc::Sender<Output>,
}

/// We are in.
#[derive(Debug)]
pub(super) struct Entered {
    /// The node key that the server knows now, if it is another one.
    pub(super) renewed: Option<SecretKey>,
    /// Whose node it is.
    pub(super) login: String,
}

impl Entry {
    /// Asks until the server has let us in.
    ///
    /// # Errors
    ///
    /// The server says no or is not reached. What was agreed until then stays in `self`, for another attempt.
    pub(super) async fn run(&mut self, control: &Control) -> Result<Entered, ControlError> {
        loop {
            let result = self.attempt(control).await;
            match result {
                Err(error) if error.retry == Retry::Never && self.asks_a_person(&error) => {
                    tracing::warn!(%error, "the key of the node is not renewed by the auth key; somebody must sign in");
                    self.auth = Auth::Person;
                }
                result => return result,
            }
        }
    }

    fn asks_a_person(&self, error: &ControlError) -> bool {
        let of_key =
            ["ts.key.", "ts.oauth.", "ts.wif."].iter().any(|family| error.class().starts_with(family));
        self.or_person && of_key && !matches!(self.auth, Auth::Person)
    }

    async fn attempt(&mut self, control: &Control) -> Result<Entered, ControlError> {
        let key = match &self.auth {
            // With a page the server waits for somebody, not for a key.
            _ if self.page.is_some() => None,
            Auth::Key(key) => Some(key.clone()),
            Auth::Made(maker) => Some(maker.make(&self.reach, &self.hostinfo.request_tags).await?),
            Auth::Person => None,
        };
        let expired = self.renewed.is_some();
        loop {
            let (node, old) = match &self.renewed {
                Some(secret) => (NodeKey(secret.public_bytes()), self.current),
                None => (self.current, NodeKey::default()),
            };
            let registration = Registration {
                key: node,
                old,
                auth: key.as_ref().filter(|_| self.page.is_none()),
                followup: self.page.as_deref(),
                ephemeral: self.ephemeral,
                hostinfo: &self.hostinfo,
            };
            match control.register(&registration).await? {
                Registered::Done { authorized, login } => {
                    tracing::debug!(authorized, "registered");
                    // The answer may find nobody here; then it is asked for again, with the same key.
                    return Ok(Entered { renewed: self.renewed.clone(), login });
                }
                Registered::Open(url) => {
                    if self.page.as_ref() == Some(&url) {
                        sleep(LOGIN_PAUSE).await;
                    } else {
                        let prompt = Prompt::Open { url: url.clone(), timeout: None };
                        let prompt = Command::Control(adit_tailscale::Control::Prompt(prompt));
                        // Whoever has dropped the other end hears nothing any more.
                        let _ = self.output.send(Output::Command(prompt)).await;
                    }
                    self.page = Some(url);
                }
                Registered::KeyExpired if !expired && self.renewed.is_none() => {
                    self.renewed = Some(new_secret()?);
                }
                Registered::KeyExpired => {
                    return Err(ControlError::never(
                        "ts.nodekey.expired",
                        "the control server accepts no new key of this node",
                    ));
                }
            }
        }
    }
}
