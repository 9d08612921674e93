//! The control socket of a running `adit up`, and its client.
//!
//! One Unix connection carries one operation, as JSON messages behind a length, with descriptors beside them.
//! The socket is private to the user, and no message has a field for a credential. [`Client`] implements
//! [`Network`](adit_path::Network): whoever uses it cannot tell it from the engine itself.

mod client;
mod listening;
mod message;
mod server;
mod socket;
mod wire;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use client::{Client, ClientError, down, info};
pub use message::{
    Decision, Ends, Info, LENGTH, MAX_MESSAGE, Malformed, Reply, Request, Verification, decode, encode, split,
};
pub use server::{Server, Service};
pub use socket::{
    ControlSocket, SocketError, check_directory, directories, discover, path_in, prepare_directory,
};
pub use wire::WireError;
