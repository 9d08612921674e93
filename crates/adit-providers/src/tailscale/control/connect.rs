//! Getting there: the server's key, the switch of protocols, the handshake, HTTP/2.

use std::io;
use std::time::Duration;

use adit_tailscale::SecretKey;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use h2::Ping as Opaque;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::time::{sleep, timeout};

use super::super::dial::{Wire, dial};
use super::super::error::ControlError;
use super::super::http1::{self, Head};
use super::super::keys::MachineKey;
use super::super::noise::{HandshakeError, Initiator, NoiseStream, printable};
use super::{CAPABILITY_VERSION, Control, Reach};

/// The word that both sides say to switch protocols.
const PROTOCOL: &str = "tailscale-control-protocol";
/// For the answer to the upgrade. Shorter than anybody waits for the server to be reached, so that a server which says
/// nothing to our version is told apart from one that is not there.
const UPGRADE: Duration = Duration::from_secs(6);
/// A server's answer to the handshake is 51 bytes, or an error text.
const ANSWER_LIMIT: usize = 4096;
/// A map of a large network is tens of megabytes; the usual windows would make it wait for acknowledgements.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// How often, and for how long, the far end is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(25);
const PING_ANSWER: Duration = Duration::from_secs(15);

/// Makes connections to one control server. Its key is fetched once.
#[derive(Debug)]
pub struct Connector {
    reach: Reach,
    server: Option<MachineKey>,
}

impl Connector {
    /// No connection yet.
    pub fn new(reach: Reach) -> Self {
        Self { reach, server: None }
    }

    /// The way to the server.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// The server is not reached, or is not what it should be (`ts.control.*`, `ts.captive`, `ts.clock`).
    pub async fn connect(&mut self, machine: &SecretKey) -> Result<Control, ControlError> {
        let Some(known) = self.server else {
            let fetched = self.fetch().await?;
            let result = self.handshake(machine, fetched).await;
            if result.is_ok() {
                self.server = Some(fetched);
            }
            return result;
        };
        match self.handshake(machine, known).await {
            // A server that was set up anew has another key, and cannot say so.
            Err(error) if error.class() == "ts.control.key" => {
                let fetched = self.fetch().await?;
                if fetched == known {
                    return Err(error);
                }
                self.server = Some(fetched);
                self.handshake(machine, fetched).await
            }
            result => result,
        }
    }

