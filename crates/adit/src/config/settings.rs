//! The settings of a run: flags over environment over file over defaults.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_providers::wgquick::{self, Supplied, WgQuick};
use adit_providers::{Opened, Problem, Reader, SecretKey, SecretSource, ovpn};
use adit_tunnel::Prefix;

use super::compatible::{Compatible, UserAndPassword, WireGuard};
use super::file::{self, File, ForwardEntry, ProfileEntry};
use super::openvpn::{Login, Provider};
use super::setting::{Origin, Setting};
use super::table::nearest;
use super::tailnet::Tailnet;
use super::tailscale::kept;
use super::{Dialect, Failures, Mode, Place, search};
use crate::failure::{self, Exit, Failure};
use crate::fronts::ExposeRule;

/// How long an OpenVPN server may stay silent before one over another transport is called as well.
const HEAD_START: Duration = Duration::from_millis(1500);

/// The name of a profile that no file names.
const UNNAMED: &str = "tailscale";

/// How long connecting and verifying may take together, and how long where somebody signs in.
const TIMEOUT: Duration = Duration::from_secs(60);
const SIGN_IN: Duration = Duration::from_secs(300);

/// How long names, routes and permissions of a tailnet may take to arrive; the longest that its maintainers report is 33 s.
pub const GRACE: Duration = Duration::from_secs(40);

/// What flags and variables say. Everything may be missing.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The configuration file.
    pub config: Option<Setting<PathBuf>>,
    /// The profile.
    pub profile: Option<Setting<String>>,
    /// The targets.
    pub targets: Option<Setting<Vec<String>>>,
    /// The overall time.
    pub timeout: Option<Setting<Duration>>,
    /// How long names, routes and permissions of a tailnet may take to arrive.
    pub grace: Option<Setting<Duration>>,
    /// How programs reach the network.
    pub mode: Option<Setting<Mode>>,
    /// Whether what is doubtful is refused.
    pub strict: Option<Setting<bool>>,
    /// Where the private key comes from.
    pub private_key: Option<Setting<SecretSource>>,
    /// Where the preshared key comes from.
    pub preshared_key: Option<Setting<SecretSource>>,
    /// What only OpenVPN asks for.
    pub login: Login,
    /// The head start of an OpenVPN server.
    pub race: Option<Setting<Duration>>,
    /// What only a tailnet has.
    pub tailnet: Tailnet,
    /// What the variables of other clients say; a profile that says something else wins.
    pub compatible: Compatible,
    /// Whether secrets are removed from where they came.
    pub consume: Option<Setting<bool>>,
    /// Whether secret files that others can read are accepted.
    pub insecure_perms: Option<Setting<bool>>,
    /// Where state is kept.
    pub state_dir: Option<Setting<PathBuf>>,
    /// Whether somebody signs in where nothing else lets a node of a tailnet in.
    pub sign_in: bool,
    /// The control socket.
    pub socket: Option<Setting<PathBuf>>,
}

