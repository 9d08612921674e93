//! What can go wrong with a WireGuard tunnel as a whole. WireGuard is silent by design, so most of this is
//! inference: the class says what is likely, the evidence says what was seen.

use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use adit_tunnel::{HostPort, TunnelError};

use crate::PublicKey;

/// A failure of the tunnel, with what was observed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireGuardError {
    /// A peer cannot be reached or does not answer.
    #[error("{cause}: {}", .seen.subject())]
    Peer {
        /// Why.
        cause: Cause,
        /// What was observed.
        seen: Box<Observations>,
    },
    /// The UDP socket could not be opened, or is gone.
    #[error("{}", link_sentence(.port, .error))]
    Link {
        /// The local port that was asked for.
        port: Option<u16>,
        /// What the system said.
        error: Option<ErrorKind>,
    },
}

/// Why a peer does not answer, as far as it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Initiations stay unanswered, and nothing says why.
    Silent,
    /// Initiations stay unanswered, and the local clock is certainly wrong.
    Clock,
    /// The peer answers with cookies only: it is there, its key is right, and it does not know our key.
    OurKeyUnknown,
    /// The peer answers, but the answer does not authenticate: the preshared keys differ.
    PskMismatch,
    /// ICMP says that nothing listens on the port.
    Refused,
    /// The network says that the host cannot be reached.
    Unreachable,
    /// The local system forbids sending.
    Prohibited,
    /// The endpoint's name does not resolve.
    EndpointDns,
    /// The endpoint has addresses only of a family that this machine has not.
    EndpointFamily,
    /// The peer was there and does not answer any more.
    RekeyLost,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "the peer does not answer",
            Self::Clock => "the peer does not answer, and this machine's clock is wrong",
            Self::OurKeyUnknown => "the peer is there but does not know our public key",
            Self::PskMismatch => "the preshared keys differ",
            Self::Refused => "nothing listens on the peer's port",
            Self::Unreachable => "the peer's address cannot be reached from here",
            Self::Prohibited => "this machine forbids sending to the peer's address",
            Self::EndpointDns => "the peer's endpoint does not resolve",
            Self::EndpointFamily => {
                "the peer's endpoint has no address of a family that this machine can use"
            }
            Self::RekeyLost => "the peer does not answer any more",
        })
    }
}

/// What was seen of a peer since it stopped answering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observations {
    /// The peer.
    pub peer: PublicKey,
    /// Our own public key, which the peer must know.
    pub ours: PublicKey,
    /// The endpoint as configured.
    pub endpoint: Option<HostPort>,
    /// The address that was tried last.
    pub address: Option<SocketAddr>,
    /// Handshake initiations sent without an answer.
    pub initiations: u32,
    /// The time since the first of them.
    pub elapsed: Duration,
    /// Handshake responses that did not authenticate.
    pub bad_responses: u32,
    /// Whether the peer sent a cookie, which proves that it holds the private key we take it for.
    pub cookie: bool,
}

impl Observations {
    fn subject(&self) -> String {
        match (&self.endpoint, self.address) {
            (Some(endpoint), Some(address)) if endpoint.to_string() != address.to_string() => {
                format!("{endpoint} ({address})")
            }
            (Some(endpoint), _) => endpoint.to_string(),
            (None, Some(address)) => address.to_string(),
            (None, None) => self.peer.to_string(),
        }
    }

    fn count(&self) -> String {
        let plural = if self.initiations == 1 { "" } else { "s" };
        format!(
            "{} handshake initiation{plural} sent to {} in {} s",
            self.initiations,
            self.subject(),
            self.elapsed.as_secs()
        )
    }
}

