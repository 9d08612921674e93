//! How a command reaches a network: through a running `adit up`, or by a session of its own.

use std::path::PathBuf;
use std::sync::Arc;

use adit_path::Network;

use crate::cli::{ConnectArgs, Context, Global};
use crate::config::{self, Origin, Overrides, Place, Setting};
use crate::control::{self, Client, ClientError, SocketError};
use crate::profile::Profile;
use crate::session::Session;
use crate::{Failure, failure};

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
    let profile = Profile::load(context, connect)?;
    for warning in &profile.warnings {
        context.ui.warning(warning);
    }
    let session = Session::start(profile.tunnel.clone(), profile.engine_options())?;
    Ok((profile, session))
}

/// Attaches to the running `adit up` that the flags mean, if there is one.
pub(crate) async fn attach(global: &Global) -> Result<Option<Client>, Failure> {
    let mut found = Vec::new();
    for (name, path) in candidates(global)? {
        match Client::connect(&path).await {
            Ok(client) => found.push((name, client)),
            // What a killed daemon left behind; the next `up` replaces it.
            Err(ClientError::NotRunning(_)) => {}
            Err(error) => return Err(failed(&error)),
        }
    }
    if found.len() > 1 {
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        return Err(failure::of(
            "config.profile",
            "several profiles are up, and it is not clear which is meant",
        )
        .seen(format!("running: {}", names.join(", ")))
        .with_fix(vec!["name one: --profile NAME".to_owned()]));
    }
    Ok(found.pop().map(|(_, client)| client))
}

/// The control sockets that the flags may mean.
fn candidates(global: &Global) -> Result<Vec<(String, PathBuf)>, Failure> {
    if let Some(path) = &global.socket {
        return Ok(vec![(path.display().to_string(), path.clone())]);
    }
    let directories = control::directories();
    let Some(profile) = named_profile(global) else {
        let found = control::discover(&directories);
        // Of several, a configuration that lies here says which one is meant.
        let default = (found.len() > 1).then(|| configured_profile(global)).flatten();
        let meant: Vec<_> =
            found.iter().filter(|(name, _)| Some(name) == default.as_ref()).cloned().collect();
        return Ok(if meant.is_empty() { found } else { meant });
    };
    let mut paths = Vec::new();
    for directory in directories.iter().filter(|directory| control::check_directory(directory).is_ok()) {
        let path = control::path_in(directory, &profile).map_err(|error| unusable(&error))?;
        if path.exists() {
            paths.push((profile.clone(), path));
        }
    }
    // The preferred directory comes first; a profile runs once.
    paths.truncate(1);
    Ok(paths)
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
    let what = match (&global.socket, named_profile(global)) {
        (Some(path), _) => format!("no adit is running at {}", path.display()),
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
