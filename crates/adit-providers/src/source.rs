//! Where secrets come from: files, descriptors, variables, standard input, commands. Never from argv.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{Exposure, Problem, Secret, exposure, placeholder};

/// No credential is larger; a larger input is a mistake.
const LIMIT: u64 = 256 * 1024;

/// How long a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// `file:PATH`
    File(PathBuf),
    /// `fd:N`, a descriptor that the parent process left open.
    Fd(i32),
    /// `env:NAME`
    Env(String),
    /// `-`
    Stdin,
    /// `command:SHELL COMMAND`, whose output is the secret.
    Command(String),
}

/// Why a text is no source. The text is not repeated: it may be the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It has none of the forms; most likely it is the secret itself.
    #[error("it is no source of a secret; a secret itself never stands here")]
    Literal,
    /// It looks like a path.
    #[error("a path needs `file:` in front of it")]
    Path,
    /// It is a template that was not filled in.
    #[error("it is a placeholder that was not filled in")]
    Placeholder,
    /// What follows `fd:` is no descriptor number.
    #[error("what follows `fd:` is not a descriptor number")]
    Fd,
    /// Nothing follows the colon.
    #[error("nothing follows the colon")]
    Empty,
}

impl SourceError {
    /// The problem that a person sees; `place` says where the text stood, like `--private-key`.
    pub fn problem(&self, place: &str) -> Problem {
        let class = match self {
            Self::Placeholder => "credential.placeholder",
            Self::Literal => "credential.argv",
            Self::Path | Self::Fd | Self::Empty => "config.value",
        };
        Problem::new(class, format!("{place} cannot be used: {self}"))
            .fix("write file:PATH, fd:N, env:NAME, command:…, or - for standard input")
    }
}

impl FromStr for SecretSource {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        if text == "-" {
            return Ok(Self::Stdin);
        }
        if placeholder(text).is_some() {
            return Err(SourceError::Placeholder);
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            let path = ["/", "./", "../", "~/"].iter().any(|start| text.starts_with(start));
            return Err(if path { SourceError::Path } else { SourceError::Literal });
        };
        let source = match scheme {
            "file" => Self::File(PathBuf::from(rest)),
            "fd" => Self::Fd(rest.parse().ok().filter(|fd| *fd >= 0).ok_or(SourceError::Fd)?),
            "env" => Self::Env(rest.to_owned()),
            "command" => Self::Command(rest.to_owned()),
            _ => return Err(SourceError::Literal),
        };
        if rest.trim().is_empty() { Err(SourceError::Empty) } else { Ok(source) }
    }
}

impl fmt::Display for SecretSource {
    /// The form on the command line. Of a command only the program is shown: its arguments may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Fd(fd) => write!(f, "fd:{fd}"),
            Self::Env(name) => write!(f, "env:{name}"),
            Self::Stdin => f.write_str("-"),
            Self::Command(command) => {
                write!(f, "command:{} …", command.split_whitespace().next().unwrap_or(""))
            }
        }
    }
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its path.
    pub path: PathBuf,
    /// Its content.
    pub content: Secret,
    /// Who else can read it.
    pub exposure: Exposure,
}

/// Reads secrets, with the rules of this run.
///
/// The two functions are what safe code cannot do as well: take a descriptor over, and erase a variable from the
/// process's initial environment. The defaults reopen the descriptor and leave the variable.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// Accept files that others can read, with a warning.
    pub insecure_perms: bool,
    /// Remove the secret from where it came, before anything else happens.
    pub consume: bool,
    /// Takes over the descriptor with this number.
    pub take_fd: fn(i32) -> io::Result<OwnedFd>,
    /// Reads a variable; with `true`, removes it from the environment and from `/proc/self/environ`.
    pub take_env: fn(&str, bool) -> io::Result<Option<Vec<u8>>>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            insecure_perms: false,
            consume: false,
            take_fd: |fd| File::open(format!("/proc/self/fd/{fd}")).map(OwnedFd::from),
            take_env: |name, _| Ok(std::env::var_os(name).map(|value| value.as_bytes().to_vec())),
        }
    }
}

