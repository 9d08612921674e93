//! One call of one server: the link, a proxy on the way, the session, and the wait for the configuration.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_tunnel::{LinkId, NetQueue};

use crate::proxy::Proxy;
use crate::push::Pull;
use crate::session::Session;

/// The first request for the configuration comes this long after the exchange of keys: most servers need none.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// Requests follow each other at this distance. A server that waits for somebody looks whether it has an answer when
/// it is asked, so it is asked more often at first.
const NEXT_REQUEST: Duration = Duration::from_secs(5);
const SOON_REQUEST: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(20);
/// An attempt that has not come to its end by then is reported, while it goes on.
pub(crate) const PATIENCE: Duration = Duration::from_secs(6);

/// A call.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) link: LinkId,
    /// The server's address; of a proxy's client, the proxy's or that of its relay.
    pub(crate) server: SocketAddr,
    pub(crate) remote: usize,
    pub(crate) started: Instant,
    /// The first answer must have come by then.
    pub(crate) deadline: Instant,
    /// What keeps it waiting has been reported.
    pub(crate) reported: bool,
    /// It is made beside a connection: once answered, it waits with what would end that.
    pub(crate) beside: bool,
    /// What was held back is to be sent now.
    pub(crate) released: Option<Instant>,
    /// ICMP messages that came for it.
    pub(crate) unreachable: u32,
    /// The conversation with a proxy on the way.
    pub(crate) proxy: Option<Box<Proxy>>,
    /// The proxy that relays our datagrams.
    pub(crate) relay: Option<Relay>,
    pub(crate) step: Step,
}

/// A SOCKS proxy relays our datagrams for as long as the stream lasts on which we asked it to (RFC 1928 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relay {
    pub(crate) stream: LinkId,
    pub(crate) proxy: SocketAddr,
}

/// How far a call is.
#[derive(Debug)]
pub(crate) enum Step {
    /// The link is being opened.
    Opening,
    /// A proxy is being asked.
    Proxy,
    /// The link is open, and a session on it.
    Session(Box<Session>, Box<Wait>),
}

/// The wait for the configuration.
#[derive(Debug)]
pub(crate) struct Wait {
    /// When keys were exchanged.
    begun: Option<Instant>,
    /// When the next request is due; `None` before keys were exchanged.
    pub(crate) request: Option<Instant>,
    /// When the configuration must have come.
    pub(crate) deadline: Instant,
    /// The server's options string.
    pub(crate) options: String,
    /// What the server pushes.
    pub(crate) pull: Pull,
    /// Somebody has to approve, at this page where there is one.
    pub(crate) pending: Option<String>,
    /// How long the server waits for it.
    pub(crate) pending_timeout: Option<Duration>,
    /// The server waits for the answer to this question.
    pub(crate) question: Option<(u64, String)>,
}

impl Wait {
    pub(crate) fn new(deadline: Instant, pull: Pull) -> Self {
        Self {
            begun: None,
            request: None,
            deadline,
            options: String::new(),
            pull,
            pending: None,
            pending_timeout: None,
            question: None,
        }
    }

    /// Keys were exchanged.
    pub(crate) fn begin(&mut self, now: Instant, options: String) {
        self.begun = Some(now);
        self.request = Some(now + FIRST_REQUEST);
        self.options = options;
    }

    /// Whether a request is due now.
    pub(crate) fn take_request(&mut self, now: Instant) -> bool {
        match self.request {
            Some(at) if now >= at => {
                let soon = self.begun.is_some_and(|begun| now < begun + SOON);
                self.request = Some(now + if soon { SOON_REQUEST } else { NEXT_REQUEST });
                true
            }
            _ => false,
        }
    }
}

impl Attempt {
    pub(crate) fn session(&self) -> Option<&Session> {
        match &self.step {
            Step::Session(session, _) => Some(session),
            Step::Opening | Step::Proxy => None,
        }
    }

    pub(crate) fn session_mut(&mut self) -> Option<&mut Session> {
        match &mut self.step {
            Step::Session(session, _) => Some(session),
            Step::Opening | Step::Proxy => None,
        }
    }

    /// What is open for it.
    pub(crate) fn links(&self) -> impl Iterator<Item = LinkId> {
        std::iter::once(self.link).chain(self.relay.map(|relay| relay.stream))
    }

    /// Whether the server has answered.
    pub(crate) fn is_answered(&self) -> bool {
        self.session().is_some_and(|session| session.heard().is_some())
    }

    /// Sends what is due.
    pub(crate) fn transmit(&mut self, now: Instant, net: &mut NetQueue) {
        let held = self.beside && self.is_answered();
        if let Some(session) = self.session_mut().filter(|_| !held) {
            session.transmit(now, net);
        }
    }

    /// When something must be done at the latest, and why.
    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.beside && self.is_answered() {
            return None;
        }
        let first = (!self.is_answered()).then_some((self.deadline, "the server's first answer"));
        let report = (!self.reported && !self.beside)
            .then_some((self.started + PATIENCE, "report what keeps an attempt waiting"));
        let (session, wait) = match &self.step {
            Step::Session(session, wait) => (session.poll_timeout(), Some(wait)),
            Step::Opening | Step::Proxy => (None, None),
        };
        let request = wait.and_then(|wait| wait.request).map(|at| (at, "ask for the configuration"));
        let end = wait.filter(|wait| wait.request.is_some()).map(|wait| (wait.deadline, "the configuration"));
        let released = self.released.map(|at| (at, "send what was held back"));
        [first, report, session, request, end, released].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}
