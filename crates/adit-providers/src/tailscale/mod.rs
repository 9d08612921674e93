//! The control side of a Tailscale or Headscale node: registration, the map poll, and what the server must know.
//!
//! [`Member`] is the whole of it as a task: it speaks with the control server over the secure channel of the protocol
//! ("ts2021": Noise inside an upgraded HTTP/1.1 connection, HTTP/2 inside Noise) and hands what it hears to the data
//! side, `adit-tailscale`, as its commands. [`Control`] is one connection with its requests.

mod api;
mod control;
mod dial;
mod error;
mod http1;
mod key;
mod keys;
mod member;
mod noise;
mod records;
mod stored;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod url;
mod wire;

pub use api::{API, KeyMaker};
pub use control::{
    CAPABILITY_VERSION, Connector, Control, MapStream, Packing, Reach, Registered, Registration,
};
pub use error::{ControlError, Retry};
pub use http1::answer;
pub use key::{auth_key, hostname};
pub use keys::{Identity, MachineKey, secret};
pub use member::{Auth, Member, Membership, Notice, Output, Whereabouts, log_out};
pub use records::{Opener, PLAIN, Sealer};
pub use stored::kept_control;
pub use tls::{client_config, trusted};
pub use url::{ControlUrl, Proxies, TAILSCALE};
pub use wire::map_update;