impl Reader {
    /// Reads a secret; `what` names it in problems, like `the private key`. Also returns what is doubtful.
    ///
    /// # Errors
    ///
    /// It cannot be read, is empty or a placeholder, others can read it, or it cannot be removed although that
    /// was asked for.
    pub fn read(&self, source: &SecretSource, what: &str) -> Result<(Secret, Option<Problem>), Problem> {
        let missing = |why: String| Problem::new("credential.missing", format!("{what} is missing: {why}"));
        let (secret, warning) = match source {
            SecretSource::File(path) => self.read_file(path, what)?,
            SecretSource::Fd(fd) => {
                let file = (self.take_fd)(*fd).map(File::from).map_err(|error| {
                    missing(format!("descriptor {fd} cannot be read"))
                        .seen(error.to_string())
                        .fix(format!("open it in the calling shell: adit … {fd}< FILE"))
                })?;
                (bounded(file).map_err(|e| e.into_problem(what, source))?, None)
            }
            SecretSource::Env(name) => (self.read_env(name, what)?, None),
            SecretSource::Stdin => {
                (bounded(io::stdin().lock()).map_err(|e| e.into_problem(what, source))?, None)
            }
            SecretSource::Command(command) => (read_command(command, what, source)?, None),
        };
        if secret.is_blank() {
            return Err(missing(format!("{source} is empty")).fix(
                "check that the secret is available to this job; forks and pull requests often get none",
            ));
        }
        if let Some(found) = secret.expose_text().and_then(placeholder) {
            return Err(Problem::new(
                "credential.placeholder",
                format!("{what} from {source} is the placeholder `{found}`"),
            )
            .fix("the template was not filled in: check the name of the secret and where it is available"));
        }
        Ok((secret, warning))
    }

    fn read_file(&self, path: &Path, what: &str) -> Result<(Secret, Option<Problem>), Problem> {
        let opened = self.open(path, what)?;
        let warning = self.admit(&opened, what)?;
        Ok((opened.content, warning))
    }

    /// Reads a file without judging who else can read it: for a file of which it is not known yet whether it
    /// holds a secret. [`Reader::admit`] follows if it does.
    ///
    /// # Errors
    ///
    /// It cannot be read (`credential.file`).
    pub fn open(&self, path: &Path, what: &str) -> Result<Opened, Problem> {
        let failed = |error: io::Error| {
            Problem::new("credential.file", format!("{what} cannot be read from {}", path.display()))
                .seen(error.to_string())
                .fix("check the path and the owner of the file")
        };
        let mut file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        let exposure = exposure(&file, path).map_err(failed)?;
        let content =
            bounded(&mut file).map_err(|e| e.into_problem(what, &SecretSource::File(path.to_owned())))?;
        Ok(Opened { path: path.to_owned(), content, exposure })
    }

    /// Judges who else can read an opened file with a secret in it, and removes it if secrets are consumed.
    ///
    /// # Errors
    ///
    /// Others can read it, or it cannot be removed.
    pub fn admit(&self, opened: &Opened, what: &str) -> Result<Option<Problem>, Problem> {
        let path = &opened.path;
        let warning = opened.exposure.judge(path, self.insecure_perms)?;
        if self.consume {
            consume_file(path).map_err(|error| {
                Problem::new(
                    "credential.file",
                    format!("{} cannot be removed after reading {what}", path.display()),
                )
                .seen(error.to_string())
                .fix("leave `consume` away where the file is on a read-only mount")
                .fix("or copy the secret to a place that you may write to")
            })?;
        }
        Ok(warning)
    }

