//! The client: attempts, the connection, and what happens between them.

mod attempt;
mod connecting;
mod diagnosis;
mod dialogue;
mod remotes;
mod tunnel;
mod up;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_tunnel::{Event, HostPort, LinkId, NetConfig, Outbox, Prefix, Prompt};

use self::attempt::Attempt;
use self::remotes::{Line, State, title};
use self::up::Up;
use crate::auth::Wallet;
use crate::error::{Cause, OpenVpnError};
use crate::random::Random;
use crate::session::Timing;
use crate::tls::{Sessions, TlsConfigError};
use crate::wire::Framer;
use crate::{Config, RouteOption, Transport};

/// After a connection that was up, pauses between attempts stay this short for [`EAGER`]: the server is expected back.
const EAGER_PAUSE: Duration = Duration::from_secs(3);
const EAGER: Duration = Duration::from_secs(600);
/// So many addresses of a name in a route are taken.
const MAX_ROUTE_ADDRESSES: usize = 16;
/// Connections that end this early, this often in a row, are taken from us by another client with our certificate.
const SHORT: Duration = Duration::from_secs(60);
const SHORT_ENDS: u32 = 3;

/// What an owner may ask of a running client.
#[derive(Clone)]
pub enum Command {
    /// The machine's network changed.
    NetworkChanged,
    /// The answer to [`Prompt::Answer`].
    Answer {
        /// The question.
        id: u64,
        /// The answer.
        text: String,
    },
    /// There will be no answer to [`Prompt::Answer`]: the client gives up.
    Decline {
        /// The question.
        id: u64,
        /// Why not.
        why: String,
    },
    /// Tell the server that we go, and close.
    Exit,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NetworkChanged => f.write_str("NetworkChanged"),
            // The answer may be a password.
            Self::Answer { id, .. } => f.debug_struct("Answer").field("id", id).finish_non_exhaustive(),
            Self::Decline { id, why } => f.debug_struct("Decline").field("id", id).field("why", why).finish(),
            Self::Exit => f.write_str("Exit"),
        }
    }
}

/// Why a client cannot be made of a configuration.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// There is no server.
    #[error("the configuration has no `remote`")]
    NoRemote,
    /// There is no cipher.
    #[error("the configuration has no cipher for the data channel")]
    NoCipher,
    /// Of TLS.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
}

/// A client of OpenVPN.
///
/// It begins to call as soon as it is driven, and goes on calling until it has a connection or nothing gives hope. A
/// connection that is lost is made anew, to the same server first.
#[derive(Debug)]
pub struct OpenVpn {
    config: Config,
    sessions: Arc<Sessions>,
    random: Random,
    wallet: Wallet,
    lines: Vec<Line>,
    up: Option<Box<Up>>,
    /// A call beside a connection whose server has become silent.
    spare: Option<Box<Attempt>>,
    /// The next such call comes no earlier.
    spare_after: Option<Instant>,
    /// The server answered it: it takes the connection's place then, unless the connection is heard before.
    adopt_at: Option<Instant>,
    /// Names in routes of the profile whose addresses are not known yet: nobody is called before.
    unresolved: Vec<HostPort>,
    /// The question that must be answered before the next attempt.
    asked: Option<u64>,
    /// The last question, and the number of all so far.
    question: String,
    next_question: u64,
    next_link: u32,
    /// Packets that came in part, by stream.
    framers: BTreeMap<LinkId, Framer>,
    events: VecDeque<Event<OpenVpnError>>,
    net: Option<NetConfig>,
    ended: bool,
    /// When the last connection ended that had been up.
    was_up: Option<Instant>,
    short_ends: u32,
}

impl OpenVpn {
    /// A client that calls as soon as it is driven. `seed` is random.
    ///
    /// # Errors
    /// [`ConfigError`], before anything is sent.
    pub fn new(config: Config, seed: u64, now: Instant) -> Result<Self, ConfigError> {
        if config.remotes.is_empty() {
            return Err(ConfigError::NoRemote);
        }
        if config.data_ciphers.is_empty() {
            return Err(ConfigError::NoCipher);
        }
        let sessions = Arc::new(Sessions::new(&config.tls)?);
        let mut random = Random::new(seed);
        let mut order: Vec<usize> = (0..config.remotes.len()).collect();
        if config.remote_random {
            random.shuffle(&mut order);
        }
        let lines = Line::all(order, &config.remotes, config.race, now);
        let wallet =
            Wallet::new(config.credentials.clone(), config.static_challenge.clone(), config.auth_nocache);
        let mut this = Self {
            config,
            sessions,
            random,
            wallet,
            lines,
            up: None,
            spare: None,
            spare_after: None,
            adopt_at: None,
            unresolved: Vec::new(),
            asked: None,
            question: String::new(),
            next_question: 0,
            next_link: 0,
            framers: BTreeMap::new(),
            events: VecDeque::new(),
            net: None,
            ended: false,
            was_up: None,
            short_ends: 0,
        };
        this.resolve_routes();
        this.begin_attempts(now);
        Ok(this)
    }

