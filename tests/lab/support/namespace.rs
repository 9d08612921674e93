//! Network namespaces, and the removal of those that a killed run left behind.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::{run, run_with_input};

/// Every name begins with this and goes on with the pid of the run that owns it.
const PREFIX: &str = "adit-";
const LIMIT: Duration = Duration::from_secs(10);

/// A network namespace of this run. Dropping it removes it.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates a namespace with its loopback up. `lab` is the prefix that [`unique`] gave.
    pub(crate) fn create(lab: &str, role: &str) -> Self {
        let name = format!("{lab}-{role}");
        run(Command::new("ip").args(["netns", "add", &name]), LIMIT).expect(0);
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs lines of `ip` commands in the namespace.
    #[track_caller]
    pub(crate) fn ip(&self, lines: &str) {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]);
        run_with_input(&mut command, lines.as_bytes(), LIMIT).expect(0);
    }

    /// Runs an nftables command in the namespace (nft(8)).
    #[track_caller]
    pub(crate) fn nft(&self, command: &str) {
        run(self.command("nft").arg(command), LIMIT).expect(0);
    }

    /// Sets a kernel parameter of the namespace: `net.ipv4.ip_forward`, `1`.
    pub(crate) fn sysctl(&self, key: &str, value: &str) {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        self.enter(|| fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    }

    /// A command that runs as root in the namespace, with `resolv.conf` as [`Self::set_resolv_conf`] left it.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a closure on a thread inside the namespace. Sockets that it makes stay there.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Where the namespace can be joined by path.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// What programs started with [`Self::command`] see as `/etc/resolv.conf` (ip-netns(8)).
    pub(crate) fn set_resolv_conf(&self, text: &str) {
        let directory = self.etc();
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("resolv.conf"), text).unwrap();
    }

    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.etc().join("resolv.conf")
    }

    fn etc(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// A prefix for the names of one laboratory, not used before on this machine.
pub(crate) fn unique() -> String {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    static SWEEP: Once = Once::new();
    SWEEP.call_once(sweep);
    format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Removes what runs left behind that were killed: their pid is in the name and no longer alive.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if abandoned(&name) {
            end_processes(&name);
            remove(&name);
        }
    }
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_suffix("-lab").is_some_and(abandoned) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn abandoned(name: &str) -> bool {
    let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    owner.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
}

/// Ends what still runs in a namespace of ours; nothing else lives there.
fn end_processes(name: &str) {
    let pids = run(Command::new("ip").args(["netns", "pids", name]), LIMIT);
    for pid in pids.text().lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

fn remove(name: &str) {
    let outcome = run(Command::new("ip").args(["netns", "delete", name]), LIMIT);
    if !outcome.status.success() {
        eprintln!("the namespace {name} stays: {outcome}");
    }
    let etc = Path::new("/etc/netns").join(name);
    if etc.exists() {
        let _ = fs::remove_dir_all(etc);
    }
}
