//! The flags of the commands that hold or use a running network.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};

use super::{ConnectArgs, RawSource};
use crate::config::duration;

/// `adit up`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  adit up --config lab.conf --target tcp://db.internal:5432,postgres --detach
  adit up --config lab.conf --forward 5432:db.internal:5432 --proxy
  adit up --config lab.conf --expose 3000,5353/udp
  adit up --config lab.conf --mode tun

Without --mode nothing of the machine changes: programs come by `adit exec`, proxies and forwards.
--mode tun makes a device with routes and DNS for every program; it needs CAP_NET_ADMIN. --mode
auto makes one where that is allowed, and says why where it is not. What a killed run left of a
device is put back at the next start, or by `adit down`.

In the foreground it ends by Ctrl-C, `adit down`, or the end of what --exit-with names.")]
pub struct UpArgs {
    /// How to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Return when the network is verified, and keep it in the background
    #[arg(short, long, env = "ADIT_DETACH", hide_env = true, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub detach: bool,
    /// The fronts.
    #[command(flatten)]
    pub fronts: FrontArgs,
    /// Ports of this machine that peers may reach at the tunnel's address: PORT[/udp],… or all (TCP)
    #[arg(
        long,
        env = "ADIT_EXPOSE",
        hide_env = true,
        value_name = "PORTS",
        value_delimiter = ',',
        help_heading = "Fronts"
    )]
    pub expose: Vec<String>,
    /// Lead the tunnel's routes into the device of --mode tun even where they take this machine's own networks
    #[arg(long, env = "ADIT_FORCE_ROUTE", hide_env = true, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub force_route: bool,
    /// End when this process ends
    #[arg(long, env = "ADIT_EXIT_WITH", hide_env = true, value_name = "PID")]
    pub exit_with: Option<i32>,
    /// End when no connection has used the network for this long
    #[arg(long, env = "ADIT_MAX_IDLE", hide_env = true, value_name = "DURATION", value_parser = duration::parse)]
    pub max_idle: Option<Duration>,
}

/// Proxies and forwards.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Fronts")]
pub struct FrontArgs {
    /// A port of this machine that is a service inside.
    #[arg(
        help = "A port of this machine that is a service inside: [ADDR:]L:HOST:PORT[/udp]; may be given several times",
        long = "forward",
        env = "ADIT_FORWARD",
        hide_env = true,
        value_name = "SPEC",
        value_delimiter = ','
    )]
    pub forwards: Vec<String>,
    /// A SOCKS5 and HTTP proxy on one port [default address: 127.0.0.1:1055]
    #[arg(long, env = "ADIT_PROXY", hide_env = true, value_name = "ADDR", num_args = 0..=1, require_equals = true, default_missing_value = "127.0.0.1:1055")]
    pub proxy: Option<SocketAddr>,
    /// The proxy's USER:PASSWORD: file:PATH, fd:N, env:NAME, command:…, or - for stdin
    #[arg(long, env = "ADIT_PROXY_AUTH", hide_env = true, value_name = "SOURCE")]
    pub proxy_auth: Option<RawSource>,
}

/// `adit verify`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  adit verify --config lab.conf --target tcp://db.internal:5432,postgres
  adit verify --target https://api.internal/healthz --wait 60s
  adit verify --json

A running `adit up` is verified where there is one; without --target its own targets are.")]
pub struct VerifyArgs {
    /// How to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Keep trying targets that are not there yet for this long
    #[arg(long, env = "ADIT_WAIT", hide_env = true, value_name = "DURATION", value_parser = duration::parse)]
    pub wait: Option<Duration>,
    /// Watch for this long that everything stays as it is
    #[arg(long, env = "ADIT_STABLE", hide_env = true, value_name = "DURATION", value_parser = duration::parse)]
    pub stable: Option<Duration>,
    /// What must hold beyond answers: target, direct, rtt_ms=N
    #[arg(long, env = "ADIT_REQUIRE", hide_env = true, value_name = "LIST", value_delimiter = ',')]
    pub require: Vec<String>,
    /// Measure the round-trip time and the largest packet
    #[arg(long, env = "ADIT_QUALITY", hide_env = true, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub quality: bool,
}

/// `adit status`
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Answer one question by the exit code
    #[arg(long, env = "ADIT_CHECK", hide_env = true, value_name = "WHAT")]
    pub check: Option<HealthCheck>,
    /// Print a line whenever the state changes, until the network ends
    #[arg(short, long, env = "ADIT_WATCH", hide_env = true, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new(), conflicts_with = "check")]
    pub watch: bool,
}

/// What a health check asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HealthCheck {
    /// Does the running adit answer?
    Live,
    /// Is the network up, and did the last check succeed recently?
    Ready,
    /// Has the network been up at least once?
    Startup,
}

