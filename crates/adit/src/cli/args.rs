//! The definition of the command line: help, man pages, completions and the environment's names come from here.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use adit_providers::tailscale::ControlUrl;
use clap::builder::{BoolishValueParser, Styles, styling::AnsiColor};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};

use super::{
    CaptureArgs, DnsArgs, ForwardArgs, LoginArgs, LogoutArgs, NcArgs, PingArgs, ProxyArgs, RouteArgs,
    StatusArgs, UpArgs, VerifyArgs, WhoisArgs,
};
use crate::config::Provider;
use crate::config::{Mode, duration};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  adit exec --config lab.conf --target tcp://db.internal:5432,postgres -- psql -h db.internal
  adit up --config adit.toml --profile staging --detach
  adit exec --auth-key file:key --target tcp://staging-db:5432,postgres -- psql -h staging-db
  adit config check lab.conf

Every flag has an environment variable, ADIT_ and its name. Precedence: flag, environment, file, default.
`adit explain CODE` tells more about any failure, `adit explain exit-codes` lists the exit codes.";

/// Joins a private network without root and without a TUN device, verifies it, and runs programs in it
#[derive(Debug, Parser)]
#[command(name = "adit", version, styles = STYLES, after_help = EXAMPLES, max_term_width = 100)]
#[command(disable_help_subcommand = true, infer_subcommands = false)]
pub struct Cli {
    /// The flags that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The configuration: an adit.toml, or a wg-quick file or OpenVPN profile in place of it
    ///
    /// Without it: ./adit.toml, ./.adit.toml, $XDG_CONFIG_HOME/adit/config.toml, /etc/adit/config.toml.
    #[arg(long, global = true, env = "ADIT_CONFIG", hide_env = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// The profile of the configuration
    #[arg(short, long, global = true, env = "ADIT_PROFILE", hide_env = true, value_name = "NAME")]
    pub profile: Option<String>,
    /// Print the result as one JSON object on stdout
    #[arg(long, global = true, env = "ADIT_JSON", hide_env = true, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub json: bool,
    /// Write events while they happen, one JSON object a line: a file, fd:N, or - for stdout
    #[arg(long, global = true, env = "ADIT_EVENTS", hide_env = true, value_name = "DEST", value_hint = ValueHint::FilePath)]
    pub events: Option<String>,
    /// The form of the report on stdout
    #[arg(
        long,
        global = true,
        env = "ADIT_FORMAT",
        hide_env = true,
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub format: Format,
    /// Say nothing but errors
    #[arg(short, long, global = true, env = "ADIT_QUIET", hide_env = true, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub quiet: bool,
    /// Log decisions; twice: everything but packets; three times: packets too
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// What to log, as `tracing` directives, like adit=debug
    #[arg(long, global = true, env = "ADIT_LOG", hide_env = true, value_name = "DIRECTIVES")]
    pub log: Option<String>,
    /// The form of log lines on stderr
    #[arg(
        long,
        global = true,
        env = "ADIT_LOG_FORMAT",
        hide_env = true,
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,
    /// When to use colour; NO_COLOR, CLICOLOR_FORCE and TERM=dumb are honoured
    #[arg(
        long,
        global = true,
        env = "ADIT_COLOR",
        hide_env = true,
        value_name = "WHEN",
        default_value = "auto"
    )]
    pub color: Color,
    /// Print plain lines in place of a moving progress line
    #[arg(long, global = true, env = "ADIT_NO_PROGRESS", hide_env = true, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub no_progress: bool,
    /// Print the page to sign in at as a QR code too
    #[arg(long, global = true, env = "ADIT_QR", hide_env = true, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub qr: bool,
    /// Where state is kept; without it nothing is written to disk
    #[arg(long, visible_alias = "state", global = true, env = "ADIT_STATE_DIR", hide_env = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<PathBuf>,
    /// The control socket of a running `adit up`
    #[arg(long, global = true, env = "ADIT_SOCKET", hide_env = true, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
}