/// The settings of a run, each with its origin.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file that was read: an `adit.toml`, a wg-quick file or an OpenVPN profile.
    pub file: Setting<PathBuf>,
    /// The profile's name; that of the file, without its extension, for a file of a provider in place of a profile.
    pub profile: Setting<String>,
    /// The wg-quick file or OpenVPN profile.
    pub config: Setting<PathBuf>,
    /// Where the private key comes from, if not from the wg-quick file.
    pub private_key: Setting<Option<SecretSource>>,
    /// Where the preshared key comes from, if not from the wg-quick file.
    pub preshared_key: Setting<Option<SecretSource>>,
    /// What only OpenVPN asks for.
    pub login: Login,
    /// User and password for a profile that lacks them.
    pub user_pass: Option<UserAndPassword>,
    /// How long an OpenVPN server may stay silent before one over another transport is called as well; zero tries
    /// them one after the other.
    pub race: Setting<Duration>,
    /// What only a tailnet has.
    pub tailnet: Tailnet,
    /// Whether secrets are removed from where they came.
    pub consume: Setting<bool>,
    /// Whether secret files that others can read are accepted.
    pub insecure_perms: Setting<bool>,
    /// How programs reach the network.
    pub mode: Setting<Mode>,
    /// Whether what is doubtful is refused.
    pub strict: Setting<bool>,
    /// The services that must answer.
    pub targets: Setting<Vec<String>>,
    /// How long connecting and verifying may take together.
    pub timeout: Setting<Duration>,
    /// How long names, routes and permissions of a tailnet may take to arrive; zero takes what is missing for a failure.
    pub grace: Setting<Duration>,
    /// The forwards.
    pub forwards: Vec<ForwardEntry>,
    /// Where the SOCKS5 proxy listens.
    pub socks: Setting<Option<SocketAddr>>,
    /// Where the HTTP proxy listens.
    pub http: Setting<Option<SocketAddr>>,
    /// The destinations that programs may reach; none allows whatever the network routes.
    pub allow: Setting<Vec<Prefix>>,
    /// The ports of this machine that peers may reach.
    pub expose: Setting<Vec<ExposeRule>>,
    /// Whether somebody signs in where nothing else lets a node of a tailnet in.
    pub sign_in: bool,
    /// Where state is kept; `None` keeps it in memory.
    pub state_dir: Setting<Option<PathBuf>>,
    /// The control socket; `None` is the usual place.
    pub socket: Setting<Option<PathBuf>>,
    /// Which provider the profile names; otherwise the content of its file tells.
    pub provider: Setting<Option<Provider>>,
    /// Whoever can be asked for what is missing.
    pub(crate) ask: Option<ovpn::Ask>,
    /// The content of the provider's file, where it has been read already: a pipe can be read once.
    pub(super) opened: Option<Opened>,
}

/// Finds, reads and merges the configuration of a run.
///
/// # Errors
///
/// Everything that is wrong with it; nothing was started.
pub fn load(overrides: &Overrides, place: &Place) -> Result<Settings, Failures> {
    let Some(file) = locate(overrides, place)? else { return Ok(without_file(overrides)) };
    let opened = Reader::default().open(&file.value, "the configuration").map_err(|problem| {
        let problem = Problem {
            class: "config.file",
            fix: vec!["check the path and the permissions; `adit config init` writes an example".to_owned()],
            ..problem
        };
        failure::of_problem(problem, &file.value.display().to_string())
    })?;
    // Profiles come in more encodings than the other files.
    let profile = ovpn::text(opened.content.expose()).filter(|text| Dialect::of(text) == Dialect::OpenVpn);
    let utf8 = profile.as_deref().map(String::as_str).or(std::str::from_utf8(opened.content.expose()).ok());
    let Some(text) = utf8 else { return Err(not_text(opened.content.expose(), &file.value).into()) };
    let mut settings = load_text(text, file, overrides)?;
    if Dialect::of(text) != Dialect::Adit {
        settings.opened = Some(opened);
    }
    Ok(settings)
}

/// The failure of a file that is no text, in the words of what its name promises.
pub(super) fn not_text(bytes: &[u8], path: &Path) -> Failure {
    let name = path.display().to_string();
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("ovpn")) {
        return failure::of("ovpn.config.parse", format!("{name} is not text"))
            .with_fix(vec!["give the .ovpn file itself, not an archive or a picture of it".to_owned()]);
    }
    // The wg-quick parser knows how to say where.
    let problems = WgQuick::parse_bytes(bytes, &Supplied::default()).err();
    let first = problems.and_then(|problems| problems.0.into_iter().next());
    let failure = first.map(|problem| failure::of_problem(problem, &name));
    failure.unwrap_or_else(|| failure::of("config.file", format!("{name} is not text")))
}

