//! What this machine allows, found out by doing it: in child processes and with sockets of its own, which are gone
//! afterwards.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use rustix::thread::set_no_new_privs;
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};

use crate::bpf::{Assembler, Verdict};
use crate::resolv::ResolvConf;
use crate::sys::child::{self, Step};
use crate::sys::listener::{Listener, Request};
use crate::sys::{memory, signal, socket};
use crate::{Backend, tcp};

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ladder {
    /// The machine.
    pub system: System,
    /// What was tried.
    pub findings: Vec<Finding>,
    /// The ways of running a program, the best first.
    pub rungs: Vec<Rung>,
}

/// The machine, as far as it says something about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// The kernel's release.
    pub kernel: String,
    /// The instruction set.
    pub arch: String,
    /// Our user.
    pub uid: u32,
    /// The effective capabilities, as in `/proc/PID/status`.
    pub capabilities: u64,
    /// Whether `no_new_privs` is set.
    pub no_new_privs: bool,
    /// Seccomp filters above us.
    pub seccomp_filters: u32,
    /// The kind of container: `docker`, `podman`, `kubernetes`, `gvisor`, `sysbox`, `lxc` or `none`.
    pub container: String,
    /// `kernel.yama.ptrace_scope`, where Yama exists.
    pub ptrace_scope: Option<u32>,
    /// The name servers of `/etc/resolv.conf`.
    pub nameservers: Vec<String>,
    /// Its search domains.
    pub search: Vec<String>,
}

/// The result of one experiment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was tried: `seccomp_listener`, `pidfd_getfd`, `userns` …
    pub what: String,
    /// Whether it worked.
    pub works: bool,
    /// What was seen.
    pub detail: String,
    /// The failure class, if the failure has one.
    pub class: Option<String>,
}

/// A way of running a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rung {
    /// Its name: `tun`, `exec-getfd`, `exec-inject`, `ptrace`, `netns`, `env`.
    pub mode: String,
    /// Whether the machine allows it.
    pub works: bool,
    /// Whether this version of the program can use it.
    pub supported: bool,
    /// Why, or why not.
    pub reason: String,
}

impl Ladder {
    /// Tries everything.
    pub fn probe() -> Self {
        let mut findings = supervision();
        findings.extend([
            userns(),
            ptrace(),
            tun(),
            net_admin(),
            loopback(),
            deferred_handshake(),
            io_uring(),
            writable("resolv_conf_writable", "/etc/resolv.conf"),
            writable("hosts_writable", "/etc/hosts"),
        ]);
        let rungs = rungs(&findings);
        Self { system: system(), findings, rungs }
    }

    /// The backend to use, if one works.
    pub fn backend(&self) -> Option<Backend> {
        choose(&self.findings).ok()
    }

    /// A finding by name.
    pub fn finding(&self, what: &str) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.what == what)
    }
}

/// The first backend that works, or the failure class and the reason why there is none.
pub fn backend() -> Result<Backend, (&'static str, String)> {
    choose(&supervision())
}

/// Whether this process may make a TUN device and lead routes into it, or the failure class and the reason why not.
///
/// # Errors
/// There is no device file, or no `CAP_NET_ADMIN`.
pub fn tun_device() -> Result<(), (&'static str, String)> {
    let lacking = |finding: Finding| (!finding.works).then_some(finding.detail);
    match lacking(net_admin()).or_else(|| lacking(tun())) {
        None => Ok(()),
        Some(reason) => Err((NO_TUN, reason)),
    }
}

fn choose(findings: &[Finding]) -> Result<Backend, (&'static str, String)> {
    let lacking = |names: &[&str]| {
        let failed = findings.iter().find(|finding| names.contains(&finding.what.as_str()) && !finding.works);
        failed.map(|finding| format!("{}: {}", finding.what, finding.detail))
    };
    if lacking(&["seccomp_listener", "memory", "pidfd_getfd", "descriptors"]).is_none() {
        return Ok(Backend::GetFd);
    }
    match lacking(&["seccomp_listener", "memory", "inject", "descriptors"]) {
        None => Ok(Backend::Inject),
        Some(reason) => Err(("env.no_seccomp_notify", reason)),
    }
}

impl Finding {
    fn new(what: &str, result: Result<String, String>) -> Self {
        let works = result.is_ok();
        let detail = result.unwrap_or_else(|failure| failure);
        Self { what: what.to_owned(), works, detail, class: None }
    }

    fn class(mut self, class: &str) -> Self {
        if !self.works {
            self.class = Some(class.to_owned());
        }
        self
    }
}

/// The descriptor number in the call of the child, which the filter looks for.
const MARK: i32 = 0x6164_6974;
/// An answer that does not come within this time does not come.
const PATIENCE: Duration = Duration::from_secs(2);

