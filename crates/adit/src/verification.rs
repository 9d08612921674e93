//! Verification as the commands run it: progress on stderr, the report where it was
//! asked for.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_intercept::Launcher;
use adit_intercept::hygiene;
use adit_path::{BoxFuture, Network};
use adit_verify::format::{self, Style};
use adit_verify::health::Check;
use adit_verify::{Dialer, Event, Exit, Failure, NetworkDialer, Observer, Plan, Report, Stage, StageStatus};

use crate::cli::{ConnectArgs, Context, Format, Global};
use crate::daemon::Verifier;
use crate::dialing::{ExecDialer, FrontDialer, KernelDialer, Open};
use crate::output::{Ui, moving, qr};
use crate::profile::Profile;
use crate::session::Session;
use crate::wanted::{Wanted, now};
use crate::{failure, machine};

/// How long a cheap check may take.
const CHEAP: Duration = Duration::from_secs(10);

impl Wanted {
    /// What a profile and the flags ask for.
    pub(crate) fn of(profile: &Profile, session: &Session, connect: &ConnectArgs) -> Self {
        Self {
            profile: profile.name.clone(),
            targets: profile.targets.clone(),
            timeout: profile.timeout,
            ca_file: connect.ca_file.clone(),
            provider: session.provider().word().to_owned(),
            answered: session.answered(),
            handshake: session.patience(),
            before: Vec::new(),
            warnings: Vec::new(),
            identity: session.identity().map(str::to_owned),
            grace: profile.settings.grace.value,
        }
    }
}

/// How targets are reached while they are verified.
#[derive(Clone, Debug)]
pub(crate) enum Through {
    /// By asking the network, as proxies, forwards and the library do.
    Network,
    /// From intercepted children, as programs under `exec` do.
    Exec,
    /// Through the fronts of this process where a target has one, else as programs under `exec` do, where that can run.
    Fronts(Arc<Open>),
    /// By the kernel and the system's resolver, as every program does while a TUN device is up.
    Kernel,
}

impl Through {
    /// The way that programs will go, as far as it can be known: by the TUN device of a running `adit up`, else as
    /// under `exec`, else, where that cannot run, by proxies and the like.
    pub(crate) fn usual(device: Option<&str>) -> Self {
        if device.is_some_and(machine::has_interface) {
            Self::Kernel
        } else if Launcher::backend().is_ok() {
            Self::Exec
        } else {
            Self::Network
        }
    }

    /// The plan for this way. Before a device was made its routes were compared with this machine's networks; now the
    /// device's own are among those.
    fn complete(&self, plan: Plan) -> Plan {
        match self {
            Self::Kernel => Plan { local_networks: Vec::new(), ..plan },
            Self::Network | Self::Exec | Self::Fronts(_) => plan,
        }
    }

    fn dialer(&self, network: &Arc<dyn Network>) -> Box<dyn Dialer> {
        let network = Arc::clone(network);
        match self {
            Self::Network => Box::new(NetworkDialer::new(network)),
            Self::Exec => Box::new(ExecDialer::new(network)),
            Self::Fronts(open) => {
                let base: Box<dyn Dialer> = match Launcher::backend() {
                    Ok(_) => Box::new(ExecDialer::new(Arc::clone(&network))),
                    Err(_) => Box::new(NetworkDialer::new(Arc::clone(&network))),
                };
                Box::new(FrontDialer::new(Arc::clone(open), network, base))
            }
            Self::Kernel => Box::new(KernelDialer::new(network)),
        }
    }
}

/// Verifies once, showing progress.
pub(crate) async fn run(
    context: &Context,
    network: Arc<dyn Network>,
    plan: &Plan,
    through: &Through,
) -> Result<Report, Failure> {
    let reporter = context.reporter()?;
    let dialer = through.dialer(&network);
    let plan = &through.complete(plan.clone());
    Ok(adit_verify::verify(&*network, &*dialer, plan, &*reporter).await)
}

/// Shows what happens: lines on stderr, and events where they were asked for.
pub(crate) struct Reporter {
    ui: Ui,
    events: Option<Mutex<Box<dyn Write + Send>>>,
    quiet_progress: bool,
    /// Whether a page to sign in at is shown as a QR code too.
    qr: bool,
    /// The stages that run, the oldest first, each with its target, its beginning and its limit.
    running: Mutex<Vec<(Stage, Option<String>, Instant, Duration)>>,
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("ui", &self.ui).finish_non_exhaustive()
    }
}

impl Reporter {
    /// As the flags say.
    ///
    /// # Errors
    /// The destination of events cannot be opened.
    pub(crate) fn new(context: &Context) -> Result<Self, Failure> {
        let events = context.global.events.as_deref().map(open).transpose()?.map(Mutex::new);
        let (ui, quiet_progress) = (context.ui.clone(), context.global.quiet);
        Ok(Self { ui, events, quiet_progress, qr: context.global.qr, running: Mutex::default() })
    }
}

impl Reporter {
    /// Lets the moving line follow what runs.
    fn moves(&self, change: impl FnOnce(&mut Vec<(Stage, Option<String>, Instant, Duration)>)) {
        if !self.ui.moving() {
            return;
        }
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut running);
        let Some((stage, target, since, limit)) = running.first() else { return moving::hide() };
        let about = target.as_ref().map(|target| format!(": {target}")).unwrap_or_default();
        let others = match running.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        moving::show(format!("waiting for {}{about}{others}", stage.waiting_for()), *since, *limit);
    }
}

