//! The connection to a control server: the secure channel, HTTP/2 inside it, and the requests of the protocol.

mod connect;
mod map;
mod ping;
mod register;

use std::sync::Arc;
use std::time::Duration;

use adit_tailscale::{Keys, NodeKey};
use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{Request, Response, StatusCode};
use rustls::ClientConfig;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::error::{ControlError, Retry};
use super::noise::printable;
use super::url::{ControlUrl, Proxies};
use super::wire::{Hostinfo, MapRequest};

pub use connect::Connector;
pub use map::{MapStream, Packing};
pub(super) use ping::Ping;
pub(super) use register::web_page;
pub use register::{Registered, Registration};

/// The version of the protocol that we speak (`tailcfg.CapabilityVersion`). It promises what the server may send; a
/// Headscale of 0.29 wants at least 113.
pub const CAPABILITY_VERSION: u16 = 130;

/// For an answer that the server can give at once.
const ANSWER: Duration = Duration::from_secs(30);
/// What is asked for when the server limits us and does not say for how long.
const LIMITED: Duration = Duration::from_secs(5);
/// No wait that a server asks for is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Where the control server is, and the way there.
#[derive(Clone, Debug)]
pub struct Reach {
    /// The server.
    pub control: ControlUrl,
    /// The proxies of this machine.
    pub proxies: Proxies,
    /// Whose certificates are believed.
    pub tls: Arc<ClientConfig>,
}

/// A connection to the control server. Dropping it closes it.
#[derive(Debug)]
pub struct Control {
    requests: SendRequest<Bytes>,
    reach: Reach,
    driver: JoinHandle<()>,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Control {
    /// Sends a request with a JSON body; waits for the head of the answer.
    async fn post(
        &self,
        path: &str,
        node: NodeKey,
        body: &impl Serialize,
    ) -> Result<Response<RecvStream>, ControlError> {
        // A body may hold an auth key.
        let body = Zeroizing::new(serde_json::to_vec(body).map_err(|error| internal(&error))?);
        self.send("POST", path, Some(node), Bytes::from_owner(body)).await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        node: Option<NodeKey>,
        body: Bytes,
    ) -> Result<Response<RecvStream>, ControlError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.reach.control.authority()));
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        // Lets a balancer in front of several servers choose the one that knows the node.
        if let Some(node) = node {
            request = request.header("ts-lb", node.to_string());
        }
        let request = request.body(()).map_err(|error| internal(&error))?;
        let mut requests = self.requests.clone().ready().await.map_err(|error| self.lost(&error))?;
        let (answer, mut stream) =
            requests.send_request(request, body.is_empty()).map_err(|error| self.lost(&error))?;
        if !body.is_empty() {
            stream.send_data(body, true).map_err(|error| self.lost(&error))?;
        }
        answer.await.map_err(|error| self.lost(&error))
    }

    fn lost(&self, error: &h2::Error) -> ControlError {
        let summary = format!("the connection to the control server {} was lost", self.reach.control);
        ControlError::later("ts.control.tcp", summary).seen(error.to_string())
    }

    /// What the head of an answer says, if it is no success.
    async fn checked(&self, answer: Response<RecvStream>) -> Result<RecvStream, ControlError> {
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok(answer.into_body());
        }
        let wait = answer.headers().get("retry-after").and_then(|value| retry_after(value.to_str().ok()?));
        let text = self.body(answer.into_body(), 4096).await.unwrap_or_default();
        let text = printable(&text);
        let control = &self.reach.control;
        let error = match status {
            StatusCode::TOO_MANY_REQUESTS => {
                let wait = wait.unwrap_or(LIMITED).min(LONGEST_WAIT);
                let mut error =
                    ControlError::later("ts.limit", format!("the control server asks us to wait {wait:?}"));
                error.retry = Retry::After(wait);
                error
            }
            StatusCode::NOT_FOUND => {
                ControlError::later("ts.node.removed", format!("{control} does not know this node"))
            }
            status if status.is_server_error() => {
                ControlError::later("ts.control.protocol", format!("{control} has a failure of its own"))
            }
            _ => ControlError::never("ts.control.protocol", format!("{control} refuses our request")),
        };
        let error = error.seen(format!("it answered with status {}", status.as_u16()));
        Err(if text.is_empty() { error } else { error.seen(format!("it says: {text}")) })
    }

    /// Reads a body to its end.
    async fn body(&self, mut stream: RecvStream, limit: usize) -> Result<Vec<u8>, ControlError> {
        let mut body = Vec::new();
        while let Some(chunk) = stream.data().await {
            let chunk = chunk.map_err(|error| self.lost(&error))?;
            // Only a closed connection refuses it, and the next read says so.
            let _ = stream.flow_control().release_capacity(chunk.len());
            body.extend_from_slice(&chunk);
            if body.len() > limit {
                return Err(ControlError::never(
                    "ts.control.protocol",
                    "an answer of the control server is too large",
                ));
            }
        }
        Ok(body)
    }

    /// Tells the server about us without asking for anything (a "lite" map request). What the streaming request says
    /// of us is not read by every server, so this is what makes a node reachable.
    pub(super) async fn update(&self, about: &About<'_>) -> Result<(), ControlError> {
        let request = MapRequest { omit_peers: true, ..about.request() };
        let exchange = async {
            let answer = self.post("/machine/map", about.keys.node_key(), &request).await?;
            let body = self.checked(answer).await?;
            self.body(body, 64 << 20).await
        };
        bounded(exchange, &self.reach.control).await.map(drop)
    }
}

/// What the server is told about us.
pub(super) struct About<'a> {
    pub(super) keys: &'a Keys,
    pub(super) hostinfo: &'a Hostinfo,
    pub(super) endpoints: &'a [adit_tailscale::Endpoint],
}

impl About<'_> {
    fn request(&self) -> MapRequest<'_> {
        MapRequest {
            version: CAPABILITY_VERSION,
            compress: "",
            keep_alive: false,
            node_key: self.keys.node_key().to_string(),
            disco_key: self.keys.disco_key().to_string(),
            stream: false,
            hostinfo: self.hostinfo,
            endpoints: self.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect(),
            endpoint_types: self.endpoints.iter().map(|endpoint| endpoint.kind.number()).collect(),
            omit_peers: false,
        }
    }
}

/// Gives an answer its time.
async fn bounded<T>(
    exchange: impl Future<Output = Result<T, ControlError>>,
    control: &ControlUrl,
) -> Result<T, ControlError> {
    timeout(ANSWER, exchange).await.unwrap_or_else(|_| {
        Err(ControlError::later("ts.control.tcp", format!("{control} does not answer"))
            .seen(format!("no answer within {ANSWER:?} over a connection that was made")))
    })
}

/// Seconds, or a date.
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = super::wire::http_date(value)?;
    Some(until.duration_since(std::time::SystemTime::now()).unwrap_or_default())
}

fn internal(error: &dyn std::fmt::Display) -> ControlError {
    ControlError::never("internal", "a request cannot be made").seen(error.to_string())
}
