//! Runs programs under the supervisor, against a scripted network.
#![allow(dead_code, reason = "every test program uses another part of this module")]

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use adit_intercept::{Backend, Exit, Ladder, Launcher, Options, Program, Running};
use adit_sim::{Host, ScriptedNetwork, Service};

/// The backends that this machine allows; inside a container with Docker's profile that is one.
pub(crate) fn backends() -> Vec<Backend> {
    static ALLOWED: OnceLock<Vec<Backend>> = OnceLock::new();
    let probe = || {
        let ladder = Ladder::probe();
        let mut allowed = vec![Backend::GetFd, Backend::Inject];
        allowed.retain(|backend| {
            let mode = format!("exec-{backend}");
            let rung = ladder.rungs.iter().find(|rung| rung.mode == mode).expect("every backend is a rung");
            if !rung.works {
                println!("SKIPPED backend {backend}: {}", rung.reason);
            }
            rung.works
        });
        assert!(!allowed.is_empty(), "{ladder:#?}");
        allowed
    };
    ALLOWED.get_or_init(probe).clone()
}

/// Skips a test whose tool is missing: counted in the output locally, a failure in CI.
#[macro_export]
macro_rules! need {
    ($tool:expr) => {
        match common::tool($tool) {
            Some(path) => path,
            None => {
                assert!(std::env::var_os("CI").is_none(), "{} is missing", $tool);
                println!("SKIPPED 1 test: {} is missing", $tool);
                return;
            }
        }
    };
}

/// Where a program is, preferring the system's own over wrappers of a version manager.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let own = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/local/go/bin"].map(PathBuf::from);
    own.into_iter().chain(std::env::split_paths(&path)).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// A directory of its own for one test, removed at the end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("adit-exec-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a scratch directory");
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

pub(crate) fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 77, 0, last).into()
}

pub(crate) fn v6(last: u16) -> IpAddr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last).into()
}

/// The network of most tests: `.5` serves, `.6` is 150 ms away, `.7` is silent, `.8` cannot be reached.
pub(crate) fn network() -> ScriptedNetwork {
    let slow = Host::new()
        .tcp(5432, Service::Echo)
        .tcp(80, Service::Unreachable(3, 1))
        .tcp(81, Service::Unreachable(3, 0))
        .udp_echo(7)
        .delay(Duration::from_millis(150));
    let near = Host::new()
        .tcp(5432, Service::Echo)
        .tcp(
            80,
            Service::Say(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello".to_vec()),
        )
        .tcp(81, Service::ResetAfterAccept)
        .tcp(82, Service::Unreachable(3, 1))
        .udp_echo(7);
    ScriptedNetwork::new()
        .host(v4(5), near.clone())
        .host(v6(5), near)
        .host(v4(6), slow.clone())
        .host(v6(6), slow)
        .host(v4(7), Host::silent())
        .name("db.internal", [v4(5), v6(5)])
        .name("slow.internal", [v4(6)])
        .name("gone.internal", [v4(7)])
}

/// How a supervised program ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    pub(crate) output: String,
}

pub(crate) struct Lab {
    pub(crate) network: ScriptedNetwork,
    pub(crate) options: Options,
    pub(crate) scratch: Scratch,
}

impl Lab {
    pub(crate) fn new(backend: Backend) -> Self {
        let scratch = Scratch::new();
        let resolv = scratch.file("resolv.conf");
        fs::write(&resolv, "nameserver 127.0.0.1\n").expect("a resolv.conf");
        let options = Options { backend: Some(backend), resolv_conf: resolv, ..Options::default() };
        Self { network: network(), options, scratch }
    }

    pub(crate) fn spawn(&self, program: &Program) -> Running {
        let network = Arc::new(self.network.clone());
        Launcher::new(network, self.options.clone()).spawn(program).expect("the program starts")
    }

    /// Runs a command whose output goes to a file, at most for a minute.
    pub(crate) fn run<S: Into<OsString>>(&self, argv: impl IntoIterator<Item = S>) -> Outcome {
        let output = self.scratch.file("output");
        let mut words = vec![
            "/bin/sh".into(),
            "-c".into(),
            r#"exec timeout -k 1 60 "$@" >"$0" 2>&1 </dev/null"#.into(),
            output.clone().into_os_string(),
        ];
        words.extend(argv.into_iter().map(Into::into));
        let exit = self.spawn(&Program::new(words)).wait().expect("the program ends");
        Outcome { exit, output: String::from_utf8_lossy(&fs::read(&output).unwrap_or_default()).into_owned() }
    }

    pub(crate) fn python(&self, python: &Path, script: &str) -> Outcome {
        let file = self.scratch.file("script.py");
        fs::write(&file, script).expect("a script");
        self.run([python.as_os_str(), "-X".as_ref(), "faulthandler".as_ref(), file.as_os_str()])
    }

    /// Compiles a C program; `None` if the compiler cannot, for example for want of a 32-bit library.
    pub(crate) fn compile(&self, cc: &Path, source: &str, flags: &[&str]) -> Option<PathBuf> {
        let (code, binary) = (self.scratch.file("program.c"), self.scratch.file("program"));
        fs::write(&code, source).expect("a source file");
        let built = Command::new(cc).args(flags).arg("-o").arg(&binary).arg(&code).output().expect("cc runs");
        if !built.status.success() {
            println!("{}", String::from_utf8_lossy(&built.stderr));
        }
        built.status.success().then_some(binary)
    }
}

impl Outcome {
    /// The output of a program that succeeded.
    pub(crate) fn success(self) -> String {
        assert_eq!(self.exit, Exit::Code(0), "{}", self.output);
        self.output
    }
}
