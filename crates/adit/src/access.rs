//! How a command reaches a network: through a running `adit up`, or by a session of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use adit_path::Network;

use crate::cli::{ConnectArgs, Context, Global};
use crate::config::{self, Origin, Overrides, Place, Provider, Setting};
use crate::control::{self, Client, ClientError, ControlSocket, Info, SocketError};
use crate::profile::Profile;
use crate::session::Session;
use crate::{Failure, failure, session};

/// A network for one command.
#[derive(Debug)]
pub(crate) enum Access {
    /// Through a running `adit up`.
    Attached(Arc<Client>),
    /// By a session of this process.
    Private(Box<Session>),
}

impl Access {
    /// Attaches to a running `adit up`, or connects and waits until packets pass.
    pub(crate) async fn open(context: &Context, connect: &ConnectArgs) -> Result<Self, Failure> {
        if let Some(client) = attach(&context.global).await? {
            return Ok(Self::Attached(Arc::new(client)));
        }
        let (profile, session) = start(context, connect)?;
        session.up(profile.timeout).await?;
        Ok(Self::Private(Box::new(session)))
    }

    /// Like [`open`](Self::open), for what only a tailnet can answer; `what` asks, in its failure.
    pub(crate) async fn tailnet(
        context: &Context,
        connect: &ConnectArgs,
        what: &str,
    ) -> Result<Self, Failure> {
        let refuse = |provider: &str| {
            failure::usage(format!("{what} is a question for a tailnet, and this network is {provider}"))
                .with_fix(vec![
                    "see where packets go: adit route HOST, and who is there: adit status".to_owned(),
                ])
        };
        if let Some(client) = attach(&context.global).await? {
            let provider = client.info().await.map_err(|error| failed(&error))?.provider;
            if provider != Provider::Tailscale.word() {
                return Err(refuse(&provider));
            }
            return Ok(Self::Attached(Arc::new(client)));
        }
        let profile = load(context, connect)?;
        if profile.tunnel.provider() != Provider::Tailscale {
            return Err(refuse(profile.tunnel.provider().word()));
        }
        let session = Session::start(profile.tunnel.clone(), profile.engine_options())?;
        session.up(profile.timeout).await?;
        Ok(Self::Private(Box::new(session)))
    }

    /// The network.
    pub(crate) fn network(&self) -> Arc<dyn Network> {
        match self {
            Self::Attached(client) => client.clone(),
            Self::Private(session) => session.network(),
        }
    }

    /// Ends a session of this process in order; a running `adit up` stays.
    pub(crate) fn close(self) {
        match self {
            Self::Attached(_) => {}
            Self::Private(session) => session.shutdown(),
        }
    }
}

/// Starts a session of this process, which connects by itself.
pub(crate) fn start(context: &Context, connect: &ConnectArgs) -> Result<(Profile, Session), Failure> {
    let profile = load(context, connect)?;
    let session = Session::start(profile.tunnel.clone(), profile.engine_options())?;
    Ok((profile, session))
}

/// The profile that the flags mean, with its warnings shown.
pub(crate) fn load(context: &Context, connect: &ConnectArgs) -> Result<Profile, Failure> {
    let profile = Profile::load(context, connect).map_err(|failures| context.ui.all_but_last(failures))?;
    for warning in &profile.warnings {
        context.ui.warning(warning);
    }
    Ok(profile)
}

/// Attaches to the running `adit up` that the flags mean, if there is one.
pub(crate) async fn attach(global: &Global) -> Result<Option<Client>, Failure> {
    if let Some(path) = &global.socket {
        return connect(path).await;
    }
    let meant = Meant::of(global);
    let mut found = running(|name| meant.may_be(name)).await?;
    if let Some(file) = &meant.file {
        // One that was started from a pipe has only its name.
        found.retain(|(_, client)| client.file().is_none_or(|served| served == file));
    }
    let exact = |profile: &String| found.iter().any(|(name, _)| name == profile);
    // Of several, a configuration that lies here says which one is meant.
    let default = (meant.profile.is_none() && found.len() > 1).then(|| configured_profile(global)).flatten();
    if let Some(profile) = meant.profile.or(default).filter(exact) {
        found.retain(|(name, _)| *name == profile);
    }
    if found.len() > 1 {
        return Err(ambiguous(&found));
    }
    Ok(found.pop().map(|(_, client)| client))
}

