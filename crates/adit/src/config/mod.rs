//! Configuration: `adit.toml`, environment and flags, merged with the origin of every value.
//!
//! Keys are strict: an unknown one is an error with the nearest that is known, because a misspelt key would
//! silently mean its default. Secrets never stand in an `adit.toml`; it names where they come from.

mod compatible;
mod dialect;
pub mod duration;
mod entries;
mod file;
mod find;
mod mode;
mod openvpn;
mod setting;
mod settings;
mod table;
mod tailnet;
mod tailscale;

#[cfg(test)]
mod tests;

#[cfg(feature = "cli")]
pub(crate) use compatible::secret;
pub use compatible::{Compatible, UserAndPassword, WireGuard};
pub use dialect::Dialect;
pub use entries::Entry;
pub use file::{File, ForwardEntry, ProfileEntry};
pub use find::{Place, search};
pub use mode::Mode;
pub use openvpn::{CheckedFile, Login, OpenVpnProfile, Provider, ProviderFile};
pub use setting::{Origin, Setting};
pub use settings::{GRACE, Overrides, Settings, load, load_text};
pub use tailnet::Tailnet;
pub(crate) use tailnet::tag;
pub use tailscale::Joining;

use crate::Failure;

/// Everything that is wrong with a configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures(pub Vec<Failure>);

impl From<Failure> for Failures {
    fn from(failure: Failure) -> Self {
        Self(vec![failure])
    }
}

impl std::fmt::Display for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sentences: Vec<String> = self.0.iter().map(Failure::to_string).collect();
        f.write_str(&sentences.join("; "))
    }
}

impl std::error::Error for Failures {}