    /// Asks for the names in the profile's routes.
    fn resolve_routes(&mut self) {
        for route in &self.config.route_names {
            let name = HostPort { host: route.host.clone(), port: 0 };
            if !self.unresolved.contains(&name) {
                self.events.push_back(Event::Resolve(name.clone()));
                self.unresolved.push(name);
            }
        }
    }

    /// Takes the addresses of a name in routes, if it is one.
    fn route_resolved(&mut self, now: Instant, name: &HostPort, addresses: &[SocketAddr]) {
        let Some(at) = self.unresolved.iter().position(|asked| asked == name) else { return };
        self.unresolved.swap_remove(at);
        let config = &mut self.config;
        for route in config.route_names.iter().filter(|route| route.host == name.host) {
            let addresses = addresses.iter().map(SocketAddr::ip).filter(IpAddr::is_ipv4);
            let prefixes = addresses.filter_map(|address| Prefix::new(address, route.length));
            let before = config.routes.len();
            config.routes.extend(
                prefixes
                    .take(MAX_ROUTE_ADDRESSES)
                    .map(|prefix| RouteOption { prefix: prefix.network(), outside: route.outside }),
            );
            if config.routes.len() == before {
                tracing::warn!(name = %route.host, "a name in a route does not resolve; the route is left out");
            }
        }
        self.begin_attempts(now);
    }

    fn timing(&self) -> Timing {
        let config = &self.config;
        Timing {
            tls_timeout: config.tls_timeout,
            hand_window: config.hand_window,
            tran_window: config.tran_window,
            reneg_interval: config.reneg_interval,
            reneg_bytes: config.reneg_bytes,
            reneg_packets: config.reneg_packets,
        }
    }

    fn error(&self, remote: usize, cause: Cause, seen: Vec<String>) -> OpenVpnError {
        let server = self.config.remotes.get(remote).map(title).unwrap_or_default();
        OpenVpnError { cause, server, seen }
    }

    fn is_tcp(&self, remote: usize) -> bool {
        self.config.remotes.get(remote).is_some_and(|remote| remote.transport == Transport::Tcp)
    }

    /// Gives up.
    fn fail(&mut self, error: OpenVpnError) {
        self.close_all();
        self.ended = true;
        self.events.push_back(Event::Failed(error));
    }

    /// Asks a person.
    fn prompt(&mut self, text: String, echo: bool) -> u64 {
        self.next_question += 1;
        let id = self.next_question;
        self.question.clone_from(&text);
        self.events.push_back(Event::Prompt(Prompt::Answer { id, text, echo }));
        id
    }

    /// Closes everything that is open.
    fn close_all(&mut self) {
        for at in 0..self.lines.len() {
            self.park(at);
        }
        self.drop_spare();
        if let Some(up) = self.up.take() {
            self.close_links(up.links());
        }
    }

    fn close_links(&mut self, links: impl Iterator<Item = LinkId>) {
        self.events.extend(links.map(Event::CloseLink));
    }

    fn drop_spare(&mut self) {
        (self.spare_after, self.adopt_at) = (None, None);
        if let Some(spare) = self.spare.take() {
            self.close_links(spare.links());
        }
    }

    /// Ends what a line does.
    fn park(&mut self, at: usize) {
        let Some(line) = self.lines.get_mut(at) else { return };
        if let State::Trying(attempt) = std::mem::replace(&mut line.state, State::Parked) {
            self.close_links(attempt.links());
        }
    }

