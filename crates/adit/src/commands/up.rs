//! `adit up`

use std::convert::Infallible;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use adit_path::Phase;
use adit_tunnel::Prompt;
use adit_verify::health::{self, Change};
use adit_verify::{Event, Observer as _, Plan, Report, Stage};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::access::{canonical, claim, unusable};
use crate::cli::{Context, UpArgs};
use crate::commands::{front_failed, proxy_credentials};
use crate::config::Settings;
use crate::control::ControlSocket;
use crate::daemon::{self, Daemon, Detached, Identity, Parent};
use crate::device::Served;
use crate::dialing::Open;
use crate::environment::Way;
use crate::failure::Words;
use crate::fronts::{Credentials, ExposeRule, ForwardSpec};
use crate::preflight::{Ended, Preflight};
use crate::profile::Profile;
use crate::session::{Session, runtime};
use crate::verification::{self, Repeated, Reporter, Through};
use crate::wanted::Wanted;
use crate::{Exit, Failure, failure};

/// How often a detached process looks whether its parent still waits for it.
const PARENT_CHECK: Duration = Duration::from_millis(200);

/// Connects, verifies, and keeps the network until it is asked to end.
pub(crate) fn run(context: &mut Context, args: &UpArgs) -> Result<u8, Failure> {
    let mut fronts = Fronts::parse(args)?;
    let parent = Parent::find().map_err(|error| system("the parent process cannot be found", &error))?;
    if args.detach && parent.is_none() {
        return detach(context);
    }
    if parent.is_some() {
        daemon::become_session_leader()
            .map_err(|error| system("the process cannot leave its session", &error))?;
    }
    raise_descriptor_limit();
    let Begun { profile, file, socket, served, session, wanted } = match begin(context, args) {
        Ok(begun) => begun,
        Err(Ended::Report(report)) => return verification::publish(context, &report).map(Exit::code),
        Err(Ended::Failure(failure)) => return Err(*failure),
    };
    fronts.complete(&profile.settings);
    let (plan, reporter, path) = (wanted.plan()?, context.reporter()?, socket.path().to_owned());
    let runtime = runtime()?;
    let exit = runtime.block_on(async {
        let up = Up { context, args, fronts, session: &session, served: &served, socket: &socket, reporter };
        up.run(&profile, file, plan, parent).await
    });
    session.shutdown();
    // The files go first and the conversations with the runtime: `adit down` returns when all is removed.
    drop(socket);
    if exit.is_ok() {
        let _left_behind = std::fs::remove_file(log_path(&path));
    }
    drop(runtime);
    exit.map(Exit::code)
}

/// What an `adit up` consists of once its first stages have passed.
struct Begun {
    profile: Profile,
    file: Option<PathBuf>,
    socket: ControlSocket,
    served: Served,
    session: Session,
    wanted: Wanted,
}

/// Runs the stages before there is a network, and takes what only one process can have: the control socket, the device.
fn begin(context: &Context, args: &UpArgs) -> Result<Begun, Ended> {
    let mut preflight = Preflight::begin(context, Way::Network)?;
    let profile = preflight.profile(&args.connect)?;
    let failed = |failure: Failure| preflight.ended(Stage::Env, failure);
    let file = canonical(&profile.settings.file.value);
    let (socket, name) = claim(&context.global, &profile.name, file.as_deref()).map_err(failed)?;
    let say = |why: &str| context.ui.note(why);
    let served = Served::of(&profile.settings, args.force_route, &say).map_err(failed)?;
    let mut options = profile.engine_options();
    served.lead(&mut options);
    let session = Session::start(profile.tunnel.clone(), options).map_err(failed)?;
    let wanted = Wanted { profile: name.clone(), ..preflight.wanted(&profile, &session, &args.connect) };
    Ok(Begun { profile: Profile { name, ..profile }, file, socket, served, session, wanted })
}

/// Starts this program again in the background, and waits for the outcome of its verification.
fn detach(context: &Context) -> Result<u8, Failure> {
    let failed = |error| system("the background process cannot be started", &error);
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(std::env::args_os().skip(1));
    match Detached::start(&mut command).map_err(failed)? {
        Detached::Running { pid } => {
            context.ui.note(&format!("running in the background, pid {pid}; end it with `adit down`"));
            Ok(Exit::Ok.code())
        }
        Detached::Ended(status) => Ok(u8::try_from(daemon::exit_code(status)).unwrap_or(1)),
    }
}