/// Supervises system calls of children with everything that the backends need.
fn supervision() -> Vec<Finding> {
    let listening = |result| Finding::new("seccomp_listener", result).class(NO_SUPERVISION);
    let (listener, pid) = match under_filter(&startup(), start_ourselves) {
        Ok(started) => started,
        Err(failure) => return vec![listening(Err(failure))],
    };
    let mut findings = match next_request(&listener) {
        Err(failure) => vec![listening(Err(failure))],
        Ok(request) => vec![
            listening(Ok("a child's system call was handed over".to_owned())),
            Finding::new("memory", remote_memory(&request)).class(NO_SUPERVISION),
            Finding::new("descriptors", remote_descriptors(request.tid)).class(NO_SUPERVISION),
            Finding::new("pidfd_getfd", getfd(pid)),
        ],
    };
    end(pid);
    findings.push(Finding::new("inject", injection()).class(NO_SUPERVISION));
    findings
}

const NO_SUPERVISION: &str = "env.no_seccomp_notify";
const NO_TUN: &str = "env.no_tun";

/// A child is looked into after its `execve`, like the programs that will be supervised: before, it would be as
/// opaque as this process, which may hold keys and forbid it. It is our own program, the one file that is surely
/// there, and it waits in the first system call of its C library until it is killed: nothing of it ever runs.
fn start_ourselves() -> Result<i32, String> {
    let mut command = Command::new("/proc/self/exe");
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(|child| child.id() as i32).map_err(|error| failed("starting a child", &error))
}

/// A filter that hands over what every C library calls first.
fn startup() -> Vec<libc::sock_filter> {
    let mut filter = Assembler::default();
    filter.load_nr();
    filter.ret_if_equal(libc::SYS_set_tid_address as u32, Verdict::Notify);
    filter.ret(Verdict::Allow);
    filter.finish()
}

/// Puts a descriptor into a child, which needs no look into it.
fn injection() -> Result<String, String> {
    let fork = || child::fork_trapped_call(MARK, 0).map_err(|error| failed("fork", &error));
    let (listener, pid) = under_filter(&marked(), fork)?;
    let result = next_request(&listener).and_then(|request| inject(&listener, request.id));
    end(pid);
    result
}

/// A filter that hands over the child's call and nothing else.
fn marked() -> Vec<libc::sock_filter> {
    let mut filter = Assembler::default();
    filter.load_nr();
    filter.ret_unless_equal(libc::SYS_getpeername as u32, Verdict::Allow);
    filter.load_arg_low(0);
    filter.ret_if_equal(MARK as u32, Verdict::Notify);
    filter.ret(Verdict::Allow);
    filter.finish()
}

/// Starts a child under a filter. The filter stays on a thread of its own, which ends.
fn under_filter(
    filter: &[libc::sock_filter],
    start: impl FnOnce() -> Result<i32, String> + Send,
) -> Result<(Listener, i32), String> {
    thread::scope(|scope| {
        let starter = scope.spawn(|| {
            set_no_new_privs(true).map_err(|error| failed("no_new_privs", &error.into()))?;
            let listener = Listener::install(filter).map_err(|error| listener_failure(&error))?;
            Ok((listener, start()?))
        });
        starter.join().unwrap_or_else(|_| Err("the experiment panicked".to_owned()))
    })
}

fn next_request(listener: &Listener) -> Result<Request, String> {
    let mut fds = [PollFd::new(listener.fd(), PollFlags::IN)];
    let patience = Timespec::try_from(PATIENCE).unwrap_or_default();
    match rustix::event::poll(&mut fds, Some(&patience)) {
        Ok(1..) => listener.receive().map_err(|error| failed("receiving a system call", &error)),
        _ => Err("the system call of a child was not handed over".to_owned()),
    }
}

fn end(pid: i32) {
    signal::kill(pid, libc::SIGKILL).ok();
    signal::wait(pid).ok();
}

/// Reads the argument of `set_tid_address`, a number of the C library, and writes it back.
fn remote_memory(request: &Request) -> Result<String, String> {
    let mut bytes = [0; 4];
    let copied = match memory::read(request.tid, request.args[0], &mut bytes) {
        Ok(4) => memory::write(request.tid, request.args[0], &bytes),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) => Err(error),
    };
    copied
        .map(|()| "the memory of a child was read and written".to_owned())
        .map_err(|error| failed("reading and writing the memory of a child", &error))
}

