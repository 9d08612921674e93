//! OpenVPN in the configuration: where passwords and answers come from, and the profile that they belong to.

use std::fmt;
use std::time::{Instant, SystemTime};

use adit_openvpn::{Clock, Config, Credentials};
use adit_providers::ovpn::{self, Answers, Ovpn, Supplied, Totp, UserPass};
use adit_providers::wgquick::WgQuick;
use adit_providers::{Opened, Problem, Reader, Secret, SecretSource};
use zeroize::Zeroizing;

use super::{Dialect, Failures, Joining, Setting, Settings, UserAndPassword};
use crate::failure::{self, Failure};
use crate::tailnet::TailnetConfig;

/// A kind of private network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[cfg_attr(feature = "cli", value(rename_all = "lower"))]
pub enum Provider {
    /// WireGuard: a wg-quick file.
    WireGuard,
    /// OpenVPN: an `.ovpn` profile.
    OpenVpn,
    /// Tailscale or Headscale: an auth key or a sign-in.
    Tailscale,
}

impl Provider {
    /// The word for it in configurations and reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::WireGuard => "wireguard",
            Self::OpenVpn => "openvpn",
            Self::Tailscale => "tailscale",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Where the passwords and answers of an OpenVPN login come from.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// User and password, in two lines.
    pub user_pass: Option<Setting<SecretSource>>,
    /// The password of the private key.
    pub key_pass: Option<Setting<SecretSource>>,
    /// The answer to the server's question.
    pub challenge: Option<Setting<SecretSource>>,
    /// A command that prints the answer to the question in `ADIT_QUESTION`.
    pub challenge_cmd: Option<Setting<String>>,
    /// The secret of one-time codes, in base32.
    pub totp: Option<Setting<SecretSource>>,
}

impl Login {
    /// These settings, and those of `below` where there are none here. One way to answer hides the others of below.
    pub(super) fn over(self, below: Self) -> Self {
        let answered = self.challenge.is_some() || self.challenge_cmd.is_some() || self.totp.is_some();
        let below =
            if answered { Self { challenge: None, challenge_cmd: None, totp: None, ..below } } else { below };
        Self {
            user_pass: self.user_pass.or(below.user_pass),
            key_pass: self.key_pass.or(below.key_pass),
            challenge: self.challenge.or(below.challenge),
            challenge_cmd: self.challenge_cmd.or(below.challenge_cmd),
            totp: self.totp.or(below.totp),
        }
    }

    /// The sources of secrets.
    pub(super) fn sources(&self) -> impl Iterator<Item = &SecretSource> {
        [&self.user_pass, &self.key_pass, &self.challenge, &self.totp]
            .into_iter()
            .filter_map(|setting| setting.as_ref().map(|setting| &setting.value))
    }
}

/// A file of a provider, read and checked.
#[derive(Debug)]
pub enum ProviderFile {
    /// A wg-quick file.
    WgQuick(WgQuick),
    /// An OpenVPN profile with what belongs to it.
    OpenVpn(Box<OpenVpnProfile>),
    /// A node of a tailnet; it has no file.
    Tailscale(Box<TailnetConfig>),
}

/// An OpenVPN profile with the passwords that belong to it.
#[derive(Debug)]
pub struct OpenVpnProfile {
    /// What the tunnel is made with. Its `protected` is empty: the session knows the machine's networks.
    pub config: Config,
    /// Who answers the server's questions ([`Prompt::Answer`](adit_tunnel::Prompt::Answer)).
    pub answers: Answers,
    /// The profile itself.
    pub profile: Ovpn,
}

/// A file of a provider, for somebody who wants to know what it says.
#[derive(Debug)]
pub enum CheckedFile {
    /// A wg-quick file.
    WgQuick(WgQuick),
    /// An OpenVPN profile.
    OpenVpn {
        /// The profile.
        profile: Box<Ovpn>,
        /// The flags that a connection needs and that are not given.
        needs: Vec<&'static str>,
    },
    /// A node of a tailnet.
    Tailscale(Box<Joining>),
}

