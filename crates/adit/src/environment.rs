//! The stage `env`: what must hold on this machine before anything is connected.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adit_intercept::Launcher;
use adit_path::Budget;
use adit_verify::{Stage, StageReport, StageStatus, Warning, rfc3339};
use rustix::process::{Resource, getrlimit};

use crate::{Failure, failure};

/// Seconds from 1970 to 2026-11-01: no clock that is right shows an earlier time to this program.
pub(crate) const NOT_BEFORE: u64 = 1_793_491_200;

/// Adit itself needs about forty descriptors; a connection takes up to three more.
const FEWEST_FILES: u64 = 64;
/// With smaller buffers than these a few hundred connections use them up.
const SMALL_BUDGET: usize = 16 << 20;

/// How programs will reach the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through this process: the library, proxies, forwards.
    Network,
    /// By interception of their system calls.
    Exec,
}

/// What was found, and what to know of it.
#[derive(Debug)]
pub(crate) struct Environment {
    /// The stage, passed or failed.
    pub(crate) stage: StageReport,
    /// Its warnings.
    pub(crate) warnings: Vec<Warning>,
    /// Why nothing can work here.
    pub(crate) failure: Option<Failure>,
}

/// Looks at the clock, the limits, the memory, and tries what the way of the programs needs.
pub(crate) fn check(way: Way) -> Environment {
    let began = Instant::now();
    let found = Found {
        unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        files: getrlimit(Resource::Nofile).current,
        memory: memory_limit(),
        backend: (way == Way::Exec).then(|| Launcher::backend().map(|backend| backend.to_string())),
    };
    let mut environment = found.judge();
    environment.stage.ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    environment
}

/// The memory for flows: a quarter of what this process may have, and never more than usual.
pub(crate) fn budget() -> Budget {
    budget_within(memory_limit())
}

fn budget_within(limit: Option<u64>) -> Budget {
    let usual = Budget::default();
    let quarter = limit.map_or(usize::MAX, |limit| usize::try_from(limit / 4).unwrap_or(usize::MAX));
    let bytes = usual.bytes.min(quarter);
    Budget { bytes, max_flow: usual.max_flow.min(bytes / 4) }
}

struct Found<E> {
    unix: Duration,
    /// The soft limit of open files; `None` is without limit.
    files: Option<u64>,
    memory: Option<u64>,
    backend: Option<Result<String, E>>,
}

impl<E: ToString> Found<E> {
    fn judge(self) -> Environment {
        let mut stage = StageReport::new(Stage::Env, StageStatus::Ok, 0);
        let mut warnings = Vec::new();
        if let Some(files) = self.files {
            stage = stage.seen("files", files);
        }
        if let Some(memory) = self.memory {
            stage = stage.seen("memory", memory);
        }
        if self.unix.as_secs() < NOT_BEFORE {
            let now = rfc3339(self.unix.as_secs());
            stage = stage.seen("clock", now.as_str());
            warnings.push(warning(&failure::of(
                "env.clock",
                format!("the clock of this machine says {now}, which is before this program was made"),
            )));
        }
        let budget = budget_within(self.memory);
        if budget.bytes < SMALL_BUDGET {
            let (limit, bytes) = (self.memory.unwrap_or_default() >> 20, budget.bytes >> 20);
            warnings.push(warning(&failure::of(
                "env.memory",
                format!(
                    "this process may have {limit} MiB of memory, so connections share {bytes} MiB of buffers"
                ),
            )));
        }
        match &self.backend {
            Some(Ok(backend)) => stage = stage.seen("mode", format!("exec by {backend}")),
            // `exec` itself says what it does then: use proxies, or refuse.
            Some(Err(why)) => stage = stage.seen("mode", "env").seen("not_exec", why.to_string()),
            None => {}
        }
        let failure = self.files.filter(|files| *files < FEWEST_FILES).map(|files| {
            failure::of("env.fd_limit", format!("this process may open only {files} files"))
                .seen(format!("RLIMIT_NOFILE is {files}; {FEWEST_FILES} are the least"))
                .at(Stage::Env)
        });
        if let Some(first) = warnings.first() {
            stage.status = StageStatus::Warn;
            stage.class = Some(first.class.clone());
        }
        if let Some(failure) = &failure {
            stage.status = StageStatus::Fail;
            stage.class = Some(failure.class.clone());
        }
        Environment { stage, warnings, failure }
    }
}

