//! Starting a program under supervision.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use adit_path::Network;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::thread::set_no_new_privs;
use tokio::sync::oneshot;

use crate::supervisor::Supervisor;
use crate::sys::listener::Listener;
use crate::sys::signal::{self, Change, Forwarding};
use crate::{Backend, LaunchFailure, Options, census, filter, probe};

/// Threads that decide system calls: one waits for the next while the others work.
const WORKERS: usize = 4;

/// A program with everything it gets.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// The command and its arguments.
    pub argv: Vec<OsString>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory; `None` keeps ours.
    pub cwd: Option<PathBuf>,
}

impl Program {
    /// A command with our own environment.
    pub fn new<S: Into<OsString>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: std::env::vars_os().collect(),
            cwd: None,
        }
    }
}

/// Starts programs in a network.
pub struct Launcher {
    network: Arc<dyn Network>,
    options: Options,
}

impl std::fmt::Debug for Launcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launcher").field("options", &self.options).finish_non_exhaustive()
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}

impl Exit {
    /// The exit code by the shells' convention: 128 and the number of the signal.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
        }
    }
}

/// A program that runs. Dropping it ends the supervision: the network calls of whatever still runs fail.
#[derive(Debug)]
pub struct Running {
    pid: i32,
    backend: Backend,
    listener: Arc<Listener>,
    forwarding: Mutex<Option<Forwarding>>,
    stop: OwnedFd,
    network: Option<JoinHandle<()>>,
    stop_network: Option<oneshot::Sender<()>>,
}

impl Launcher {
    /// Programs will run in `network`.
    pub fn new(network: Arc<dyn Network>, options: Options) -> Self {
        Self { network, options }
    }

    /// The backend that works here.
    ///
    /// # Errors
    /// [`LaunchFailure::NoBackend`], with what the probe saw.
    pub fn backend() -> Result<Backend, LaunchFailure> {
        probe::backend().map_err(|(class, reason)| LaunchFailure::NoBackend { class, reason })
    }

    /// Starts a program. Standard input, output and error are inherited, and the program stays in our process
    /// group, so that the terminal is its own.
    pub fn spawn(&self, program: &Program) -> Result<Running, LaunchFailure> {
        let system = |what| move |source| LaunchFailure::System { what, source };
        let backend = match self.options.backend {
            Some(backend) => backend,
            None => Self::backend()?,
        };
        let forwarding = match self.options.foreground {
            true => {
                signal::become_subreaper().map_err(system("adopt orphans"))?;
                Some(Forwarding::start().map_err(system("handle signals"))?)
            }
            false => None,
        };
        raise_descriptor_limit();
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| system("make an event descriptor")(error.into()))?;
        let (listener, pid) = start(backend, &self.options, program)?;
        if let Some(forwarding) = &forwarding {
            forwarding.to(pid);
        }
        let mut running = Running {
            pid,
            backend,
            listener: Arc::new(listener),
            forwarding: Mutex::new(forwarding),
            stop,
            network: None,
            stop_network: None,
        };
        match self.supervise(&mut running) {
            Ok(()) => Ok(running),
            Err(source) => {
                signal::kill(pid, libc::SIGKILL).ok();
                signal::wait(pid).ok();
                Err(LaunchFailure::System { what: "start its threads", source })
            }
        }
    }

    fn supervise(&self, running: &mut Running) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let supervisor = Arc::new(Supervisor::new(
            self.network.clone(),
            self.options.clone(),
            running.backend,
            running.listener.clone(),
            runtime.handle().clone(),
            running.stop.try_clone()?,
        )?);
        let (stop, stopped) = oneshot::channel::<()>();
        running.stop_network = Some(stop);
        running.network = Some(thread::Builder::new().name("adit-exec-net".to_owned()).spawn(move || {
            runtime.block_on(stopped).ok();
        })?);
        let counted = supervisor.clone();
        let census = thread::Builder::new().name("adit-exec-census".to_owned());
        let program = self.options.foreground.then_some(running.pid);
        census.spawn(move || census::run(&counted, program))?;
        for _ in 0..WORKERS {
            let supervisor = supervisor.clone();
            let worker = thread::Builder::new().name("adit-exec".to_owned());
            worker.spawn(move || supervisor.serve())?;
        }
        Ok(())
    }
}

