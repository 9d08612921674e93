//! Key method 2: the one message that each end sends inside TLS before anything else, and the keys that come of it.

mod announce;
mod derive;
mod message;

pub use announce::{options_string, peer_info, proto};
pub use derive::{DATA_KEYS_LABEL, DYNAMIC_TLS_CRYPT_LABEL, derive_keys, prf};
pub use message::{ClientMessage, Lengths, MessageError, Randoms, ServerMessage};
