//! The control server's connections: its key, the upgrade, and the requests inside the channel.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_tailscale::SecretKey;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::channel::{carry, respond};
use super::state::{State, View};
use super::{Manner, Rules};

const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n";
/// No request before the channel is larger.
const HEAD: usize = 16 * 1024;

/// What the connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) key: SecretKey,
    pub(super) manner: Mutex<Manner>,
    pub(super) state: Mutex<State>,
    /// Rings with every change.
    pub(super) changed: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and lets everybody look.
    pub(super) fn change<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let result = work(&mut self.state());
        self.changed.send_modify(|count| *count += 1);
        result
    }

    fn manner(&self) -> Manner {
        *self.manner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Err(error) = connection(stream, shared).await {
                tracing::debug!(%error, "a connection of the control server ended");
            }
        });
    }
}

async fn connection(mut stream: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    let (path, handshake, rest) = head(&mut stream).await?;
    let answer = |status: &str, kind: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let manner = shared.manner();
    if path.starts_with("/key") {
        let key = hex(&shared.key.public_bytes());
        let text = match manner {
            Manner::Portal => answer("200 OK", "text/html", "<html>sign in</html>"),
            _ => answer("200 OK", "application/json", &format!("{{\"publicKey\":\"mkey:{key}\"}}")),
        };
        return stream.write_all(text.as_bytes()).await;
    }
    match manner {
        Manner::Serves | Manner::Portal | Manner::Buffers => {}
        Manner::Hangs => return std::future::pending().await,
        Manner::Strips => {
            return stream.write_all(answer("403 Forbidden", "text/plain", "blocked").as_bytes()).await;
        }
    }
    let Some((reply, agreed)) = handshake.and_then(|message| respond(&shared.key, &message)) else {
        return stream.write_all(answer("400 Bad Request", "text/plain", "").as_bytes()).await;
    };
    stream.write_all(&[SWITCH, &reply].concat()).await?;
    let machine = agreed.machine;
    let mut secured = carry(stream, rest, &agreed)?;
    if shared.state().rules == Rules::Headscale {
        let payload = br#"{"nodeKeyChallenge":"chalpub:00"}"#;
        let mut early = b"\xff\xff\xffTS".to_vec();
        early.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        early.extend_from_slice(payload);
        secured.write_all(&early).await?;
    }
    let mut connection = h2::server::handshake(secured).await.map_err(io::Error::other)?;
    while let Some(Ok((request, respond))) = connection.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Err(error) = exchange(request, respond, machine, shared).await {
                tracing::debug!(%error, "a request of a node ended");
            }
        });
    }
    Ok(())
}

/// The path of a request, the handshake that it carries, and what came behind it.
async fn head(stream: &mut TcpStream) -> io::Result<(String, Option<Vec<u8>>, Vec<u8>)> {
    let mut received = Vec::new();
    loop {
        if received.len() > HEAD || stream.read_buf(&mut received).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(&received).map_err(io::Error::other)?;
        if let httparse::Status::Complete(length) = parsed {
            let header = request
                .headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case("X-Tailscale-Handshake"));
            let handshake = header.and_then(|header| STANDARD.decode(header.value).ok());
            let path = request.path.unwrap_or_default().to_owned();
            return Ok((path, handshake, received.split_off(length)));
        }
    }
}

async fn exchange(
    request: http::Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    machine: [u8; 32],
    shared: Arc<Shared>,
) -> Result<(), h2::Error> {
    let (parts, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let key = body["NodeKey"].as_str().unwrap_or_default().to_owned();
    match parts.uri.path() {
        "/machine/register" => {
            let limited = shared.change(|state| {
                let limited = state.limited > 0;
                state.limited = state.limited.saturating_sub(1);
                limited
            });
            if limited {
                return wait(&mut respond);
            }
            let answer = registered(machine, &body, &shared).await;
            send(&mut respond, 200, answer.to_string())
        }
        "/machine/map" => {
            let Some(view) = shared.change(|state| {
                state.hear(&body);
                state.view(&key)
            }) else {
                return send(&mut respond, 404, "node not found".to_owned());
            };
            if body["Stream"] != true {
                // One of the two servers answers such a request with a map, the other with nothing.
                let answer = match shared.state().rules {
                    Rules::Strict => message(&view.whole(), false),
                    Rules::Headscale => Vec::new(),
                };
                return send(&mut respond, 200, answer);
            }
            let mut stream = respond.send_response(http::Response::new(()), false)?;
            if shared.manner() == Manner::Buffers {
                std::future::poll_fn(|cx| stream.poll_reset(cx)).await?;
                return Ok(());
            }
            follow(stream, &key, view, body["Compress"] == "zstd", &shared).await
        }
        _ => send(&mut respond, 404, String::new()),
    }
}

/// The answer to a registration, which may wait for somebody.
async fn registered(machine: [u8; 32], body: &Value, shared: &Shared) -> Value {
    let mut changes = shared.changed.subscribe();
    loop {
        if let Some(answer) = shared.change(|state| state.register(machine, body)) {
            return answer;
        }
        // Our own change is no news.
        changes.mark_unchanged();
        if changes.changed().await.is_err() {
            return json!({ "Error": "the server ends" });
        }
    }
}

fn send(respond: &mut SendResponse<Bytes>, status: u16, body: impl Into<Bytes>) -> Result<(), h2::Error> {
    let mut head = http::Response::new(());
    *head.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    respond.send_response(head, false)?.send_data(body.into(), true)
}

/// Too many registrations.
fn wait(respond: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
    let head = http::Response::builder().status(429).header("retry-after", "1");
    let head = head.body(()).unwrap_or_default();
    respond.send_response(head, false)?.send_data("slow down".into(), true)
}

/// Tells a node of every change, as long as it is one.
async fn follow(
    mut stream: SendStream<Bytes>,
    key: &str,
    mut view: View,
    packed: bool,
    shared: &Shared,
) -> Result<(), h2::Error> {
    let mut changes = shared.changed.subscribe();
    let count = |state: &mut State, by: i64| {
        if let Some(node) = state.by_key(key) {
            node.streams = node.streams.saturating_add_signed(i32::try_from(by).unwrap_or_default());
        }
    };
    shared.change(|state| count(state, 1));
    let mut result = stream.send_data(message(&view.whole(), packed).into(), false);
    while result.is_ok() {
        let open = tokio::select! {
            changed = changes.changed() => changed.is_ok(),
            _ = std::future::poll_fn(|cx| stream.poll_reset(cx)) => false,
        };
        if !open {
            break;
        }
        let Some(now) = shared.state().view(key) else {
            result = stream.send_data(Bytes::new(), true);
            break;
        };
        if let Some(change) = now.since(&view) {
            result = stream.send_data(message(&change, packed).into(), false);
        }
        view = now;
    }
    shared.change(|state| count(state, -1));
    result
}

/// A message of the map: its length, and JSON or a frame of zstd around it.
fn message(json: &Value, packed: bool) -> Vec<u8> {
    let text = json.to_string().into_bytes();
    let body = match packed {
        true => ruzstd::encoding::compress_to_vec(&text[..], ruzstd::encoding::CompressionLevel::Fastest),
        false => text,
    };
    let mut message = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    message.extend_from_slice(&body);
    message
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
