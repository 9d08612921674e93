//! The line at the terminal that moves while something is waited for. A process has one terminal, so there is one line.

use std::io::{self, Write as _};
use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::termios::tcgetwinsize;

const FRAMES: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
/// The time between two frames.
const TICK: Duration = Duration::from_millis(100);
/// To the line's beginning, and nothing behind it.
const ERASE: &str = "\r\x1b[K";
/// The width of a terminal that does not tell it.
const WIDTH: u16 = 80;

static STATE: Mutex<State> = Mutex::new(State { line: None, frame: 0, drawn: false, questions: 0 });
static CHANGED: Condvar = Condvar::new();
static THREAD: Once = Once::new();

struct State {
    line: Option<Line>,
    frame: usize,
    /// Whether the line stands on the terminal.
    drawn: bool,
    /// Questions that a person is answering: nothing moves meanwhile.
    questions: u32,
}

struct Line {
    text: String,
    since: Instant,
    limit: Duration,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows the line, in place of an earlier one, until [`hide`].
pub(crate) fn show(text: String, since: Instant, limit: Duration) {
    THREAD.call_once(|| {
        // Without the thread nothing moves, and everything else works.
        let _still = thread::Builder::new().name("adit-moving".to_owned()).spawn(run);
    });
    state().line = Some(Line { text, since, limit });
    CHANGED.notify_one();
}

/// Takes the line away.
pub(crate) fn hide() {
    let mut state = state();
    state.line = None;
    state.erase();
}

/// Writes to a standard stream where the line may stand; it is drawn again below.
pub(crate) fn aside<T>(write: impl FnOnce() -> T) -> T {
    let mut state = state();
    state.erase();
    write()
}

/// A question to a person. Nothing moves until it is dropped.
#[derive(Debug)]
pub(crate) struct Question;

impl Question {
    pub(crate) fn begin() -> Self {
        let mut state = state();
        state.questions += 1;
        state.erase();
        Self
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let mut state = state();
        state.questions = state.questions.saturating_sub(1);
        CHANGED.notify_one();
    }
}

fn run() {
    let mut state = state();
    loop {
        let still = state.line.is_none() || state.questions > 0;
        if still {
            state = CHANGED.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        state.draw();
        let waited = CHANGED.wait_timeout(state, TICK);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

impl State {
    fn draw(&mut self) {
        let Some(line) = &self.line else { return };
        self.frame = (self.frame + 1) % FRAMES.len();
        let columns = tcgetwinsize(io::stderr()).map_or(WIDTH, |size| size.ws_col);
        let text = line.render(FRAMES[self.frame], if columns == 0 { WIDTH } else { columns });
        // A terminal that has gone is nobody's loss.
        let mut stderr = io::stderr().lock();
        let _gone = write!(stderr, "\r{text}\x1b[K").and_then(|()| stderr.flush());
        self.drawn = true;
    }

    fn erase(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let mut stderr = io::stderr().lock();
            let _gone = stderr.write_all(ERASE.as_bytes()).and_then(|()| stderr.flush());
        }
    }
}

impl Line {
    /// The line in at most `columns` less one: a longer one would wrap, and could not be erased.
    fn render(&self, frame: char, columns: u16) -> String {
        let (elapsed, limit) = (self.since.elapsed().as_secs(), self.limit.as_secs());
        let time = format!("  {elapsed} s of {limit} s");
        let room = usize::from(columns).saturating_sub(3 + time.len());
        let text: String = self.text.chars().filter(|c| !c.is_control()).take(room).collect();
        format!("{frame} {text}{time}").chars().take(usize::from(columns).saturating_sub(1)).collect()
    }
}

/// A writer of log lines that does not run into the moving line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beside;

impl io::Write for Beside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        aside(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_never_reaches_the_last_column() {
        let line = |text: &str| Line {
            text: text.to_owned(),
            since: Instant::now(),
            limit: Duration::from_secs(10),
        };
        assert_eq!(line("waiting for dns").render('⠋', 80), "⠋ waiting for dns  0 s of 10 s");
        for columns in [1, 5, 20, 40] {
            let text = line(&"ünï\x1bcode".repeat(40)).render('⠋', columns);
            assert!(
                text.chars().count() < usize::from(columns) && !text.contains('\x1b'),
                "{columns}: {text}"
            );
        }
    }
}