/// Flags of the commands that connect.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Connection options")]
pub struct ConnectArgs {
    /// A service that must answer first: tcp://host:port[,postgres|ssh|smtp|mysql|redis|tls], http(s)://…, udp://, dns://name, icmp://host
    ///
    /// May be given several times; ADIT_TARGETS holds several, one a line.
    #[arg(long = "target", short = 't', value_name = "URL")]
    pub targets: Vec<String>,
    /// How long connecting and verifying may take together [default: 60s; 5m where somebody signs in]
    #[arg(long, env = "ADIT_TIMEOUT", hide_env = true, value_name = "DURATION", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    /// How programs reach the network [default: auto]
    #[arg(long, env = "ADIT_MODE", hide_env = true, value_name = "MODE")]
    pub mode: Option<Mode>,
    /// Refuse a weaker mode and doubtful configuration in place of a warning
    #[arg(long, env = "ADIT_STRICT", hide_env = true, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub strict: bool,
    /// The WireGuard private key, where the file has none: file:PATH, fd:N, env:NAME, command:…, or - for stdin
    #[arg(long, env = "ADIT_PRIVATE_KEY", hide_env = true, value_name = "SOURCE")]
    pub private_key: Option<RawSource>,
    /// The WireGuard preshared key, where the file has none: file:PATH, fd:N, env:NAME, command:…, or - for stdin
    #[arg(long, env = "ADIT_PRESHARED_KEY", hide_env = true, value_name = "SOURCE")]
    pub preshared_key: Option<RawSource>,
    /// OpenVPN: user and password, in two lines: file:PATH, fd:N, env:NAME, command:…, or - for stdin
    #[arg(long, env = "ADIT_AUTH_USER_PASS", hide_env = true, value_name = "SOURCE")]
    pub auth_user_pass: Option<RawSource>,
    /// OpenVPN: the password of an encrypted private key: file:PATH, fd:N, env:NAME, command:…, or - for stdin
    #[arg(long, env = "ADIT_KEY_PASS", hide_env = true, value_name = "SOURCE")]
    pub key_pass: Option<RawSource>,
    /// OpenVPN: the answer to the server's question: file:PATH, fd:N, env:NAME, command:…, or - for stdin
    #[arg(long, env = "ADIT_CHALLENGE", hide_env = true, value_name = "SOURCE", conflicts_with_all = ["challenge_cmd", "totp"])]
    pub challenge: Option<RawSource>,
    /// OpenVPN: a command that prints the answer to the question in $ADIT_QUESTION
    #[arg(
        long,
        env = "ADIT_CHALLENGE_CMD",
        hide_env = true,
        value_name = "COMMAND",
        conflicts_with = "totp"
    )]
    pub challenge_cmd: Option<String>,
    /// OpenVPN: the base32 secret of one-time codes: file:PATH, fd:N, env:NAME, command:…, or - for stdin
    #[arg(long, env = "ADIT_TOTP", hide_env = true, value_name = "SOURCE")]
    pub totp: Option<RawSource>,
    /// OpenVPN: how long a server may stay silent before one over another transport is called as well; 0s tries them one after the other [default: 1500ms]
    #[arg(long, env = "ADIT_RACE", hide_env = true, value_name = "DURATION", value_parser = duration::parse)]
    pub race: Option<Duration>,
    /// Tailscale: an auth key, or the secret of an OAuth client: file:PATH, fd:N, env:NAME, command:…, or - for stdin
    ///
    /// Without any configuration file it is all that a tailnet needs.
    #[arg(long, env = "ADIT_AUTH_KEY", hide_env = true, value_name = "SOURCE")]
    pub auth_key: Option<RawSource>,
    /// Tailscale: the URL of the control server, a Headscale's for example [default: that of Tailscale]
    #[arg(long, env = "ADIT_LOGIN_SERVER", hide_env = true, value_name = "URL", value_parser = control_url)]
    pub login_server: Option<ControlUrl>,
    /// Tailscale: the name to ask for; {run} stands for the run that this is part of [default: that of the machine]
    #[arg(long, env = "ADIT_HOSTNAME", hide_env = true, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Tailscale: a tag to ask for; may be given several times
    #[arg(long = "tag", env = "ADIT_TAG", hide_env = true, value_name = "TAG", value_delimiter = ',', value_parser = tag)]
    pub tags: Vec<String>,
    /// Tailscale: whether the node is deleted at the end [default: true without --state-dir]
    #[arg(long, env = "ADIT_EPHEMERAL", hide_env = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ephemeral: Option<bool>,
    /// Tailscale: whether subnet routes of other nodes are used [default: true]
    #[arg(long, env = "ADIT_ACCEPT_ROUTES", hide_env = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub accept_routes: Option<bool>,
    /// Tailscale: send what no other route covers through this node: a name or an address
    #[arg(long, env = "ADIT_EXIT_NODE", hide_env = true, value_name = "NODE")]
    pub exit_node: Option<String>,
    /// Tailscale: wait for somebody who signs in at a page of the control server
    #[arg(long, env = "ADIT_BROWSER", hide_env = true, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub browser: bool,
    /// Tailscale: fail at once where a name, a route or a permission is missing, in place of waiting for it for 40 s after joining
    #[arg(long, env = "ADIT_NO_GRACE", hide_env = true, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub no_grace: bool,
    /// Remove secrets from where they came: files are unlinked, variables unset
    #[arg(long, env = "ADIT_CONSUME", hide_env = true, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub consume: bool,
    /// Accept secret files that other users can read
    #[arg(long, env = "ADIT_INSECURE_PERMS", hide_env = true, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub insecure_perms: bool,
    /// Trust the certificate authorities of this PEM file too, for targets with TLS and for control and relay servers
    #[arg(long, env = "ADIT_CA_FILE", hide_env = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub ca_file: Option<PathBuf>,
}

