//! What the variables of other clients say, so that a job written for them needs no change. Adit's own flags, variables
//! and files win over them.

use std::path::PathBuf;

use adit_providers::tailscale::ControlUrl;
use adit_providers::{Exposure, Opened, Secret, SecretSource};

use super::Tailnet;
use super::setting::{Origin, Setting};
use crate::failure::{self, Failure};

/// Where nothing says which prefixes the server carries, gluetun sends it everything.
const EVERYTHING: &str = "0.0.0.0/0, ::/0";

/// What the variables of other clients say. Everything may be missing.
#[derive(Clone, Debug, Default)]
pub struct Compatible {
    /// `TS_…` of the reference's container.
    pub tailnet: Tailnet,
    /// `WIREGUARD_…` of gluetun.
    pub wireguard: Option<WireGuard>,
    /// What `WIREGUARD_…` lacks to describe a server; with the private key alone gluetun chooses one out of a vendor's list.
    pub lacking: Option<&'static str>,
    /// `OPENVPN_CUSTOM_CONFIG` of gluetun: an OpenVPN profile.
    pub openvpn: Option<Setting<PathBuf>>,
    /// `OPENVPN_USER` and `OPENVPN_PASSWORD` of gluetun.
    pub user_pass: Option<UserAndPassword>,
}

/// A user and where the password comes from.
#[derive(Clone, Debug)]
pub struct UserAndPassword {
    /// The user name.
    pub user: String,
    /// The password.
    pub password: Setting<SecretSource>,
}

/// A WireGuard server as variables describe it.
#[derive(Clone, Debug)]
pub struct WireGuard {
    /// A wg-quick file without its secrets.
    pub text: String,
    /// The private key.
    pub private_key: Setting<SecretSource>,
    /// The preshared key.
    pub preshared_key: Option<Setting<SecretSource>>,
}

impl WireGuard {
    /// The text, as a file that nobody else can read.
    pub(super) fn opened(&self) -> Opened {
        let content = Secret::new(self.text.clone().into_bytes());
        Opened { path: PathBuf::from("WIREGUARD_*"), content, exposure: Exposure::Private }
    }
}

impl Compatible {
    /// Reads the variables.
    ///
    /// # Errors
    ///
    /// One of them holds what it cannot.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let variables = Variables(variable);
        let profile = variables.text("OPENVPN_CUSTOM_CONFIG").map(|setting| setting.map(PathBuf::from));
        let user = variables.text("OPENVPN_USER");
        let wireguard = wireguard(&variables)?;
        let key = variables.text("WIREGUARD_PRIVATE_KEY").filter(|_| wireguard.is_none());
        Ok(Self {
            tailnet: tailnet(&variables)?,
            wireguard,
            lacking: key.map(|_| "WIREGUARD_ENDPOINT_IP"),
            openvpn: profile,
            user_pass: user
                .zip(variables.held("OPENVPN_PASSWORD"))
                .map(|(user, password)| UserAndPassword { user: user.value, password }),
        })
    }

    /// Which variable says enough to connect without a file.
    pub(super) fn meant(&self) -> Option<&Origin> {
        self.tailnet.meant().or_else(|| self.wireguard.as_ref().map(|found| &found.private_key.origin))
    }
}

/// The environment.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn text(&self, name: &'static str) -> Option<Setting<String>> {
        let value = (self.0)(name).filter(|value| !value.trim().is_empty())?;
        Some(Setting::new(value.trim().to_owned(), Origin::Environment(name)))
    }

    /// A variable that holds a secret itself.
    fn held(&self, name: &'static str) -> Option<Setting<SecretSource>> {
        self.text(name).map(|setting| setting.map(|_| SecretSource::Env(name.to_owned())))
    }

    /// The first of these variables that holds something: the secret itself, or where that is.
    fn secret(&self, names: &[&'static str]) -> Option<Setting<SecretSource>> {
        let (name, setting) = names.iter().find_map(|name| Some((*name, self.text(name)?)))?;
        Some(setting.map(|value| value.parse().unwrap_or_else(|_| SecretSource::Env(name.to_owned()))))
    }
}

/// The secret in the first of these variables that holds something: itself, or where it is.
#[cfg(feature = "cli")]
pub(crate) fn secret(names: &[&'static str]) -> Option<Setting<SecretSource>> {
    Variables(&|name| std::env::var(name).ok()).secret(names)
}

fn tailnet(variables: &Variables<'_>) -> Result<Tailnet, Failure> {
    let control = match variables.text("TS_LOGIN_SERVER").or_else(|| variables.text("TS_CONTROL_URL")) {
        Some(setting) => {
            let url = ControlUrl::parse(&setting.value)
                .map_err(|problem| failure::of_problem(problem, &setting.origin.to_string()))?;
            Some(Setting::new(url, setting.origin))
        }
        None => None,
    };
    let key = variables.secret(&["TS_AUTHKEY", "TS_AUTH_KEY"]);
    Ok(Tailnet {
        oauth: variables.secret(&["TS_CLIENT_SECRET"]).filter(|_| key.is_none()),
        key,
        client_id: variables.text("TS_CLIENT_ID"),
        id_token: variables.secret(&["TS_ID_TOKEN"]),
        audience: variables.text("TS_AUDIENCE"),
        hostname: variables.text("TS_HOSTNAME"),
        control,
        ..Tailnet::default()
    })
}

/// The server that gluetun's variables describe.
fn wireguard(variables: &Variables<'_>) -> Result<Option<WireGuard>, Failure> {
    let Some(private_key) = variables.held("WIREGUARD_PRIVATE_KEY") else { return Ok(None) };
    let Some(host) = variables.text("WIREGUARD_ENDPOINT_IP") else { return Ok(None) };
    let given = |name| variables.text(name).map(|setting| setting.value);
    let host = if host.value.contains(':') { format!("[{}]", host.value) } else { host.value };
    let port = given("WIREGUARD_ENDPOINT_PORT").unwrap_or_else(|| "51820".to_owned());
    // gluetun writes a duration.
    let keepalive = given("WIREGUARD_PERSISTENT_KEEPALIVE_INTERVAL");
    let keepalive = keepalive.map(|interval| interval.trim_end_matches('s').to_owned());
    let lines = [
        ("Address", given("WIREGUARD_ADDRESSES")),
        ("MTU", given("WIREGUARD_MTU")),
        ("[Peer]", Some(String::new())),
        ("PublicKey", given("WIREGUARD_PUBLIC_KEY")),
        ("Endpoint", Some(format!("{host}:{port}"))),
        ("AllowedIPs", given("WIREGUARD_ALLOWED_IPS").or_else(|| Some(EVERYTHING.to_owned()))),
        ("PersistentKeepalive", keepalive),
    ];
    let mut text = "[Interface]\n".to_owned();
    for (key, value) in lines {
        match value {
            None => {}
            Some(value) if value.is_empty() => text.extend([key, "\n"]),
            // It would be a line of its own.
            Some(value) if value.contains(char::is_control) => {
                return Err(failure::of("config.value", format!("the variable for {key} has several lines"))
                    .with_fix(vec!["write one line; lists are separated by commas".to_owned()]));
            }
            Some(value) => text.extend([key, " = ", &value, "\n"]),
        }
    }
    Ok(Some(WireGuard { text, private_key, preshared_key: variables.held("WIREGUARD_PRESHARED_KEY") }))
}
