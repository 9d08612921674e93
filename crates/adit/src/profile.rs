//! From flags, environment and files to what a session is started with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adit_intercept::hygiene;
use adit_path::EngineOptions;
use adit_providers::Reader;

#[cfg(feature = "cli")]
use crate::cli::{ConnectArgs, Context};
use crate::config::{
    self, Failures, Mode, OpenVpnProfile, Origin, Overrides, Place, ProviderFile, Setting, Settings,
};
use crate::session::{OpenVpnConfig, TunnelConfig};
use crate::{Failure, failure};

/// Everything that a session is started with, checked.
#[derive(Debug)]
pub struct Profile {
    /// The profile's name, for messages and for the control socket.
    pub name: String,
    /// The tunnel.
    pub tunnel: TunnelConfig,
    /// The targets that must answer, as they were written.
    pub targets: Vec<String>,
    /// How long connecting and verifying may take together.
    pub timeout: Duration,
    /// How programs reach the network.
    pub mode: Mode,
    /// Refuse a weaker mode and doubtful configuration.
    pub strict: bool,
    /// What is doubtful.
    pub warnings: Vec<Failure>,
    /// All settings, with their origins: forwards, proxies, exposed ports.
    pub settings: Settings,
}

impl Profile {
    /// The profile that flags, environment and files name. Failures but the last are printed. From here on the
    /// process holds keys and cannot be dumped.
    ///
    /// # Errors
    /// There is none, or something is wrong with it.
    #[cfg(feature = "cli")]
    pub fn load(context: &Context, connect: &ConnectArgs) -> Result<Self, Failure> {
        let mut settings = context.settings(connect, None)?;
        settings.ask = context.ui.asks();
        Self::guarded(settings).map_err(|failures| context.ui.all_but_last(failures))
    }

    /// The profile of a file: a wg-quick file, an `.ovpn` file, or the default profile of an `adit.toml`. From here on the process
    /// holds keys and cannot be dumped.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self, Failures> {
        Self::from_overrides(Overrides { config: Some(given(path.into())), ..Overrides::default() })
    }

    /// A named profile of an `adit.toml`; otherwise like [`from_file`](Self::from_file).
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn named(path: impl Into<PathBuf>, profile: &str) -> Result<Self, Failures> {
        Self::from_overrides(Overrides {
            config: Some(given(path.into())),
            profile: Some(given(profile.to_owned())),
            ..Overrides::default()
        })
    }

    fn from_overrides(overrides: Overrides) -> Result<Self, Failures> {
        Self::guarded(config::load(&overrides, &Place::here())?)
    }

    /// Reads secrets after this process has become unreadable for others.
    fn guarded(settings: Settings) -> Result<Self, Failures> {
        // Best effort: where the system refuses it, the memory is as readable as that of any process.
        if let Err(error) = hygiene::deny_dumps() {
            tracing::debug!(%error, "this process can be dumped");
        }
        let reader = Reader {
            take_fd: hygiene::take_descriptor,
            take_env: hygiene::take_variable,
            ..Reader::default()
        };
        Self::of(settings, reader)
    }

    /// Reads the secrets and the provider's file that settings name.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn of(settings: Settings, reader: Reader) -> Result<Self, Failures> {
        if settings.mode.value == Mode::Tun && !settings.allow.value.is_empty() {
            return Err(failure::of("env.mode", "a TUN device cannot keep the profile's allow list")
                .seen("programs send packets through a device without asking".to_owned())
                .with_fix(vec!["use --mode userspace, or take `allow` out of the profile".to_owned()])
                .into());
        }
        let (file, warnings) = settings.provider_file(reader)?;
        let tunnel = match file {
            ProviderFile::WgQuick(file) => file.tunnel_config(None).into(),
            ProviderFile::OpenVpn(file) => {
                let OpenVpnProfile { config, answers, .. } = *file;
                TunnelConfig::OpenVpn(Box::new(OpenVpnConfig { client: config, answers: Arc::new(answers) }))
            }
            ProviderFile::Tailscale(config) => TunnelConfig::Tailscale(config),
        };
        Ok(Self {
            name: settings.profile.value.clone(),
            tunnel,
            targets: settings.targets.value.clone(),
            timeout: settings.timeout.value,
            mode: settings.mode.value,
            strict: settings.strict.value,
            warnings,
            settings,
        })
    }

    /// How the engine of a session must be made, but for its packet end.
    pub fn engine_options(&self) -> EngineOptions {
        let allow = &self.settings.allow.value;
        EngineOptions { allow: (!allow.is_empty()).then(|| allow.clone()), ..EngineOptions::default() }
    }
}

/// A value that the program gives.
fn given<T>(value: T) -> Setting<T> {
    Setting::new(value, Origin::Found("the program"))
}