impl TunnelError for WireGuardError {
    fn class(&self) -> &'static str {
        match self {
            Self::Peer { cause, .. } => match cause {
                Cause::Silent => "wg.silent",
                Cause::Clock => "wg.clock",
                Cause::OurKeyUnknown => "wg.ourkey.unknown",
                Cause::PskMismatch => "wg.psk.mismatch",
                Cause::Refused => "wg.udp.refused",
                Cause::Unreachable => "wg.udp.unreachable",
                Cause::Prohibited => "wg.udp.blocked",
                Cause::EndpointDns => "wg.endpoint.dns",
                Cause::EndpointFamily => "wg.endpoint.family",
                Cause::RekeyLost => "wg.rekey.lost",
            },
            Self::Link { error: Some(ErrorKind::AddrInUse), .. } => "env.port_in_use",
            Self::Link { .. } => "wg.udp.socket",
        }
    }

    fn evidence(&self) -> Vec<String> {
        let (cause, seen) = match self {
            Self::Peer { cause, seen } => (cause, seen),
            Self::Link { port, error } => return vec![link_evidence(*port, *error)],
        };
        let mut lines = Vec::new();
        match cause {
            Cause::EndpointDns => lines.push(format!("{} has no address", seen.subject())),
            Cause::EndpointFamily | Cause::Unreachable => {
                lines.push(format!("the network reports {} as unreachable", seen.subject()));
            }
            Cause::Refused => lines.push(format!("ICMP port unreachable from {}", seen.subject())),
            Cause::Prohibited => {
                lines.push(format!("the system refuses to send to {}", seen.subject()));
            }
            Cause::PskMismatch => {
                lines.push(format!("{} responses from {}", seen.bad_responses, seen.subject()));
                lines.push("they name our handshake and prove our public key, but do not decrypt".to_owned());
            }
            Cause::Silent | Cause::Clock | Cause::OurKeyUnknown | Cause::RekeyLost => {
                lines.push(format!("{}, no response", seen.count()));
            }
        }
        if seen.cookie {
            lines.push(
                "the peer sent a cookie: it is there, and its public key in our configuration is right"
                    .to_owned(),
            );
        }
        if matches!(cause, Cause::Silent | Cause::Clock | Cause::OurKeyUnknown | Cause::RekeyLost) {
            lines.push(format!("our public key is {}", seen.ours));
            lines.push(format!("the peer's public key is {}", seen.peer));
        }
        lines
    }
}

fn link_evidence(port: Option<u16>, error: Option<ErrorKind>) -> String {
    let what = match port {
        Some(port) => format!("binding a socket to ListenPort {port}"),
        None => "opening a UDP socket".to_owned(),
    };
    match error {
        Some(kind) => format!("{what}: the system says {kind}"),
        None => "the system closed the socket".to_owned(),
    }
}

fn link_sentence(port: &Option<u16>, error: &Option<ErrorKind>) -> String {
    let what = match port {
        Some(port) => format!("UDP port {port}"),
        None => "a UDP socket".to_owned(),
    };
    match error {
        Some(kind) => format!("{what} cannot be used: {kind}"),
        None => format!("{what} was closed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Observations {
        Observations {
            peer: PublicKey::from_bytes([1; 32]),
            ours: PublicKey::from_bytes([2; 32]),
            endpoint: Some(HostPort { host: "vpn.example".to_owned(), port: 51820 }),
            address: Some("192.0.2.1:51820".parse().unwrap()),
            initiations: 3,
            elapsed: Duration::from_millis(15_200),
            bad_responses: 0,
            cookie: false,
        }
    }

    #[test]
    fn silence_is_reported_with_our_public_key_and_the_counts() {
        let error = WireGuardError::Peer { cause: Cause::Silent, seen: Box::new(seen()) };
        assert_eq!(error.class(), "wg.silent");
        assert_eq!(error.to_string(), "the peer does not answer: vpn.example:51820 (192.0.2.1:51820)");
        let ours = PublicKey::from_bytes([2; 32]).to_string();
        let evidence = error.evidence();
        assert_eq!(
            evidence[0],
            "3 handshake initiations sent to vpn.example:51820 (192.0.2.1:51820) in 15 s, no response"
        );
        assert!(evidence.iter().any(|line| line.contains(&ours)));
    }

    #[test]
    fn a_port_in_use_names_the_port() {
        let error = WireGuardError::Link { port: Some(51820), error: Some(ErrorKind::AddrInUse) };
        assert_eq!(error.class(), "env.port_in_use");
        assert!(error.to_string().contains("UDP port 51820"));
    }
}