fn remote_descriptors(tid: i32) -> Result<String, String> {
    fs::read_dir(format!("/proc/{tid}/fd"))
        .and_then(|mut entries| {
            let entry = entries.next().ok_or(io::ErrorKind::NotFound)??;
            fs::read_link(entry.path())?;
            fs::metadata(format!("/proc/{tid}/ns/net"))
        })
        .map(|_| "the descriptors of a child were read".to_owned())
        .map_err(|error| failed("reading the descriptors of a child", &error))
}

fn getfd(pid: i32) -> Result<String, String> {
    let copied = Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH).and_then(|pid| {
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        // Any open descriptor serves; a child without standard output has others.
        (0..64)
            .map(|fd| pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty()))
            .find(|copy| !matches!(copy, Err(rustix::io::Errno::BADF)))
            .unwrap_or(Err(rustix::io::Errno::BADF))
    });
    match copied {
        Ok(_) => Ok("a child's descriptor was copied".to_owned()),
        Err(rustix::io::Errno::PERM) => {
            Err("not permitted: a container profile asks CAP_SYS_PTRACE for it".to_owned())
        }
        Err(error) => Err(failed("copying a child's descriptor", &error.into())),
    }
}

fn inject(listener: &Listener, id: u64) -> Result<String, String> {
    let fd =
        eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed("making a descriptor", &error.into()))?;
    listener
        .answer_with_fd(id, fd.as_fd(), true)
        .map(|()| "a descriptor was put into a child".to_owned())
        .map_err(|error| failed("putting a descriptor into a child", &error))
}

fn listener_failure(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            "a supervisor is already above this process (another `adit exec`, or Sysbox)".to_owned()
        }
        Some(libc::EINVAL) => "this kernel has no seccomp notification (before 5.0, or gVisor)".to_owned(),
        _ => failed("installing a seccomp filter", error),
    }
}

fn failed(what: &str, error: &io::Error) -> String {
    format!("{what}: {error}")
}

fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn userns() -> Finding {
    let result = match child::namespaces() {
        Ok(()) => Ok("user and network namespaces with capabilities".to_owned()),
        Err((Step::Second, errno)) => Err(format!(
            "the namespace is made and its capabilities are taken: {} (AppArmor restricts user namespaces)",
            os(errno)
        )),
        Err((_, errno)) => Err(failed("unshare", &os(errno))),
    };
    Finding::new("userns", result).class("env.no_userns")
}

fn ptrace() -> Finding {
    let result = match child::ptrace() {
        Ok(()) => Ok("a child was traced".to_owned()),
        Err((Step::Second, errno)) => Err(failed("seccomp stops of a traced child", &os(errno))),
        Err((_, errno)) => Err(failed("tracing a child", &os(errno))),
    };
    Finding::new("ptrace", result).class("env.no_ptrace")
}

fn tun() -> Finding {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    let result = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err("/dev/net/tun does not exist".to_owned())
        }
        Err(error) => Err(failed("/dev/net/tun", &error)),
        Ok(device) => child::tun(&device)
            .map(|()| "a device was made".to_owned())
            .map_err(|error| failed("making a device", &error)),
    };
    Finding::new("tun", result).class(NO_TUN)
}

fn net_admin() -> Finding {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    let has = system().capabilities & CAP_NET_ADMIN != 0;
    Finding::new(
        "net_admin",
        if has { Ok("held".to_owned()) } else { Err("CAP_NET_ADMIN is not held".to_owned()) },
    )
}

fn loopback() -> Finding {
    let exchange = || -> io::Result<()> {
        let address = SocketAddr::new(tcp::next_address(), 0);
        let listener = std::net::TcpListener::bind(address)?;
        std::net::TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE).map(drop)
    };
    let result = exchange().map(|()| "any address of 127.0.0.0/8 can be used".to_owned());
    Finding::new("loopback", result.map_err(|error| failed("a connection within 127.64.0.0/10", &error)))
}

/// The deferred handshake of `exec`, with both ends here.
fn deferred_handshake() -> Finding {
    let result = meet().map(|took| format!("a simultaneous open took {} µs", took.as_micros()));
    Finding::new(
        "deferred_handshake",
        result.map_err(|error| failed("a simultaneous open over a SYN sink", &error)),
    )
}

fn meet() -> io::Result<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let sink = tcp::Sink::open((Ipv4Addr::UNSPECIFIED, 0).into(), false)?;
    let client =
        socket::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)?;
    match socket::connect_now(&client, &sink.target(false)) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
        Ok(()) => return Err(io::Error::other("the sink took the SYN")),
    }
    if socket::tcp_state(&client)? != socket::TCP_SYN_SENT {
        return Err(io::Error::other("the sink took the SYN"));
    }
    let start = Instant::now();
    runtime.block_on(sink.meet(socket::local(&client)?))?;
    Ok(start.elapsed())
}

