//! The command line: parsing, dispatch to one function a verb, and the exit code.

mod args;
mod network;
mod overrides;
mod secrets;

use std::cell::OnceCell;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};

use adit_verify::{Report, Stage};
pub use args::*;
pub use network::*;
use serde_json::json;

use crate::commands;
use crate::config::{Failures, Settings};
use crate::output::{Ui, logging, moving};
use crate::verification::{self, Reporter};
use crate::wanted::now;
use crate::{Exit, Failure, dialing};

/// The definition that help, man pages and completions are made of.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// What a verb works with.
#[derive(Debug)]
pub struct Context {
    /// The flags that every command takes.
    pub global: Global,
    /// Where messages and results go.
    pub ui: Ui,
    matches: ArgMatches,
    settings: OnceCell<(Result<Settings, Failures>, Duration)>,
    reporter: OnceCell<Arc<Reporter>>,
}

impl Context {
    /// The same command line for another profile.
    pub(crate) fn for_profile(&self, name: &str) -> Self {
        Self {
            global: Global { profile: Some(name.to_owned()), socket: None, ..self.global.clone() },
            ui: self.ui.clone(),
            matches: self.matches.clone(),
            settings: OnceCell::new(),
            reporter: self.reporter.clone(),
        }
    }

    /// Who shows what happens. There is one for a command: the destination of events is opened once.
    ///
    /// # Errors
    /// The destination cannot be opened.
    pub(crate) fn reporter(&self) -> Result<Arc<Reporter>, Failure> {
        match self.reporter.get() {
            Some(reporter) => Ok(Arc::clone(reporter)),
            None => {
                let made = Arc::new(Reporter::new(self)?);
                Ok(Arc::clone(self.reporter.get_or_init(|| made)))
            }
        }
    }

    /// Whether the command is about a node that is kept, and needs no other way to be let in.
    pub(crate) fn keeps_node(&self) -> bool {
        matches!(self.matches.subcommand_name(), Some("login" | "logout"))
    }

    /// Where the value of a flag came from: the command line, its variable, or nowhere.
    pub fn flag_origin(&self, flag: &str) -> Option<FlagOrigin> {
        let mut matches = &self.matches;
        loop {
            match matches.try_contains_id(flag).ok().and_then(|_| matches.value_source(flag)) {
                Some(ValueSource::CommandLine) => return Some(FlagOrigin::Argument),
                Some(ValueSource::EnvVariable) => return Some(FlagOrigin::Environment),
                _ => matches = matches.subcommand()?.1,
            }
        }
    }
}

/// Where a flag's value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagOrigin {
    /// The command line.
    Argument,
    /// The flag's environment variable.
    Environment,
}

/// The exit code where whoever read stdout has gone: that of a program that SIGPIPE ends. Nobody is told more.
const UNREAD: u8 = 128 + 13;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os().collect()))
}

/// Returns the process's exit code: an [`Exit`], or that of the program that `exec` ran.
fn run(arguments: Vec<OsString>) -> u8 {
    if let [_, verb, question @ ..] = arguments.as_slice()
        && verb == dialing::VERB
        && let Some(question) = question.iter().map(|word| word.to_str()).collect::<Option<Vec<_>>>()
    {
        return dialing::child(&question);
    }
    let plain = Ui::plain();
    if let Err(failure) = secrets::refuse(&arguments) {
        plain.failure(&failure);
        return failure.exit.code();
    }
    let matches = match definition().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return explain_usage(&error).code(),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return explain_usage(&error).code(),
    };
    let ui = Ui::new(&cli.global);
    if let Err(failure) = logging::start(&cli.global, &ui) {
        ui.failure(&failure);
        return failure.exit.code();
    }
    let mut context =
        Context { global: cli.global, ui, matches, settings: OnceCell::new(), reporter: OnceCell::new() };
    let code = dispatch(&mut context, &cli.command).unwrap_or_else(|failure| match context.ui.unread() {
        true => UNREAD,
        false => fail(&context, failure).code(),
    });
    moving::hide();
    code
}

/// Says why a command failed, in the form that was asked for; returns the exit code.
fn fail(context: &Context, failure: Failure) -> Exit {
    moving::hide();
    let exit = failure.exit;
    if context.global.format != Format::Text {
        // What reads a report reads it for every failure: a hook shows nothing else to its user.
        let stage = Stage::ALL.into_iter().find(|stage| stage.exit() == exit).unwrap_or(Stage::Env);
        let report = Report::ended_early(now(), failure.stage.unwrap_or(stage), vec![failure]);
        return verification::publish(context, &report).unwrap_or(exit);
    }
    context.ui.failure(&failure);
    if context.global.json {
        // Stdout may be what failed; the exit code says the same.
        let _ = context.ui.json(&json!({ "schema": "adit.failure/1", "ok": false, "failure": failure }));
    }
    exit
}

/// One function a verb. `exec` alone has more exit codes than [`Exit`]: those of its program.
fn dispatch(context: &mut Context, command: &Command) -> Result<u8, Failure> {
    match command {
        Command::Exec(args) => return commands::exec::run(context, args),
        Command::Config(command) => commands::config::run(context, command),
        Command::Up(args) => return commands::up::run(context, args),
        Command::Verify(args) => commands::verify::run(context, args),
        Command::Down => commands::down::run(context),
        Command::Login(args) => commands::login::run(context, args),
        Command::Logout(args) => commands::logout::run(context, args),
        Command::Status(args) => commands::status::run(context, args),
        Command::Forward(args) => commands::forward::run(context, args),
        Command::Proxy(args) => commands::proxy::run(context, args),
        Command::Nc(args) => commands::nc::run(context, args),
        Command::Dns(args) => commands::dns::run(context, args),
        Command::Route(args) => commands::route::run(context, args),
        Command::Ping(args) => commands::ping::run(context, args),
        Command::Whois(args) => commands::whois::run(context, args),
        Command::Capture(args) => commands::capture::run(context, args),
        Command::Demo(args) => return commands::demo::run(context, args),
        Command::DemoClient(args) => commands::demo::client(context, args),
        Command::Bench(args) => commands::bench::run(context, args),
        Command::Doctor => commands::doctor::run(context),
        Command::Explain(args) => commands::explain::run(context, args),
        Command::Man(args) => commands::man::run(context, args),
        Command::Completions(args) => commands::completions::run(context, args),
        Command::Version => commands::version::run(context),
    }
    .map(Exit::code)
}

/// Help and version are results; everything else is a wrong command line.
fn explain_usage(error: &clap::Error) -> Exit {
    // A closed pipe is the reader's decision.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok,
        _ => Exit::Usage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn every_flag_with_a_value_has_its_variable() {
        let mut definition = definition();
        definition.build();
        for argument in definition.get_arguments().filter(|a| a.get_long().is_some()) {
            let long = argument.get_long().unwrap();
            if ["help", "version", "verbose"].contains(&long) {
                continue;
            }
            let variable = format!("ADIT_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().and_then(|v| v.to_str()), Some(variable.as_str()), "--{long}");
        }
    }
}
