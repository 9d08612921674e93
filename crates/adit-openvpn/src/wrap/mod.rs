//! Protection of control packets below TLS: none, tls-auth, tls-crypt, tls-crypt-v2, and the dynamic tls-crypt of
//! renegotiations.
//!
//! It keeps strangers from talking to TLS at all. A [`Wrapper`] is one direction-aware state: keys, our counter, and
//! what was received. A connection has one, and a second for renegotiations where the server asks for dynamic keys.

mod crypt;
mod replay;
mod wrapped_key;

use std::fmt;

use adit_tunnel::Dropped;
use zeroize::Zeroizing;

use self::crypt::CryptKeys;
use self::replay::{Counter, Window};
use crate::mac::Mac;
use crate::wire::{First, SessionId};
use crate::{Direction, StaticKey, Wrap};

pub use self::wrapped_key::{
    MAX_WRAPPED_KEY, ServerKey, WrappedKeyError, split_wrapped_key, wrapped_key_is_whole,
};

/// First byte and session id, which every control packet begins with.
const HEAD: usize = 9;
/// Replay id and time.
const REPLAY: usize = 8;
/// The tag of tls-crypt.
const CRYPT_TAG: usize = 32;
/// The counter of a client that can do the early negotiation of tls-crypt-v2 starts here, which is how it says so.
const EARLY_NEGOTIATION: u32 = 0x0f00_0001;

/// Which end of the connection we are: tls-crypt gives each its own keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that calls.
    Client,
    /// The one that answers.
    Server,
}

/// A control packet without its protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwrapped<'a> {
    /// Kind and key.
    pub first: First,
    /// The sender.
    pub session: SessionId,
    /// What [`Control::parse`](crate::wire::Control::parse) reads.
    pub body: &'a [u8],
}

/// Wraps and unwraps the control packets of one connection.
pub struct Wrapper {
    kind: Kind,
    counter: Counter,
    window: Window,
}

enum Kind {
    None,
    Auth { send: Mac, receive: Mac },
    Crypt { send: CryptKeys, receive: CryptKeys },
}

impl Wrapper {
    /// A wrapper as configured. `unix` is the time in seconds since 1970, at which our series of packets begins.
    pub fn new(wrap: &Wrap, side: Side, unix: u32) -> Self {
        let first = match (wrap, side) {
            (Wrap::CryptV2 { .. }, Side::Client) => EARLY_NEGOTIATION,
            _ => 1,
        };
        let kind = match wrap {
            Wrap::None => Kind::None,
            Wrap::Auth { key, direction, algorithm } => {
                let (sending, receiving) = match direction {
                    Direction::Normal => (64, 192),
                    Direction::Inverse => (192, 64),
                    Direction::Both => (64, 64),
                };
                let mac = |at| Mac::from_slot(*algorithm, slot(key, at));
                Kind::Auth { send: mac(sending), receive: mac(receiving) }
            }
            Wrap::Crypt(key) | Wrap::CryptV2 { key, .. } => crypt(key, side),
        };
        Self { kind, counter: Counter::new(first, unix), window: Window::default() }
    }

    /// The wrapper of renegotiations under dynamic tls-crypt: the exported key, mixed with the static one.
    pub fn dynamic(exported: &[u8; 256], wrap: &Wrap, side: Side, unix: u32) -> Self {
        let mut key = StaticKey(Zeroizing::new(*exported));
        if let Wrap::Auth { key: fixed, .. } | Wrap::Crypt(fixed) | Wrap::CryptV2 { key: fixed, .. } = wrap {
            key.0.iter_mut().zip(fixed.0.iter()).for_each(|(byte, fixed)| *byte ^= fixed);
        }
        Self { kind: crypt(&key, side), counter: Counter::new(1, unix), window: Window::default() }
    }