/// Merges a configuration that has been read: the pure part of [`load`].
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn load_text(text: &str, file: Setting<PathBuf>, overrides: &Overrides) -> Result<Settings, Failures> {
    let wanted = overrides.targets.iter().flat_map(|targets| &targets.value);
    let wrong: Vec<Failure> = wanted
        .filter_map(|text| file::target(text).err())
        .map(|(why, fix)| {
            failure::of("config.target", format!("this is no target: {why}")).with_fix(vec![fix])
        })
        .collect();
    if !wrong.is_empty() {
        return Err(Failures(wrong));
    }
    let name = file.value.display().to_string();
    match Dialect::of(text) {
        Dialect::Adit => {
            let parsed = File::parse(text, &name)?;
            let (profile_name, profile) = choose(parsed, overrides, &name)?;
            let provider = profile.provider.as_ref().map(|provider| provider.value);
            if provider == Some(Provider::Tailscale) {
                return Ok(merge(file.clone(), profile_name, file, profile, overrides));
            }
            if let Some(origin) = overrides.tailnet.meant() {
                return Err(failure::usage(format!("the profile `{}` is no tailnet", profile_name.value))
                    .seen(format!("{origin} is for one"))
                    .with_fix(vec![
                        "name a profile with provider = \"tailscale\", or leave the flag away".to_owned(),
                    ])
                    .into());
            }
            let Some(config) = profile.config.clone() else {
                return Err(failure::internal("a profile without `config` was accepted").into());
            };
            let config = config.map(|path| beside(&file.value, &path));
            Ok(merge(file, profile_name, config, profile, overrides))
        }
        dialect @ (Dialect::WgQuick | Dialect::OpenVpn) => {
            let (what, stem) = match dialect {
                Dialect::OpenVpn => ("an OpenVPN profile", "openvpn"),
                _ => ("a wg-quick file", "wireguard"),
            };
            if let Some(profile) = &overrides.profile {
                return Err(failure::usage(format!("{name} is {what} and has no profiles"))
                    .seen(format!("{} asks for the profile `{}`", profile.origin, profile.value))
                    .with_fix(vec!["leave the profile away, or give an adit.toml".to_owned()])
                    .into());
            }
            let stem = file.value.file_stem().map_or(stem.into(), |stem| stem.to_string_lossy());
            let profile = Setting::new(stem.into_owned(), Origin::Found("the name of the file"));
            Ok(merge(file.clone(), profile, file, ProfileEntry::default(), overrides))
        }
        Dialect::TailscaleKey => {
            let key = Setting::new(SecretSource::File(file.value.clone()), file.origin.clone());
            let tailnet = Tailnet { key: Some(key), ..Tailnet::default() };
            let profile = ProfileEntry { tailnet, ..tailscale_entry(file.origin.clone()) };
            let name = Setting::new(UNNAMED.to_owned(), Origin::Found("the key of a tailnet"));
            Ok(merge(file.clone(), name, file, profile, overrides))
        }
    }
}

fn tailscale_entry(origin: Origin) -> ProfileEntry {
    ProfileEntry { provider: Some(Setting::new(Provider::Tailscale, origin)), ..ProfileEntry::default() }
}

/// A tailnet needs no file, nor does a server that variables describe.
fn without_file(overrides: &Overrides) -> Settings {
    let said = overrides.tailnet.meant().or_else(|| overrides.compatible.tailnet.meant());
    if let (None, Some(server)) = (said, &overrides.compatible.wireguard) {
        return described(server, overrides);
    }
    let kept = kept(overrides, UNNAMED).filter(|_| said.is_none());
    let origin = said.cloned().or(kept.as_ref().map(|kept| kept.origin.clone())).unwrap_or(Origin::Default);
    let file = Setting::new(PathBuf::from(UNNAMED), origin.clone());
    let name = Setting::new(UNNAMED.to_owned(), Origin::Found("no file names one"));
    let name = overrides.profile.clone().unwrap_or(name);
    let tailnet = Tailnet { control: kept, ..Tailnet::default() };
    let profile = ProfileEntry { tailnet, ..tailscale_entry(origin) };
    merge(file.clone(), name, file, profile, overrides)
}

