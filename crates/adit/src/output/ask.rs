//! Questions to the person at the terminal.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::moving::Question;

/// No answer is longer.
const MAX_ANSWER: usize = 4096;

/// Asks at the controlling terminal and waits for a line. Without `echo` nothing of it is shown.
///
/// # Errors
/// There is no terminal, or the person gave up (`Interrupted`).
pub(crate) fn ask(question: &str, echo: bool) -> io::Result<Zeroizing<String>> {
    let _nothing_moves = Question::begin();
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    // A question may come from a server: nothing in it moves the cursor.
    let question: String = question.chars().filter(|character| !character.is_control()).collect();
    let answer = {
        // Before the question is seen: an answer may come at once.
        let _hidden = if echo { None } else { Some(Hidden::begin(&terminal)?) };
        write!(&terminal, "{question} ")?;
        line(&terminal)
    };
    if !echo {
        writeln!(&terminal)?;
    }
    answer
}

/// A terminal that shows nothing and sends no signals, until it is dropped: a signal would end us before.
struct Hidden<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn begin(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(terminal, OptionalActions::Now, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // A terminal that has gone needs no restoring.
        let _gone = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Reads a line, with the editing keys of a terminal that does not edit itself.
fn line(mut terminal: &File) -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
    let mut byte = [0];
    loop {
        match (terminal.read(&mut byte)?, byte[0]) {
            (0, _) | (_, 0x03 | 0x04) => return Err(io::ErrorKind::Interrupted.into()),
            (_, b'\n' | b'\r') => break,
            (_, 0x08 | 0x7f) => drop(bytes.pop()),
            (_, 0x15) => bytes.clear(),
            (_, byte) if bytes.len() < MAX_ANSWER => bytes.push(byte),
            _ => {}
        }
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}