    /// Fetches the server's key, on which everything else depends.
    async fn fetch(&self) -> Result<MachineKey, ControlError> {
        let reach = &self.reach;
        let mut stream = dial(&reach.control, &reach.proxies, &reach.tls).await?;
        let request = format!(
            "GET /key?v={CAPABILITY_VERSION} HTTP/1.1\r\nHost: {}\r\nUser-Agent: adit\r\nAccept: application/json\r\nConnection: close\r\n\r\n",
            reach.control.authority()
        );
        let exchange = async {
            let (head, rest) = http1::exchange(&mut stream, &request).await?;
            let body = http1::body(&mut stream, &head, rest).await?;
            Ok::<_, io::Error>((head, body))
        };
        let answer = timeout(UPGRADE, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let (head, body) = answer.map_err(|error| {
            ControlError::later("ts.control.protocol", format!("{} does not give its key", reach.control))
                .seen(error.to_string())
        })?;
        server_key(reach, &head, &body)
    }

    async fn handshake(&self, machine: &SecretKey, server: MachineKey) -> Result<Control, ControlError> {
        let reach = &self.reach;
        let stream = dial(&reach.control, &reach.proxies, &reach.tls).await?;
        let secured = timeout(UPGRADE, secure(stream, reach, machine, server)).await;
        let secured = secured.unwrap_or_else(|_| {
            Err(version(reach, format!("no answer to the upgrade within {UPGRADE:?}")))
        })?;
        let (requests, mut connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(secured)
            .await
            .map_err(|error| {
                ControlError::later("ts.control.protocol", format!("{} does not speak HTTP/2", reach.control))
                    .seen(error.to_string())
            })?;
        let pings = connection.ping_pong();
        let driver = tokio::spawn(async move {
            tokio::select! {
                ended = connection => tracing::debug!(?ended, "the control connection ended"),
                () = watch(pings) => tracing::debug!("the control server does not answer pings"),
            }
        });
        Ok(Control { requests, reach: reach.clone(), driver })
    }
}

/// Returns when the far end is gone.
async fn watch(pings: Option<h2::PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(PING_EVERY).await;
        if !matches!(timeout(PING_ANSWER, pings.ping(Opaque::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

#[derive(Deserialize)]
struct Published {
    #[serde(rename = "publicKey")]
    public_key: Option<String>,
}

fn server_key(reach: &Reach, head: &Head, body: &[u8]) -> Result<MachineKey, ControlError> {
    let control = &reach.control;
    let status = format!("it answered with status {}", head.status);
    let html = head.header("content-type").is_some_and(|kind| kind.contains("html"));
    if matches!(head.status, 301 | 302 | 303 | 307 | 308 | 511) || (html && head.status == 200) {
        let error = ControlError::later(
            "ts.captive",
            format!("a page answers in place of the control server {control}"),
        );
        let error = error.seen(status);
        return Err(match head.header("location") {
            Some(location) => error.seen(format!("it leads to {}", printable(location.as_bytes()))),
            None => error,
        });
    }
    let published: Option<Published> = serde_json::from_slice(body).ok();
    let key = published.and_then(|published| MachineKey::parse(&published.public_key?));
    match key {
        Some(key) if head.status == 200 => Ok(key),
        _ => {
            let error = if head.status >= 500 {
                ControlError::later("ts.control.protocol", format!("{control} has a failure of its own"))
            } else {
                ControlError::never("ts.control.protocol", format!("{control} does not give its key"))
            };
            Err(error.seen(status).seen(format!("it says: {}", printable(&body[..body.len().min(200)]))))
        }
    }
}

/// Servers end connections of versions that they do not speak without an answer, or leave them open.
fn version(reach: &Reach, why: String) -> ControlError {
    let summary =
        format!("{} does not go on with version {CAPABILITY_VERSION} of the protocol", reach.control);
    ControlError::later("ts.control.version", summary).seen(why)
}

async fn secure(
    mut stream: Wire,
    reach: &Reach,
    machine: &SecretKey,
    server: MachineKey,
) -> Result<NoiseStream<Wire>, ControlError> {
    let (initiator, message) =
        Initiator::start(machine, server, CAPABILITY_VERSION).map_err(|error| noise(reach, &error))?;
    let request = format!(
        "POST /ts2021 HTTP/1.1\r\nHost: {}\r\nUser-Agent: adit\r\nUpgrade: {PROTOCOL}\r\nConnection: upgrade\r\nX-Tailscale-Handshake: {}\r\nContent-Length: 0\r\n\r\n",
        reach.control.authority(),
        STANDARD.encode(message)
    );
    let (head, mut received) = match http1::exchange(&mut stream, &request).await {
        Ok(answer) => answer,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(upgrade(reach).seen(error.to_string()));
        }
        Err(error) => return Err(version(reach, format!("the connection ended before an answer: {error}"))),
    };
    let switched = head.header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case(PROTOCOL));
    if head.status != 101 || !switched {
        let body = timeout(Duration::from_secs(2), http1::body(&mut stream, &head, received)).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        let error = upgrade(reach).seen(format!("the answer has status {} in place of 101", head.status));
        let text = printable(&body[..body.len().min(200)]);
        return Err(if text.is_empty() { error } else { error.seen(format!("it says: {text}")) });
    }
    let length = loop {
        if let Some(length) = Initiator::answer_length(&received) {
            break length;
        }
        if received.len() > ANSWER_LIMIT {
            return Err(noise(reach, &HandshakeError::Malformed));
        }
        let ended = match stream.read_buf(&mut received).await {
            Ok(0) => "the connection was closed".to_owned(),
            Ok(_) => continue,
            Err(error) => error.to_string(),
        };
        // A server that cannot read our first message has another key than the one we wrote it for.
        return Err(noise(reach, &HandshakeError::NotAuthentic).seen(ended));
    };
    let rest = received.split_off(length);
    initiator.finish(&received, &rest, stream).map_err(|error| noise(reach, &error))
}

fn upgrade(reach: &Reach) -> ControlError {
    ControlError::later(
        "ts.control.upgrade",
        format!("{} does not switch to the control protocol", reach.control),
    )
}

fn noise(reach: &Reach, error: &HandshakeError) -> ControlError {
    let class = match error {
        HandshakeError::NotAuthentic => "ts.control.key",
        HandshakeError::Refused(_) => "ts.control.version",
        HandshakeError::Malformed => "ts.control.protocol",
        HandshakeError::Internal(_) => "internal",
    };
    ControlError::later(class, format!("no secure channel to {}", reach.control)).seen(error.to_string())
}