fn io_uring() -> Finding {
    let result = child::io_uring().map(|()| "available; programs under exec do without".to_owned());
    Finding::new("io_uring", result.map_err(|error| failed("blocked by the sandbox", &error)))
}

fn writable(what: &str, path: &str) -> Finding {
    // Opening changes nothing: the file is neither truncated nor created.
    let result = OpenOptions::new().write(true).open(path);
    Finding::new(what, result.map(|_| format!("{path} can be written")).map_err(|error| failed(path, &error)))
}

fn system() -> System {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map_or("", str::trim)
    };
    let conf = ResolvConf::parse(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    System {
        kernel: kernel.trim().to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        uid: rustix::process::geteuid().as_raw(),
        capabilities: u64::from_str_radix(field("CapEff"), 16).unwrap_or(0),
        no_new_privs: field("NoNewPrivs") == "1",
        seccomp_filters: field("Seccomp_filters").parse().unwrap_or(0),
        container: container().to_owned(),
        ptrace_scope: scope.and_then(|scope| scope.trim().parse().ok()),
        nameservers: conf.servers.iter().map(ToString::to_string).collect(),
        search: conf.search,
    }
}

/// The kind of container, by the marks that each leaves.
fn container() -> &'static str {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    if read("/proc/version").contains("gVisor") {
        "gvisor"
    } else if read("/proc/self/mounts").contains("sysboxfs") {
        "sysbox"
    } else if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        "kubernetes"
    } else if Path::new("/run/.containerenv").exists() {
        "podman"
    } else if Path::new("/.dockerenv").exists() {
        "docker"
    } else if std::env::var_os("container").is_some_and(|kind| kind == "lxc") {
        "lxc"
    } else {
        "none"
    }
}

fn rungs(findings: &[Finding]) -> Vec<Rung> {
    let rung = |mode: &str, supported, needs: &[&str]| {
        let missing =
            needs.iter().find_map(|name| match findings.iter().find(|finding| finding.what == *name) {
                Some(finding) if finding.works => None,
                Some(finding) => Some(format!("{}: {}", finding.what, finding.detail)),
                None => Some(format!("{name}: not tried, because an earlier step failed")),
            });
        Rung {
            mode: mode.to_owned(),
            works: missing.is_none(),
            supported,
            reason: missing.unwrap_or_else(|| "everything that it needs works".to_owned()),
        }
    };
    let mut rungs = vec![
        rung("tun", true, &["tun", "net_admin"]),
        rung(
            "exec-getfd",
            true,
            &["seccomp_listener", "memory", "descriptors", "pidfd_getfd", "loopback", "deferred_handshake"],
        ),
        rung(
            "exec-inject",
            true,
            &["seccomp_listener", "memory", "descriptors", "inject", "loopback", "deferred_handshake"],
        ),
        rung("ptrace", false, &["ptrace", "loopback"]),
        rung("netns", false, &["userns"]),
    ];
    rungs.push(Rung {
        mode: "env".to_owned(),
        works: true,
        supported: true,
        reason: "proxy variables work with programs that honour them".to_owned(),
    });
    rungs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_of_this_machine_has_a_reason_for_every_rung_and_survives_json() {
        let ladder = Ladder::probe();
        assert!(ladder.rungs.iter().all(|rung| !rung.reason.is_empty()), "{ladder:#?}");
        assert!(ladder.finding("seccomp_listener").is_some());
        assert_eq!(ladder.backend(), backend().ok());
        let text = serde_json::to_string(&ladder).expect("json");
        assert_eq!(serde_json::from_str::<Ladder>(&text).expect("json"), ladder);
    }

    #[test]
    fn a_process_that_cannot_be_dumped_finds_the_same() {
        // As if keys were held; other tests of this process do not mind.
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
            .expect("prctl");
        let found = backend();
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable).expect("prctl");
        assert_eq!(found, backend());
        assert!(found.is_ok(), "{found:?}");
    }

    #[test]
    fn without_pidfd_getfd_sockets_are_injected_and_without_a_listener_nothing_works() {
        let finding = |what: &str, works| {
            Finding::new(what, if works { Ok(String::new()) } else { Err("denied".to_owned()) })
        };
        let with = |listener, getfd, inject| {
            choose(&[
                finding("seccomp_listener", listener),
                finding("memory", true),
                finding("descriptors", true),
                finding("pidfd_getfd", getfd),
                finding("inject", inject),
            ])
        };
        assert_eq!(with(true, true, true), Ok(Backend::GetFd));
        assert_eq!(with(true, false, true), Ok(Backend::Inject));
        assert_eq!(with(true, false, false).expect_err("no backend").0, "env.no_seccomp_notify");
        assert_eq!(with(false, true, true).expect_err("no backend").1, "seccomp_listener: denied");
    }
}
