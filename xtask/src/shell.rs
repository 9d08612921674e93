//! Running commands from the workspace root, and saying so.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The outcome of a task: a failure is a sentence for a person.
pub(crate) type Result<T = ()> = std::result::Result<T, String>;

/// Where the tasks run, and whether CI watches.
pub(crate) struct Shell {
    root: PathBuf,
    started: Instant,
    ci: bool,
}

impl Shell {
    pub(crate) fn new() -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().unwrap_or(manifest).to_path_buf();
        let ci = std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1");
        Self { root, started: Instant::now(), ci }
    }

    /// A path below the workspace root.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Whether a missing peer is a failure instead of a skip.
    pub(crate) fn ci(&self) -> bool {
        self.ci
    }

    /// Announces a step, with the time since the task began.
    pub(crate) fn step(&self, title: &str) {
        println!("\n── {title} ({} s)", self.started.elapsed().as_secs());
    }

    /// A command that runs in the workspace root.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).stdin(Stdio::null());
        command
    }

    /// Cargo with arguments; the same toolchain that runs this task, unless an argument `+toolchain` names one.
    pub(crate) fn cargo<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut arguments = arguments.into_iter().peekable();
        let named = arguments.peek().is_some_and(|first| first.starts_with('+'));
        let program = match std::env::var_os("CARGO") {
            Some(cargo) if !named => cargo,
            _ => "cargo".into(),
        };
        let mut command = self.command(program);
        if named {
            // `cargo xtask` sets these for its own toolchain; the rustup proxy must choose again.
            command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
        }
        command.args(arguments);
        command
    }

    /// Runs a command; anything but success is a failure.
    pub(crate) fn run(&self, command: &mut Command) -> Result {
        let text = describe(command);
        println!("$ {text}");
        let status = command.status().map_err(|error| format!("`{text}` did not start: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("`{text}` failed: {status}")) }
    }

    /// Runs a command and returns its standard output.
    pub(crate) fn output(&self, command: &mut Command) -> Result<String> {
        let text = describe(command);
        let output = command.output().map_err(|error| format!("`{text}` did not start: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("`{text}` failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }

    /// Runs a command, prints its standard output as it comes and shows each line to `see`.
    pub(crate) fn watch(&self, command: &mut Command, mut see: impl FnMut(&str)) -> Result {
        let text = describe(command);
        println!("$ {text}");
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("`{text}` did not start: {error}"))?;
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).split(b'\n') {
                let line = line.map_err(|error| format!("reading from `{text}`: {error}"))?;
                let line = String::from_utf8_lossy(&line);
                println!("{line}");
                see(&line);
            }
        }
        let status = child.wait().map_err(|error| format!("waiting for `{text}`: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("`{text}` failed: {status}")) }
    }

    /// Where a program is found in `PATH` (and in the administrator's directories, which a plain user's `PATH` lacks).
    pub(crate) fn find(&self, program: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let extra = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
        std::env::split_paths(&path)
            .chain(extra)
            .map(|directory| directory.join(program))
            .find(|path| path.is_file())
    }

    /// Whether this process is root.
    pub(crate) fn is_root(&self) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))
            .and_then(|ids| ids.split_whitespace().nth(1))
            .is_some_and(|effective| effective == "0")
    }
}

fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut words = vec![program.to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}