/// A WireGuard server that variables describe.
fn described(server: &WireGuard, overrides: &Overrides) -> Settings {
    let origin = server.private_key.origin.clone();
    let opened = server.opened();
    let profile = ProfileEntry {
        provider: Some(Setting::new(Provider::WireGuard, origin.clone())),
        private_key: Some(server.private_key.clone()),
        preshared_key: server.preshared_key.clone(),
        ..ProfileEntry::default()
    };
    let file = Setting::new(opened.path.clone(), origin);
    let name = Setting::new(Provider::WireGuard.word().to_owned(), Origin::Found("no file names one"));
    let name = overrides.profile.clone().unwrap_or(name);
    Settings { opened: Some(opened), ..merge(file.clone(), name, file, profile, overrides) }
}

/// The configuration file; `None` where flags or variables say enough without one.
fn locate(overrides: &Overrides, place: &Place) -> Result<Option<Setting<PathBuf>>, Failure> {
    if let Some(config) = &overrides.config {
        let stdin = config.value.as_os_str() == "-";
        return Ok(Some(config.clone().map(|path| if stdin { PathBuf::from("/dev/stdin") } else { path })));
    }
    let files = search(place);
    if let Some(found) = files.iter().find(|file| file.is_file()) {
        return Ok(Some(Setting::new(found.clone(), Origin::Found("found"))));
    }
    if let Some(profile) = &overrides.compatible.openvpn {
        return Ok(Some(profile.clone()));
    }
    let tailnet =
        overrides.sign_in || overrides.tailnet.meant().is_some() || kept(overrides, UNNAMED).is_some();
    if tailnet || overrides.compatible.meant().is_some() {
        return Ok(None);
    }
    let looked: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let mut failure = failure::of("config.file", "there is no configuration")
        .seen(format!("looked for {}", looked.join(", ")));
    if let Some(lacking) = overrides.compatible.lacking {
        failure =
            failure.seen(format!("$WIREGUARD_PRIVATE_KEY alone names no server: ${lacking} is missing"));
    }
    Err(failure.with_fix(vec![
        "give one: --config lab.conf (a wg-quick file), --config corp.ovpn or --config adit.toml".to_owned(),
        "or write one: adit config init".to_owned(),
        "a tailnet needs none: --auth-key file:PATH".to_owned(),
    ]))
}

/// A path of a configuration file is relative to that file.
fn beside(file: &Path, path: &Path) -> PathBuf {
    match file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) if path.is_relative() => parent.join(path),
        _ => path.to_owned(),
    }
}

fn choose(
    mut file: File,
    overrides: &Overrides,
    name: &str,
) -> Result<(Setting<String>, ProfileEntry), Failure> {
    let only = || {
        let mut names = file.profiles.keys();
        let first = names.next()?.clone();
        names.next().is_none().then(|| Setting::new(first, Origin::Found("the only profile")))
    };
    let wanted = overrides.profile.clone().or_else(|| file.default.clone()).or_else(only);
    let names: Vec<String> = file.profiles.keys().cloned().collect();
    let words: Vec<&str> = names.iter().map(String::as_str).collect();
    let listed = |failure: Failure| match words.as_slice() {
        [] => failure.seen(format!("{name} has no profiles")),
        words => failure.seen(format!("profiles in {name}: {}", words.join(", "))),
    };
    let Some(wanted) = wanted else {
        return Err(listed(failure::of("config.profile", "it is not clear which profile to use"))
            .with_fix(vec!["name one: --profile NAME, or default = \"NAME\" in the file".to_owned()]));
    };
    match file.profiles.remove(&wanted.value) {
        Some(profile) => Ok((wanted, profile)),
        None => {
            let failure = failure::of("config.profile", format!("there is no profile `{}`", wanted.value))
                .seen(format!("{} asks for it", wanted.origin));
            Err(listed(failure).with_fix(match nearest(&wanted.value, &words) {
                Some(near) => vec![format!("use --profile {near}")],
                None => vec!["use one of the profiles of the file".to_owned()],
            }))
        }
    }
}