    /// Bytes of a packet that are not its body.
    pub fn overhead(&self) -> usize {
        HEAD + match &self.kind {
            Kind::None => 0,
            Kind::Auth { send, .. } => send.tag_len() + REPLAY,
            Kind::Crypt { .. } => REPLAY + CRYPT_TAG,
        }
    }

    /// Whether packets that do not authenticate are told from those that do.
    pub fn authenticates(&self) -> bool {
        !matches!(self.kind, Kind::None)
    }

    /// The time that the far end put into its last packet, in seconds since 1970, where the protection carries one.
    pub fn peer_time(&self) -> Option<u32> {
        self.window.time()
    }

    /// Appends the packet to `out`. A retransmission is wrapped anew.
    pub fn wrap(&mut self, first: First, session: &SessionId, body: &[u8], out: &mut Vec<u8>) {
        let head = [&[first.byte()], &session[..]].concat();
        match &self.kind {
            Kind::None => {
                out.extend(&head);
                out.extend(body);
            }
            Kind::Auth { send, .. } => {
                let replay = self.counter.next();
                // What is authenticated has another order than what is sent.
                let tag = send.sign(&[&replay, &head, body]);
                out.extend(&head);
                out.extend(tag.as_ref());
                out.extend(replay);
                out.extend(body);
            }
            Kind::Crypt { send, .. } => {
                let header = [&head[..], &self.counter.next()].concat();
                send.seal(&header, body, out);
            }
        }
    }

    /// Opens a packet in place. One with a wrapped key behind it must come without it ([`split_wrapped_key`]).
    ///
    /// # Errors
    /// [`Dropped::Malformed`] if it is too short or of an unknown kind, [`Dropped::Unauthentic`] if the keys differ,
    /// [`Dropped::Replayed`] if it was received before or is too old.
    pub fn unwrap<'a>(&mut self, packet: &'a mut [u8]) -> Result<Unwrapped<'a>, Dropped> {
        let (head, rest) = packet.split_first_chunk_mut::<HEAD>().ok_or(Dropped::Malformed)?;
        let [byte, session @ ..] = *head;
        let first = First::parse(byte).ok_or(Dropped::Malformed)?;
        let (replay, body) = match &self.kind {
            Kind::None => return Ok(Unwrapped { first, session, body: rest }),
            Kind::Auth { receive, .. } => {
                let (tag, rest) = rest.split_at_checked(receive.tag_len()).ok_or(Dropped::Malformed)?;
                let (replay, body) = rest.split_first_chunk::<REPLAY>().ok_or(Dropped::Malformed)?;
                if !receive.verify(&[replay, &*head, body], tag) {
                    return Err(Dropped::Unauthentic);
                }
                (*replay, body)
            }
            Kind::Crypt { receive, .. } => {
                let (replay, rest) = rest.split_first_chunk_mut::<REPLAY>().ok_or(Dropped::Malformed)?;
                let (tag, body) = rest.split_first_chunk_mut::<CRYPT_TAG>().ok_or(Dropped::Malformed)?;
                receive.open(&[&*head, &*replay], tag, body)?;
                (*replay, &*body)
            }
        };
        self.window.check(replay)?;
        Ok(Unwrapped { first, session, body })
    }
}

fn crypt(key: &StaticKey, side: Side) -> Kind {
    let [low, high] = [0, 128].map(|at| CryptKeys::new(slot(key, at), slot(key, at + 64)));
    match side {
        Side::Client => Kind::Crypt { send: high, receive: low },
        Side::Server => Kind::Crypt { send: low, receive: high },
    }
}

/// The slot of 64 bytes at `at`, one of 0, 64, 128 and 192.
fn slot(key: &StaticKey, at: usize) -> &[u8; 64] {
    let (slots, _) = key.0.as_chunks::<64>();
    &slots[at / 64]
}

impl fmt::Debug for Wrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::None => "none",
            Kind::Auth { .. } => "tls-auth",
            Kind::Crypt { .. } => "tls-crypt",
        };
        f.debug_struct("Wrapper").field("kind", &kind).field("window", &self.window).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