/// Attaches to every daemon of this user whose name is wanted, each name once.
async fn running(wanted: impl Fn(&str) -> bool) -> Result<Vec<(String, Client)>, Failure> {
    let mut found: Vec<(String, Client)> = Vec::new();
    for directory in control::directories() {
        for (name, path) in control::discover(&[directory]) {
            // The preferred directory comes first.
            if wanted(&name)
                && found.iter().all(|(known, _)| *known != name)
                && let Some(client) = connect(&path).await?
            {
                found.push((name, client));
            }
        }
    }
    Ok(found)
}

async fn connect(path: &Path) -> Result<Option<Client>, Failure> {
    match Client::connect(path).await {
        Ok(client) => Ok(Some(client)),
        // What a killed daemon left behind; the next `up` replaces it.
        Err(ClientError::NotRunning(_)) => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

fn ambiguous(found: &[(String, Client)]) -> Failure {
    let names: Vec<_> = found
        .iter()
        .map(|(name, client)| match client.file() {
            Some(file) => format!("{name} ({})", file.display()),
            None => name.clone(),
        })
        .collect();
    failure::of("config.profile", "several profiles are up, and it is not clear which is meant")
        .seen(format!("running: {}", names.join(", ")))
        .with_fix(vec!["name one: --profile NAME".to_owned()])
}

/// Which `adit up` the flags mean: a profile by its name, a file by its place. Files in two directories may have one
/// name.
struct Meant {
    profile: Option<String>,
    file: Option<PathBuf>,
}

impl Meant {
    fn of(global: &Global) -> Self {
        let file = global.config.as_deref().and_then(canonical);
        Self { profile: named_profile(global), file }
    }

    /// Whether a daemon of this name may be the one.
    fn may_be(&self, name: &str) -> bool {
        self.profile.as_ref().is_none_or(|profile| {
            let rest = name.strip_prefix(profile.as_str());
            rest.is_some_and(|rest| rest.is_empty() || is_suffix(rest))
        })
    }
}

/// A file as one absolute path; `None` for what is no regular file.
pub(crate) fn canonical(file: &Path) -> Option<PathBuf> {
    file.canonicalize().ok().filter(|path| path.is_file())
}

/// What tells apart two profiles of one name: `-` and four digits of their file.
fn suffix(file: &Path) -> String {
    // FNV-1a: the same for every run, and nobody gains by a collision, which only ends in an error.
    let hash = file.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("-{:04x}", (hash ^ (hash >> 32)) & 0xffff)
}

fn is_suffix(text: &str) -> bool {
    text.strip_prefix('-').is_some_and(|digits| {
        digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    })
}

/// Takes the place of an `adit up` for this profile, and the name that it has there: the profile's own, or one with a
/// suffix where another file's profile has that name.
pub(crate) fn claim(
    global: &Global,
    profile: &str,
    file: Option<&Path>,
) -> Result<(ControlSocket, String), Failure> {
    let path = socket_path(global, profile)?;
    let claimed = |path: &Path| ControlSocket::claim(path).map_err(|error| unusable(&error));
    let Some(file) = file.filter(|_| global.socket.is_none()) else {
        return Ok((claimed(&path)?, profile.to_owned()));
    };
    let second = format!("{profile}{}", suffix(file));
    let serves = |path: &Path| runtime_info(path);
    // It may run under either name.
    let second_path = socket_path(global, &second)?;
    if let Some(info) = serves(&second_path).filter(|info| info.file.as_deref() == Some(file)) {
        return Err(unusable(&SocketError::Running { pid: Some(info.pid) }));
    }
    match ControlSocket::claim(&path) {
        Ok(socket) => Ok((socket, profile.to_owned())),
        Err(SocketError::Running { .. })
            if serves(&path).is_some_and(|info| info.file.is_some_and(|other| other != file)) =>
        {
            Ok((claimed(&second_path)?, second))
        }
        Err(error) => Err(unusable(&error)),
    }
}

/// What a daemon says about itself, if there is one.
fn runtime_info(path: &Path) -> Option<Info> {
    session::runtime().ok()?.block_on(control::info(path)).ok()
}

/// The profile that the flags name: itself, or by a configuration file.
fn named_profile(global: &Global) -> Option<String> {
    if let Some(profile) = &global.profile {
        return Some(profile.clone());
    }
    let file = global.config.as_deref()?;
    if file.extension().is_some_and(|extension| extension == "toml") {
        return configured_profile(global);
    }
    // A wg-quick file in place of a profile is not read here: it may be a pipe, which can be read once.
    file.file_stem().map(|stem| stem.to_string_lossy().into_owned())
}

/// The profile that the configuration chooses. What is wrong with it is said when it is used.
fn configured_profile(global: &Global) -> Option<String> {
    let flag = |path: &PathBuf| Setting::new(path.clone(), Origin::Flag("--config"));
    let config = global.config.as_ref().map(flag);
    let overrides = Overrides { config, ..Overrides::default() };
    config::load(&overrides, &Place::here()).ok().map(|settings| settings.profile.value)
}

/// Where the control socket of an `adit up` of this profile belongs.
pub(crate) fn socket_path(global: &Global, profile: &str) -> Result<PathBuf, Failure> {
    if let Some(path) = &global.socket {
        return Ok(path.clone());
    }
    let mut refused = None;
    for directory in control::directories() {
        match control::prepare_directory(&directory) {
            Ok(()) => return control::path_in(&directory, profile).map_err(|error| unusable(&error)),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.map_or_else(
        || failure::internal("there is no place for a control socket"),
        |error| unusable(&error),
    ))
}

/// The failure for a command that needs a running `adit up`.
pub(crate) fn not_running(global: &Global) -> Failure {
    let file = global.config.as_deref().filter(|_| global.profile.is_none()).and_then(canonical);
    let what = match (&global.socket, named_profile(global)) {
        (Some(path), _) => format!("no adit is running at {}", path.display()),
        (None, Some(profile)) if file.is_some() => {
            let file = file.unwrap_or_default();
            format!("no adit is running for the profile {profile} of {}", file.display())
        }
        (None, Some(profile)) => format!("no adit is running for the profile {profile}"),
        (None, None) => "no adit is running".to_owned(),
    };
    failure::of("env.not_running", what)
}

/// The failure of a conversation with a running `adit up`.
pub(crate) fn failed(error: &ClientError) -> Failure {
    let (class, fix) = match error {
        ClientError::NotRunning(_) => ("env.not_running", None),
        ClientError::Foreign { .. } | ClientError::Forbidden(_) => {
            ("env.socket", Some("run the command as the user that ran `adit up`, or name another --socket"))
        }
        ClientError::Silent => ("env.daemon_gone", Some("end it: adit down; or look at its log")),
        ClientError::Refused(_) => ("usage", None),
        ClientError::Unexpected => {
            ("env.daemon_gone", Some("restart it with this version: adit down, then adit up"))
        }
        ClientError::Broken(_) => ("env.daemon_gone", None),
    };
    failure::of(class, error.to_string()).with_fix(fix.map(str::to_owned).into_iter().collect())
}

/// The failure of a control socket that cannot be made.
pub(crate) fn unusable(error: &SocketError) -> Failure {
    let (class, fix) = match error {
        SocketError::Running { .. } => {
            ("env.state_locked", "see it with `adit status`, end it with `adit down`")
        }
        SocketError::BadName(_) => {
            ("config.profile", "rename the profile, or name the socket: --socket PATH")
        }
        SocketError::TooLong(_) => ("usage", "name a shorter path: --socket PATH or ADIT_SOCKET"),
        SocketError::Unsafe { .. } => {
            ("env.socket", "remove the directory if it is not yours, or name the socket: --socket PATH")
        }
        SocketError::Io { error, .. } if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
            ("env.readonly_fs", "name a writable place: --socket PATH or ADIT_SOCKET")
        }
        SocketError::Io { .. } => ("env.socket", "name a writable place: --socket PATH or ADIT_SOCKET"),
    };
    failure::of(class, error.to_string()).with_fix(vec![fix.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_itself_and_for_its_namesakes() {
        let meant = Meant { profile: Some("lab".to_owned()), file: None };
        let second = format!("lab{}", suffix(Path::new("/b/lab.conf")));
        assert!(meant.may_be("lab") && meant.may_be(&second), "{second}");
        for other in ["lab2", "lab-", "lab-staging", "lab-12345", "la", "lab-ABCD"] {
            assert!(!meant.may_be(other), "{other}");
        }
        assert_ne!(suffix(Path::new("/a/lab.conf")), suffix(Path::new("/b/lab.conf")));
    }
}
