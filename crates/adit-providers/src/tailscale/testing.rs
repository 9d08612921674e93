//! A control server in this process whose answers a test writes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_tailscale::SecretKey;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::server::SendResponse;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::keys::MachineKey;
use super::noise::testing::{respond, server_stream};

/// Long enough for a busy machine; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request that the server has seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) body: Vec<u8>,
}

impl Seen {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub(super) fn is_stream(&self) -> bool {
        self.path == "/machine/map" && self.json()["Stream"] == true
    }
}

/// What the server answers.
pub(super) enum Reply {
    Json(Value),
    Status(u16, Option<(&'static str, String)>, &'static str),
    /// Messages for the map poll; the stream ends with the sender.
    Map(UnboundedReceiver<Vec<u8>>),
    /// An answer that comes later.
    Later(tokio::sync::oneshot::Receiver<Value>),
}

/// How the server answers before there is a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Like Headscale: with an early payload.
    Early,
    /// Without.
    Plain,
    /// Closes the connection in place of an upgrade.
    Hangs,
    /// Does not switch protocols.
    Refuses,
    /// A portal answers.
    Portal,
}

type Script = Box<dyn FnMut(&Seen) -> Reply + Send>;

struct Shared {
    key: Mutex<SecretKey>,
    published: Mutex<SecretKey>,
    manner: Manner,
    script: Mutex<Script>,
    seen: UnboundedSender<Seen>,
}

/// The server. It stops with the runtime.
pub(super) struct FakeControl {
    pub(super) at: SocketAddr,
    shared: Arc<Shared>,
    seen: UnboundedReceiver<Seen>,
}

impl FakeControl {
    pub(super) async fn start(manner: Manner, script: impl FnMut(&Seen) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (sender, seen) = unbounded_channel();
        let key = SecretKey::from_bytes([9; 32]);
        let shared = Arc::new(Shared {
            key: Mutex::new(key.clone()),
            published: Mutex::new(key),
            manner,
            script: Mutex::new(Box::new(script)),
            seen: sender,
        });
        let server = shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, server.clone()));
            }
        });
        Self { at, shared, seen }
    }

    pub(super) fn url(&self) -> super::ControlUrl {
        super::ControlUrl::parse(&format!("http://{}", self.at)).unwrap()
    }

    /// The server is set up anew: it has another key.
    pub(super) fn rekey(&self) {
        let key = SecretKey::from_bytes([11; 32]);
        *self.shared.published.lock().unwrap() = key.clone();
        *self.shared.key.lock().unwrap() = key;
    }

    /// The server publishes a key that it does not have.
    pub(super) fn lie(&self) {
        *self.shared.published.lock().unwrap() = SecretKey::from_bytes([13; 32]);
    }

    /// The next request that `wanted` accepts; others are passed over.
    pub(super) async fn until(&mut self, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let search = async {
            loop {
                let seen = self.seen.recv().await.expect("the server runs");
                if wanted(&seen) {
                    return seen;
                }
            }
        };
        timeout(PATIENCE, search).await.expect("the request comes")
    }
}

/// A message of the map poll: its length and a frame of zstd.
pub(super) fn message(json: &Value) -> Vec<u8> {
    let text = json.to_string();
    let packed =
        ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
    let mut message = u32::try_from(packed.len()).unwrap().to_le_bytes().to_vec();
    message.extend_from_slice(&packed);
    message
}

/// What a first message holds at least.
pub(super) fn first_message() -> Value {
    json!({"Node": {"ID": 1, "StableID": "n1", "Name": "adit.tail.net.", "Key": format!("nodekey:{}", "1".repeat(64)),
        "Addresses": ["100.64.0.1/32"], "MachineAuthorized": true}, "Peers": [], "PacketFilter": []})
}

async fn connection(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut received = Vec::new();
    let (path, handshake) = loop {
        if stream.read_buf(&mut received).await.unwrap_or(0) == 0 {
            return;
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        if request.parse(&received).unwrap().is_complete() {
            let header = request.headers.iter().find(|header| header.name == "X-Tailscale-Handshake");
            let handshake = header.map(|header| STANDARD.decode(header.value).unwrap());
            break (request.path.unwrap().to_owned(), handshake);
        }
    };
    if path.starts_with("/key") {
        let key = MachineKey(shared.published.lock().unwrap().public_bytes());
        let (head, body) = match shared.manner {
            Manner::Portal => ("HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n", String::new()),
            _ => (
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n",
                format!("{{\"legacyPublicKey\":\"mkey:{}\",\"publicKey\":\"{key}\"}}", "0".repeat(64)),
            ),
        };
        let _ =
            stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
        return;
    }
    match shared.manner {
        Manner::Hangs => return,
        Manner::Refuses => {
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\nblocked").await;
            return;
        }
        _ => {}
    }
    let key = shared.key.lock().unwrap().clone();
    let mut reply = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n".to_vec();
    let Some((answer, first, second)) = respond(&key, &handshake.unwrap()) else {
        let _ = stream.write_all(&reply).await;
        return;
    };
    reply.extend_from_slice(&answer);
    stream.write_all(&reply).await.unwrap();
    let mut secured = server_stream(stream, &first, &second);
    if shared.manner == Manner::Early {
        let payload = br#"{"nodeKeyChallenge":"chalpub:00"}"#;
        let mut early = b"\xff\xff\xffTS".to_vec();
        early.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
        early.extend_from_slice(payload);
        secured.write_all(&early).await.unwrap();
        secured.flush().await.unwrap();
    }
    let Ok(mut connection) = h2::server::handshake(secured).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(exchange(request, respond, shared.clone()));
    }
}

async fn exchange(
    request: http::Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: Arc<Shared>,
) {
    let (parts, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(Ok(chunk)) = stream.data().await {
        let _ = stream.flow_control().release_capacity(chunk.len());
        body.extend_from_slice(&chunk);
    }
    let seen = Seen { method: parts.method.to_string(), path: parts.uri.path().to_owned(), body };
    let reply = (shared.script.lock().unwrap())(&seen);
    let _ = shared.seen.send(seen);
    let head = |status: u16| http::Response::builder().status(status);
    match reply {
        Reply::Json(value) => {
            if let Ok(mut send) = respond.send_response(head(200).body(()).unwrap(), false) {
                let _ = send.send_data(value.to_string().into(), true);
            }
        }
        Reply::Status(status, header, text) => {
            let mut answer = head(status);
            if let Some((name, value)) = header {
                answer = answer.header(name, value);
            }
            if let Ok(mut send) = respond.send_response(answer.body(()).unwrap(), false) {
                let _ = send.send_data(text.into(), true);
            }
        }
        Reply::Map(mut messages) => {
            let Ok(mut send) = respond.send_response(head(200).body(()).unwrap(), false) else { return };
            while let Some(message) = messages.recv().await {
                if send.send_data(message.into(), false).is_err() {
                    return;
                }
            }
            let _ = send.send_data(Bytes::new(), true);
        }
        Reply::Later(value) => {
            let Ok(value) = value.await else { return };
            if let Ok(mut send) = respond.send_response(head(200).body(()).unwrap(), false) {
                let _ = send.send_data(value.to_string().into(), true);
            }
        }
    }
}
