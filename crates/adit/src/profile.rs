//! From flags, environment and files to what a session is started with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_intercept::hygiene;
use adit_path::{End, EngineOptions, StackOptions};
use adit_providers::Reader;
use adit_verify::{Stage, StageReport, StageStatus};

#[cfg(feature = "cli")]
use crate::cli::{ConnectArgs, Context};
use crate::config::{
    self, Failures, Mode, OpenVpnProfile, Origin, Overrides, Place, ProviderFile, Setting, Settings,
};
use crate::session::{OpenVpnConfig, TunnelConfig};
use crate::{Failure, environment, failure};

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
    /// The stages that reading it was: `config` and `credential`.
    pub stages: Vec<StageReport>,
}

impl Profile {
    /// The profile that flags, environment and files name. From here on the process holds keys and cannot be dumped.
    ///
    /// # Errors
    /// There is none, or something is wrong with it.
    #[cfg(feature = "cli")]
    pub fn load(context: &Context, connect: &ConnectArgs) -> Result<Self, Failures> {
        let mut settings = context.settings_or_all(connect, None)?;
        settings.ask = context.ui.asks();
        Self::guarded(settings, context.reading())
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
        let began = Instant::now();
        let settings = config::load(&overrides, &Place::here())?;
        Self::guarded(settings, began.elapsed())
    }

    /// Reads secrets after this process has become unreadable for others.
    fn guarded(settings: Settings, reading: Duration) -> Result<Self, Failures> {
        // Best effort: where the system refuses it, the memory is as readable as that of any process.
        if let Err(error) = hygiene::deny_dumps() {
            tracing::debug!(%error, "this process can be dumped");
        }
        let reader = Reader {
            take_fd: hygiene::take_descriptor,
            take_env: hygiene::take_variable,
            ..Reader::default()
        };
        let mut profile = Self::of(settings, reader)?;
        if let Some(config) = profile.stages.first_mut() {
            config.ms += whole_ms(reading);
        }
        Ok(profile)
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
        let began = Instant::now();
        let settings = settings.identified(&reader)?;
        let identified = began.elapsed();
        let (file, warnings) = settings.provider_file(reader)?;
        let secrets = settings.secret_sources();
        let config = StageReport::new(Stage::Config, StageStatus::Ok, whole_ms(identified));
        let credential =
            StageReport::new(Stage::Credential, StageStatus::Ok, whole_ms(began.elapsed() - identified));
        let stages = vec![
            doubted(config.seen("file", settings.config.value.display().to_string()), &warnings),
            credential.seen("from", secrets),
        ];
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
            stages,
        })
    }

    /// How the engine of a session must be made, but for its packet end.
    pub fn engine_options(&self) -> EngineOptions {
        let allow = &self.settings.allow.value;
        EngineOptions {
            end: End::Stack(StackOptions { budget: environment::budget() }),
            allow: (!allow.is_empty()).then(|| allow.clone()),
        }
    }
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A stage with the first of its warnings.
fn doubted(stage: StageReport, warnings: &[Failure]) -> StageReport {
    match warnings.first() {
        Some(first) => StageReport { status: StageStatus::Warn, class: Some(first.class.clone()), ..stage },
        None => stage,
    }
}

/// A value that the program gives.
fn given<T>(value: T) -> Setting<T> {
    Setting::new(value, Origin::Found("the program"))
}
