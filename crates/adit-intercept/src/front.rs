//! A process in front of the supervisor: whoever waits for the program waits for it, and it ends with the program,
//! while the supervisor stays for what the program leaves behind.

use std::io::{self, Read as _};
use std::process::{Command, exit};
use std::thread;

use crate::hygiene;
use crate::sys::signal::{self, Change, Forwarding};

/// Starts the supervisor's process and stands in front of it: signals are passed on to it, and a stop of it is a stop
/// of this process, as a shell expects of a job. Returns the code that the supervisor ends with. A byte that comes over
/// `reports` is the program's code: it ends this process at once, and the supervisor goes on.
///
/// The environment of this process is overwritten once the supervisor has it: secrets stand in one process only.
///
/// # Errors
/// The supervisor cannot be started or waited for.
pub fn stand_in_front(command: &mut Command, mut reports: io::PipeReader) -> io::Result<u8> {
    let forwarding = Forwarding::in_front()?;
    let supervisor = command.spawn()?;
    let pid = i32::try_from(supervisor.id()).map_err(io::Error::other)?;
    let names: Vec<String> = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
    for name in names {
        // Best effort: what cannot be removed was readable before as well.
        let _kept = hygiene::take_variable(&name, true);
    }
    forwarding.to(pid);
    thread::Builder::new().name("adit-front".to_owned()).spawn(move || {
        let mut code = [0];
        if reports.read(&mut code).is_ok_and(|len| len == 1) {
            exit(i32::from(code[0]));
        }
    })?;
    loop {
        match signal::wait(pid)? {
            Change::Exited(code) => return Ok(code as u8),
            Change::Killed(signal) => return Ok((signal as u8).saturating_add(128)),
            Change::Stopped(_) => {
                signal::kill(std::process::id() as i32, libc::SIGSTOP)?;
                signal::kill(pid, libc::SIGCONT)?;
            }
        }
    }
}
