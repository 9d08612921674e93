//! What a server pushes: from the text of `PUSH_REPLY` and `PUSH_UPDATE` to a network.
//!
//! [`Pull`] collects the messages of one connection, applies the user's filters, refuses what is not the server's to
//! take, and says what comes of it: [`Pushed`], a [`NetConfig`](adit_tunnel::NetConfig), and [`Notice`]s.

mod guard;
mod item;
mod lex;
mod network;
mod notice;
mod pull;
mod pushed;

use crate::Cipher;

pub use guard::Ground;
pub use item::{DnsItem, Item, Problem, Redirect, Token, Topology};
pub use network::Profile;
pub use notice::{Notice, NoticeKind};
pub use pull::{Progress, Pull};
pub use pushed::{DnsServer, ProtocolFlags, Pushed};

pub(crate) use notice::Refusals;
use notice::quote;

/// Why a push ends the connection. Quoted options are bounded in length and hold no secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// A rule of the profile rejects an option.
    #[error("the server pushed `{option}`, which the profile rejects (pull-filter reject)")]
    Rejected {
        /// The option.
        option: String,
    },
    /// The cipher is none that we offered.
    #[error(
        "the server chose the cipher `{name}`, which we did not offer (ours: {})",
        ours.iter().map(|cipher| cipher.name()).collect::<Vec<_>>().join(", ")
    )]
    Cipher {
        /// The server's choice.
        name: String,
        /// What we offered.
        ours: Vec<Cipher>,
    },
    /// A flag that changes the protocol in a way that we do not know.
    #[error("the server wants the protocol flag `{flag}`, which is not known here")]
    ProtocolFlag {
        /// The flag.
        flag: String,
    },
    /// An option without which nothing works is broken.
    #[error("the server pushed `{option}`, which makes no sense")]
    Broken {
        /// The option.
        option: String,
    },
    /// We are to take an address that cannot be ours.
    #[error("the server pushed `{option}`: {ground}")]
    Address {
        /// The option.
        option: String,
        /// Why not.
        ground: Ground,
    },
    /// Neither the server nor the profile gives us an address.
    #[error("the server pushed no address (ifconfig), and the profile has none")]
    NoAddress,
    /// An update of an option that cannot change while the connection lasts.
    #[error("the server updated `{option}`, which needs a new connection")]
    NotUpdatable {
        /// The option.
        option: String,
    },
    /// The server pushes without end.
    #[error("the server pushed more than {limit} bytes of options")]
    TooLong {
        /// The limit.
        limit: usize,
    },
}

#[cfg(test)]
mod tests;
