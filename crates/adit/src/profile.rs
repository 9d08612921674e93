//! From flags and files to what a session is started with.

use std::path::Path;
use std::time::Duration;

use adit_providers::wgquick::{Supplied, WgQuick};
use adit_providers::{Reader, SecretKey, SecretSource};

use crate::Failure;
use crate::cli::{ConnectArgs, Context, Mode, RawSource};
use crate::failure;

/// How long connecting and verifying may take together, unless said otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Everything that a session is started with, checked.
#[derive(Debug)]
pub struct Profile {
    /// The profile's name, for messages and for the control socket.
    pub name: String,
    /// The tunnel.
    pub wireguard: adit_wireguard::Config,
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
}

impl Profile {
    /// The profile that flags, environment and files name.
    ///
    /// # Errors
    /// There is none, or something is wrong with it.
    pub fn load(context: &Context, connect: &ConnectArgs) -> Result<Self, Failure> {
        let Some(path) = &context.global.config else {
            return Err(failure::of("config.missing", "no configuration was given")
                .with_fix(vec!["name one: --config lab.conf".to_owned()]));
        };
        Self::from_wg_quick(path, connect)
    }

    /// Reads a wg-quick file as a profile of its own, named after the file.
    ///
    /// # Errors
    /// The first thing that is wrong with the file, a key or a flag.
    pub fn from_wg_quick(path: &Path, connect: &ConnectArgs) -> Result<Self, Failure> {
        let file = path.display().to_string();
        let reader =
            Reader { insecure_perms: connect.insecure_perms, consume: connect.consume, ..Reader::default() };
        let supplied = Supplied {
            private_key: key(&reader, connect.private_key.as_ref(), "--private-key", "the private key")?,
            preshared_key: key(
                &reader,
                connect.preshared_key.as_ref(),
                "--preshared-key",
                "the preshared key",
            )?,
        };
        let (text, exposed) =
            reader.read_file(path, "the profile").map_err(|problem| failure::of_problem(problem, &file))?;
        let parsed = WgQuick::parse_bytes(text.expose(), &supplied).map_err(|problems| {
            let mut failures = problems.0.into_iter().map(|problem| failure::of_problem(problem, &file));
            failures.next().unwrap_or_else(|| failure::internal("a file was refused without a reason"))
        })?;
        let warnings = exposed.into_iter().chain(parsed.warnings.iter().cloned());
        let warnings: Vec<_> = warnings.map(|problem| failure::of_problem(problem, &file)).collect();
        if connect.strict
            && let Some(first) = warnings.first()
        {
            return Err(first.clone());
        }
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        Ok(Self {
            name: stem.unwrap_or_else(|| "wireguard".to_owned()),
            wireguard: parsed.tunnel_config(None),
            targets: connect.targets.clone(),
            timeout: connect.timeout.unwrap_or(DEFAULT_TIMEOUT),
            mode: connect.mode.unwrap_or(Mode::Auto),
            strict: connect.strict,
            warnings,
        })
    }
}

/// Reads a WireGuard key from where a flag says.
fn key(
    reader: &Reader,
    source: Option<&RawSource>,
    flag: &str,
    what: &str,
) -> Result<Option<SecretKey>, Failure> {
    let Some(RawSource(text)) = source else { return Ok(None) };
    let source: SecretSource = text
        .parse()
        .map_err(|error: adit_providers::SourceError| failure::of_problem(error.problem(flag), flag))?;
    let (secret, _) = reader.read(&source, what).map_err(|problem| failure::of_problem(problem, flag))?;
    let key = secret.expose_text().map(str::trim).and_then(SecretKey::from_base64);
    let wrong = || failure::of("wg.key.format", format!("{what} from {source} is not 32 bytes in base64"));
    key.ok_or_else(wrong).map(Some)
}
