//! `adit demo`: everything at once, on a machine that has nothing: no server, no root, no configuration.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_intercept::{LaunchFailure, Launcher, Options, Program};
use adit_path::{EngineOptions, Network};
use adit_sim::services;
use adit_verify::format::{self, Style};
use adit_verify::{Dialer as _, Event, NetworkDialer, Plan, StageReport, TargetError, rfc3339};

use crate::cli::{Context, DemoArgs, DemoClientArgs};
use crate::config::Provider;
use crate::demo::{API_NAME, DATABASE_NAME, Embedded};
use crate::environment::{self, Environment, Way};
use crate::session::{Session, runtime};
use crate::{Exit, Failure, failure};

/// How long the whole of connecting and verifying may take.
const PATIENCE: Duration = Duration::from_secs(20);

const QUERY: &str = "select count(*) from orders";

/// Starts the embedded network, joins it, verifies it, and runs a program in it; returns the program's code.
pub(crate) fn run(context: &mut Context, args: &DemoArgs) -> Result<u8, Failure> {
    let ui = context.ui.clone();
    let embedded = Embedded::start(args.provider)?;
    ui.note(&format!(
        "A private network now runs in this process; its {} is at {}.",
        server(args.provider),
        embedded.endpoint()
    ));
    ui.note("Behind it: DNS for internal, PostgreSQL at staging-db.internal:5432, HTTP at api.internal.\n");
    let session = Session::start(embedded.member(), EngineOptions::default())?;
    let runtime = runtime()?;
    let network = session.network();
    let progress = |event: Event| {
        if let Some(line) = format::progress(&event, Style { color: ui.color(), links: ui.links() }) {
            ui.note(&line);
        }
    };
    let Environment { stage, failure, .. } = environment::check(Way::Exec);
    if let Some(failure) = failure {
        return Err(failure);
    }
    progress(Event::Verifying(stage.clone()));
    let plan = plan(&session, vec![stage])?;
    let dialer = NetworkDialer::new(network.clone());
    let report = runtime.block_on(adit_verify::verify(&*network, &dialer, &plan, &progress));
    if let Some(failure) = report.failure {
        return Err(failure);
    }
    ui.note(&format!(
        "\nEvery target answers, after {} ms. Now a program that knows nothing of adit:\n",
        report.duration_ms
    ));
    let program = Choice::of(&args.command)?;
    ui.note(&format!("$ {}", program.shown));
    let code = program.run(&network).or_else(|error| fall_back(context, &runtime, &network, &error));
    session.shutdown();
    drop(embedded);
    let code = code?;
    ui.note(&next(args.provider, code));
    Ok(code)
}

fn plan(session: &Session, before: Vec<StageReport>) -> Result<Plan, Failure> {
    let targets = [format!("tcp://{DATABASE_NAME}:5432,postgres"), format!("http://{API_NAME}/healthz")];
    let targets = targets.iter().map(|text| text.parse()).collect::<Result<_, _>>();
    let targets = targets
        .map_err(|error: TargetError| failure::internal("a target of the demo").seen(error.to_string()))?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(Plan {
        timeout: PATIENCE,
        quality: true,
        profile: Some("demo".to_owned()),
        provider: Some(session.provider().word().to_owned()),
        identity: session.identity().map(str::to_owned),
        before,
        ..Plan::new(targets, rfc3339(since.as_secs()))
    })
}

/// The program to run.
struct Choice {
    program: Program,
    shown: String,
}

impl Choice {
    /// The user's own command, else `psql`, else `curl`, else our own small client.
    fn of(command: &[OsString]) -> Result<Self, Failure> {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let argv = if !command.is_empty() {
            command.to_vec()
        } else if installed("psql") {
            words(&["psql", "-X", "-w", "-h", DATABASE_NAME, "-U", "demo", "-d", "staging", "-c", QUERY])
        } else if installed("curl") {
            words(&["curl", "-sS", &format!("http://{API_NAME}/")])
        } else {
            let own = std::env::current_exe()
                .map_err(|error| failure::internal("our own path is unknown").seen(error.to_string()))?;
            let mut argv = vec![own.into_os_string()];
            argv.extend(words(&["demo-client", &format!("{DATABASE_NAME}:5432"), QUERY]));
            argv
        };
        let shown = argv.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
        // The settings of somebody's own database have no business in the demo's.
        let inherited = std::env::vars_os().filter(|(name, _)| !is_foreign(&name.to_string_lossy()));
        let mut env: Vec<_> = inherited.collect();
        if command.is_empty() {
            // A pager would wait for a key where the terminal is small.
            env.retain(|(name, _)| name != "PSQL_PAGER");
            env.push(("PSQL_PAGER".into(), "cat".into()));
        }
        Ok(Self { program: Program { argv, env, cwd: None }, shown })
    }

    fn run(&self, network: &Arc<dyn Network>) -> Result<u8, LaunchFailure> {
        let options = Options { foreground: true, ..Options::default() };
        let running = Launcher::new(network.clone(), options).spawn(&self.program)?;
        let exit = running
            .wait()
            .map_err(|source| LaunchFailure::System { what: "wait for the program", source })?;
        running.wait_for_all(None);
        Ok(exit.code())
    }
}

/// Variables of adit and of PostgreSQL's client.
fn is_foreign(name: &str) -> bool {
    name.starts_with("ADIT_") || (name.starts_with("PG") && name != "PGPASSFILE")
}

