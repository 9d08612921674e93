//! The exit codes of the binary.

use serde::{Deserialize, Serialize};

/// The exit codes of the binary. They are stable: scripts depend on them.
///
/// `adit exec` returns its program's own code once the program runs; 125, 126 and 127 have the meaning that
/// `env(1)` and `timeout(1)` give them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
#[repr(u8)]
pub enum Exit {
    /// Everything asked for was done.
    Ok = 0,
    /// A defect of adit.
    #[default]
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

impl From<Exit> for u8 {
    fn from(exit: Exit) -> Self {
        exit.code()
    }
}

/// A number that is no exit code of adit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not an exit code of adit")]
pub struct UnknownExit(pub u8);

impl TryFrom<u8> for Exit {
    type Error = UnknownExit;

    fn try_from(code: u8) -> Result<Self, UnknownExit> {
        Self::ALL.into_iter().find(|exit| exit.code() == code).ok_or(UnknownExit(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_again_by_its_number() {
        for exit in Exit::ALL {
            assert_eq!(Exit::try_from(exit.code()), Ok(exit));
        }
        assert_eq!(Exit::try_from(99), Err(UnknownExit(99)));
    }
}