impl Observer for Reporter {
    fn began(&self, stage: Stage, target: Option<&str>, limit: Duration) {
        self.moves(|running| running.push((stage, target.map(str::to_owned), Instant::now(), limit)));
    }

    fn notice(&self, event: Event) {
        let event = match event {
            Event::AuthRequired { url, qr: None, timeout_ms } if self.qr => {
                Event::AuthRequired { qr: qr::code(&url), url, timeout_ms }
            }
            event => event,
        };
        match &event {
            Event::Verifying(done) => self.moves(|running| {
                running.retain(|(stage, target, ..)| (stage, target) != (&done.id, &done.target));
            }),
            Event::Verified { .. } | Event::Failed(_) => self.moves(Vec::clear),
            Event::Provisional { id, target, wait_ms, .. } => self.moves(|running| {
                let meant = running.iter_mut().find(|(stage, of, ..)| (stage, of) == (id, target));
                if let Some((.., since, limit)) = meant {
                    *limit = (*limit).max(since.elapsed() + Duration::from_millis(*wait_ms));
                }
            }),
            _ => {}
        }
        if let Some(events) = &self.events {
            let mut events = events.lock().unwrap_or_else(PoisonError::into_inner);
            // A reader that has gone away does not end the work.
            let _gone = writeln!(events, "{}", event.ndjson(&now())).and_then(|()| events.flush());
        }
        let failed = matches!(&event, Event::Verifying(stage) if stage.status == StageStatus::Fail);
        let told = self.ui.moving() && matches!(event, Event::Waiting { .. });
        let style = Style { color: self.ui.color(), links: self.ui.links() };
        if !self.quiet_progress
            && !failed
            && !told
            && let Some(line) = format::progress(&event, style)
        {
            match now().get(11..) {
                Some(time) if self.ui.stamped() => self.ui.note(&format!("{time} {line}")),
                _ => self.ui.note(&line),
            }
        }
    }
}

/// Opens the destination of events: a file, `fd:N`, or `-` for stdout.
fn open(destination: &str) -> Result<Box<dyn Write + Send>, Failure> {
    let failed = |error: io::Error| {
        failure::usage(format!("events cannot be written to {destination}")).seen(error.to_string())
    };
    if destination == "-" {
        return Ok(Box::new(io::stdout()));
    }
    if let Some(number) = destination.strip_prefix("fd:") {
        let number = number.parse().map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        return Ok(Box::new(File::from(hygiene::take_descriptor(number).map_err(failed)?)));
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(destination);
    Ok(Box::new(file.map_err(failed)?))
}

/// Prints the report in the form that was asked for; returns the exit code.
pub(crate) fn publish(context: &Context, report: &Report) -> Result<Exit, Failure> {
    let Global { json, format, .. } = &context.global;
    show_warnings(context, report);
    for failure in report.failures() {
        context.ui.failure(failure);
    }
    let exit = Exit::try_from(report.exit_code).unwrap_or(Exit::Internal);
    match format {
        Format::Text if *json => context.ui.json(report)?,
        Format::Text => {}
        Format::Github => {
            context.ui.result(format::github(report).trim_end())?;
            append_summary(&format::github_summary(report));
        }
        Format::Junit => context.ui.result(format::junit(report).trim_end())?,
        Format::FabroHook => {
            let (object, exit) = format::fabro_hook(report);
            context.ui.result(&object)?;
            return Ok(exit);
        }
    }
    Ok(exit)
}

/// The warnings of the verification. Those of the stages before it were shown in full when they were found.
pub(crate) fn show_warnings(context: &Context, report: &Report) {
    let early: Vec<_> = report.stages.iter().filter(|stage| stage.id <= Stage::Credential).collect();
    for warning in &report.warnings {
        if !early.iter().any(|stage| stage.class.as_deref() == Some(warning.class.as_str())) {
            context.ui.note(&format!("! warning  {}  [{}]", warning.summary, warning.class));
        }
    }
}

/// Adds to the step summary of GitHub Actions, where there is one.
fn append_summary(text: &str) {
    let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY") else { return };
    let written = OpenOptions::new().append(true).create(true).open(path);
    if let Err(error) = written.and_then(|mut file: File| file.write_all(text.as_bytes())) {
        tracing::warn!(%error, "the step summary cannot be written");
    }
}

/// Verifies a running session again and again.
pub(crate) struct Repeated {
    pub(crate) network: Arc<dyn Network>,
    pub(crate) plan: Plan,
    pub(crate) through: Through,
    /// The first verification is shown, later ones are not.
    pub(crate) reporter: Mutex<Option<Arc<Reporter>>>,
}

impl Verifier for Repeated {
    fn verify(&self, check: Check) -> BoxFuture<'_, Report> {
        let reporter = self.reporter.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut plan = Plan { started: now(), ..self.through.complete(self.plan.clone()) };
        if check == Check::Cheap {
            plan = Plan { timeout: CHEAP, stable: None, quality: false, require: Vec::new(), ..plan };
            plan.targets.truncate(1);
        }
        Box::pin(async move {
            // A cheap check starts no programs: the network alone can tell whether the target is gone.
            let through = match (&self.through, check) {
                (Through::Fronts(_), Check::Cheap) => &Through::Network,
                (through, _) => through,
            };
            let dialer = through.dialer(&self.network);
            match reporter {
                Some(reporter) => adit_verify::verify(&*self.network, &*dialer, &plan, &*reporter).await,
                None => adit_verify::verify(&*self.network, &*dialer, &plan, &|_| {}).await,
            }
        })
    }
}