/// A profile with what came of it.
struct Loaded {
    config: Result<Config, Failures>,
    answers: Answers,
    profile: Ovpn,
}

impl Settings {
    /// Reads the provider's file and the secrets that belong to it. `reader` says how; its rules are set from these
    /// settings. The second value is what is doubtful.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them. With `strict`, what is doubtful too.
    pub fn provider_file(&self, reader: Reader) -> Result<(ProviderFile, Vec<Failure>), Failures> {
        if self.is_tailnet() {
            let (config, warnings) = self.tailnet(reader)?;
            return Ok((ProviderFile::Tailscale(Box::new(config)), warnings));
        }
        let (found, whole) = self.told(&reader)?;
        match found {
            Provider::Tailscale => Err(failure::internal("a file was taken for a tailnet").into()),
            Provider::WireGuard => {
                let (file, warnings) = whole.wg_quick(reader)?;
                Ok((ProviderFile::WgQuick(file), warnings))
            }
            Provider::OpenVpn => {
                let (profile, warnings) = whole.openvpn(reader)?;
                Ok((ProviderFile::OpenVpn(Box::new(profile)), warnings))
            }
        }
    }

    /// Like [`provider_file`](Self::provider_file), for somebody who wants to know what a file says: what is given is
    /// checked, and what is not given yet is no failure.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them. With `strict`, what is doubtful too.
    pub fn check(&self, reader: Reader) -> Result<(CheckedFile, Vec<Failure>), Failures> {
        if self.is_tailnet() {
            let (joining, warnings) = self.check_tailnet(reader)?;
            return Ok((CheckedFile::Tailscale(Box::new(joining)), warnings));
        }
        let (found, whole) = self.told(&reader)?;
        if found == Provider::WireGuard {
            let (file, warnings) = whole.wg_quick(reader)?;
            return Ok((CheckedFile::WgQuick(file), warnings));
        }
        let (loaded, mut warnings) = whole.load(reader)?;
        let mut needs = Vec::new();
        if let Err(failures) = loaded.config {
            for failure in &failures.0 {
                match failure.class.as_str() {
                    "ovpn.creds.missing" if self.login.user_pass.is_none() => needs.push("--auth-user-pass"),
                    "ovpn.key.passphrase" if self.login.key_pass.is_none() => needs.push("--key-pass"),
                    _ => return Err(failures),
                }
            }
        }
        // The first of several needs hides the others.
        if loaded.profile.wants_user_pass()
            && loaded.profile.user_pass().is_none()
            && self.login.user_pass.is_none()
            && !needs.contains(&"--auth-user-pass")
        {
            needs.push("--auth-user-pass");
        }
        warnings = whole.judged(warnings)?;
        Ok((CheckedFile::OpenVpn { profile: Box::new(loaded.profile), needs }, warnings))
    }

    /// These settings with the content of the provider's file, once it is sure whose it is.
    ///
    /// # Errors
    ///
    /// It cannot be read, or it is of another provider than the one that is named.
    pub fn identified(&self, reader: &Reader) -> Result<Self, Failures> {
        // A tailnet has no file.
        if self.is_tailnet() {
            return Ok(self.clone());
        }
        let (found, settings) = self.told(reader)?;
        if found == Provider::WireGuard {
            settings.well_formed()?;
        }
        Ok(settings)
    }

