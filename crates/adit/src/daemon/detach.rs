//! `adit up --detach`: the command starts itself again, and returns when the new process has verified the
//! network or has failed.
//!
//! The new process keeps stdin, stdout and stderr until then, so that secrets are read and results printed as
//! usual. Then it lets go of all three: whoever waits for the end of a pipe is not kept waiting by a daemon.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use adit_intercept::hygiene;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::FdFlags;

/// The variable that tells the new process where to report.
const VARIABLE: &str = "ADIT_DETACHED_REPORT";

/// How starting a detached process ended.
#[derive(Debug)]
pub enum Detached {
    /// It runs and has verified the network.
    Running {
        /// Its number.
        pid: u32,
    },
    /// It ended; what it had to say it has said.
    Ended(ExitStatus),
}

impl Detached {
    /// Starts `command`, which is this program again, and waits until it reports or ends.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let (mut reports, report) = io::pipe()?;
        // The one descriptor besides the standard ones that the new process inherits.
        rustix::io::fcntl_setfd(&report, FdFlags::empty())?;
        let mut child = command.env(VARIABLE, report.as_raw_fd().to_string()).spawn()?;
        drop(report);
        let mut byte = [0];
        match reports.read(&mut byte)? {
            0 => Ok(Self::Ended(child.wait()?)),
            _ => Ok(Self::Running { pid: child.id() }),
        }
    }
}

/// The code for the end of a detached process: its own, or 128 and its signal.
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// The process that waits for our report.
#[derive(Debug)]
pub struct Parent(File);

impl Parent {
    /// The parent, if this process was started by [`Detached::start`]. The variable is not handed on.
    pub fn find() -> io::Result<Option<Self>> {
        let Ok(number) = std::env::var(VARIABLE) else { return Ok(None) };
        let number = number.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(Some(Self(hygiene::take_descriptor(number)?.into())))
    }

    /// Whether the parent is gone, so that nobody hears how the start goes.
    pub fn is_gone(&self) -> bool {
        let mut polled = [PollFd::new(&self.0, PollFlags::empty())];
        let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&none)).is_ok() && polled[0].revents().contains(PollFlags::ERR)
    }

    /// Reports success and lets go of the standard streams. stderr goes to the log from here on.
    pub fn release(mut self, log: &Path) -> io::Result<()> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        let log = open_log(log)?;
        io::stdout().flush()?;
        rustix::stdio::dup2_stdin(null.as_fd())?;
        rustix::stdio::dup2_stdout(null.as_fd())?;
        rustix::stdio::dup2_stderr(log.as_fd())?;
        self.0.write_all(&[1])
    }
}

/// Opens a fresh log that only this user can read, and never through a link that somebody else has laid.
fn open_log(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
}

/// Leaves the terminal and its signals behind.
pub fn become_session_leader() -> io::Result<()> {
    rustix::process::setsid().map(drop).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::control::testing::Scratch;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_parent_learns_of_success_while_the_child_runs_on() {
        let mut command = shell("printf 1 > /proc/self/fd/$ADIT_DETACHED_REPORT; exec sleep 30");
        match Detached::start(&mut command).unwrap() {
            Detached::Running { pid } => {
                let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            }
            Detached::Ended(status) => panic!("{status}"),
        }
    }

    #[test]
    fn the_parent_passes_the_code_of_a_failure_on() {
        for (script, code) in [("exit 31", 31), ("kill -KILL $$", 137)] {
            match Detached::start(&mut shell(script)).unwrap() {
                Detached::Ended(status) => assert_eq!(exit_code(status), code),
                Detached::Running { .. } => panic!("{script} reported"),
            }
        }
    }

    #[test]
    fn the_child_notices_that_its_parent_is_gone() {
        let (reader, writer) = io::pipe().unwrap();
        let parent = Parent(File::from(std::os::fd::OwnedFd::from(writer)));
        assert!(!parent.is_gone());
        drop(reader);
        assert!(parent.is_gone());
    }

    #[test]
    fn a_log_is_private_and_not_written_through_a_link() {
        let scratch = Scratch::new("log");
        let (victim, log) = (scratch.path().join("victim"), scratch.path().join("log"));
        std::fs::write(&victim, "precious").unwrap();
        symlink(&victim, &log).unwrap();
        open_log(&log).unwrap().write_all(b"line\n").unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(std::fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
