//! What the machine's own network answers, outside the tunnel. It is asked only after a failure on the way to the
//! server, to tell a server that is silent from a sandbox that lets nothing through.

use std::fmt;

use adit_path::BoxFuture;

/// The machine's own network. Every question ends by itself within about three seconds.
pub trait Outside: Send + Sync + fmt::Debug {
    /// Asks the machine's resolver for the addresses of a name.
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Lookup>;

    /// Whether a TCP connection to a public host can be opened.
    fn tcp<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, bool>;

    /// Whether a public STUN server (RFC 8489) answers over UDP.
    fn stun<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, bool>;

    /// The variable that names an HTTP proxy, and its `HOST:PORT` without credentials.
    fn proxy(&self) -> Option<(String, String)>;
}

/// What a resolver says of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It has addresses.
    Found,
    /// The resolver works, and knows of no address.
    Missing,
    /// There was no answer of use: silence, an error of the server, or no server.
    Unanswered(String),
}

/// Names that resolve wherever public names do.
pub(crate) const NAMES: [&str; 2] = ["github.com", "example.com"];
/// Hosts that lists of allowed hosts usually contain.
pub(crate) const LISTED: [&str; 3] = ["github.com", "pypi.org", "registry.npmjs.org"];
/// Hosts that such lists have no reason to contain.
pub(crate) const UNLISTED: [&str; 3] = ["example.com", "www.wikipedia.org", "www.kernel.org"];
/// The port of them all.
pub(crate) const HTTPS: u16 = 443;
/// Public STUN servers of two operators.
pub(crate) const STUN: [(&str, u16); 2] = [("stun.cloudflare.com", 3478), ("stun.l.google.com", 19302)];