fn warning(failure: &Failure) -> Warning {
    Warning { class: failure.class.clone(), summary: failure.summary.clone() }
}

/// The least of what the control groups and the limit of this process allow, in bytes.
fn memory_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let read = |path: &Path| fs::read_to_string(path).ok();
    group_limit(&groups, &read).into_iter().chain(getrlimit(Resource::As).current).min()
}

/// The least limit of the control groups named in `/proc/self/cgroup`, and of those above them: cgroups(7).
fn group_limit(groups: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let (root, path, file) = match line.splitn(3, ':').collect::<Vec<_>>().as_slice() {
            ["0", "", path] => ("/sys/fs/cgroup", *path, "memory.max"),
            [_, controllers, path] if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", *path, "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let root = Path::new(root);
        let group = root.join(path.trim_start_matches('/'));
        // Within a container the path may be that of the host; the container's own group is the root then.
        let above = group.ancestors().take_while(|group| group.starts_with(root)).map(Path::to_owned);
        above.filter_map(|group| read(&group.join(file))?.trim().parse::<u64>().ok()).min()
    });
    // Version 1 writes a limit beyond all memory where there is none.
    limits.min().filter(|limit| *limit < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found<&'static str> {
        Found { unix: Duration::from_secs(NOT_BEFORE), files: Some(1024), memory: None, backend: None }
    }

    #[test]
    fn an_ordinary_machine_passes_with_what_was_seen() {
        let environment = Found { backend: Some(Ok("pidfd_getfd".to_owned())), ..found() }.judge();
        assert!(environment.failure.is_none() && environment.warnings.is_empty());
        assert_eq!(environment.stage.status, StageStatus::Ok);
        assert_eq!(environment.stage.evidence["mode"], "exec by pidfd_getfd");
        assert_eq!(environment.stage.evidence["files"], 1024);
    }

    #[test]
    fn a_clock_before_the_program_was_made_is_a_warning() {
        let environment = Found { unix: Duration::from_secs(86_400), ..found() }.judge();
        assert_eq!(environment.warnings[0].class, "env.clock");
        assert!(
            environment.warnings[0].summary.contains("1970-01-02"),
            "{}",
            environment.warnings[0].summary
        );
        assert_eq!(environment.stage.status, StageStatus::Warn);
    }

    #[test]
    fn too_few_files_fail_and_many_or_no_limit_do_not() {
        let failed = |files| Found { files, ..found() }.judge().failure.map(|failure| failure.class);
        assert_eq!(failed(Some(63)).as_deref(), Some("env.fd_limit"));
        assert_eq!((failed(Some(64)), failed(None)), (None, None));
    }

    #[test]
    fn buffers_take_a_quarter_of_the_memory_and_little_is_told() {
        assert_eq!(budget_within(None), Budget::default());
        assert_eq!(budget_within(Some(128 << 20)).bytes, 32 << 20);
        let tiny = Found { memory: Some(32 << 20), ..found() }.judge();
        assert_eq!(tiny.warnings[0].class, "env.memory");
        assert!(Found { memory: Some(128 << 20), ..found() }.judge().warnings.is_empty());
    }

    #[test]
    fn the_least_limit_of_all_control_groups_counts() {
        let files = |path: &Path| match path.to_str()? {
            "/sys/fs/cgroup/pod/box/memory.max" => Some("max\n".to_owned()),
            "/sys/fs/cgroup/pod/memory.max" => Some("67108864\n".to_owned()),
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes" => Some("9223372036854771712\n".to_owned()),
            _ => None,
        };
        assert_eq!(group_limit("0::/pod/box\n", &files), Some(64 << 20));
        assert_eq!(group_limit("4:cpu,memory:/a\n0::/\n", &files), None);
        assert_eq!(group_limit("garbage\n\n", &files), None);
    }
}
