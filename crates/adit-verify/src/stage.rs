//! The stages that a connection passes on its way to "verified".

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Exit;

/// A stage of verification. The order of the variants is the order of the stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Can the access mode run here?
    Env,
    /// Is the configuration complete and supported?
    Config,
    /// Are the credentials present and well-formed?
    Credential,
    /// Does the VPN server's address resolve, and can datagrams leave towards it?
    Reach,
    /// Did the server accept us?
    Auth,
    /// Are there data-plane keys with a peer that is needed?
    Handshake,
    /// Is there an address inside the tunnel that clashes with nothing here?
    Address,
    /// Does every target lie inside a route of the tunnel?
    Route,
    /// Does every name resolve with the private resolver?
    Dns,
    /// Does every target answer, through the access mode that the program will use?
    Target,
    /// Is the target's certificate right?
    Tls,
    /// Does the application behind the port speak the protocol that was asked for?
    App,
    /// How good is the path?
    Quality,
    /// Does all of it stay that way?
    Soak,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 14] = [
        Self::Env,
        Self::Config,
        Self::Credential,
        Self::Reach,
        Self::Auth,
        Self::Handshake,
        Self::Address,
        Self::Route,
        Self::Dns,
        Self::Target,
        Self::Tls,
        Self::App,
        Self::Quality,
        Self::Soak,
    ];

    /// The stable name.
    pub fn id(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::Config => "config",
            Self::Credential => "credential",
            Self::Reach => "reach",
            Self::Auth => "auth",
            Self::Handshake => "handshake",
            Self::Address => "address",
            Self::Route => "route",
            Self::Dns => "dns",
            Self::Target => "target",
            Self::Tls => "tls",
            Self::App => "app",
            Self::Quality => "quality",
            Self::Soak => "soak",
        }
    }

    /// How long the stage may take, unless a plan says otherwise.
    pub fn budget(self) -> Duration {
        match self {
            Self::Config | Self::Credential => Duration::from_millis(100),
            Self::Env => Duration::from_secs(1),
            Self::Address | Self::Tls | Self::App | Self::Quality => Duration::from_secs(5),
            Self::Reach | Self::Dns | Self::Target | Self::Soak => Duration::from_secs(10),
            // A handshake that gets no answer is repeated every 5 s (WireGuard whitepaper §6.1): 15 s are three tries.
            Self::Handshake => Duration::from_secs(15),
            Self::Auth => Duration::from_secs(30),
            Self::Route => Duration::from_secs(40),
        }
    }

    /// The exit code when the stage fails and the class of the failure is unknown.
    pub fn exit(self) -> Exit {
        match self {
            Self::Env => Exit::Environment,
            Self::Config => Exit::Usage,
            Self::Credential => Exit::CredentialMissing,
            Self::Reach => Exit::ServerUnreachable,
            Self::Auth => Exit::CredentialRejected,
            Self::Handshake => Exit::Handshake,
            Self::Address | Self::Route => Exit::Route,
            Self::Dns => Exit::Dns,
            Self::Target => Exit::Target,
            Self::Tls => Exit::TargetTls,
            Self::App => Exit::Application,
            Self::Quality => Exit::Quality,
            Self::Soak => Exit::Lost,
        }
    }

    /// What is waited for while the stage runs, for progress lines.
    pub fn waiting_for(self) -> &'static str {
        match self {
            Self::Env => "the environment",
            Self::Config => "the configuration",
            Self::Credential => "the credentials",
            Self::Reach => "the server",
            Self::Auth => "the server's consent",
            Self::Handshake => "the handshake",
            Self::Address => "an address",
            Self::Route => "a route",
            Self::Dns => "dns",
            Self::Target => "the target",
            Self::Tls => "tls",
            Self::App => "the application",
            Self::Quality => "the quality of the path",
            Self::Soak => "stability",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}
