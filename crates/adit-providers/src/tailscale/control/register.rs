//! Becoming a node of the network, and ceasing to be one.

use adit_tailscale::NodeKey;

use super::super::error::{ControlError, Retry};
use super::super::noise::printable;
use super::super::wire::{AuthInfo, Hostinfo, RegisterRequest, RegisterResponse};
use super::{CAPABILITY_VERSION, Control, bounded};
use crate::Secret;

/// No answer to a registration is larger.
const LIMIT: usize = 1 << 20;
/// A time that has passed, which ends a node's key. The reference sends this one.
const PAST: &str = "1970-01-01T00:02:03Z";

/// A request to become a node.
#[derive(Debug)]
pub struct Registration<'a> {
    /// Our node key.
    pub key: NodeKey,
    /// The key that it replaces; zero if there is none.
    pub old: NodeKey,
    /// The auth key; `None` where somebody signs in.
    pub auth: Option<&'a Secret>,
    /// The page that the server named before: the answer comes when somebody has signed in there.
    pub followup: Option<&'a str>,
    /// Whether the node goes with us.
    pub ephemeral: bool,
    /// About this machine.
    pub(in crate::tailscale) hostinfo: &'a Hostinfo,
}

/// The answer to a request to become a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// We are one.
    Done {
        /// Whether an administrator need not approve the device first.
        authorized: bool,
        /// Whose node it is; empty if the server does not say.
        login: String,
    },
    /// Somebody must sign in at this page.
    Open(String),
    /// The node key is too old; a new one is needed.
    KeyExpired,
}

impl Control {
    /// Asks to become a node. With `followup`, waits until somebody has signed in.
    ///
    /// # Errors
    ///
    /// The server says no (`ts.key.*`, `ts.tag.denied`, `ts.limit`, …), or is not reached.
    pub async fn register(&self, registration: &Registration<'_>) -> Result<Registered, ControlError> {
        let auth = match registration.auth {
            Some(secret) => Some(
                secret
                    .expose_text()
                    .ok_or_else(|| ControlError::never("ts.key.malformed", "the auth key is no text"))?,
            ),
            None => None,
        };
        let request = RegisterRequest {
            version: CAPABILITY_VERSION,
            node_key: registration.key.to_string(),
            old_node_key: registration.old.to_string(),
            auth: auth.map(|auth_key| AuthInfo { auth_key }),
            expiry: None,
            followup: registration.followup.unwrap_or_default(),
            hostinfo: registration.hostinfo,
            ephemeral: registration.ephemeral,
        };
        let exchange = self.exchange(registration.key, &request);
        // Somebody who signs in takes minutes; pings watch the connection meanwhile.
        let answer = match registration.followup {
            Some(_) => exchange.await?,
            None => bounded(exchange, &self.reach.control).await?,
        };
        if let Some(text) = answer.error.filter(|text| !text.is_empty()) {
            return Err(refusal(&text, &registration.hostinfo.request_tags));
        }
        if answer.node_key_expired == Some(true) {
            return Ok(Registered::KeyExpired);
        }
        if let Some(url) = answer.auth_url.filter(|url| !url.is_empty()) {
            return web_page(url).map(Registered::Open);
        }
        Ok(Registered::Done {
            authorized: answer.machine_authorized.unwrap_or(false),
            login: printable(answer.login.and_then(|login| login.login_name).unwrap_or_default().as_bytes()),
        })
    }

    /// Ceases to be a node: an ephemeral one is deleted, another one must sign in again.
    ///
    /// # Errors
    ///
    /// The server says no or is not reached.
    pub(in crate::tailscale) async fn logout(
        &self,
        key: NodeKey,
        hostinfo: &Hostinfo,
    ) -> Result<(), ControlError> {
        let request = RegisterRequest {
            version: CAPABILITY_VERSION,
            node_key: key.to_string(),
            old_node_key: NodeKey::default().to_string(),
            auth: None,
            expiry: Some(PAST),
            followup: "",
            hostinfo,
            ephemeral: false,
        };
        let answer = bounded(self.exchange(key, &request), &self.reach.control).await?;
        match answer.error.filter(|text| !text.is_empty()) {
            Some(text) => Err(refusal(&text, &[])),
            None => Ok(()),
        }
    }

    async fn exchange(
        &self,
        key: NodeKey,
        request: &RegisterRequest<'_>,
    ) -> Result<RegisterResponse, ControlError> {
        let answer = self.post("/machine/register", key, request).await?;
        let body = self.checked(answer).await?;
        let body = self.body(body, LIMIT).await?;
        serde_json::from_slice(&body).map_err(|error| {
            ControlError::later("ts.control.protocol", "the answer to our registration cannot be read")
                .seen(error.to_string())
        })
    }
}

/// A page that may be shown to a person: `https`, or `http` for an own server, without characters that a terminal
/// would act on.
pub(in crate::tailscale) fn web_page(url: String) -> Result<String, ControlError> {
    let scheme = url.starts_with("https://") || url.starts_with("http://");
    if scheme && url.len() <= 2048 && url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(url);
    }
    Err(ControlError::never("ts.control.protocol", "the page to sign in at is no web address")
        .seen(printable(url.as_bytes())))
}

/// What the server's words mean. They are for people and differ between servers and releases.
pub(super) fn refusal(text: &str, tags: &[String]) -> ControlError {
    let lower = text.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().all(|word| lower.contains(word));
    let key = says(&["key"]);
    let (class, summary) = if says(&["tag:"]) || says(&["tags"]) {
        ("ts.tag.denied", format!("the tags {} are not permitted", tags.join(", ")))
    } else if says(&["node key"]) || says(&["nodekey"]) {
        ("ts.nodekey.expired", "the node's key is not accepted".to_owned())
    } else if key && (says(&["already", "used"]) || says(&["has been used"])) {
        ("ts.key.used", "the auth key was for one use, and it has been used".to_owned())
    } else if key && says(&["expired"]) {
        ("ts.key.expired", "the auth key has expired".to_owned())
    } else if key && says(&["revoked"]) {
        ("ts.key.revoked", "the auth key was revoked".to_owned())
    } else if key
        && (says(&["invalid"]) || says(&["not found"]) || says(&["not valid"]) || says(&["unknown"]))
    {
        ("ts.key.invalid", "the control server does not know this auth key".to_owned())
    } else if says(&["limit"]) || says(&["too many"]) {
        ("ts.limit", "the network takes no more devices now".to_owned())
    } else if says(&["not authorized"]) || says(&["approval"]) {
        ("ts.approval.pending", "an administrator must approve this device".to_owned())
    } else if says(&["upgrade"]) || says(&["unsupported", "version"]) || says(&["client version"]) {
        ("ts.control.version", "the control server does not speak our version of the protocol".to_owned())
    } else {
        ("ts.control.refused", "the control server refuses this node".to_owned())
    };
    let mut error =
        ControlError::never(class, summary).seen(format!("the server says: {}", printable(text.as_bytes())));
    if class == "ts.limit" {
        error.retry = Retry::Later;
    }
    error
}
