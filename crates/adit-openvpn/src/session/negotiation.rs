//! One negotiation of keys: a reliability layer, a TLS session, and the exchange of key method 2 in it.

use std::time::{Duration, Instant};

use adit_tunnel::Dropped;
use zeroize::Zeroizing;

use crate::km::{ClientMessage, Lengths, MessageError, Randoms, ServerMessage};
use crate::message::{Message, Splitter};
use crate::reliable::Reliable;
use crate::tls::TlsClient;
use crate::wire::{Control, Opcode};

/// What a server may say before its message of key method 2 is complete.
const MAX_EXCHANGE: usize = 64 * 1024;
/// The parameter of a reset that holds flags, and the flag that asks for the wrapped key again.
const FLAGS: u16 = 1;
const RESEND_WRAPPED_KEY: u16 = 1;

/// How far a negotiation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing came from the server.
    Calling,
    /// TLS is being agreed on.
    Handshake,
    /// Our message of key method 2 was sent, the server's has not come.
    Exchange,
    /// Keys can be derived, and control messages pass.
    Done,
}

/// Why a negotiation ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NegotiationError {
    /// Of TLS.
    Tls(rustls::Error),
    /// The server's message of key method 2 is none.
    Exchange(MessageError),
    /// It did not come to its end in time.
    Timeout(Stage),
    /// A password or an option is longer than the protocol can carry.
    TooLong,
}

/// What we say in the exchange.
#[derive(Debug)]
pub(crate) struct Introduction {
    pub(crate) options: String,
    pub(crate) peer_info: String,
    pub(crate) username: String,
    pub(crate) password: Zeroizing<String>,
    pub(crate) lengths: Lengths,
}

/// One negotiation.
#[derive(Debug)]
pub(crate) struct Negotiation {
    pub(crate) key_id: u8,
    pub(crate) started: Instant,
    pub(crate) deadline: Instant,
    pub(crate) stage: Stage,
    pub(crate) reliable: Reliable,
    pub(crate) tls: TlsClient,
    pub(crate) randoms: Randoms,
    /// The server's message, once it came.
    pub(crate) theirs: Option<ServerMessage>,
    exchange: Vec<u8>,
    splitter: Splitter,
}

impl Negotiation {
    pub(crate) fn new(
        now: Instant,
        key_id: u8,
        reset: Opcode,
        tls: TlsClient,
        randoms: Randoms,
        tls_timeout: Duration,
        hand_window: Duration,
    ) -> Self {
        Self {
            key_id,
            started: now,
            deadline: now + hand_window,
            stage: Stage::Calling,
            reliable: Reliable::new(now, reset, tls_timeout),
            tls,
            randoms,
            theirs: None,
            exchange: Vec::new(),
            splitter: Splitter::default(),
        }
    }

    /// Takes a control packet of this negotiation.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        opcode: Opcode,
        control: &Control<'_>,
    ) -> Result<(), Dropped> {
        let taken = self.reliable.handle(now, opcode, control);
        if self.stage == Stage::Calling && self.reliable.heard() {
            self.stage = Stage::Handshake;
        }
        taken
    }

    /// Moves bytes between the reliability layer and TLS, and does what has become possible. Messages go to `take`.
    pub(crate) fn pump(
        &mut self,
        introduction: &Introduction,
        mut take: impl FnMut(Message),
    ) -> Result<(), NegotiationError> {
        while let Some(incoming) = self.reliable.poll_incoming() {
            match incoming.opcode {
                Opcode::HardResetServerV2 if wants_wrapped_key(&incoming.payload) => {
                    self.reliable.set_second(Opcode::ControlWrappedKey);
                }
                Opcode::Control => {
                    if let Err(error) = self.tls.feed(&incoming.payload) {
                        // The server should hear the alert.
                        self.flush();
                        return Err(NegotiationError::Tls(error));
                    }
                }
                _ => {}
            }
        }
        if self.stage == Stage::Handshake && !self.tls.is_handshaking() {
            self.introduce(introduction)?;
            self.stage = Stage::Exchange;
        }
        let mut plain = Zeroizing::new(Vec::new());
        self.tls.read(&mut plain);
        if self.stage == Stage::Exchange {
            self.exchange.extend_from_slice(&plain);
            match ServerMessage::decode(&self.exchange) {
                Ok((theirs, used)) => {
                    self.theirs = Some(theirs);
                    self.stage = Stage::Done;
                    let rest = std::mem::take(&mut self.exchange);
                    self.splitter.push(rest.split_at(used).1, &mut take);
                }
                Err(MessageError::Incomplete) if self.exchange.len() < MAX_EXCHANGE => {}
                Err(error) => return Err(NegotiationError::Exchange(error)),
            }
        } else if self.stage == Stage::Done {
            self.splitter.push(&plain, take);
        }
        self.flush();
        Ok(())
    }

    /// Sends a control message.
    pub(crate) fn say(&mut self, message: &[u8]) -> Result<(), NegotiationError> {
        self.tls.write(message).map_err(NegotiationError::Tls)?;
        self.flush();
        Ok(())
    }

    fn introduce(&mut self, introduction: &Introduction) -> Result<(), NegotiationError> {
        let message = ClientMessage {
            randoms: self.randoms.clone(),
            options: introduction.options.clone(),
            username: introduction.username.clone(),
            password: introduction.password.clone(),
            peer_info: introduction.peer_info.clone(),
        };
        let bytes = message.encode(introduction.lengths).map_err(|_| NegotiationError::TooLong)?;
        self.tls.write(&bytes).map_err(NegotiationError::Tls)
    }

    fn flush(&mut self) {
        let mut output = Vec::new();
        self.tls.take_output(&mut output);
        // More than the layer holds is never produced: one introduction, and messages of our own.
        if self.reliable.send(&output).is_err() {
            tracing::warn!(bytes = output.len(), "the control channel is full");
        }
    }
}

/// Whether a server's reset asks for the wrapped key again: parameters of type, length and value.
fn wants_wrapped_key(mut parameters: &[u8]) -> bool {
    while let Some((&[a, b, c, d], rest)) = parameters.split_first_chunk::<4>() {
        let (kind, length) = (u16::from_be_bytes([a, b]), usize::from(u16::from_be_bytes([c, d])));
        let Some((value, rest)) = rest.split_at_checked(length) else { return false };
        if let (FLAGS, &[high, low]) = (kind, value)
            && u16::from_be_bytes([high, low]) & RESEND_WRAPPED_KEY != 0
        {
            return true;
        }
        parameters = rest;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stateless_server_asks_for_the_wrapped_key_again() {
        assert!(wants_wrapped_key(&[0, 1, 0, 2, 0, 1]));
        assert!(wants_wrapped_key(&[0, 9, 0, 1, 7, 0, 1, 0, 2, 0, 3]), "unknown parameters are passed over");
        for parameters in
            [&[][..], &[0, 1, 0, 2, 0, 2], &[0, 1, 0, 2, 0], &[0, 1, 0, 3, 0, 1], &[0, 2, 0, 2, 0, 1]]
        {
            assert!(!wants_wrapped_key(parameters), "{parameters:?}");
        }
    }
}