/// A connection takes up to three descriptors, and the usual soft limit is 1024.
fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current < maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

fn log_path(socket: &Path) -> PathBuf {
    socket.with_extension("log")
}

fn system(what: &str, error: &std::io::Error) -> Failure {
    failure::of("env.socket", what).seen(error.to_string())
}

/// The fronts that flags and profile ask for.
struct Fronts {
    proxies: Vec<SocketAddr>,
    forwards: Vec<ForwardSpec>,
    expose: Vec<ExposeRule>,
    credentials: Option<Credentials>,
}

impl Fronts {
    /// Those of the flags.
    fn parse(args: &UpArgs) -> Result<Self, Failure> {
        let fronts = &args.fronts;
        let forwards = fronts.forwards.iter().map(|spec| spec.parse().map_err(|error| front_failed(&error)));
        let expose = args.expose.iter().map(|spec| spec.parse().map_err(|error| front_failed(&error)));
        Ok(Self {
            proxies: fronts.proxy.into_iter().collect(),
            forwards: forwards.collect::<Result<_, _>>()?,
            expose: expose.collect::<Result<_, _>>()?,
            credentials: proxy_credentials(fronts.proxy_auth.as_ref(), &args.connect)?,
        })
    }

    /// Adds those of the profile. A flag replaces the profile's proxies and exposed ports, and adds a forward.
    fn complete(&mut self, settings: &Settings) {
        if self.proxies.is_empty() {
            // Every proxy speaks both protocols, so the same address twice is one proxy.
            self.proxies.extend(settings.socks.value);
            self.proxies.extend(settings.http.value.filter(|http| Some(*http) != settings.socks.value));
        }
        if self.expose.is_empty() {
            self.expose.clone_from(&settings.expose.value);
        }
        let written = settings.forwards.iter().map(|entry| entry.value.clone());
        let own: Vec<_> = written.filter(|spec| !self.forwards.contains(spec)).collect();
        self.forwards.extend(own);
    }
}

struct Up<'a> {
    context: &'a Context,
    args: &'a UpArgs,
    fronts: Fronts,
    session: &'a Session,
    served: &'a Served,
    socket: &'a ControlSocket,
    reporter: Arc<Reporter>,
}