/// `adit forward`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  adit forward 5432:db.internal:5432
  adit forward 0:dns.internal:53/udp

A running `adit up` takes the forward over, and the command returns. Otherwise it connects itself and serves
until Ctrl-C.")]
pub struct ForwardArgs {
    /// How to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// What to forward; 0 for the local port chooses a free one.
    #[arg(
        help = "[ADDR:]L:HOST:PORT[/udp]; 0 for L chooses a free port",
        required = true,
        value_name = "SPEC"
    )]
    pub specs: Vec<String>,
}

/// `adit proxy`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  adit proxy --config lab.conf
  curl -x socks5h://127.0.0.1:1055 http://api.internal/")]
pub struct ProxyArgs {
    /// How to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Where SOCKS5 and HTTP are served, on one port
    #[arg(long, env = "ADIT_LISTEN", hide_env = true, value_name = "ADDR", default_value = "127.0.0.1:1055")]
    pub listen: SocketAddr,
    /// USER:PASSWORD: file:PATH, fd:N, env:NAME, command:…, or - for stdin
    #[arg(long, env = "ADIT_PROXY_AUTH", hide_env = true, value_name = "SOURCE")]
    pub proxy_auth: Option<RawSource>,
}

/// `adit nc`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  adit nc db.internal 5432
  ssh -o ProxyCommand='adit nc %h %p' host.internal")]
pub struct NcArgs {
    /// How to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// A host name or address
    pub host: String,
    /// A port
    pub port: u16,
}

/// `adit dns`
#[derive(Clone, Debug, Args)]
pub struct DnsArgs {
    /// How to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// A name, or an address for its reverse name
    pub name: String,
    /// The record type: A, AAAA or PTR; without it both kinds of address are asked for
    #[arg(long = "type", env = "ADIT_TYPE", hide_env = true, value_name = "TYPE")]
    pub record: Option<RecordKind>,
}

/// A DNS record type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum RecordKind {
    /// IPv4 addresses
    A,
    /// IPv6 addresses
    Aaaa,
    /// The names of an address
    Ptr,
}

/// `adit route`
#[derive(Clone, Debug, Args)]
pub struct RouteArgs {
    /// How to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// A host name or address
    pub host: String,
}

/// `adit ping`
#[derive(Clone, Debug, Args)]
pub struct PingArgs {
    /// How to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// A host name or address
    pub host: String,
    /// How many echoes to send
    #[arg(
        short,
        long,
        env = "ADIT_COUNT",
        hide_env = true,
        value_name = "N",
        default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub count: u32,
    /// How long to wait for each reply
    #[arg(long, env = "ADIT_WAIT", hide_env = true, value_name = "DURATION", value_parser = duration::parse, default_value = "2s")]
    pub wait: Duration,
    /// Connect to this TCP port in place of an ICMP echo
    #[arg(long, env = "ADIT_TCP", hide_env = true, value_name = "PORT")]
    pub tcp: Option<u16>,
    /// Tailscale: ask the node itself which way leads there, directly or by which relay, and why not directly
    ///
    /// It asks again until the node answers directly, at most --count times.
    #[arg(long, env = "ADIT_PATH", hide_env = true, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new(), conflicts_with = "tcp")]
    pub path: bool,
}

/// `adit login`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  adit login --state-dir ~/.local/state/adit             # prints a page; somebody signs in there
  adit exec --state-dir ~/.local/state/adit -- psql -h staging-db
  adit logout --state-dir ~/.local/state/adit

With an auth key (--auth-key, or one in the profile) nobody needs to sign in.")]
pub struct LoginArgs {
    /// How to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `adit logout`
#[derive(Clone, Debug, Args)]
pub struct LogoutArgs {
    /// How to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `adit whois`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  adit whois 100.64.0.7
  adit whois --json 10.8.0.12           # the node that leads to an address behind it")]
pub struct WhoisArgs {
    /// How to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// An address, with or without a port, or a name
    #[arg(value_name = "ADDR")]
    pub address: String,
}

/// `adit capture`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  adit capture -o staging.pcap
  adit capture | tcpdump -n -r -

It shows what passes inside a running `adit up`, unencrypted: the packets of every program in it.")]
pub struct CaptureArgs {
    /// Where to write the packets: a file, or - for stdout
    #[arg(short, long, env = "ADIT_OUTPUT", hide_env = true, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    /// End after this many packets
    #[arg(
        short,
        long,
        env = "ADIT_COUNT",
        hide_env = true,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub count: Option<u64>,
    /// End after this time
    #[arg(long = "for", env = "ADIT_FOR", hide_env = true, value_name = "DURATION", value_parser = duration::parse)]
    pub duration: Option<Duration>,
}