    fn read_env(&self, name: &str, what: &str) -> Result<Secret, Problem> {
        match (self.take_env)(name, self.consume) {
            Ok(Some(value)) => Ok(Secret::new(value)),
            Ok(None) => Err(Problem::new(
                "credential.missing",
                format!("{what} is missing: the variable {name} is not set"),
            )
            .fix("export it, and check that it is available to this job")),
            Err(error) => Err(Problem::new(
                "credential.file",
                format!("the variable {name} cannot be removed after reading"),
            )
            .seen(error.to_string())),
        }
    }
}

/// Overwrites, truncates and unlinks.
fn consume_file(path: &Path) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.is_file() {
        let length = file.metadata()?.len().min(LIMIT);
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&vec![0; length as usize])?;
        file.set_len(0)?;
    }
    fs::remove_file(path)
}

enum ReadError {
    TooLarge,
    Io(io::Error),
}

impl ReadError {
    fn into_problem(self, what: &str, source: &SecretSource) -> Problem {
        let problem = Problem::new("credential.file", format!("{what} cannot be read from {source}"));
        match self {
            Self::TooLarge => {
                problem.seen(format!("it is larger than {LIMIT} bytes")).fix("name the right file")
            }
            Self::Io(error) => problem.seen(error.to_string()).fix("check the source"),
        }
    }
}

/// Reads to the end, up to the limit, into memory that is cleared when it goes.
fn bounded(mut input: impl Read) -> Result<Secret, ReadError> {
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(4096));
    let mut chunk = zeroize::Zeroizing::new([0u8; 4096]);
    loop {
        match input.read(chunk.as_mut_slice()) {
            Ok(0) => return Ok(Secret::new(std::mem::take(&mut *bytes))),
            Ok(n) if bytes.len() as u64 + n as u64 > LIMIT => return Err(ReadError::TooLarge),
            Ok(n) => append(&mut bytes, &chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ReadError::Io(error)),
        }
    }
}

/// Appends without leaving a copy behind when the buffer moves.
fn append(bytes: &mut zeroize::Zeroizing<Vec<u8>>, more: &[u8]) {
    if bytes.capacity() < bytes.len() + more.len() {
        let mut larger = zeroize::Zeroizing::new(Vec::with_capacity((bytes.len() + more.len()) * 2));
        larger.extend_from_slice(bytes);
        std::mem::swap(bytes, &mut larger);
    }
    bytes.extend_from_slice(more);
}

fn read_command(command: &str, what: &str, source: &SecretSource) -> Result<Secret, Problem> {
    output_of(command, &[], what, source)
}

/// Runs a shell command with further variables; its output is a secret.
///
/// # Errors
///
/// It cannot be run, fails, or takes too long.
pub(crate) fn run(command: &str, variables: &[(&str, &str)], what: &str) -> Result<Secret, Problem> {
    output_of(command, variables, what, &SecretSource::Command(command.to_owned()))
}