    /// The connection is lost: the same server is called first, unless it said otherwise.
    fn lost(&mut self, now: Instant, cause: Cause, next_remote: bool) {
        let Some(up) = self.up.take() else { return };
        self.close_links(up.links());
        self.was_up = Some(now);
        let lived = now.saturating_duration_since(up.since);
        let taken = matches!(cause, Cause::Restart(_) | Cause::Silence(_) | Cause::Restarted);
        self.short_ends = if taken && lived < SHORT { self.short_ends + 1 } else { 0 };
        let cause = if self.short_ends >= SHORT_ENDS { Cause::DuplicateName } else { cause };
        let mut seen = vec![format!("the connection lasted {} s", lived.as_secs())];
        if cause == Cause::DuplicateName {
            seen.push(format!("{} connections in a row ended within a minute", self.short_ends));
        }
        let error = self.error(up.remote, cause, seen);
        tracing::info!(%error, "the connection is lost");
        self.events.push_back(Event::Down(error));
        if self.spare.as_ref().is_some_and(|spare| spare.is_answered()) {
            return self.adopt_spare(now);
        }
        self.drop_spare();
        for at in 0..self.lines.len() {
            self.park(at);
            let line = &mut self.lines[at];
            if line.stand_at(up.remote) {
                line.leave(up.called());
                if next_remote {
                    let _ = line.advance(remotes::Next::Remote, false, &self.config.retry);
                }
                line.state = State::Waiting(now);
            }
        }
    }

    /// The call beside the silent connection becomes the attempt of its line.
    fn adopt_spare(&mut self, now: Instant) {
        (self.spare_after, self.adopt_at) = (None, None);
        let Some(mut spare) = self.spare.take() else { return };
        (spare.beside, spare.released) = (false, Some(now));
        for at in 0..self.lines.len() {
            self.park(at);
        }
        match self.lines.iter_mut().find_map(|line| line.stand_at(spare.remote).then_some(line)) {
            Some(line) => line.state = State::Trying(spare),
            None => {
                self.close_links(spare.links());
                self.begin_attempts(now);
            }
        }
    }

    fn network_changed(&mut self, now: Instant, out: &mut Outbox) {
        if let Some(up) = &mut self.up {
            up.network_changed(now);
            let _ = up.handle_timeout(now, &mut out.net);
        }
        for line in &mut self.lines {
            match &mut line.state {
                State::Waiting(at) => *at = (*at).min(now.max(line.not_before)),
                State::Trying(attempt) => {
                    if let Some(session) = attempt.session_mut() {
                        session.hurry(now);
                        session.transmit(now, &mut out.net);
                    }
                }
                State::Resolving(_) | State::Parked => {}
            }
        }
    }

    fn exit(&mut self, now: Instant, out: &mut Outbox) {
        if let Some(up) = &mut self.up {
            up.say_goodbye(now, &mut out.net);
        }
        self.close_all();
        self.ended = true;
    }
}

#[cfg(test)]
mod tests {
    use adit_tunnel::{NetInput, Tunnel as _};

    use super::*;
    use crate::{Clock, Remote, RouteName, Trust, Wrap};

    #[test]
    fn nobody_is_called_before_the_names_in_routes_are_known() {
        let now = Instant::now();
        let host = HostPort { host: "192.0.2.1".into(), port: 1194 };
        let remote = Remote::new(host, Transport::Udp, Wrap::None);
        let trust = Trust { fingerprints: vec![[7; 32]], ..Trust::default() };
        let clock = Clock { instant: now, unix: Duration::from_secs(1_800_000_000) };
        let route = |host: &str, length, outside| RouteName { host: host.to_owned(), length, outside };
        let names =
            vec![route("a.example", 24, false), route("a.example", 32, true), route("b.example", 32, false)];
        let config = Config { route_names: names, ..Config::new(remote, trust, clock) };
        let mut client = OpenVpn::new(config, 7, now).unwrap();
        let mut out = Outbox::with_capacity(1 << 16, 1 << 16);
        let asked: Vec<_> = std::iter::from_fn(|| client.poll_event()).collect();
        let name = |host: &str| HostPort { host: host.to_owned(), port: 0 };
        assert_eq!(asked, [Event::Resolve(name("a.example")), Event::Resolve(name("b.example"))]);
        assert_eq!(client.poll_timeout(), None, "there is nothing to do meanwhile");

        let addresses = ["198.51.100.7:0", "[2001:db8::7]:0"].map(|address| address.parse().unwrap());
        let (a, b) = (name("a.example"), name("b.example"));
        client.handle_net(now, NetInput::Resolved { host: &a, addresses: &addresses }, &mut out).unwrap();
        assert_eq!(client.poll_event(), None);
        client.handle_net(now, NetInput::Resolved { host: &b, addresses: &[] }, &mut out).unwrap();
        assert!(matches!(client.poll_event(), Some(Event::OpenLink(..))), "the server is called");
        let routes: Vec<_> =
            client.config.routes.iter().map(|route| (route.prefix.to_string(), route.outside)).collect();
        assert_eq!(routes, [("198.51.100.0/24".to_owned(), false), ("198.51.100.7/32".to_owned(), true)]);
    }
}
