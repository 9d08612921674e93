//! What the tunnel is made with.

use std::time::Duration;

use adit_openvpn::{Clock, Config, Credentials, TlsConfig};
use adit_tunnel::Prefix;

use super::Ovpn;
use crate::{Problem, Problems, Secret};

/// What a profile does not hold: what a person, another file or the machine gives.
#[derive(Debug)]
pub struct Supplied {
    /// User and password; they replace those of the profile.
    pub credentials: Option<Credentials>,
    /// The password of the private key.
    pub key_pass: Option<Secret>,
    /// The answer to `static-challenge`, where it is always the same; otherwise the tunnel asks for it.
    pub challenge: Option<Secret>,
    /// Prefixes that no push may take: the machine's own networks and resolvers.
    pub protected: Vec<Prefix>,
    /// What the caller can do when the server wants a person: `webauth`, `openurl`, `crtext`.
    pub sso: Vec<&'static str>,
    /// Start a server of another transport after this head start.
    pub race: Option<Duration>,
    /// What time it is.
    pub clock: Clock,
}

impl Ovpn {
    /// What the tunnel is made with.
    ///
    /// # Errors
    ///
    /// A password is missing or wrong, or the key and the certificate do not fit each other.
    pub fn tunnel_config(&self, supplied: Supplied) -> Result<Config, Problems> {
        let Self { tls, data, net, login, servers, .. } = self;
        let opened = self.identity(supplied.key_pass.as_ref(), supplied.clock.unix)?;
        let mut trust = tls.trust.clone();
        if trust.roots.is_empty() {
            trust.roots = opened.roots;
        }
        if trust.roots.is_empty() && trust.fingerprints.is_empty() {
            return Err(Problem::new(
                "ovpn.config.missing",
                "there is no authority to recognise the server by",
            )
            .seen("the profile has no `ca`, and the PKCS#12 archive has no further certificate")
            .fix("add the authority's certificate: <ca> … </ca>")
            .into());
        }
        let credentials = self.credentials(supplied.credentials)?;
        let static_challenge = login.challenge.clone().map(|mut challenge| {
            let answer = supplied.challenge.as_ref().and_then(Secret::expose_text);
            challenge.answer = answer.map(|answer| zeroize::Zeroizing::new(answer.to_owned()));
            challenge
        });
        Ok(Config {
            remotes: self.remotes.clone(),
            remote_random: servers.random,
            race: supplied.race,
            float: servers.float,
            tls: TlsConfig {
                trust,
                identity: opened.identity,
                min: tls.min,
                max: tls.max,
                suites_12: tls.suites_12.clone(),
                suites_13: tls.suites_13.clone(),
                groups: tls.groups.clone(),
            },
            credentials,
            static_challenge,
            data_ciphers: self.data_ciphers.clone(),
            fallback_cipher: self.fallback_cipher,
            auth: self.algorithm,
            addresses: self.addresses.clone(),
            routes: net.routes.clone(),
            route_names: net.route_names.clone(),
            dns: self.dns.clone(),
            block_ipv6: net.block_ipv6,
            pull: net.pull,
            route_nopull: net.route_nopull,
            pull_filters: net.filters.clone(),
            protected: supplied.protected,
            ping: data.ping,
            ping_restart: data.ping_restart,
            ping_exit: data.ping_exit,
            inactive: data.inactive,
            session_timeout: data.session_timeout,
            reneg_interval: data.reneg_interval,
            reneg_bytes: data.reneg_bytes,
            reneg_packets: data.reneg_packets,
            tran_window: data.tran_window,
            hand_window: data.hand_window,
            tls_timeout: data.tls_timeout,
            replay_window: data.replay_window,
            retry: servers.retry,
            peer_info: login.peer_info.clone(),
            push_peer_info: login.push_peer_info,
            sso: supplied.sso,
            wide_strings: login.federate,
            auth_nocache: login.nocache,
            clock: supplied.clock,
        })
    }

    fn credentials(&self, supplied: Option<Credentials>) -> Result<Option<Credentials>, Problem> {
        if let Some(given) = supplied {
            return Ok(Some(given));
        }
        if let Some(complete) = self.login.found.clone().and_then(super::UserPass::complete) {
            return Ok(Some(complete));
        }
        if self.login.federate {
            // The first step of the SAML login of AWS, whose answer names the page to open.
            return Ok(Some(Credentials {
                username: "N/A".to_owned(),
                password: "ACS::35001".to_owned().into(),
            }));
        }
        if !self.login.wanted {
            return Ok(None);
        }
        let what = match &self.login.found {
            Some(found) => format!("the password of user `{}` is missing", found.username),
            None => "the server wants user and password, and none were given".to_owned(),
        };
        Err(Problem::new("ovpn.creds.missing", what)
            .seen("the profile has `auth-user-pass`")
            .fix("give a file with two lines, user and password: --auth-user-pass file:PATH (or env:NAME, fd:N, command:…, -)"))
    }
}
