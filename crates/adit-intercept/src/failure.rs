//! What can go wrong, and which `errno` a program sees.

use std::io;

use adit_path::{ConnectFailure, UdpFailure};

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchFailure {
    /// There is no command.
    #[error("no command was given")]
    Empty,
    /// The program does not exist.
    #[error("{program}: command not found")]
    NotFound {
        /// As given.
        program: String,
    },
    /// The program cannot be run.
    #[error("{program}: cannot be run: {source}")]
    NotExecutable {
        /// As given.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// No backend works here.
    #[error("system calls cannot be supervised here: {reason}")]
    NoBackend {
        /// The failure class.
        class: &'static str,
        /// What the probe saw.
        reason: String,
    },
    /// The filter could not be installed.
    #[error("the seccomp filter could not be installed: {source}{}", hint(source))]
    Filter {
        /// What the system says.
        source: io::Error,
    },
    /// A resource of the supervisor itself is missing.
    #[error("the supervisor could not {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

impl LaunchFailure {
    /// The exit code by the convention of `env(1)` and Docker: 127 not found, 126 not executable, 125 our own.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Empty | Self::NoBackend { .. } | Self::Filter { .. } | Self::System { .. } => 125,
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            " (a supervisor is already above this process, for example another `adit exec` or Sysbox)"
        }
        Some(libc::EINVAL) => " (this kernel has no seccomp notification, as in gVisor)",
        _ => "",
    }
}

/// The error that `connect(2)` gives on a real network for the same reason.
pub(crate) fn connect_errno(failure: &ConnectFailure) -> i32 {
    match failure {
        ConnectFailure::Refused => libc::ECONNREFUSED,
        ConnectFailure::Reset => libc::ECONNRESET,
        ConnectFailure::TimedOut(_) => libc::ETIMEDOUT,
        ConnectFailure::Unreachable { from, kind, code } => {
            if from.is_ipv6() {
                unreachable_v6(*kind, *code)
            } else {
                unreachable_v4(*kind, *code)
            }
        }
        ConnectFailure::NoRoute(_) | ConnectFailure::Down(_) | ConnectFailure::Closed => libc::ENETUNREACH,
        ConnectFailure::Denied(_) => libc::EACCES,
        ConnectFailure::Exhausted(_) => libc::ENOBUFS,
    }
}

/// The error that `sendto(2)` gives when no endpoint can be opened.
pub(crate) fn udp_errno(failure: &UdpFailure) -> i32 {
    match failure {
        UdpFailure::PortInUse(_) => libc::EADDRINUSE,
        UdpFailure::NoRoute(_) | UdpFailure::Closed => libc::ENETUNREACH,
        UdpFailure::Denied(_) => libc::EACCES,
        UdpFailure::Exhausted(_) | UdpFailure::System(_) => libc::ENOBUFS,
    }
}

/// Linux's own table for ICMP destination unreachable (`icmp_err_convert`); time exceeded is `EHOSTUNREACH`.
fn unreachable_v4(kind: u8, code: u8) -> i32 {
    match (kind, code) {
        (3, 0 | 6 | 9 | 11) => libc::ENETUNREACH,
        (3, 2) => libc::ENOPROTOOPT,
        (3, 3) => libc::ECONNREFUSED,
        (3, 4) => libc::EMSGSIZE,
        (3, 5) => libc::EOPNOTSUPP,
        (3, 7) => libc::EHOSTDOWN,
        (3, 8) => libc::ENONET,
        _ => libc::EHOSTUNREACH,
    }
}

/// Linux's own table for ICMPv6 destination unreachable (`tab_unreach`); packet too big is `EMSGSIZE`.
fn unreachable_v6(kind: u8, code: u8) -> i32 {
    match (kind, code) {
        (1, 0) => libc::ENETUNREACH,
        (1, 1 | 5 | 6) => libc::EACCES,
        (1, 4) => libc::ECONNREFUSED,
        (2, _) => libc::EMSGSIZE,
        (4, _) => libc::EPROTO,
        _ => libc::EHOSTUNREACH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn icmp_errors_become_the_errors_that_linux_makes_of_them() {
        let v4 = |kind, code| ConnectFailure::Unreachable { from: Ipv4Addr::LOCALHOST.into(), kind, code };
        let v6 = |kind, code| ConnectFailure::Unreachable { from: Ipv6Addr::LOCALHOST.into(), kind, code };
        assert_eq!(connect_errno(&v4(3, 0)), libc::ENETUNREACH);
        assert_eq!(connect_errno(&v4(3, 1)), libc::EHOSTUNREACH);
        assert_eq!(connect_errno(&v4(3, 3)), libc::ECONNREFUSED);
        assert_eq!(connect_errno(&v4(3, 13)), libc::EHOSTUNREACH);
        assert_eq!(connect_errno(&v4(11, 0)), libc::EHOSTUNREACH);
        assert_eq!(connect_errno(&v6(1, 0)), libc::ENETUNREACH);
        assert_eq!(connect_errno(&v6(1, 1)), libc::EACCES);
        assert_eq!(connect_errno(&v6(1, 3)), libc::EHOSTUNREACH);
        assert_eq!(connect_errno(&v6(1, 4)), libc::ECONNREFUSED);
    }
}
