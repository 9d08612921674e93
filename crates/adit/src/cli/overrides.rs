//! What flags and variables say, for the configuration.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use adit_providers::SecretSource;
use adit_tailscale::AcceptRoutes;

use super::{ConnectArgs, Context, FlagOrigin};
use crate::config::{
    self, Compatible, Failures, Login, Origin, Overrides, Place, Setting, Settings, Tailnet, load,
};
use crate::failure::{self, Failure};

/// The variable that holds targets, one a line.
const TARGETS: &str = "ADIT_TARGETS";

impl Context {
    /// What flags and variables say. `file` is a file given in place of `--config`.
    ///
    /// # Errors
    ///
    /// A flag or variable that names a secret's source holds something else.
    pub fn overrides(&self, connect: &ConnectArgs, file: Option<PathBuf>) -> Result<Overrides, Failure> {
        let global = &self.global;
        let config = match file {
            Some(file) => Some(Setting::new(file, Origin::Flag("the command line"))),
            None => self.given("config", "--config", "ADIT_CONFIG", global.config.clone()),
        };
        let source = |id, flag: &'static str, variable, raw: &Option<super::RawSource>| {
            let Some(setting) = self.given(id, flag, variable, raw.clone()) else { return Ok(None) };
            match setting.value.0.parse::<SecretSource>() {
                Ok(source) => Ok(Some(Setting::new(source, setting.origin))),
                Err(error) => Err(failure::of_problem(error.problem(&setting.origin.to_string()), "")),
            }
        };
        let on = |id, flag, variable, value: bool| self.given(id, flag, variable, value.then_some(true));
        let none = |off: bool| off.then_some(Duration::ZERO);
        Ok(Overrides {
            config,
            profile: self.given("profile", "--profile", "ADIT_PROFILE", global.profile.clone()),
            targets: self.targets(connect),
            timeout: self.given("timeout", "--timeout", "ADIT_TIMEOUT", connect.timeout),
            grace: self.given("no_grace", "--no-grace", "ADIT_NO_GRACE", none(connect.no_grace)),
            mode: self.given("mode", "--mode", "ADIT_MODE", connect.mode),
            strict: on("strict", "--strict", "ADIT_STRICT", connect.strict),
            private_key: source("private_key", "--private-key", "ADIT_PRIVATE_KEY", &connect.private_key)?,
            preshared_key: source(
                "preshared_key",
                "--preshared-key",
                "ADIT_PRESHARED_KEY",
                &connect.preshared_key,
            )?,
            login: Login {
                user_pass: source(
                    "auth_user_pass",
                    "--auth-user-pass",
                    "ADIT_AUTH_USER_PASS",
                    &connect.auth_user_pass,
                )?,
                key_pass: source("key_pass", "--key-pass", "ADIT_KEY_PASS", &connect.key_pass)?,
                challenge: source("challenge", "--challenge", "ADIT_CHALLENGE", &connect.challenge)?,
                challenge_cmd: self.given(
                    "challenge_cmd",
                    "--challenge-cmd",
                    "ADIT_CHALLENGE_CMD",
                    connect.challenge_cmd.clone(),
                ),
                totp: source("totp", "--totp", "ADIT_TOTP", &connect.totp)?,
            },
            tailnet: Tailnet {
                key: source("auth_key", "--auth-key", "ADIT_AUTH_KEY", &connect.auth_key)?
                    .or_else(|| config::secret(&["ADIT_AUTHKEY"])),
                control: self.given(
                    "login_server",
                    "--login-server",
                    "ADIT_LOGIN_SERVER",
                    connect.login_server.clone(),
                ),
                ca_file: self.given("ca_file", "--ca-file", "ADIT_CA_FILE", connect.ca_file.clone()),
                hostname: self.given("hostname", "--hostname", "ADIT_HOSTNAME", connect.hostname.clone()),
                tags: self.given(
                    "tags",
                    "--tag",
                    "ADIT_TAG",
                    (!connect.tags.is_empty()).then(|| connect.tags.clone()),
                ),
                ephemeral: self.given("ephemeral", "--ephemeral", "ADIT_EPHEMERAL", connect.ephemeral),
                routes: self
                    .given("accept_routes", "--accept-routes", "ADIT_ACCEPT_ROUTES", connect.accept_routes)
                    .map(|all| all.map(|all| if all { AcceptRoutes::All } else { AcceptRoutes::None })),
                exit_node: self.given(
                    "exit_node",
                    "--exit-node",
                    "ADIT_EXIT_NODE",
                    connect.exit_node.clone(),
                ),
                browser: on("browser", "--browser", "ADIT_BROWSER", connect.browser),
                ..Tailnet::default()
            },
            compatible: Compatible::read(&|name| std::env::var(name).ok())?,
            race: self.given("race", "--race", "ADIT_RACE", connect.race),
            consume: on("consume", "--consume", "ADIT_CONSUME", connect.consume),
            insecure_perms: on(
                "insecure_perms",
                "--insecure-perms",
                "ADIT_INSECURE_PERMS",
                connect.insecure_perms,
            ),
            state_dir: self.given("state_dir", "--state-dir", "ADIT_STATE_DIR", global.state_dir.clone()),
            sign_in: self.keeps_node(),
            socket: self.given("socket", "--socket", "ADIT_SOCKET", global.socket.clone()),
        })
    }

    /// Finds, reads and merges the configuration of this run. Failures but the last are printed.
    ///
    /// # Errors
    ///
    /// The configuration is missing or wrong.
    pub fn settings(&self, connect: &ConnectArgs, file: Option<PathBuf>) -> Result<Settings, Failure> {
        self.settings_or_all(connect, file).map_err(|failures| self.ui.all_but_last(failures))
    }

    /// Finds, reads and merges the configuration of this run, once: it may be a pipe.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn settings_or_all(
        &self,
        connect: &ConnectArgs,
        file: Option<PathBuf>,
    ) -> Result<Settings, Failures> {
        let read = || {
            let began = Instant::now();
            let settings = self.overrides(connect, file).map_err(Failures::from);
            let settings = settings.and_then(|overrides| load(&overrides, &Place::here()));
            (settings, began.elapsed())
        };
        self.settings.get_or_init(read).0.clone()
    }

    /// How long reading the settings took; zero while they are not read.
    pub(crate) fn reading(&self) -> Duration {
        self.settings.get().map_or(Duration::ZERO, |(_, took)| *took)
    }

    fn given<T>(
        &self,
        id: &str,
        flag: &'static str,
        variable: &'static str,
        value: Option<T>,
    ) -> Option<Setting<T>> {
        let origin = match self.flag_origin(id) {
            Some(FlagOrigin::Environment) => Origin::Environment(variable),
            Some(FlagOrigin::Argument) | None => Origin::Flag(flag),
        };
        value.map(|value| Setting::new(value, origin))
    }

    fn targets(&self, connect: &ConnectArgs) -> Option<Setting<Vec<String>>> {
        if !connect.targets.is_empty() {
            return Some(Setting::new(connect.targets.clone(), Origin::Flag("--target")));
        }
        let value = std::env::var(TARGETS).ok()?;
        let targets: Vec<String> =
            value.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        (!targets.is_empty()).then(|| Setting::new(targets, Origin::Environment(TARGETS)))
    }
}