/// Where no program can be intercepted, the same question is asked by the library, and that is said.
fn fall_back(
    context: &Context,
    runtime: &tokio::runtime::Runtime,
    network: &Arc<dyn Network>,
    error: &LaunchFailure,
) -> Result<u8, Failure> {
    let reason = match error {
        LaunchFailure::NoBackend { .. } => error.to_string(),
        LaunchFailure::NotFound { .. } => return Err(failure::of("exec.not_found", error.to_string())),
        LaunchFailure::NotExecutable { .. } => {
            return Err(failure::of("exec.not_executable", error.to_string()));
        }
        LaunchFailure::Empty | LaunchFailure::Filter { .. } | LaunchFailure::System { .. } => {
            return Err(failure::internal(error.to_string()));
        }
    };
    context.ui.note(&format!("! exec cannot run here: {reason}"));
    context.ui.note("  The tunnel works all the same. The same question, asked by the library:\n");
    let answer = runtime.block_on(async {
        let dialer = NetworkDialer::new(network.clone());
        let host = adit_path::Destination::Name(DATABASE_NAME.to_owned());
        let dialed = dialer.dial(host, 5432, PATIENCE).await.map_err(|error| error.to_string())?;
        let rows = services::postgres_query(dialed.stream, "demo", QUERY).await;
        rows.map_err(|error| error.to_string())
    });
    let rows =
        answer.map_err(|error| failure::of("app.closed", "the database did not answer").seen(error))?;
    context.ui.result(&table(&rows))?;
    Ok(Exit::Ok.code())
}

fn name(provider: Provider) -> &'static str {
    match provider {
        Provider::WireGuard => "WireGuard",
        Provider::OpenVpn => "OpenVPN",
        Provider::Tailscale => "Tailscale",
    }
}

/// What listens on this machine.
fn server(provider: Provider) -> &'static str {
    match provider {
        Provider::WireGuard => "WireGuard server",
        Provider::OpenVpn => "OpenVPN server",
        Provider::Tailscale => "control server, which speaks Tailscale's protocol,",
    }
}

/// What to type next.
fn next(provider: Provider, code: u8) -> String {
    let same = match provider {
        Provider::WireGuard | Provider::OpenVpn => {
            "adit exec --config lab.conf -- CMD…             the same with your own wg-quick file, or corp.ovpn"
        }
        Provider::Tailscale => {
            "adit exec --auth-key file:key -- CMD…           the same in your own tailnet, with an auth key"
        }
    };
    let ended = if code == 0 { String::new() } else { format!("\nThe program ended with {code}.") };
    format!(
        "{ended}
That was a real {} handshake, a network stack of our own, DNS inside the tunnel and a program that was not
changed. Nothing is left behind. Next:
  adit demo -- bash                               look around in it yourself
  {same}
  adit doctor                                     what this machine allows",
        name(provider)
    )
}

/// `adit demo-client HOST:PORT QUERY`: a PostgreSQL client for machines that have none. An ordinary program: it
/// resolves with the system's resolver and connects with the system's sockets.
pub(crate) fn client(context: &Context, args: &DemoClientArgs) -> Result<Exit, Failure> {
    let failed =
        |error: String| failure::of("app.closed", format!("{} did not answer", args.address)).seen(error);
    let rows = runtime()?.block_on(async {
        let stream =
            tokio::net::TcpStream::connect(&args.address).await.map_err(|error| failed(error.to_string()))?;
        services::postgres_query(stream, "demo", &args.query).await.map_err(|error| failed(error.to_string()))
    })?;
    context.ui.result(&table(&rows))?;
    Ok(Exit::Ok)
}

/// Rows as `psql` shows them.
fn table(rows: &services::Rows) -> String {
    let cell = |value: &Option<String>| value.clone().unwrap_or_default();
    let widths: Vec<_> = (0..rows.columns.len())
        .map(|column| {
            let values =
                rows.rows.iter().map(|row| row.get(column).map_or(0, |value| cell(value).chars().count()));
            values.chain([rows.columns[column].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: Vec<String>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!(" {cell:>width$} "));
        padded.collect::<Vec<_>>().join("|")
    };
    let mut lines = vec![line(rows.columns.clone())];
    lines.push(widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("+"));
    lines.extend(rows.rows.iter().map(|row| line(row.iter().map(cell).collect())));
    lines.push(format!("({} row{})", rows.rows.len(), if rows.rows.len() == 1 { "" } else { "s" }));
    lines.join("\n")
}

/// Whether a program is in the search path.
fn installed(name: &str) -> bool {
    let executable = |path: &Path| {
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| executable(&directory.join(name)))
}

/// A word as a shell would read it.
fn quote(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_look_as_in_psql() {
        let rows =
            services::Rows { columns: vec!["count".to_owned()], rows: vec![vec![Some("42".to_owned())]] };
        assert_eq!(table(&rows), " count \n-------\n    42 \n(1 row)");
    }

    #[test]
    fn a_command_is_shown_as_it_could_be_typed() {
        assert_eq!(quote(OsStr::new("select count(*) from orders")), "'select count(*) from orders'");
        assert_eq!(quote(OsStr::new("it's")), "'it'\\''s'");
        assert_eq!(quote(OsStr::new("-h")), "-h");
    }
}
