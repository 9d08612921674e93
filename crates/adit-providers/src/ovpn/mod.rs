//! OpenVPN profiles (`.ovpn`): the option language, and what becomes of every option.
//!
//! Every option that a profile may hold has a row in [`options`]: it is used, makes no difference, is left out with
//! a note, or leads to a refusal at its line. Scripts and plugins are never run. Names of files are relative to the
//! profile.

mod answers;
mod config;
mod data;
mod der;
mod explain;
mod identity;
mod keys;
mod kind;
mod lex;
mod login;
mod net;
pub mod options;
mod pbe;
mod pem;
mod pkcs12;
mod proxies;
mod read;
mod servers;
mod suites;
mod text;
mod tls;
mod totp;

use std::collections::BTreeSet;
use std::path::Path;

use adit_openvpn::{Challenge, Cipher, Remote};
use adit_tunnel::{DnsConfig, Prefix};
use zeroize::Zeroizing;

use crate::{Problem, Problems};

pub use answers::{Answers, Ask};
pub use config::Supplied;
pub use explain::Fact;
pub use kind::ServerKind;
pub use login::UserPass;
pub use read::{Files, NoFiles};
pub use totp::Totp;

use data::Data;
use login::Login;
use net::Net;
use read::Reading;
use servers::Servers;
use tls::Tls;

/// A profile, read and checked; what only a person or another file can give is still to come.
#[derive(Debug)]
pub struct Ovpn {
    /// The servers, in the order of the profile; at least one.
    pub remotes: Vec<Remote>,
    /// The ciphers of the data channel, in order of preference; at least one.
    pub data_ciphers: Vec<Cipher>,
    /// The cipher for servers that negotiate none.
    pub fallback_cipher: Option<Cipher>,
    /// The profile's own addresses.
    pub addresses: Vec<Prefix>,
    /// The profile's own resolvers and search domains.
    pub dns: DnsConfig,
    /// What is doubtful or not done.
    pub warnings: Vec<Problem>,
    algorithm: Option<adit_openvpn::Algorithm>,
    servers: Servers,
    tls: Tls,
    data: Data,
    net: Net,
    login: Login,
    metadata: Vec<String>,
    seen: BTreeSet<&'static str>,
}

impl Ovpn {
    /// Reads a profile. `path` is where it stands: names of files are relative to its directory.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the text.
    pub fn read(bytes: &[u8], path: &Path, files: &mut dyn Files) -> Result<Self, Problems> {
        if let Some(problem) = text(bytes).and_then(|text| of_azure(&text)) {
            return Err(problem.into());
        }
        let mut reading = Reading::new(files, path);
        let directives = reading.profile(bytes);
        let (mut servers, mut tls, mut data) = (Servers::default(), Tls::default(), Data::default());
        let (mut net, mut login) = (Net::default(), Login::default());
        for (at, spec) in &directives {
            let taken = matches!(spec.name, "cd" | "config" | "ignore-unknown-option")
                || servers.apply(at, &mut reading)
                || tls.apply(at, &mut reading)
                || data.apply(at, &mut reading)
                || net.apply(at, &mut reading)
                || login.apply(at, &mut reading);
            debug_assert!(taken, "`{}` is in the table as used, and nobody uses it", spec.name);
        }
        if directives.is_empty() && reading.problems.is_empty() {
            reading.problems.push(
                Problem::new("ovpn.config.missing", "the profile is empty")
                    .fix("give the .ovpn file of your VPN"),
            );
        }
        if login.generic && tls.key.is_none() && tls.pkcs12.is_none() {
            reading.problems.push(
                Problem::new("ovpn.config.unsupported", "this is a server-locked profile of Access Server")
                    .seen("it has no certificate: OpenVPN Connect fetches one for each user over HTTPS, and adit does not")
                    .fix("download a user-locked or an autologin profile from the server's web page"),
            );
        }
        tls.finish(login.no_certificate, login.wanted || login.federate, &mut reading);
        let (data_ciphers, fallback_cipher) = data.ciphers(&mut reading);
        let algorithm = data.algorithm();
        let remotes = servers.finish(algorithm, &mut reading);
        let addresses = net.addresses(&mut reading);
        let Reading { mut problems, mut warnings, ignored, metadata, seen, .. } = reading;
        if !ignored.is_empty() {
            warnings.push(Problem {
                evidence: ignored,
                ..Problem::new("ovpn.config.ignored", "these options of the profile are not carried out")
                    .fix("nothing to do, if what they did is not needed")
            });
        }
        if !problems.is_empty() {
            problems.sort_by_key(|problem| {
                problem.place.as_ref().map_or((usize::MAX, 0), |p| (p.line, p.column))
            });
            return Err(Problems(problems));
        }
        Ok(Self {
            remotes,
            data_ciphers,
            fallback_cipher,
            addresses,
            dns: net.dns(),
            warnings,
            algorithm,
            servers,
            tls,
            data,
            net,
            login,
            metadata,
            seen,
        })
    }

