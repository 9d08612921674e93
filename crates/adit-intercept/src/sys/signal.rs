//! Signals of the process that supervises a program.

use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use super::check;

/// The process that gets the signals which are forwarded; 0 for none.
static TARGET: AtomicI32 = AtomicI32::new(0);
/// Signals that came before there was a process to get them, one bit each.
static PENDING: AtomicU64 = AtomicU64::new(0);

/// Signals of the terminal: they reach the program itself, which decides what they mean.
const FROM_TERMINAL: [i32; 3] = [libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP];
/// Those of them that end a process.
const INTERRUPTIONS: [i32; 2] = [libc::SIGINT, libc::SIGQUIT];
/// Signals meant for us which the program must get.
const FORWARDED: [i32; 4] = [libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];

/// While it lives, signals of the terminal do nothing to this process, and others are forwarded to the program.
///
/// Handlers and not `SIG_IGN`, because an ignored signal stays ignored over `execve` and a handler does not; a
/// signal that our own caller ignores (`nohup`) is left alone.
#[derive(Debug)]
pub(crate) struct Forwarding {
    previous: Vec<(i32, Action)>,
}

struct Action(libc::sigaction);

impl std::fmt::Debug for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Action").field(&self.0.sa_sigaction).finish()
    }
}

impl Forwarding {
    pub(crate) fn start() -> io::Result<Self> {
        TARGET.store(0, Ordering::SeqCst);
        PENDING.store(0, Ordering::SeqCst);
        let mut this = Self { previous: Vec::new() };
        for signal in FROM_TERMINAL {
            this.handle(signal, nothing)?;
        }
        for signal in FORWARDED {
            this.handle(signal, forward)?;
        }
        Ok(this)
    }

    /// For the process in front of one that does the above: interruptions are passed on as well, because that process
    /// decides what they mean before there is a program. One from the terminal reaches it twice, which is no more.
    pub(crate) fn in_front() -> io::Result<Self> {
        let mut this = Self::start()?;
        for signal in INTERRUPTIONS {
            this.handle(signal, forward)?;
        }
        Ok(this)
    }

    /// Names the process that gets the signals, also those that have come already.
    pub(crate) fn to(&self, pid: i32) {
        TARGET.store(pid, Ordering::SeqCst);
        deliver(pid);
    }

    fn handle(&mut self, signal: i32, handler: extern "C" fn(i32)) -> io::Result<()> {
        // SAFETY: all-zero bytes are a valid value of this plain structure.
        let mut previous: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: `previous` is writable for the call.
        check(unsafe { libc::sigaction(signal, ptr::null(), &raw mut previous) })?;
        if previous.sa_sigaction == libc::SIG_IGN {
            return Ok(());
        }
        // SAFETY: all-zero bytes are a valid value of this plain structure, with an empty signal mask.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = handler as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handlers call only functions that are safe within a signal handler (signal-safety(7)).
        check(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })?;
        self.previous.push((signal, Action(previous)));
        Ok(())
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        TARGET.store(0, Ordering::SeqCst);
        discard_from_terminal();
        for (signal, previous) in self.previous.iter().rev() {
            // SAFETY: the action is the one that the kernel gave us for this signal.
            unsafe { libc::sigaction(*signal, &raw const previous.0, ptr::null_mut()) };
        }
        // What was meant for a program that never came is meant for us.
        // SAFETY: a system call without arguments.
        deliver(unsafe { libc::getpid() });
    }
}

/// Takes the signals of the terminal that came with those which ended the program, and which the thread that the
/// kernel chose has not seen yet: under the restored disposition they would end this process as well.
fn discard_from_terminal() {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the sets are plain values that are initialised before use, and every pointer lives across its call.
    unsafe {
        let (mut set, mut before) = (mem::zeroed(), mem::zeroed());
        libc::sigemptyset(&raw mut set);
        for signal in FROM_TERMINAL {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
        while libc::sigtimedwait(&raw const set, ptr::null_mut(), &raw const now) > 0 {}
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
    }
}

/// Sends what is pending; safe within a signal handler.
fn deliver(pid: i32) {
    let pending = PENDING.swap(0, Ordering::SeqCst);
    let all = FORWARDED.into_iter().chain(INTERRUPTIONS);
    for signal in all.filter(|signal| pending & (1 << signal) != 0) {
        // SAFETY: kill(2) is safe within a signal handler, and its arguments are plain numbers.
        unsafe { libc::kill(pid, signal) };
    }
}

extern "C" fn nothing(_signal: i32) {}

extern "C" fn forward(signal: i32) {
    PENDING.fetch_or(1 << signal, Ordering::SeqCst);
    let target = TARGET.load(Ordering::SeqCst);
    if target > 0 {
        // SAFETY: the location is the interrupted thread's own; its value is put back, because the interrupted code
        // may be about to read it.
        let errno = unsafe { &mut *libc::__errno_location() };
        let saved = *errno;
        deliver(target);
        *errno = saved;
    }
}

/// Adopts descendants whose parents end, so that they stay within reach (`PR_SET_CHILD_SUBREAPER`).
pub(crate) fn become_subreaper() -> io::Result<()> {
    // SAFETY: the arguments are plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Sends a signal to one process.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: the arguments are plain numbers.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// What became of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Exited(i32),
    Killed(i32),
    Stopped(i32),
}

/// Waits for the adopted children that have ended, all but `except`: nobody else will, and each holds a process
/// number until somebody does.
pub(crate) fn reap_orphans(except: i32) {
    loop {
        // SAFETY: all-zero bytes are a valid value of this plain structure.
        let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
        let look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: the structure is writable for the call.
        let found = check(unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, look) });
        // SAFETY: after a successful call the structure describes a child, or is zero if there is none.
        let pid = unsafe { info.si_pid() };
        if found.is_err() || pid == 0 || pid == except {
            return;
        }
        // SAFETY: a null pointer asks for no status.
        unsafe { libc::waitpid(pid, ptr::null_mut(), libc::WNOHANG) };
    }
}

/// Waits until a child ends or stops. Another thread's children are left alone.
pub(crate) fn wait(pid: i32) -> io::Result<Change> {
    loop {
        let mut status = 0;
        // SAFETY: the status is writable for the call.
        match check(unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
            Ok(_) if libc::WIFEXITED(status) => return Ok(Change::Exited(libc::WEXITSTATUS(status))),
            Ok(_) if libc::WIFSIGNALED(status) => return Ok(Change::Killed(libc::WTERMSIG(status))),
            Ok(_) if libc::WIFSTOPPED(status) => return Ok(Change::Stopped(libc::WSTOPSIG(status))),
            Ok(_) => continue,
        }
    }
}
