//! A failure as people and programs see it, and how the typed failures of a network become one.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use adit_path::{ConnectFailure, ListenFailure, PingFailure, ResolveFailure, UdpFailure};
use adit_tunnel::{Fault, Prefix};
use serde::{Deserialize, Serialize};

use crate::catalogue::{self, Words};
use crate::provider::Provider;
use crate::{Exit, Stage};

/// What failed, on which evidence, and what to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The stable class; `adit explain CLASS` tells more.
    pub class: String,
    /// The provider's own code or word for it, where it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_code: Option<String>,
    /// The stage that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// The target that failed, as it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Whether the same attempt may succeed later without any change by a person.
    pub retryable: bool,
    /// One sentence without full stop.
    pub summary: String,
    /// What was observed, one sentence each.
    pub evidence: Vec<String>,
    /// What to do, the likeliest first.
    pub fix: Vec<String>,
    /// Where in a file it is, if it is at one place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Where more is said.
    pub docs: String,
    /// The code that a process ends with.
    pub exit: Exit,
}

/// A place in a text, with the line itself. A line that holds a secret is stored without it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// The file, or a name like `<stdin>`.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// How many characters are meant.
    pub length: usize,
    /// The line's text.
    pub text: String,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl Failure {
    /// The failure of a class, with the catalogue's words. A class that the catalogue does not know keeps its
    /// code and gets the exit code of an internal error.
    pub fn of(class: &str, words: &Words) -> Self {
        let mut failure =
            Self { class: class.to_owned(), docs: format!("adit explain {class}"), ..Self::default() };
        match catalogue::find(class) {
            Some(class) => {
                failure.retryable = class.retryable;
                failure.summary = class.summary(words);
                failure.fix = class.fix(words);
                failure.exit = class.exit;
            }
            None => failure.summary = class.to_owned(),
        }
        failure
    }

    /// A tunnel's own verdict: its sentence and evidence, the catalogue's advice.
    pub fn of_fault(fault: &Fault, stage: Stage, words: &Words) -> Self {
        let mut failure = Self::of(&fault.class, words).at(stage);
        if catalogue::find(&fault.class).is_none() {
            failure.exit = stage.exit();
        }
        failure.summary = fault.summary.trim_end_matches('.').to_owned();
        // A protocol may begin its observations with its verdict.
        let said = |seen: &&String| seen.trim_end_matches('.') != failure.summary;
        failure.evidence = fault.evidence.iter().filter(said).cloned().collect();
        failure
    }

    /// Replaces the catalogue's sentence by one that knows the case.
    pub fn saying(mut self, summary: impl Into<String>) -> Self {
        self.summary = summary.into();
        self
    }

    /// Replaces the catalogue's advice, unless there is none.
    pub fn with_fix(mut self, fix: Vec<String>) -> Self {
        if !fix.is_empty() {
            self.fix = fix;
        }
        self
    }

    /// Sets the place in a file.
    pub fn in_file(mut self, location: Location) -> Self {
        self.location = Some(location);
        self
    }

    /// Sets the stage.
    pub fn at(mut self, stage: Stage) -> Self {
        self.stage = Some(stage);
        self
    }

    /// Sets the target.
    pub fn of_target(mut self, target: impl ToString) -> Self {
        self.target = Some(target.to_string());
        self
    }

    /// Adds an observation.
    pub fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    /// Adds an advice before the others.
    pub fn advise(mut self, fix: impl Into<String>) -> Self {
        self.fix.insert(0, fix.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.summary, self.class)
    }
}

impl std::error::Error for Failure {}

/// What a failure happened to: the words for its sentences.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// `wireguard`, or another provider; decides between a generic class and the provider's own.
    pub provider: Option<String>,
    /// Values for the catalogue's placeholders: `target`, `host`, `port`, `name`, `address`, `our_key`, `endpoint`, …
    pub words: Words,
}

