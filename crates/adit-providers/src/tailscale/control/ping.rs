//! What the server asks us, to see whether we are there or to be told something.

use std::time::Duration;

use adit_tailscale::NodeKey;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::time::timeout;

use super::super::dial::dial;
use super::super::http1;
use super::super::wire::{PingRequest, PingResponse};
use super::Control;

/// For one answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a request wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tailscale) struct Ping {
    /// Where the answer goes: a path on the control server.
    path: String,
    /// Whether it goes through the secure channel.
    secure: bool,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Only whether we answer.
    Alive,
    /// A request of HTTP to ourselves ("control to node").
    Node(Vec<u8>),
    /// A ping of another node, which we leave to the nodes themselves.
    Other { types: String, ip: String },
}

impl Ping {
    /// Reads a request. Only the control server itself is answered: a URL of another host is none of its business.
    pub(in crate::tailscale) fn read(request: PingRequest, control: &super::ControlUrl) -> Option<Self> {
        let url = request.url.unwrap_or_default();
        let path = url.strip_prefix(&control.to_string()).unwrap_or_else(|| {
            // Inside the channel the host is a formality.
            let inside = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            let secure = request.url_is_noise == Some(true);
            inside
                .filter(|_| secure)
                .and_then(|rest| rest.find('/').map(|slash| &rest[slash..]))
                .unwrap_or_default()
        });
        if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let kind = match request.types.as_deref() {
            None | Some("") => Kind::Alive,
            Some("c2n") => Kind::Node(STANDARD.decode(request.payload.unwrap_or_default()).ok()?),
            Some(types) => Kind::Other { types: types.to_owned(), ip: request.ip.unwrap_or_default() },
        };
        Some(Self { path: path.to_owned(), secure: request.url_is_noise == Some(true), kind })
    }
}

impl Control {
    /// Answers a ping. Failures are nothing but silence to the server.
    pub(in crate::tailscale) async fn answer(&self, ping: &Ping, node: NodeKey) {
        let (method, body) = match &ping.kind {
            Kind::Alive => ("HEAD", Bytes::new()),
            Kind::Node(request) => ("POST", Bytes::from(node_answer(request))),
            Kind::Other { types, ip } => {
                let first = types.split(',').next().unwrap_or_default();
                let answer = PingResponse { r#type: first, ip, err: "not supported by this node" };
                ("POST", serde_json::to_vec(&answer).unwrap_or_default().into())
            }
        };
        let exchange = async {
            if ping.secure {
                return self.send(method, &ping.path, Some(node), body).await.map(drop);
            }
            let reach = &self.reach;
            let mut stream = dial(&reach.control, &reach.proxies, &reach.tls).await?;
            let request = format!(
                "HEAD {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: adit\r\nConnection: close\r\n\r\n",
                ping.path,
                reach.control.authority()
            );
            let answered = http1::exchange(&mut stream, &request).await;
            answered.map(drop).map_err(|error| super::internal(&error))
        };
        match timeout(TIMEOUT, exchange).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a ping of the control server was not answered"),
            Err(_) => tracing::debug!("a ping of the control server was not answered in time"),
        }
    }
}

/// Answers a request to ourselves: `/echo` returns what it is given, everything else is not there.
pub(super) fn node_answer(request: &[u8]) -> Vec<u8> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Request::new(&mut headers);
    let (status, body) = match parsed.parse(request) {
        Ok(httparse::Status::Complete(length)) if parsed.path == Some("/echo") => {
            ("200 OK", request.get(length..).unwrap_or_default())
        }
        Ok(httparse::Status::Complete(_)) => ("404 Not Found", &b"not found\n"[..]),
        _ => ("400 Bad Request", &b""[..]),
    };
    let mut answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    answer
}