fn control_url(text: &str) -> Result<ControlUrl, String> {
    ControlUrl::parse(text).map_err(|problem| problem.summary)
}

fn tag(text: &str) -> Result<String, String> {
    crate::config::tag(text).map_err(|(why, fix)| format!("{why}; {fix}"))
}

/// The text of a secret's source. It may be a secret put there by mistake, hence it is never printed.
#[derive(Clone)]
pub struct RawSource(pub String);

impl From<String> for RawSource {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for RawSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RawSource(…)")
    }
}

/// The form of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people, on stderr
    Text,
    /// Workflow commands and a step summary of GitHub Actions
    Github,
    /// JUnit XML, one test case a stage
    Junit,
    /// The answer that a Fabro hook gives: exit code 0 or 2 and a JSON object
    FabroHook,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people
    Text,
    /// One JSON object a line
    Json,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program in the network
    Exec(ExecArgs),
    /// Check, show or write configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Connect, verify, and keep the network up
    Up(Box<UpArgs>),
    /// Verify that the network and its services answer
    Verify(Box<VerifyArgs>),
    /// End a running `adit up`
    Down,
    /// Show a running `adit up`
    Status(StatusArgs),
    /// Sign in to a tailnet once, and keep the node for later runs
    Login(Box<LoginArgs>),
    /// End the node that was kept, and forget it
    Logout(Box<LogoutArgs>),
    /// Make a service inside the network a port of this machine
    Forward(ForwardArgs),
    /// Serve SOCKS5 and HTTP proxying into the network
    Proxy(ProxyArgs),
    /// Connect standard input and output to a service inside the network
    Nc(NcArgs),
    /// Ask the network's DNS
    Dns(DnsArgs),
    /// Say which way the packets to a host go, and why
    Route(RouteArgs),
    /// Ask whether a host of the network answers
    Ping(PingArgs),
    /// Say which node of a tailnet has an address, and whose it is
    Whois(WhoisArgs),
    /// Record the packets inside the network, for Wireshark or tcpdump
    Capture(CaptureArgs),
    /// See all of it at work on this machine: an embedded private network, verified, and a program in it
    Demo(DemoArgs),
    /// A small PostgreSQL client for the demo
    #[command(hide = true)]
    DemoClient(DemoClientArgs),
    /// Measure what this machine can do: a tunnel over its loopback, beside the floors
    Bench(BenchArgs),
    /// Try what this machine allows, and show why the rest does not work
    Doctor,
    /// Explain a failure class: what it means, why it happens, what to do
    Explain(ExplainArgs),
    /// Write man pages, one file a command
    Man(ManArgs),
    /// Print a shell's completion script
    Completions(CompletionsArgs),
    /// Print the version
    Version,
}