impl Up<'_> {
    async fn run(
        mut self,
        profile: &Profile,
        file: Option<PathBuf>,
        plan: Plan,
        parent: Option<Parent>,
    ) -> Result<Exit, Failure> {
        let network = self.session.network();
        let identity = Identity {
            profile: profile.name.clone(),
            file,
            provider: self.session.provider().word().to_owned(),
            mode: self.served.mode().word().to_owned(),
            device: self.served.device(),
        };
        let reporter = Mutex::new(Some(Arc::clone(&self.reporter)));
        let open = Arc::new(Open::default());
        let through = match self.served {
            Served::Userspace => Through::Fronts(Arc::clone(&open)),
            Served::Tun(_) => Through::Kernel,
        };
        let verifier = Repeated { network: Arc::clone(&network), plan, through, reporter };
        let daemon = Daemon::new(network, Box::new(verifier), identity);
        self.open_fronts(&daemon, &open).await?;
        daemon.serve(self.socket).map_err(|error| unusable(&error))?;

        let report = tokio::select! {
            report = daemon.verify_now() => report,
            end = self.ended(&daemon, None) => {
                end?;
                return Ok(Exit::Interrupted);
            }
            () = abandoned(parent.as_ref()) => return Ok(Exit::Interrupted),
        };
        let exit = verification::publish(self.context, &report)?;
        if !report.ok {
            daemon.close();
            return Ok(exit);
        }
        for spec in &self.fronts.expose {
            match spec {
                ExposeRule::Port(spec) => {
                    daemon.add_expose(*spec).await.map_err(|error| front_failed(&error))?;
                    self.context.ui.note(&format!("peers reach {spec} of this machine"));
                }
                ExposeRule::All => {
                    daemon.add_expose_all();
                    self.context.ui.note("peers reach every TCP server of this machine");
                }
            }
        }
        self.context.ui.note(&format!("{} is up", profile.name));
        if let Some(parent) = parent {
            let log = log_path(self.socket.path());
            parent.release(&log).map_err(|error| system("the process cannot be detached", &error))?;
        }
        self.stay(&daemon).await
    }

    /// Opens proxies and forwards. A port in use is found before anything is connected.
    async fn open_fronts(&mut self, daemon: &Daemon, open: &Open) -> Result<(), Failure> {
        for address in &self.fronts.proxies {
            let bound = daemon.add_proxy(*address, self.fronts.credentials.clone()).await;
            let bound = bound.map_err(|error| front_failed(&error))?;
            open.add_proxy(bound, self.fronts.credentials.clone());
            self.context.ui.note(&format!("SOCKS5 and HTTP proxy on {bound}"));
        }
        for spec in std::mem::take(&mut self.fronts.forwards) {
            let spec = daemon.add_forward(spec).await.map_err(|error| front_failed(&error))?;
            self.context.ui.note(&format!("forward {spec}"));
            open.add_forward(spec);
        }
        Ok(())
    }

    /// Serves until something ends it.
    async fn stay(&self, daemon: &Daemon) -> Result<Exit, Failure> {
        let reporter = &*self.reporter;
        let notice = |change, report: &Report| {
            reporter.notice(match (change, &report.failure) {
                (Change::Degraded, Some(failure)) => Event::Degraded(failure.clone()),
                (Change::Degraded, None) => {
                    Event::Degraded(failure::of("session.degraded", "three checks in a row failed"))
                }
                (Change::Recovered, _) => Event::Recovered,
            });
        };
        let exit = tokio::select! {
            end = self.ended(daemon, self.args.max_idle) => end.map(|()| Exit::Ok),
            phase = daemon.watch(notice) => Err(lost(daemon, phase)),
            never = self.tell_symptoms(daemon) => match never {},
        };
        reporter.notice(Event::Disconnected);
        exit
    }

    /// Tells once of each thing that the connection seems to suffer from.
    async fn tell_symptoms(&self, daemon: &Daemon) -> Infallible {
        let mut status = daemon.network().status();
        let mut told = Vec::new();
        let (mut page, mut expiry) = (None, None);
        loop {
            let now = status.borrow_and_update().clone();
            if let Some(Prompt::Open { url, .. }) = &now.prompt
                && page.as_ref() != Some(url)
            {
                page = Some(url.clone());
                self.reporter.notice(Event::AuthRequired { url: url.clone(), qr: None, timeout_ms: None });
            }
            let expires = health::key_expires_soon(&now, SystemTime::now());
            if expires != expiry {
                expiry.clone_from(&expires);
                expires.into_iter().for_each(|at| self.reporter.notice(Event::KeyExpiring { at }));
            }
            let symptoms: Vec<_> = now.peers.iter().filter_map(|peer| peer.symptom.clone()).collect();
            for symptom in symptoms {
                if !told.contains(&symptom.class) {
                    let failure = Failure::of_fault(&symptom, Stage::Soak, &Words::default());
                    self.reporter.notice(Event::Degraded(failure));
                    told.push(symptom.class);
                }
            }
            if status.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    /// Waits for what ends it in order: `adit down`, a signal, another process, idleness for longer than `max_idle`.
    async fn ended(&self, daemon: &Daemon, max_idle: Option<Duration>) -> Result<(), Failure> {
        let cannot_wait = |error| system("the end cannot be waited for", &error);
        let exit_with = optional(self.args.exit_with.map(daemon::exit_of_process));
        let idle = optional(max_idle.map(|limit| daemon::idle(daemon, limit)));
        tokio::select! {
            () = daemon.stopped() => Ok(()),
            signal = daemon::termination() => signal.map(drop).map_err(cannot_wait),
            over = exit_with => over.map_err(cannot_wait),
            () = idle => {
                tracing::info!("nothing has used the network; it ends");
                Ok(())
            }
        }
    }
}

fn lost(daemon: &Daemon, phase: Phase) -> Failure {
    let fault = daemon.network().status().borrow().fault.clone();
    let failure = failure::of("session.lost", "the connection was lost after it had been verified");
    match fault {
        Some(fault) => failure.seen(format!("{} [{}]", fault.summary, fault.class)),
        None => failure.seen(format!("the network is {phase:?}").to_lowercase()),
    }
}

/// The future, or none that ever ends.
async fn optional<T>(future: Option<impl Future<Output = T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

/// Waits until the process that started this one no longer waits for it.
async fn abandoned(parent: Option<&Parent>) {
    let Some(parent) = parent else { return pending().await };
    while !parent.is_gone() {
        tokio::time::sleep(PARENT_CHECK).await;
    }
}