fn output_of(
    command: &str,
    variables: &[(&str, &str)],
    what: &str,
    source: &SecretSource,
) -> Result<Secret, Problem> {
    let failed = |why: String| {
        Problem::new("credential.missing", format!("{what} is missing: {source} failed"))
            .seen(why)
            .fix("run the command by itself and see what it prints")
    };
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        .arg(OsStr::new(command))
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let result = command_output(&mut child, what, source);
    if result.is_err() {
        // It may have ended by itself; either way nothing is left behind.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    let secret = result?;
    if status.success() { Ok(secret) } else { Err(failed(status.to_string())) }
}

fn command_output(child: &mut Child, what: &str, source: &SecretSource) -> Result<Secret, Problem> {
    let Some(stdout) = child.stdout.take() else { return Ok(Secret::new(Vec::new())) };
    let patient = Patient { inner: stdout, until: Instant::now() + COMMAND_TIMEOUT };
    bounded(patient).map_err(|error| error.into_problem(what, source))
}

/// A pipe that is read until a deadline.
struct Patient {
    inner: std::process::ChildStdout,
    until: Instant,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(&self.inner, PollFlags::IN)];
        if poll(&mut fds, Some(&timeout))? == 0 {
            let message = format!("no end of its output within {} s", COMMAND_TIMEOUT.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        self.inner.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A directory for one test, removed at its end.
    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn directory(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("adit-source-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn file(directory: &Path, name: &str, mode: u32, content: &str) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn sources_are_read_in_their_forms_and_literals_are_refused_unseen() {
        for (text, source) in [
            ("file:/run/key", SecretSource::File("/run/key".into())),
            ("fd:3", SecretSource::Fd(3)),
            ("env:WG_KEY", SecretSource::Env("WG_KEY".to_owned())),
            ("-", SecretSource::Stdin),
            ("command:pass show vpn", SecretSource::Command("pass show vpn".to_owned())),
        ] {
            assert_eq!(text.parse(), Ok(source));
        }
        for (text, error) in [
            ("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=", SourceError::Literal),
            ("hunter2:canary", SourceError::Literal),
            ("/run/key", SourceError::Path),
            ("fd:x", SourceError::Fd),
            ("fd:-1", SourceError::Fd),
            ("env:", SourceError::Empty),
            ("{{ secrets.KEY }}", SourceError::Placeholder),
        ] {
            assert_eq!(text.parse::<SecretSource>(), Err(error.clone()));
            assert!(!error.problem("--private-key").to_string().contains("canary"));
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let directory = directory("exposed");
        let path = file(&directory.0, "key", 0o640, "secret\n");
        let source = SecretSource::File(path.clone());
        let refused = Reader::default().read(&source, "the key");
        match exposure(&File::open(&path).unwrap(), &path).unwrap() {
            Exposure::Tolerated { why, .. } => assert_eq!(refused.unwrap().1.unwrap().evidence[1], why),
            _ => assert_eq!(refused.unwrap_err().class, "credential.permissions"),
        }
        let reader = Reader { insecure_perms: true, ..Reader::default() };
        let (secret, warning) = reader.read(&source, "the key").unwrap();
        assert_eq!(secret.expose_text(), Some("secret"));
        assert!(warning.is_some());
    }

    #[test]
    fn a_consumed_file_is_gone_and_its_blocks_are_empty() {
        let directory = directory("consumed");
        let path = file(&directory.0, "key", 0o600, "canary-5d1f");
        let mut witness = File::open(&path).unwrap();
        let reader = Reader { consume: true, ..Reader::default() };
        let (secret, _) = reader.read(&SecretSource::File(path.clone()), "the key").unwrap();
        assert_eq!(secret.expose(), b"canary-5d1f");
        assert!(!path.exists());
        let mut left = Vec::new();
        witness.read_to_end(&mut left).unwrap();
        assert!(left.is_empty());
    }

    #[test]
    fn empty_values_and_placeholders_are_missing_credentials() {
        let directory = directory("empty");
        for (content, class) in
            [(" \n", "credential.missing"), ("{{ secrets.KEY }}\n", "credential.placeholder")]
        {
            let path = file(&directory.0, "key", 0o600, content);
            let problem = Reader::default().read(&SecretSource::File(path), "the key").unwrap_err();
            assert_eq!(problem.class, class);
        }
        let problem =
            Reader::default().read(&SecretSource::Env("ADIT_TEST_UNSET".to_owned()), "the key").unwrap_err();
        assert_eq!(problem.class, "credential.missing");
        assert!(problem.summary.contains("ADIT_TEST_UNSET is not set"));
    }

    #[test]
    fn a_command_gives_its_output_or_its_failure() {
        let read =
            |command: &str| Reader::default().read(&SecretSource::Command(command.to_owned()), "the key");
        assert_eq!(read("printf hunter2").unwrap().0.expose(), b"hunter2");
        let problem = read("echo partial; exit 3").unwrap_err();
        assert_eq!(problem.class, "credential.missing");
        assert!(problem.evidence[0].contains('3'));
        assert!(read("head -c 1000000 /dev/zero").unwrap_err().evidence[0].contains("larger than"));
    }
}