impl Context {
    /// Adds a value for a placeholder.
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.words.set(name, value);
        self
    }

    fn own(&self) -> &'static Provider {
        Provider::of(self.provider.as_deref())
    }

    fn failure(&self, class: &str, stage: Stage) -> Failure {
        Failure::of(class, &self.words).at(stage)
    }

    fn unrouted(&self, address: IpAddr) -> Failure {
        let class = self.own().no_route;
        self.clone()
            .with("destination", address)
            .with("prefix", Prefix::host(address))
            .failure(class, Stage::Route)
            .seen(format!("no route of the tunnel covers {address}"))
    }

    fn unreachable(&self, stage: Stage, from: IpAddr, kind: u8, code: u8) -> Failure {
        let class = (self.own().icmp)(from, kind, code).unwrap_or(self.own().unreachable);
        let reason = icmp_reason(from, kind, code);
        self.clone()
            .with("from", from)
            .with("reason", &reason)
            .failure(class, stage)
            .seen(format!("ICMP type {kind} code {code} ({reason}) from {from}"))
    }

    fn down(&self, stage: Stage, fault: &Fault) -> Failure {
        if fault.class.is_empty() {
            return self.failure("tunnel.down", stage);
        }
        self.fault(fault, stage)
    }

    /// A verdict of the network. The packet path knows no protocols, so its classes become the provider's.
    pub fn fault(&self, fault: &Fault, stage: Stage) -> Failure {
        let class = Provider::of(self.provider.as_deref()).class(&fault.class).to_owned();
        Failure::of_fault(&Fault { class, ..fault.clone() }, stage, &self.words)
    }

    /// A connection that was not made.
    pub fn connect(&self, failure: &ConnectFailure) -> Failure {
        let stage = Stage::Target;
        match failure {
            ConnectFailure::Refused => {
                self.failure("target.refused", stage).seen("the host answered with a TCP reset")
            }
            ConnectFailure::Reset => self.failure("target.reset", stage).seen("the connection was reset"),
            ConnectFailure::TimedOut(after) => self
                .failure("target.silent", stage)
                .seen(format!("no answer to SYN within {}", seconds(*after))),
            ConnectFailure::Unreachable { from, kind, code } => self.unreachable(stage, *from, *kind, *code),
            ConnectFailure::NoRoute(address) => self.unrouted(*address),
            ConnectFailure::Denied(why) => self.failure("policy.denied", stage).seen(why),
            ConnectFailure::Down(fault) => self.down(stage, fault),
            ConnectFailure::Exhausted(what) => self.exhausted(stage, what),
            ConnectFailure::Closed => self.failure("session.closed", stage),
        }
    }

    /// A name that was not resolved.
    pub fn resolve(&self, failure: &ResolveFailure) -> Failure {
        let stage = Stage::Dns;
        let seen = failure.to_string();
        match failure {
            ResolveFailure::NoSuchName { name, server } => self
                .clone()
                .with("name", name)
                .with("server", server)
                .failure("dns.nxdomain", stage)
                .seen(seen),
            ResolveFailure::Silent { name, servers, .. } => {
                let servers = servers.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
                self.clone()
                    .with("name", name)
                    .with("server", servers)
                    .failure(self.own().dns_silent, stage)
                    .seen(seen)
            }
            ResolveFailure::Failed { name, server, code } if self.own().knows_no_way(*server, code) => self
                .clone()
                .with("name", name)
                .failure(self.own().dns_unrouted, stage)
                .seen("no route leads to the resolver that the network names for it: none is advertised, or none is approved"),
            ResolveFailure::Failed { name, server, code } => self
                .clone()
                .with("name", name)
                .with("server", server)
                .with("code", code)
                .failure("dns.servfail", stage)
                .seen(seen),
            ResolveFailure::NoServer { name } => {
                self.clone().with("name", name).failure(self.own().no_dns, stage).seen(seen)
            }
            ResolveFailure::ServerUnrouted { server } => {
                let class = self.own().dns_unrouted;
                self.clone()
                    .with("server", server)
                    .with("destination", server)
                    .with("prefix", Prefix::host(*server))
                    .failure(class, stage)
                    .seen(seen)
            }
            ResolveFailure::AnswerUnrouted { name, address } => self
                .clone()
                .with("name", name)
                .with("destination", address)
                .with("prefix", Prefix::host(*address))
                .failure("dns.unrouted", stage)
                .seen(seen),
            ResolveFailure::BadName { name } => {
                self.clone().with("name", name).failure("dns.bad_name", stage)
            }
            ResolveFailure::Down(fault) => self.down(stage, fault),
            ResolveFailure::Exhausted(what) => self.exhausted(stage, what),
            ResolveFailure::Closed => self.failure("session.closed", stage),
        }
    }

    /// A ping without reply.
    pub fn ping(&self, failure: &PingFailure) -> Failure {
        let stage = Stage::Target;
        match failure {
            PingFailure::TimedOut(after) => self
                .failure("target.silent", stage)
                .seen(format!("no reply to an ICMP echo within {}", seconds(*after))),
            PingFailure::Unreachable { from, kind, code } => self.unreachable(stage, *from, *kind, *code),
            PingFailure::NoRoute(address) => self.unrouted(*address),
            PingFailure::Down(fault) => self.down(stage, fault),
            PingFailure::Exhausted(what) => self.exhausted(stage, what),
            PingFailure::Closed => self.failure("session.closed", stage),
        }
    }

    /// A UDP endpoint that was not opened.
    pub fn udp(&self, failure: &UdpFailure) -> Failure {
        let stage = Stage::Target;
        match failure {
            UdpFailure::PortInUse(port) => self.clone().with("port", port).failure("env.port_in_use", stage),
            UdpFailure::NoRoute(address) => self.unrouted(*address),
            UdpFailure::Denied(why) => self.failure("policy.denied", stage).seen(why),
            UdpFailure::Exhausted(what) => self.exhausted(stage, what),
            UdpFailure::System(why) => {
                self.clone().with("reason", why).failure("env.socket", Stage::Env).seen(why)
            }
            UdpFailure::Closed => self.failure("session.closed", stage),
        }
    }

    /// A port that cannot be listened on.
    pub fn listen(&self, failure: &ListenFailure) -> Failure {
        let stage = Stage::Env;
        match failure {
            ListenFailure::PortInUse(port) => {
                self.clone().with("port", port).failure("env.port_in_use", stage)
            }
            ListenFailure::Exhausted(what) => self.exhausted(stage, what),
            ListenFailure::Closed => self.failure("session.closed", stage),
        }
    }

    fn exhausted(&self, stage: Stage, what: &str) -> Failure {
        self.clone().with("what", what).failure("budget.exhausted", stage).seen(format!("out of {what}"))
    }
}