fn merge(
    file: Setting<PathBuf>,
    profile_name: Setting<String>,
    config: Setting<PathBuf>,
    profile: ProfileEntry,
    overrides: &Overrides,
) -> Settings {
    let over = overrides.clone();
    let some = |layer: Option<Setting<SecretSource>>| layer.map(|setting| setting.map(Some));
    let mut tailnet = over.tailnet.over(profile.tailnet).over(over.compatible.tailnet);
    if let Some(ca_file) = &mut tailnet.ca_file
        && matches!(ca_file.origin, Origin::File { .. })
    {
        ca_file.value = beside(&file.value, &ca_file.value);
    }
    let browser = over.sign_in || tailnet.browser.as_ref().is_some_and(|browser| browser.value);
    Settings {
        file,
        profile: profile_name,
        config,
        private_key: Setting::first([some(over.private_key), some(profile.private_key)], None),
        preshared_key: Setting::first([some(over.preshared_key), some(profile.preshared_key)], None),
        login: over.login.over(profile.login),
        user_pass: over.compatible.user_pass,
        tailnet,
        race: Setting::first([over.race, profile.race], HEAD_START),
        provider: Setting::first([profile.provider.map(|setting| setting.map(Some))], None),
        consume: Setting::first([over.consume, profile.consume], false),
        insecure_perms: Setting::first([over.insecure_perms], false),
        mode: Setting::first([over.mode, profile.mode], Mode::Auto),
        strict: Setting::first([over.strict, profile.strict], false),
        targets: Setting::first([over.targets, profile.targets], Vec::new()),
        timeout: Setting::first([over.timeout, profile.timeout], if browser { SIGN_IN } else { TIMEOUT }),
        sign_in: over.sign_in,
        grace: Setting::first([over.grace, profile.grace], GRACE),
        forwards: profile.forwards,
        socks: Setting::first([profile.socks.map(|setting| setting.map(Some))], None),
        http: Setting::first([profile.http.map(|setting| setting.map(Some))], None),
        allow: Setting::first([profile.allow], Vec::new()),
        expose: Setting::first([profile.expose], Vec::new()),
        state_dir: Setting::first([over.state_dir.map(|setting| setting.map(Some))], None),
        socket: Setting::first([over.socket.map(|setting| setting.map(Some))], None),
        ask: None,
        opened: None,
    }
}

impl Settings {
    /// Whether the profile is a node of a tailnet.
    pub(super) fn is_tailnet(&self) -> bool {
        self.provider.value == Some(Provider::Tailscale)
    }

    /// Where user and password come from, if not from the profile.
    pub(super) fn user_pass_source(&self) -> Option<Setting<SecretSource>> {
        let compatible = self.user_pass.as_ref().map(|found| found.password.clone());
        self.login.user_pass.clone().or(compatible)
    }

    /// The variables that hold secrets; no program that is started inherits them.
    pub fn secret_variables(&self) -> impl Iterator<Item = &str> {
        let wireguard = [&self.private_key, &self.preshared_key].into_iter().filter_map(|s| s.value.as_ref());
        let user_pass = self.user_pass.iter().map(|found| &found.password.value);
        wireguard.chain(self.login.sources()).chain(user_pass).chain(self.tailnet.sources()).filter_map(
            |source| match source {
                SecretSource::Env(name) => Some(name.as_str()),
                _ => None,
            },
        )
    }

    /// Where the secrets come from, as it was written; the provider's file where nothing else is named.
    pub fn secret_sources(&self) -> Vec<String> {
        let wireguard = [&self.private_key, &self.preshared_key].into_iter().filter_map(|s| s.value.as_ref());
        let named: Vec<_> = wireguard
            .chain(self.login.sources())
            .chain(self.tailnet.sources())
            .map(ToString::to_string)
            .collect();
        if named.is_empty() { vec![self.config.value.display().to_string()] } else { named }
    }

