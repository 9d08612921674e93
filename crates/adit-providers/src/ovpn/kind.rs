//! What kind of server a profile looks like: by the server's name, by the metadata of whoever exported it, by the
//! options that go together.

use std::collections::BTreeSet;
use std::fmt;

/// A kind of server, or of whoever exported the profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// OpenVPN Access Server.
    AccessServer,
    /// CloudConnexa, of OpenVPN Inc.
    CloudConnexa,
    /// AWS Client VPN.
    Aws,
    /// AWS Client VPN with a SAML login.
    AwsSaml,
    /// Azure VPN Gateway, point to site.
    Azure,
    /// pfSense.
    PfSense,
    /// OPNsense.
    OpnSense,
    /// Synology VPN Server.
    Synology,
    /// MikroTik RouterOS.
    MikroTik,
    /// The installer of angristan.
    Angristan,
    /// PiVPN.
    PiVpn,
    /// A provider of public VPNs.
    Commercial(&'static str),
    /// Any OpenVPN server.
    Plain,
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AccessServer => "OpenVPN Access Server",
            Self::CloudConnexa => "CloudConnexa",
            Self::Aws => "AWS Client VPN",
            Self::AwsSaml => "AWS Client VPN with SAML",
            Self::Azure => "Azure VPN Gateway",
            Self::PfSense => "pfSense",
            Self::OpnSense => "OPNsense",
            Self::Synology => "Synology VPN Server",
            Self::MikroTik => "MikroTik RouterOS",
            Self::Angristan => "a server of the openvpn-install script",
            Self::PiVpn => "PiVPN",
            Self::Commercial(name) => name,
            Self::Plain => "an OpenVPN server",
        })
    }
}

impl ServerKind {
    /// What is worth knowing about such servers.
    pub fn note(self) -> Option<&'static str> {
        Some(match self {
            Self::AccessServer => {
                "the server may ask a question beside the password (--challenge, --challenge-cmd, --totp) or name a page to log in at"
            }
            Self::CloudConnexa => {
                "profiles of users log in at a page that the server names; those of connectors and hosts need nobody"
            }
            Self::AwsSaml => "somebody has to sign in with a browser, whose answer comes to 127.0.0.1:35001",
            Self::MikroTik => {
                "RouterOS 7 has TLS 1.2 with AES-GCM; RouterOS 6 often has neither and cannot be joined then"
            }
            Self::Synology => "DSM 6.2 and later have TLS 1.2 with AES-GCM; older ones cannot be joined",
            _ => return None,
        })
    }
}

/// What is looked at.
pub(super) struct Clues<'a> {
    pub(super) hosts: Vec<&'a str>,
    pub(super) metadata: &'a [String],
    pub(super) seen: &'a BTreeSet<&'static str>,
    pub(super) federate: bool,
    pub(super) tcp: bool,
    pub(super) wrapped: bool,
    pub(super) encrypted_key: bool,
    pub(super) subject: bool,
    pub(super) named: bool,
}

/// Names of providers by the ends of their servers' names.
const COMMERCIAL: [(&str, &str); 10] = [
    (".nordvpn.com", "NordVPN"),
    (".surfshark.com", "Surfshark"),
    (".protonvpn.net", "Proton VPN"),
    (".protonvpn.com", "Proton VPN"),
    (".privacy.network", "Private Internet Access"),
    (".privateinternetaccess.com", "Private Internet Access"),
    (".airvpn.org", "AirVPN"),
    (".airservers.org", "AirVPN"),
    (".expressnetw.com", "ExpressVPN"),
    (".mullvad.net", "Mullvad"),
];

/// The kind, and what tells it.
pub(super) fn guess(clues: &Clues<'_>) -> (ServerKind, &'static str) {
    let host = |end: &str| clues.hosts.iter().any(|host| host.to_ascii_lowercase().ends_with(end));
    let has = |names: &[&str]| names.iter().all(|name| clues.seen.contains(name));
    if clues.hosts.iter().any(|host| host.starts_with("cvpn-endpoint-"))
        || host(".amazonaws.com")
        || clues.federate
    {
        let kind = if clues.federate { ServerKind::AwsSaml } else { ServerKind::Aws };
        return (kind, if clues.federate { "auth-federate" } else { "the server's name" });
    }
    if host(".vpn.azure.com") {
        return (ServerKind::Azure, "the server's name");
    }
    if host(".openvpn.com") || host(".openvpn.cloud") {
        return (ServerKind::CloudConnexa, "the server's name");
    }
    if let Some((_, name)) = COMMERCIAL.iter().find(|(end, _)| host(end)) {
        return (ServerKind::Commercial(name), "the server's name");
    }
    if clues.metadata.iter().any(|line| line.starts_with("OVPN_ACCESS_SERVER_")) {
        return (ServerKind::AccessServer, "the metadata in its comments");
    }
    if clues.seen.contains("server-poll-timeout") && clues.seen.contains("setenv") {
        return (ServerKind::AccessServer, "server-poll-timeout with setenv FORWARD_COMPATIBLE");
    }
    if has(&["ignore-unknown-option", "block-outside-dns", "tls-version-min"]) {
        return (ServerKind::Angristan, "ignore-unknown-option and setenv opt block-outside-dns");
    }
    if clues.subject && has(&["lport"]) {
        return (ServerKind::OpnSense, "lport 0 and a check of the whole subject");
    }
    if clues.named && has(&["tls-client", "client", "persist-tun", "resolv-retry"]) {
        return (ServerKind::PfSense, "tls-client beside client, and a check of the name");
    }
    if has(&["pull", "tls-client", "script-security", "reneg-sec", "auth-user-pass"]) {
        return (ServerKind::Synology, "pull, tls-client, script-security 2 and reneg-sec 0");
    }
    if clues.named && clues.encrypted_key && has(&["auth-nocache", "tls-version-min"]) {
        return (ServerKind::PiVpn, "an encrypted key, auth-nocache and a check of the name");
    }
    if clues.tcp
        && !clues.wrapped
        && has(&["auth-user-pass", "cipher", "auth"])
        && !clues.seen.contains("comp-lzo")
    {
        return (
            ServerKind::MikroTik,
            "TCP with user and password, a fixed cipher and digest, and no tls-auth",
        );
    }
    (ServerKind::Plain, "nothing that is special to one")
}
