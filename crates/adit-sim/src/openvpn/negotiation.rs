//! One negotiation: reliability, TLS, the exchange of keys, and the key that comes of it.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_openvpn::data::{DataKeys, KeyMaterial, Parameters, Role, Suite};
use adit_openvpn::km::{
    ClientMessage, DATA_KEYS_LABEL, Lengths, MessageError, Randoms, ServerMessage, derive_keys,
};
use adit_openvpn::reliable::{Incoming, Reliable};
use adit_openvpn::wire::{Acks, Control, Opcode, SessionId};
use rustls::{ServerConfig, ServerConnection};
use zeroize::Zeroizing;

use super::connection::MAX_CONTROL;
use crate::net::Rng;

/// The options string.
pub(super) const OPTIONS: &str =
    "V4,dev-type tun,link-mtu 1541,tun-mtu 1500,proto UDPv4,key-method 2,tls-server";
/// The first retransmission of a server.
const TIMEOUT: Duration = Duration::from_secs(2);
/// What a client may say before it is cut off.
const MAX_INBOUND: usize = 256 * 1024;

/// What a negotiation has brought forth.
#[derive(Debug)]
pub(super) enum Progress {
    /// The client said who it is; the server has answered.
    Message(Box<ClientMessage>),
    /// A control message.
    Text(String),
    /// TLS failed, or what it carried was no OpenVPN.
    Failed(String),
}

/// How the keys of the data channel are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Derivation {
    pub(super) suite: Suite,
    pub(super) export: bool,
    pub(super) peer_id: Option<u32>,
}

pub(super) struct Negotiation {
    pub(super) key_id: u8,
    pub(super) reliable: Reliable,
    pub(super) tls: ServerConnection,
    inbound: Vec<u8>,
    /// Our randoms, and those of the client once they are known.
    ours: Randoms,
    theirs: Option<Randoms>,
    pub(super) keys: Option<DataKeys>,
    /// When the keys were made.
    pub(super) established: Option<Instant>,
    /// Whether the client has used the key.
    pub(super) used: bool,
    failed: bool,
}

impl Negotiation {
    pub(super) fn new(
        now: Instant,
        key_id: u8,
        tls: &Arc<ServerConfig>,
        rng: &mut Rng,
    ) -> Result<Self, rustls::Error> {
        let reset = if key_id == 0 { Opcode::HardResetServerV2 } else { Opcode::SoftReset };
        let mut draw = || {
            let mut bytes = Zeroizing::new([0; 32]);
            bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&rng.next_u64().to_le_bytes()));
            bytes
        };
        let ours = Randoms { pre_master: Zeroizing::new([0; 48]), first: draw(), second: draw() };
        Ok(Self {
            key_id,
            reliable: Reliable::new(now, reset, TIMEOUT),
            tls: ServerConnection::new(Arc::clone(tls))?,
            inbound: Vec::new(),
            ours,
            theirs: None,
            keys: None,
            established: None,
            used: false,
            failed: false,
        })
    }

    /// Goes on behind the resets, which both ends have sent and received already.
    pub(super) fn resets_were_exchanged(&mut self, now: Instant) {
        let reset = Control { acks: Acks::default(), peer: None, id: Some(0), payload: &[] };
        // The first packet of a new negotiation is in its window.
        let _ = self.reliable.handle(now, Opcode::HardResetClientV3, &reset);
        let _sent = self.reliable.poll_transmit(now, MAX_CONTROL, 0);
    }

    /// Feeds TLS with what came in order, and tells what it led to.
    pub(super) fn advance(&mut self, mut tell: impl FnMut(Progress)) {
        while let Some(Incoming { opcode, payload }) = self.reliable.poll_incoming() {
            if matches!(opcode, Opcode::Control | Opcode::ControlWrappedKey) && !self.failed {
                self.feed(&payload, &mut tell);
            }
        }
        self.flush();
    }

    fn feed(&mut self, mut bytes: &[u8], tell: &mut impl FnMut(Progress)) {
        while !bytes.is_empty() && !self.failed {
            let read = self.tls.read_tls(&mut bytes).map_err(|error| error.to_string());
            let done = read.and_then(|_| self.tls.process_new_packets().map_err(|error| error.to_string()));
            if let Err(error) = done {
                self.failed = true;
                tell(Progress::Failed(error));
            }
            // The reader says "would block" at the end of what there is.
            let mut reader = self.tls.reader();
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                self.inbound.extend_from_slice(buffer.get(..length).unwrap_or_default());
            }
            self.read_inbound(tell);
        }
    }

    fn read_inbound(&mut self, tell: &mut impl FnMut(Progress)) {
        if self.inbound.len() > MAX_INBOUND {
            self.failed = true;
            tell(Progress::Failed("the client says too much".to_owned()));
        }
        if self.theirs.is_none() {
            // In the dialect of the client: a message of AWS's begins with its length.
            let wide = self.inbound.iter().take(4).any(|byte| *byte != 0);
            match ClientMessage::decode(&self.inbound) {
                Ok((message, used)) => {
                    self.inbound.drain(..used);
                    self.theirs = Some(message.randoms.clone());
                    self.answer(if wide { Lengths::Wide } else { Lengths::Short });
                    tell(Progress::Message(Box::new(message)));
                }
                Err(MessageError::Incomplete) => return,
                Err(error) => {
                    self.failed = true;
                    return tell(Progress::Failed(error.to_string()));
                }
            }
        }
        while let Some(end) = self.inbound.iter().position(|byte| *byte == 0) {
            let text: Vec<u8> = self.inbound.drain(..=end).collect();
            let text = String::from_utf8_lossy(&text);
            tell(Progress::Text(text.trim_end_matches('\0').to_owned()));
        }
    }

    /// Our message of key method 2.
    fn answer(&mut self, lengths: Lengths) {
        let options =
            "V4,dev-type tun,link-mtu 1541,tun-mtu 1500,proto UDPv4,key-method 2,tls-server".to_owned();
        let message = ServerMessage { randoms: self.ours.clone(), options };
        if let Ok(bytes) = message.encode(lengths) {
            self.write(&bytes);
        }
    }

    /// Sends bytes inside TLS.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        // TLS buffers what it is given.
        let _ = self.tls.writer().write_all(bytes);
        self.flush();
    }

    fn flush(&mut self) {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            if self.tls.write_tls(&mut bytes).is_err() {
                break;
            }
        }
        // A client that acknowledges nothing for this long is forgotten soon.
        let _ = self.reliable.send(&bytes);
    }

    /// Makes the key of the data channel.
    pub(super) fn derive(
        &mut self,
        now: Instant,
        how: &Derivation,
        client: &SessionId,
        server: &SessionId,
    ) -> Result<(), String> {
        let material = if how.export {
            let bytes = self
                .tls
                .export_keying_material([0; 256], DATA_KEYS_LABEL, None)
                .map_err(|error| error.to_string())?;
            KeyMaterial::new(Zeroizing::new(bytes))
        } else {
            let theirs = self.theirs.as_ref().ok_or("the client has not said anything")?;
            derive_keys(theirs, &self.ours, client, server)
        };
        let parameters =
            Parameters { role: Role::Server, key_id: self.key_id, peer_id: how.peer_id, replay_window: 64 };
        self.keys = Some(DataKeys::new(how.suite, &material, &parameters));
        self.established = Some(now);
        Ok(())
    }
}