    /// Reads the secrets and the wg-quick file. `reader` says how; its rules are set from these settings.
    /// The second value is what is doubtful.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them. With `strict`, what is doubtful too.
    pub fn wg_quick(&self, reader: Reader) -> Result<(WgQuick, Vec<Failure>), Failures> {
        let reader =
            Reader { consume: self.consume.value, insecure_perms: self.insecure_perms.value, ..reader };
        let name = self.config.value.display().to_string();
        let problem = |problem: Problem| failure::of_problem(problem, &name);
        let mut warnings = Vec::new();
        let supplied = Supplied {
            private_key: self.key(&self.private_key, "the private key", &reader, &mut warnings)?,
            preshared_key: self.key(&self.preshared_key, "the preshared key", &reader, &mut warnings)?,
        };
        let opened = self.open(&reader)?;
        let text = std::str::from_utf8(opened.content.expose()).unwrap_or("");
        if wgquick::holds_secret(text) {
            warnings.extend(reader.admit(&opened, "the private key").map_err(problem)?.map(problem));
        }
        let parsed = WgQuick::parse_bytes(opened.content.expose(), &supplied)
            .map_err(|problems| Failures(problems.0.into_iter().map(problem).collect()))?;
        warnings.extend(parsed.warnings.iter().cloned().map(problem));
        Ok((parsed, self.judged(warnings)?))
    }

    /// Whether the wg-quick file is well-formed, without the keys that come from elsewhere.
    pub(super) fn well_formed(&self) -> Result<(), Failures> {
        let Some(opened) = &self.opened else { return Ok(()) };
        let Err(problems) = WgQuick::parse_bytes(opened.content.expose(), &Supplied::default()) else {
            return Ok(());
        };
        let name = self.config.value.display().to_string();
        let failures = problems.0.into_iter().map(|problem| failure::of_problem(problem, &name));
        // A key that the file lacks is a matter of credentials.
        let wrong: Vec<_> = failures.filter(|failure| failure.exit == Exit::Usage).collect();
        if wrong.is_empty() { Ok(()) } else { Err(Failures(wrong)) }
    }

    /// What is doubtful is a failure with `strict`.
    pub(super) fn judged(&self, mut warnings: Vec<Failure>) -> Result<Vec<Failure>, Failures> {
        if self.strict.value && !warnings.is_empty() {
            for warning in &mut warnings {
                warning.exit = Exit::Usage;
                warning.evidence.push(format!("{} makes a failure of this warning", self.strict.origin));
            }
            return Err(Failures(warnings));
        }
        Ok(warnings)
    }

    /// The content of the provider's file.
    pub(super) fn open(&self, reader: &Reader) -> Result<Opened, Failure> {
        if let Some(opened) = &self.opened {
            return Ok(opened.clone());
        }
        reader.open(&self.config.value, "the provider's file").map_err(|wrong| {
            let wrong =
                Problem { class: "config.file", ..wrong }.seen(format!("named by {}", self.config.origin));
            failure::of_problem(wrong, &self.config.value.display().to_string())
        })
    }

    fn key(
        &self,
        source: &Setting<Option<SecretSource>>,
        what: &str,
        reader: &Reader,
        warnings: &mut Vec<Failure>,
    ) -> Result<Option<SecretKey>, Failure> {
        let Some(from) = &source.value else { return Ok(None) };
        let name = source.origin.to_string();
        let (secret, warning) = reader.read(from, what).map_err(|wrong| failure::of_problem(wrong, &name))?;
        warnings.extend(warning.map(|warning| failure::of_problem(warning, &name)));
        secret.expose_text().and_then(SecretKey::from_base64).map(Some).ok_or_else(|| {
            failure::of("wg.key.format", format!("{what} from {from} is not a WireGuard key"))
                .seen(format!("it has {} bytes", secret.expose().len()))
                .with_fix(vec!["give the base64 form that `wg genkey` prints: 44 characters".to_owned()])
        })
    }
}
