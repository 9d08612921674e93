//! Programs that the laboratory starts, with their output kept and their end certain.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// A program that runs beside the test. Dropping it ends it.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: Arc<Log>,
    path: PathBuf,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Log {
    text: Mutex<(String, usize)>,
    more: Condvar,
}

impl Process {
    /// Starts a program; its output goes to `NAME.log` in `logs`.
    pub(crate) fn spawn(name: &str, mut command: Command, logs: &Path) -> Self {
        let path = logs.join(format!("{name}.log"));
        let file = Arc::new(Mutex::new(File::create(&path).unwrap()));
        writeln!(file.lock().unwrap(), "$ {command:?}").unwrap();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} did not start: {error}: {command:?}"));
        let log = Arc::new(Log::default());
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let readers =
            streams.into_iter().map(|stream| read_lines(stream, log.clone(), file.clone())).collect();
        Self { name: name.to_owned(), child, log, path, readers }
    }

    /// Waits until the program has printed `text`.
    pub(crate) fn wait_for(&mut self, text: &str, limit: Duration) {
        self.wait_for_times(1, text, limit);
    }

    /// Waits until the program has printed `text` so many times.
    pub(crate) fn wait_for_times(&mut self, times: usize, text: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut log = self.log.text.lock().unwrap();
        while log.0.matches(text).count() < times {
            let left = deadline.saturating_duration_since(Instant::now());
            let streams_ended = log.1 == 2;
            assert!(
                !left.is_zero() && !streams_ended,
                "{} did not print {text:?} {times} times within {limit:?}{}; it printed:\n{}",
                self.name,
                if streams_ended { " and ended" } else { "" },
                log.0,
            );
            log = self.log.more.wait_timeout(log, left).unwrap().0;
        }
    }

    /// What the program has printed so far.
    pub(crate) fn printed(&self) -> String {
        self.log.text.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end of the program.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        wait_until(&mut self.child, deadline).unwrap_or_else(|| {
            panic!("{} did not end within {limit:?}; it printed:\n{}", self.name, self.printed())
        })
    }

    /// Ends the program: SIGTERM, and SIGKILL where that is not enough.
    pub(crate) fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = Pid::from_child(&self.child);
        // A stopped process takes no SIGTERM before it continues.
        let _ = rustix::process::kill_process(pid, Signal::CONT);
        let _ = rustix::process::kill_process(pid, Signal::TERM);
        if wait_until(&mut self.child, Instant::now() + Duration::from_secs(3)).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    pub(crate) fn log_path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
        // A grandchild may hold the pipes open for longer than its parent lives.
        self.readers.retain(|reader| !reader.is_finished());
    }
}

fn read_lines(stream: Box<dyn Read + Send>, log: Arc<Log>, file: Arc<Mutex<File>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line);
            let _ = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(text.as_bytes());
            log.text.lock().unwrap_or_else(PoisonError::into_inner).0.push_str(&text);
            log.more.notify_all();
            line.clear();
        }
        log.text.lock().unwrap_or_else(PoisonError::into_inner).1 += 1;
        log.more.notify_all();
    })
}

/// Waits for the end of a child without holding a signal handler: its pidfd becomes readable.
fn wait_until(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let pidfd =
        rustix::process::pidfd_open(Pid::from_child(child), rustix::process::PidfdFlags::empty()).ok();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let Some(pidfd) = &pidfd else { return child.wait().ok() };
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout));
    }
}

/// How a program ended and what it printed.
pub(crate) struct Outcome {
    pub(crate) command: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Outcome {
    /// Asserts the exit code, with everything printed as the message.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.stdout[..self.stdout.len().min(4000)];
        write!(
            f,
            "{} after {:.1} s: {}\n--- stdout\n{}\n--- stderr\n{}",
            self.status,
            self.took.as_secs_f32(),
            self.command,
            String::from_utf8_lossy(shown),
            self.stderr
        )
    }
}

/// Runs a program to its end. A program that takes longer than `limit` is killed and fails the test.
#[track_caller]
pub(crate) fn run(command: &mut Command, limit: Duration) -> Outcome {
    run_with_input(command, b"", limit)
}

/// Like [`run`], with bytes for standard input.
#[track_caller]
pub(crate) fn run_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Outcome {
    let text = format!("{command:?}");
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("did not start: {error}: {text}"));
    let (mut stdin, stdout, stderr) =
        (child.stdin.take().unwrap(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let input = input.to_vec();
    std::thread::spawn(move || {
        // A program may end without reading its input.
        let _ = stdin.write_all(&input);
    });
    let stdout = std::thread::spawn(move || read_all(stdout));
    let stderr = std::thread::spawn(move || read_all(stderr));
    let status = wait_until(&mut child, started + limit);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let outcome = Outcome {
        command: text,
        status: status.unwrap_or_default(),
        stdout: stdout.join().unwrap(),
        stderr: String::from_utf8_lossy(&stderr.join().unwrap()).into_owned(),
        took: started.elapsed(),
    };
    assert!(status.is_some(), "did not end within {limit:?} and was killed\n{outcome}");
    outcome
}

fn read_all(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}