/// `adit exec`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  adit exec --config lab.conf -- curl http://files.corp.internal/
  adit exec --config lab.conf --target tcp://db.internal:5432,postgres -- psql -h db.internal
  adit exec -- psql -h db.internal        # in the network of a running `adit up`
  adit exec --profile staging --also corp -- ./sync.sh    # in two networks at once

It ends with its program, and with the program's code. What the program leaves in the background keeps
the network: a supervisor stays for it, out of sight, and ends with the last of it.

The exit code is the program's own, or 128 plus the signal that ended it. 2: wrong usage or configuration;
125: adit failed before the program ran; 126: the program cannot be executed; 127: it was not found.")]
pub struct ExecArgs {
    /// How to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Run the program in the network of this profile too; may be given several times
    ///
    /// The longest route decides about an address, the longest search domain about a name. Flags about credentials
    /// and targets are for the first profile alone.
    #[arg(long, env = "ADIT_ALSO", hide_env = true, value_name = "PROFILE", value_delimiter = ',')]
    pub also: Vec<String>,
    /// The program and its arguments
    #[arg(last = true, required = true, help_heading = "Program", value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<std::ffi::OsString>,
}

/// `adit config`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a configuration offline: every error, every warning, and nothing started
    ///
    /// Secrets are read and checked for their form; they are neither removed nor shown.
    Check(ConfigCheckArgs),
    /// Show the settings of a run, without secrets
    Show(ConfigShowArgs),
    /// Write a commented example
    Init(ConfigInitArgs),
}

/// `adit config check`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit config check lab.conf
  adit config check --config adit.toml --profile staging --strict")]
pub struct ConfigCheckArgs {
    /// The file, in place of --config
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// How a run would connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `adit config show`
#[derive(Debug, Args)]
pub struct ConfigShowArgs {
    /// The file, in place of --config
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Say where each value came from
    #[arg(long, env = "ADIT_ORIGIN", hide_env = true, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub origin: bool,
    /// How a run would connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `adit config init`
#[derive(Debug, Args)]
pub struct ConfigInitArgs {
    /// The file to write; an existing one is never replaced
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath, default_value = "adit.toml")]
    pub file: PathBuf,
}

/// `adit bench`
#[derive(Debug, Args)]
#[command(after_help = "\
Both ends of the tunnel run in this process and share its processors, so a real server at the other end of a real
network lets the client do more. CPU-s/GB is the work for each gigabyte, and hardly depends on what else the machine does.

Examples:
  adit bench
  adit bench --seconds 5 --json")]
pub struct BenchArgs {
    /// How long each of the four measurements takes
    #[arg(long, env = "ADIT_SECONDS", hide_env = true, value_name = "N", default_value_t = 2.0, value_parser = seconds)]
    pub seconds: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds between 0.1 and 600 is wanted".to_owned()),
    }
}

/// `adit demo`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit demo
  adit demo --provider tailscale
  adit demo -- psql -h staging-db.internal -U demo staging
  adit demo -- curl http://api.internal/")]
pub struct DemoArgs {
    /// The protocol of the embedded network
    #[arg(
        long,
        env = "ADIT_PROVIDER",
        hide_env = true,
        value_name = "PROVIDER",
        default_value = "wireguard"
    )]
    pub provider: Provider,
    /// The program to run in the embedded network; psql, curl or a small client of adit's own without it
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<std::ffi::OsString>,
}

/// `adit demo-client`
#[derive(Debug, Args)]
pub struct DemoClientArgs {
    /// The server, as HOST:PORT
    #[arg(value_name = "ADDRESS")]
    pub address: String,
    /// The query
    #[arg(value_name = "QUERY")]
    pub query: String,
}

/// `adit explain`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit explain wg.silent
  adit explain exit-codes
  adit explain --options openvpn
  adit explain --json wg.silent")]
pub struct ExplainArgs {
    /// List the options of profiles of this provider, and what becomes of each
    #[arg(long, value_name = "PROVIDER", conflicts_with = "code")]
    pub options: Option<OptionsOf>,
    /// The code of a class, or exit-codes; without it all classes are listed
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
}

/// Whose options are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OptionsOf {
    /// Those of an OpenVPN profile
    Openvpn,
}

/// `adit man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The directory to write to; it is made if it is missing
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: PathBuf,
}

/// `adit completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}
