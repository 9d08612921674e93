//! An OCI container as Docker makes one by default: its seccomp profile, its 14 capabilities, its mounts; by runc.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::laboratory::{Lab, in_path, peer};
use super::process::{Outcome, run};
use super::sandbox::plain_environment;

/// What Docker leaves to root in a container.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// A container in the client's namespace. Each [`Container::run`] is a fresh one.
pub(crate) struct Container<'a> {
    lab: &'a Lab,
    bundle: PathBuf,
    uid: u32,
}

impl Lab {
    /// Prepares a container whose programs run as `uid`; the machine's `/usr` and `/etc` are its image, read-only, and
    /// the laboratory's directory is at its own path.
    pub(crate) fn container(&self, test: &str, uid: u32) -> Option<Container<'_>> {
        if !in_path("runc") || !peer("docker-seccomp.json").is_file() {
            adit_tests::skip(test, "runc or Docker's seccomp profile is missing (cargo xtask setup)");
            return None;
        }
        let bundle = self.dir.path().join(format!("bundle-{uid}"));
        let root = bundle.join("rootfs");
        for directory in ["usr", "etc", "proc", "dev", "sys", "tmp", "run", "var/tmp"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), root.join(link)).unwrap();
        }
        let inside = self.dir.path().strip_prefix("/").expect("an absolute path");
        fs::create_dir_all(root.join(inside)).unwrap();
        Some(Container { lab: self, bundle, uid })
    }
}

/// Gives a secret file to the user that a container runs as.
pub(crate) fn in_container(path: &Path, uid: u32) {
    std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
}

impl Container<'_> {
    /// Runs a program in a new container, to its end.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str], environment: &[(&str, &str)], limit: Duration) -> Outcome {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let config = self.config(arguments, environment);
        fs::write(self.bundle.join("config.json"), serde_json::to_vec_pretty(&config).unwrap()).unwrap();
        let name = format!("{}-{}", self.lab.client.name(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.lab.dir.path().join("runc")).args(["run", "--bundle"]);
        command.arg(&self.bundle).arg(name);
        run(&mut command, limit)
    }

    /// The OCI runtime configuration that Docker writes for `docker run IMAGE` (runtime-spec `config.json`).
    fn config(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Value {
        let environment: Vec<String> = plain_environment()
            .iter()
            .chain(environment)
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        // As execve would do it, a plain user's process has the capabilities in its bounding set alone.
        let held: &[&str] = if self.uid == 0 { &CAPABILITIES } else { &[] };
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": { "uid": self.uid, "gid": self.uid },
                "args": arguments,
                "env": environment,
                "cwd": "/tmp",
                "capabilities": { "bounding": CAPABILITIES, "effective": held, "permitted": held },
            },
            "root": { "path": "rootfs" },
            "hostname": "box",
            "mounts": self.mounts(),
            "linux": {
                "namespaces": [
                    { "type": "mount" }, { "type": "uts" }, { "type": "ipc" }, { "type": "pid" },
                    { "type": "network", "path": self.lab.client.path() },
                ],
                "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
                "seccomp": seccomp(&peer("docker-seccomp.json")),
            },
        })
    }

    fn mounts(&self) -> Value {
        let read_only = ["bind", "ro"];
        json!([
            { "destination": "/usr", "source": "/usr", "options": read_only },
            { "destination": "/etc", "source": "/etc", "options": read_only },
            { "destination": "/etc/resolv.conf", "source": self.lab.client.resolv_conf(), "options": read_only },
            // Before the laboratory's own directory, which lies below it.
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"] },
            { "destination": self.lab.dir.path(), "source": self.lab.dir.path(), "options": ["bind", "rw"] },
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
        ])
    }
}

/// Docker's profile in the words of the OCI specification: its rules are chosen by capability, architecture and kernel.
fn seccomp(path: &Path) -> Value {
    let profile: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let rules: Vec<Value> = profile["syscalls"]
        .as_array()
        .expect("the profile has rules")
        .iter()
        .filter(|rule| applies(&rule["includes"], true) && !applies(&rule["excludes"], false))
        .map(|rule| {
            let mut rule = rule.clone();
            let fields = rule.as_object_mut().expect("a rule is an object");
            fields.retain(|key, value| {
                matches!(key.as_str(), "names" | "action" | "args" | "errnoRet") && !value.is_null()
            });
            rule
        })
        .collect();
    json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}

/// Whether a rule's condition holds in a container with Docker's capabilities on this kernel; `empty` when it has none.
fn applies(condition: &Value, empty: bool) -> bool {
    let any = |key: &str, holds: &dyn Fn(&str) -> bool| {
        condition[key].as_array().map(|list| list.iter().filter_map(Value::as_str).any(holds))
    };
    let checks = [
        any("caps", &|name| CAPABILITIES.contains(&name)),
        any("arches", &|name| name == "amd64"),
        // Every kernel that has user notification at all is newer than the versions that the profile asks for.
        condition["minKernel"].as_str().map(|_| true),
    ];
    let mut stated = checks.into_iter().flatten().peekable();
    if stated.peek().is_none() {
        return empty;
    }
    if empty { stated.all(|holds| holds) } else { stated.any(|holds| holds) }
}