    /// The provider that the file's content tells, and these settings with that content.
    fn told(&self, reader: &Reader) -> Result<(Provider, Self), Failures> {
        let opened = self.open(reader)?;
        let found = match ovpn::text(opened.content.expose()).map(|text| Dialect::of(&text)) {
            Some(Dialect::OpenVpn) => Provider::OpenVpn,
            _ => Provider::WireGuard,
        };
        if let Some(named) = self.provider.value.filter(|named| *named != found) {
            let name = self.config.value.display();
            return Err(failure::of("config.value", format!("{name} is no file for the provider {named}"))
                .seen(format!("{} names that provider; the file is for {found}", self.provider.origin))
                .with_fix(vec![format!("write provider = \"{found}\", or name another file")])
                .into());
        }
        Ok((found, Self { opened: Some(opened), ..self.clone() }))
    }

    /// Reads the OpenVPN profile and the secrets that belong to it, otherwise like
    /// [`provider_file`](Self::provider_file).
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them. With `strict`, what is doubtful too.
    pub fn openvpn(&self, reader: Reader) -> Result<(OpenVpnProfile, Vec<Failure>), Failures> {
        let (Loaded { config, answers, profile }, warnings) = self.load(reader)?;
        Ok((OpenVpnProfile { config: config?, answers, profile }, self.judged(warnings)?))
    }

    fn load(&self, reader: Reader) -> Result<(Loaded, Vec<Failure>), Failures> {
        let mut reader =
            Reader { consume: self.consume.value, insecure_perms: self.insecure_perms.value, ..reader };
        let mut warnings = Vec::new();
        let opened = self.open(&reader)?;
        let profile = self.ovpn(&opened, &mut reader, &mut warnings)?;
        let name = self.config.value.display().to_string();
        let mut secret = |setting: &Option<Setting<SecretSource>>, what: &str| {
            read(setting.as_ref(), what, &reader, &mut warnings)
        };
        let credentials = match secret(&self.login.user_pass, "user and password")? {
            Some(secret) => {
                let origin = self.login.user_pass.as_ref().map_or(String::new(), |s| s.origin.to_string());
                let found = UserPass::parse(&secret).map_err(|wrong| failure::of_problem(wrong, &origin))?;
                Some(with_password(found, &origin)?)
            }
            None => match self.user_pass.as_ref().filter(|_| lacks_password(&profile)) {
                Some(UserAndPassword { user, password }) => {
                    let password = secret(&Some(password.clone()), "the password")?;
                    password.as_ref().and_then(Secret::expose_text).map(|password| Credentials {
                        username: user.clone(),
                        password: Zeroizing::new(password.trim_end_matches(['\r', '\n']).to_owned()),
                    })
                }
                None => self.ask_credentials(&profile),
            },
        };
        let key_pass = secret(&self.login.key_pass, "the password of the private key")?;
        let key_pass = key_pass.or_else(|| {
            let ask = self.ask.filter(|_| profile.wants_key_pass())?;
            let password = ask("Password of the private key:", false).ok()?;
            Some(Secret::new(password.as_bytes().to_vec()))
        });
        let answers = match (self.answers(&mut secret)?, self.ask) {
            (Answers::Nobody, Some(ask)) => Answers::Person(ask),
            (answers, _) => answers,
        };
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let config = profile
            .tunnel_config(Supplied {
                credentials,
                key_pass,
                challenge: answers.fixed().cloned(),
                protected: Vec::new(),
                sso: vec!["webauth", "openurl", "crtext"],
                race: Some(self.race.value).filter(|head_start| !head_start.is_zero()),
                clock: Clock { instant: Instant::now(), unix },
            })
            // What answers a server's questions knows no password, and a wrong one locks an account: only a person is
            // asked for one again.
            .map(|config| Config {
                auth_nocache: config.auth_nocache && matches!(answers, Answers::Person(_)),
                ..config
            })
            .map_err(|problems| {
                Failures(problems.0.into_iter().map(|wrong| failure::of_problem(wrong, &name)).collect())
            });
        Ok((Loaded { config, answers, profile }, warnings))
    }

