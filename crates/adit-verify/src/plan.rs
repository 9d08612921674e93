//! What to verify, and how patiently.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use adit_tunnel::Prefix;

use crate::{Outside, StageReport, Target, Trust, Warning};

/// What to verify, and how patiently. Everything that the machine knows and the network does not (time of day,
/// files, the machine's own networks) enters here.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The services that must answer.
    pub targets: Vec<Target>,
    /// The time for all stages together.
    pub timeout: Duration,
    /// Keep trying targets that are not there yet for this long, in place of the stages' own budgets.
    pub wait: Option<Duration>,
    /// How long the handshake may take in place of its stage's budget: with many servers to try it takes longer.
    pub handshake: Option<Duration>,
    /// Watch for this long that nothing flips.
    pub stable: Option<Duration>,
    /// What the path must be like.
    pub require: Vec<Requirement>,
    /// Measure the path (round-trip time, packet size), for at most five seconds.
    pub quality: bool,
    /// After the network's first map, names, routes and permissions that are missing may still be on their way for this
    /// long; only where a coordination server spreads them.
    pub grace: Duration,
    /// Which authorities are trusted; without it only Mozilla's list is.
    pub trust: Option<Trust>,
    /// The profile's name.
    pub profile: Option<String>,
    /// The provider: `wireguard`, `openvpn`.
    pub provider: Option<String>,
    /// Our own public key or name, for the report and for advice.
    pub identity: Option<String>,
    /// Whether questions of the far end find an answer without a person. Where not, one ends the run.
    pub answered: bool,
    /// The networks of this machine that the tunnel's routes must not cover.
    pub local_networks: Vec<Prefix>,
    /// Whether such an overlap ends the run (a TUN device) or is a warning (everything else).
    pub overlap_fails: bool,
    /// Who can be asked, after a failure on the way to the server, what else is out of reach here; `None` asks nobody.
    pub outside: Option<Arc<dyn Outside>>,
    /// The stages that were passed before there was a network: `env`, `config`, `credential`.
    pub before: Vec<StageReport>,
    /// Warnings of these stages.
    pub warnings: Vec<Warning>,
    /// The time of day at which it begins (RFC 3339).
    pub started: String,
}

impl Plan {
    /// A plan with the default patience: 60 s for everything, no further wishes.
    pub fn new(targets: Vec<Target>, started: impl Into<String>) -> Self {
        Self {
            targets,
            timeout: Duration::from_secs(60),
            wait: None,
            handshake: None,
            stable: None,
            require: Vec::new(),
            quality: false,
            grace: Duration::ZERO,
            trust: None,
            profile: None,
            provider: None,
            identity: None,
            answered: true,
            local_networks: Vec::new(),
            overlap_fails: false,
            outside: None,
            before: Vec::new(),
            warnings: Vec::new(),
            started: started.into(),
        }
    }
}

/// Something that must hold beyond "it answers".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// At least one target must be named and answer.
    Target,
    /// The path must not go through a relay.
    Direct,
    /// A round trip through the tunnel must not take longer.
    Rtt(Duration),
}

/// A text that is no requirement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no requirement; there are target, direct and rtt_ms=NUMBER")]
pub struct RequirementError(pub String);

impl FromStr for Requirement {
    type Err = RequirementError;

    fn from_str(text: &str) -> Result<Self, RequirementError> {
        match text.split_once('=') {
            None if text == "target" => Ok(Self::Target),
            None if text == "direct" => Ok(Self::Direct),
            Some(("rtt_ms", number)) => match number.parse() {
                Ok(ms) => Ok(Self::Rtt(Duration::from_millis(ms))),
                Err(_) => Err(RequirementError(text.to_owned())),
            },
            _ => Err(RequirementError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_read() {
        assert_eq!("rtt_ms=50".parse(), Ok(Requirement::Rtt(Duration::from_millis(50))));
        assert_eq!("direct".parse(), Ok(Requirement::Direct));
        assert!("fast".parse::<Requirement>().is_err() && "rtt_ms=x".parse::<Requirement>().is_err());
    }
}
