//! How anything in adit fails in front of a person: what, where, on which evidence, and what to do next.

use std::borrow::Cow;
use std::fmt;

/// The exit codes of the binary. They are stable: scripts depend on them.
///
/// `adit exec` returns its program's own code once the program runs; 125, 126 and 127 have the meaning that
/// `env(1)` and `timeout(1)` give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Everything asked for was done.
    Ok = 0,
    /// A defect of adit.
    Internal = 1,
    /// The command line or a configuration file is wrong; nothing was started.
    Usage = 2,
    /// The environment does not allow what was asked for.
    Environment = 10,
    /// A credential is missing.
    CredentialMissing = 11,
    /// A credential was rejected.
    CredentialRejected = 12,
    /// Somebody must approve first, in a browser or as an administrator.
    AuthorisationPending = 13,
    /// A policy denies it.
    PolicyDenied = 14,
    /// The VPN or control server cannot be reached.
    ServerUnreachable = 20,
    /// The transport is blocked: UDP, a proxy, a captive portal.
    TransportBlocked = 21,
    /// The handshake or negotiation failed.
    Handshake = 22,
    /// An address or a route is in the way or missing.
    Route = 23,
    /// A name does not resolve.
    Dns = 30,
    /// A target does not answer.
    Target = 31,
    /// A target's TLS is wrong.
    TargetTls = 32,
    /// A target answers, but the check of its protocol fails.
    Application = 33,
    /// A quality requirement is not met.
    Quality = 35,
    /// The overall deadline passed; the report names the furthest stage.
    Deadline = 40,
    /// The connection was lost after it had been verified.
    Lost = 50,
    /// `exec`: adit failed before the program ran.
    ExecFailed = 125,
    /// `exec`: the program was found but could not be run.
    NotExecutable = 126,
    /// `exec`: the program was not found.
    NotFound = 127,
    /// Interrupted by SIGINT.
    Interrupted = 130,
}

impl Exit {
    /// Every exit code, in order.
    pub const ALL: [Self; 23] = [
        Self::Ok,
        Self::Internal,
        Self::Usage,
        Self::Environment,
        Self::CredentialMissing,
        Self::CredentialRejected,
        Self::AuthorisationPending,
        Self::PolicyDenied,
        Self::ServerUnreachable,
        Self::TransportBlocked,
        Self::Handshake,
        Self::Route,
        Self::Dns,
        Self::Target,
        Self::TargetTls,
        Self::Application,
        Self::Quality,
        Self::Deadline,
        Self::Lost,
        Self::ExecFailed,
        Self::NotExecutable,
        Self::NotFound,
        Self::Interrupted,
    ];

    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What the code means, in a few words.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Internal => "a defect of adit",
            Self::Usage => "wrong usage or configuration; nothing was started",
            Self::Environment => "the environment does not allow it",
            Self::CredentialMissing => "a credential is missing",
            Self::CredentialRejected => "a credential was rejected",
            Self::AuthorisationPending => "somebody must approve first",
            Self::PolicyDenied => "a policy denies it",
            Self::ServerUnreachable => "the VPN server cannot be reached",
            Self::TransportBlocked => "the transport is blocked",
            Self::Handshake => "the handshake failed",
            Self::Route => "an address or route is missing or in the way",
            Self::Dns => "a name does not resolve",
            Self::Target => "a target does not answer",
            Self::TargetTls => "a target's TLS is wrong",
            Self::Application => "a target's application check failed",
            Self::Quality => "a quality requirement is not met",
            Self::Deadline => "the overall deadline passed",
            Self::Lost => "the connection was lost after it had been verified",
            Self::ExecFailed => "exec: adit failed before the program ran",
            Self::NotExecutable => "exec: the program cannot be executed",
            Self::NotFound => "exec: the program was not found",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A place in a text, with the line itself. A line that holds a secret is stored without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file, or a name like `<stdin>`.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The line's text.
    pub text: String,
    /// How many characters are wrong, from `column` on.
    pub length: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A failure in front of a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The stable class, like `wg.key.format`; `adit explain CLASS` tells more.
    pub class: Cow<'static, str>,
    /// What failed, in one sentence without a full stop.
    pub summary: String,
    /// What was observed.
    pub evidence: Vec<String>,
    /// What to do next, the likeliest first.
    pub fix: Vec<String>,
    /// Where in a file.
    pub location: Option<Location>,
    /// The code that the process ends with.
    pub exit: Exit,
}

impl Failure {
    /// A failure without evidence, fix and location.
    pub fn new(exit: Exit, class: impl Into<Cow<'static, str>>, summary: impl Into<String>) -> Self {
        Self {
            class: class.into(),
            summary: summary.into(),
            evidence: Vec::new(),
            fix: Vec::new(),
            location: None,
            exit,
        }
    }

    /// A wrong command line.
    pub fn usage(summary: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", summary)
    }

    /// A condition that only a defect of adit brings about.
    pub fn internal(summary: impl Into<String>) -> Self {
        Self::new(Exit::Internal, "internal", summary)
    }

    /// Adds an observation.
    pub fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    /// Adds an advice.
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix.push(fix.into());
        self
    }

    /// Adds the place.
    pub fn at(mut self, location: Location) -> Self {
        self.location = Some(location);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.summary, self.class)
    }
}

impl std::error::Error for Failure {}