    /// Whether the server wants user and password (`auth-user-pass`).
    pub fn wants_user_pass(&self) -> bool {
        self.login.wanted
    }

    /// The user and perhaps the password that the profile itself gives.
    pub fn user_pass(&self) -> Option<&UserPass> {
        self.login.found.as_ref()
    }

    /// The question whose answer goes with the password (`static-challenge`).
    pub fn challenge(&self) -> Option<&Challenge> {
        self.login.challenge.as_ref()
    }

    /// The name that whoever made the profile gave it, for people.
    pub fn friendly_name(&self) -> Option<&str> {
        let of = |key: &str| {
            let value = self.metadata.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            value.filter(|value| !value.is_empty())
        };
        let own = self.login.friendly.as_deref();
        own.or_else(|| of("OVPN_ACCESS_SERVER_FRIENDLY_NAME")).or_else(|| of("OVPN_ACCESS_SERVER_PROFILE"))
    }

    /// Whether the private key needs a password that the profile does not give.
    pub fn wants_key_pass(&self) -> bool {
        let encrypted = matches!(&self.tls.key, Some((keys::KeyMaterial::Encrypted(_), _)));
        (encrypted || self.tls.pkcs12.is_some()) && self.tls.askpass.is_none()
    }
}

/// The text of a profile in any encoding that profiles have; `None` if it is no text.
pub fn text(bytes: &[u8]) -> Option<Zeroizing<String>> {
    text::decode(bytes).ok().map(|(text, _)| text)
}

/// What is wrong with a profile of Azure's own client, which is no profile of OpenVPN.
fn of_azure(text: &str) -> Option<Problem> {
    is_of_azure(text).then(|| {
        Problem::new(
            "ovpn.config.unsupported",
            "this is a profile of the Azure VPN Client (azurevpnconfig.xml), not of OpenVPN",
        )
        .seen("its gateway lets users in by Microsoft Entra ID, with tokens that only Microsoft's own client fetches")
        .fix("download the VPN client package again and take OpenVPN/vpnconfig.ovpn from it, which has certificates")
        .fix("if the package has none: ask for certificates as a second way to log in (the gateway's point-to-site configuration)")
    })
}

/// Whether a text is a profile of Azure's own client: XML with this root.
fn is_of_azure(text: &str) -> bool {
    text.trim_start().starts_with('<') && text.contains("<AzVpnProfile")
}

/// Whether a text looks like a profile: lines that every client configuration has some of, none of which is valid TOML.
pub fn looks_like(text: &str) -> bool {
    const WORDS: [&str; 9] = [
        "client",
        "tls-client",
        "remote ",
        "dev tun",
        "dev tap",
        "<ca>",
        "<connection>",
        "proto udp",
        "proto tcp",
    ];
    is_of_azure(text)
        || text.lines().map(|line| line.trim().trim_start_matches("--")).any(|line| {
            let hit = |word: &&str| line == word.trim() || (word.ends_with(' ') && line.starts_with(*word));
            !line.contains('=') && WORDS.iter().any(hit)
        })
}

/// Whether the profile holds a secret itself: a key or a password in a block.
pub fn holds_secret(text: &str) -> bool {
    const TAGS: [&str; 7] = [
        "<key>",
        "<pkcs12>",
        "<tls-auth>",
        "<tls-crypt>",
        "<tls-crypt-v2>",
        "<auth-user-pass>",
        "<http-proxy-user-pass>",
    ];
    text.lines().any(|line| TAGS.contains(&line.trim()))
}