/// Installs the filter on a thread of its own and starts the program from it: no other thread of this process is
/// filtered, and the descriptor table is shared, so that the listener needs no passing.
fn start(backend: Backend, options: &Options, program: &Program) -> Result<(Listener, i32), LaunchFailure> {
    let filter = filter::program(backend, options.udp);
    thread::scope(|scope| {
        let starter = thread::Builder::new().name("adit-exec-start".to_owned()).spawn_scoped(scope, || {
            if !may_keep_privileges() {
                set_no_new_privs(true).map_err(|error| LaunchFailure::Filter { source: error.into() })?;
            }
            let listener = Listener::install(&filter).map_err(|source| LaunchFailure::Filter { source })?;
            let pid = spawn(program)?;
            Ok((listener, pid))
        });
        match starter.map(thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(LaunchFailure::System {
                what: "start the program",
                source: io::Error::other("the starting thread panicked"),
            }),
            Err(source) => Err(LaunchFailure::System { what: "start a thread", source }),
        }
    })
}

fn spawn(program: &Program) -> Result<i32, LaunchFailure> {
    let Some((name, arguments)) = program.argv.split_first() else { return Err(LaunchFailure::Empty) };
    let mut command = Command::new(name);
    command.args(arguments).arg0(name).env_clear().envs(program.env.iter().map(|(key, value)| (key, value)));
    if let Some(cwd) = &program.cwd {
        command.current_dir(cwd);
    }
    let program = name.to_string_lossy().into_owned();
    match command.spawn() {
        // The child is waited for by number.
        Ok(child) => Ok(child.id() as i32),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(LaunchFailure::NotFound { program }),
        Err(source) => Err(LaunchFailure::NotExecutable { program, source }),
    }
}

/// With `CAP_SYS_ADMIN` a filter needs no `no_new_privs`, and `sudo` keeps working in the program.
fn may_keep_privileges() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    effective & (1 << CAP_SYS_ADMIN) != 0
}

/// Every connection of the program costs the supervisor a descriptor or two.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files was not raised");
    }
}

impl Running {
    /// The process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// How its sockets are reached.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Waits for the end of the program; from then on, signals mean this process again. When the program stops
    /// (Ctrl-Z) and we run in the foreground for it, this process stops as well and goes on with it, as a shell
    /// expects of a job.
    pub fn wait(&self) -> io::Result<Exit> {
        let foreground = self.forwarding.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let exit = loop {
            match signal::wait(self.pid)? {
                Change::Exited(code) => break Exit::Code(code as u8),
                Change::Killed(signal) => break Exit::Signal(signal as u8),
                Change::Stopped(_) if foreground => {
                    signal::kill(std::process::id() as i32, libc::SIGSTOP)?;
                    signal::kill(self.pid, libc::SIGCONT)?;
                }
                Change::Stopped(_) => {}
            }
        };
        drop(self.forwarding.lock().unwrap_or_else(PoisonError::into_inner).take());
        Ok(exit)
    }

    /// Waits until no supervised process is left, also those that the program left behind; `false` if some are
    /// left after `patience`.
    pub fn wait_for_all(&self, patience: Option<Duration>) -> bool {
        let timeout = patience.and_then(|patience| rustix::time::Timespec::try_from(patience).ok());
        let mut fds = [PollFd::new(self.listener.fd(), PollFlags::empty())];
        loop {
            match rustix::event::poll(&mut fds, timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) | Ok(0) => return false,
                Ok(_) => return true,
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).ok();
        self.stop_network = None;
        // Its tasks answer what they hold. The workers end by themselves; one that is inside the kernel waiting
        // for a request which was withdrawn must not hold us up.
        if let Some(network) = self.network.take() {
            network.join().ok();
        }
    }
}
