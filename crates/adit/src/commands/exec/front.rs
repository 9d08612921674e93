//! Two processes for one `exec`: the one that the caller waits for ends with the program; the one that has the network
//! stays as long as something that the program left in the background needs it.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::Command;

use adit_intercept::{hygiene, stand_in_front};
use rustix::io::FdFlags;

use crate::{Failure, failure};

/// The variable that tells the supervisor where to report.
const VARIABLE: &str = "ADIT_EXEC_REPORT";

/// The process in front of us.
#[derive(Debug)]
pub(super) struct Front(std::fs::File);

impl Front {
    /// The process in front of us, if this one was started by [`start`]. Programs inherit nothing of it.
    pub(super) fn find() -> Result<Option<Self>, Failure> {
        let Ok(number) = std::env::var(VARIABLE) else { return Ok(None) };
        let number = number.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let report = number.and_then(hygiene::take_descriptor).map_err(|error| failed(&error))?;
        Ok(Some(Self(report.into())))
    }

    /// Ends the process in front of us with the program's code, and leaves its terminal, session and streams.
    pub(super) fn leave(mut self, code: u8) -> io::Result<()> {
        // A group leader cannot; it has no terminal to leave that would be somebody else's.
        let _already = rustix::process::setsid();
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(null.as_fd())?;
        rustix::stdio::dup2_stdout(null.as_fd())?;
        rustix::stdio::dup2_stderr(null.as_fd())?;
        self.0.write_all(&[code])
    }
}

/// Starts this program again and stands in front of it; returns the code of what it runs.
pub(super) fn start() -> Result<u8, Failure> {
    let started = || {
        let (reports, report) = io::pipe()?;
        // The one descriptor besides those of our caller that the supervisor inherits.
        rustix::io::fcntl_setfd(&report, FdFlags::empty())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1)).env(VARIABLE, report.as_raw_fd().to_string());
        let code = stand_in_front(&mut command, reports);
        drop(report);
        code
    };
    started().map_err(|error| failed(&error))
}

fn failed(error: &io::Error) -> Failure {
    failure::internal("the supervisor of the program cannot be started").seen(error.to_string())
}