    /// The profile alone: nothing else is asked for.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub(crate) fn ovpn(
        &self,
        opened: &Opened,
        reader: &mut Reader,
        warnings: &mut Vec<Failure>,
    ) -> Result<Ovpn, Failures> {
        let name = self.config.value.display().to_string();
        let problem = |problem: Problem| failure::of_problem(problem, &name);
        let text = ovpn::text(opened.content.expose());
        if text.is_some_and(|text| ovpn::holds_secret(&text)) {
            warnings.extend(reader.admit(opened, "the private key").map_err(problem)?.map(problem));
        }
        let profile = Ovpn::read(opened.content.expose(), &self.config.value, reader)
            .map_err(|problems| Failures(problems.0.into_iter().map(problem).collect()))?;
        warnings.extend(profile.warnings.iter().cloned().map(problem));
        Ok(profile)
    }

    /// User and password from the person there, where nothing else has them.
    fn ask_credentials(&self, profile: &Ovpn) -> Option<Credentials> {
        let found = profile.user_pass();
        let ask = self.ask.filter(|_| lacks_password(profile))?;
        let username = match found {
            Some(found) => found.username.clone(),
            None => ask("User:", true).ok()?.as_str().to_owned(),
        };
        let password = ask(&format!("Password of {username}:"), false).ok()?;
        Some(Credentials { username, password })
    }

    fn answers(
        &self,
        secret: &mut dyn FnMut(&Option<Setting<SecretSource>>, &str) -> Result<Option<Secret>, Failure>,
    ) -> Result<Answers, Failures> {
        let Login { challenge, challenge_cmd, totp, .. } = &self.login;
        let given: Vec<_> = [
            challenge.as_ref().map(|s| &s.origin),
            challenge_cmd.as_ref().map(|s| &s.origin),
            totp.as_ref().map(|s| &s.origin),
        ]
        .into_iter()
        .flatten()
        .collect();
        if let [first, second, ..] = given.as_slice() {
            return Err(failure::usage("there is more than one way to answer the server's question")
                .seen(format!("{first} and {second}"))
                .with_fix(vec!["keep one of challenge, challenge_cmd and totp".to_owned()])
                .into());
        }
        if let Some(command) = challenge_cmd {
            return Ok(Answers::Command(command.value.clone()));
        }
        // A command may give another answer each time.
        if let Some(Setting { value: SecretSource::Command(command), .. }) = challenge {
            return Ok(Answers::Command(command.clone()));
        }
        if let Some(answer) = secret(challenge, "the answer to the server's question")? {
            return Ok(Answers::Fixed(answer));
        }
        let Some(key) = secret(totp, "the secret of one-time codes")? else { return Ok(Answers::Nobody) };
        let origin = totp.as_ref().map_or(String::new(), |setting| setting.origin.to_string());
        Ok(Answers::Totp(Totp::parse(&key).map_err(|wrong| failure::of_problem(wrong, &origin))?))
    }
}

/// Whether the server asks for a password that the profile does not have.
fn lacks_password(profile: &Ovpn) -> bool {
    profile.wants_user_pass() && profile.user_pass().is_none_or(|found| found.password.is_none())
}

pub(super) fn read(
    setting: Option<&Setting<SecretSource>>,
    what: &str,
    reader: &Reader,
    warnings: &mut Vec<Failure>,
) -> Result<Option<Secret>, Failure> {
    let Some(Setting { value, origin }) = setting else { return Ok(None) };
    let name = origin.to_string();
    let (secret, doubt) = reader.read(value, what).map_err(|wrong| failure::of_problem(wrong, &name))?;
    warnings.extend(doubt.map(|doubt| failure::of_problem(doubt, &name)));
    Ok(Some(secret))
}

fn with_password(found: UserPass, origin: &str) -> Result<Credentials, Failure> {
    let username = found.username.clone();
    found.complete().ok_or_else(|| {
        failure::of("ovpn.creds.missing", format!("the password of user `{username}` is missing"))
            .seen(format!("{origin} has one line"))
            .with_fix(vec!["write the password in a second line".to_owned()])
    })
}