/// The name of an ICMP destination-unreachable code (RFC 792, RFC 1812 §5.2.7.1; RFC 4443 §3.1).
fn icmp_reason(from: IpAddr, kind: u8, code: u8) -> String {
    let name = match (from, kind, code) {
        (IpAddr::V4(_), 3, 0) => "network unreachable",
        (IpAddr::V4(_), 3, 1) => "host unreachable",
        (IpAddr::V4(_), 3, 2) => "protocol unreachable",
        (IpAddr::V4(_), 3, 3) | (IpAddr::V6(_), 1, 4) => "port unreachable",
        (IpAddr::V4(_), 3, 4) => "fragmentation needed",
        (IpAddr::V4(_), 3, 9 | 10 | 13) | (IpAddr::V6(_), 1, 1) => "administratively prohibited",
        (IpAddr::V4(_), 11, _) | (IpAddr::V6(_), 3, _) => "time exceeded: a routing loop",
        (IpAddr::V6(_), 1, 0) => "no route to destination",
        (IpAddr::V6(_), 1, 3) => "address unreachable",
        (IpAddr::V6(_), 2, _) => "packet too big",
        _ => return format!("ICMP type {kind} code {code}"),
    };
    name.to_owned()
}

/// A time for sentences: `0.4 s`, `12 s`.
pub(crate) fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(10) && time.subsec_millis() >= 50 {
        return format!("{:.1} s", time.as_secs_f64());
    }
    format!("{:.0} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        let context = Context { provider: Some("wireguard".to_owned()), words: Words::default() };
        context.with("target", "tcp://db.internal:5432").with("port", 5432)
    }

    fn v4(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_connect_failure_has_its_class_and_exit_code() {
        let silent = Fault {
            class: "wg.silent".to_owned(),
            summary: "no answer.".to_owned(),
            evidence: vec!["3 initiations".to_owned()],
        };
        let cases = [
            (ConnectFailure::Refused, "target.refused", Exit::Target),
            (ConnectFailure::Reset, "target.reset", Exit::Target),
            (ConnectFailure::TimedOut(Duration::from_secs(10)), "target.silent", Exit::Target),
            (
                ConnectFailure::Unreachable { from: v4("10.8.0.1"), kind: 3, code: 1 },
                "wg.icmp.unreach",
                Exit::Target,
            ),
            (ConnectFailure::NoRoute(v4("192.0.2.1")), "wg.allowedips.client", Exit::Route),
            (ConnectFailure::Denied("not in allow".to_owned()), "policy.denied", Exit::PolicyDenied),
            (ConnectFailure::Down(silent), "wg.silent", Exit::Handshake),
            (ConnectFailure::Exhausted("ports".to_owned()), "budget.exhausted", Exit::Environment),
            (ConnectFailure::Closed, "session.closed", Exit::Lost),
        ];
        for (failure, class, exit) in cases {
            let made = context().connect(&failure);
            assert_eq!((made.class.as_str(), made.exit), (class, exit), "{failure:?}");
            assert!(!made.fix.is_empty() && !made.summary.contains('{'), "{made:?}");
        }
    }

    #[test]
    fn sentences_carry_the_target_and_the_sender() {
        let made =
            context().connect(&ConnectFailure::Unreachable { from: v4("10.8.0.1"), kind: 3, code: 13 });
        assert_eq!(
            made.summary,
            "10.8.0.1 says that tcp://db.internal:5432 cannot be reached (administratively prohibited)"
        );
        assert_eq!(made.evidence, ["ICMP type 3 code 13 (administratively prohibited) from 10.8.0.1"]);
    }

    #[test]
    fn resolve_failures_have_their_classes() {
        let server = v4("10.8.0.53");
        let name = || "db.internal".to_owned();
        let cases = [
            (ResolveFailure::NoSuchName { name: name(), server }, "dns.nxdomain"),
            (
                ResolveFailure::Silent { name: name(), servers: vec![server], after: Duration::from_secs(5) },
                "dns.silent",
            ),
            (ResolveFailure::Failed { name: name(), server, code: "SERVFAIL".to_owned() }, "dns.servfail"),
            (ResolveFailure::NoServer { name: name() }, "dns.no_server"),
            (ResolveFailure::ServerUnrouted { server }, "wg.dns"),
            (ResolveFailure::AnswerUnrouted { name: name(), address: v4("203.0.113.9") }, "dns.unrouted"),
            (ResolveFailure::Closed, "session.closed"),
        ];
        for (failure, class) in cases {
            let made = context().resolve(&failure);
            assert_eq!(made.class, class, "{failure:?}");
            assert!(catalogue::find(class).is_some_and(|class| class.exit == made.exit), "{failure:?}");
        }
        assert_eq!(context().resolve(&ResolveFailure::BadName { name: name() }).exit, Exit::Usage);
    }

    #[test]
    fn a_verdict_of_the_packet_path_gets_the_class_of_the_provider() {
        let fault =
            Fault { class: "route.clash".to_owned(), summary: "clash.".to_owned(), evidence: Vec::new() };
        let failure = context().fault(&fault, Stage::Address);
        assert_eq!((failure.class.as_str(), failure.exit), ("wg.allowedips.clash", Exit::Route));
        let failure = Context::default().fault(&fault, Stage::Address);
        assert_eq!((failure.class.as_str(), failure.exit), ("route.clash", Exit::Route));
    }

    #[test]
    fn a_fault_of_an_unknown_class_takes_the_exit_code_of_its_stage() {
        let fault = Fault { class: "new.thing".to_owned(), summary: "odd".to_owned(), evidence: Vec::new() };
        assert_eq!(Failure::of_fault(&fault, Stage::Handshake, &Words::default()).exit, Exit::Handshake);
    }
}
