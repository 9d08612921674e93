//! Which sockets the program still has: what is kept for the others is let go.
//!
//! Nothing tells the supervisor of a `close`. A copy that it keeps holds a port, and what it knows of a socket is
//! worth nothing when the socket is gone; so it looks, every few seconds and only while it knows anything.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::time::Timespec;

use crate::supervisor::Supervisor;
use crate::sys::signal;
use crate::trapped::parse_socket_link;

/// The time between two looks.
const EVERY: Duration = Duration::from_secs(5);

/// Looks until the supervisor stops. What is missing twice in a row is gone: a descriptor on its way from one
/// process to another can be missed once.
/// With a `program`, this process has adopted the orphans of its tree, and they are waited for as well.
pub(crate) fn run(supervisor: &Arc<Supervisor>, program: Option<i32>) {
    let mut suspects = HashSet::new();
    while !supervisor.stops_within(EVERY) {
        if let Some(program) = program {
            signal::reap_orphans(program);
        }
        let known = supervisor.known_inodes();
        if known.is_empty() {
            suspects.clear();
            continue;
        }
        let Some(live) = live_sockets() else { continue };
        let missing: HashSet<u64> = known.difference(&live).copied().collect();
        for inode in missing.intersection(&suspects) {
            supervisor.forget(*inode);
        }
        suspects = missing;
    }
}

impl Supervisor {
    fn stops_within(&self, time: Duration) -> bool {
        let Ok(timeout) = Timespec::try_from(time) else { return true };
        let mut fds = [PollFd::new(self.stop_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => false,
            Ok(_) | Err(_) => true,
        }
    }
}

/// The inodes of the sockets that other processes have open; `None` if a process below us cannot be looked into.
pub(crate) fn live_sockets() -> Option<HashSet<u64>> {
    let me = std::process::id();
    let parents = parents().ok()?;
    let mut live = HashSet::new();
    for &pid in parents.keys().filter(|pid| **pid != me) {
        match sockets_of(pid, &mut live) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && descends(pid, me, &parents) => {
                return None;
            }
            _ => {}
        }
    }
    Some(live)
}

fn sockets_of(pid: u32, live: &mut HashSet<u64>) -> io::Result<()> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let target = entry.and_then(|entry| fs::read_link(entry.path()));
        live.extend(target.ok().and_then(|target| parse_socket_link(target.as_os_str().as_encoded_bytes())));
    }
    Ok(())
}

/// The parent of every process; zombies are left out.
fn parents() -> io::Result<HashMap<u32, u32>> {
    let mut parents = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        parents.extend(parse_stat(&stat).map(|parent| (pid, parent)));
    }
    Ok(parents)
}

/// The parent in `/proc/PID/stat` (proc(5)); the name in parentheses may hold anything.
fn parse_stat(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    let state = words.next()?;
    if state == "Z" { None } else { words.next()?.parse().ok() }
}

fn descends(pid: u32, from: u32, parents: &HashMap<u32, u32>) -> bool {
    let mut at = pid;
    // A chain is no longer than the table; a table read while processes move could hold a loop.
    for _ in 0..parents.len() {
        match parents.get(&at) {
            Some(&parent) if parent == from => return true,
            Some(&parent) => at = parent,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_a_name_that_looks_like_numbers() {
        assert_eq!(parse_stat("12 (a) S 99 (b)) S 7 12 12 0"), Some(7));
        assert_eq!(parse_stat("12 (sh) Z 7 12"), None);
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn descent_is_followed_and_a_loop_ends() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 3), (8, 9), (9, 8)]);
        assert!(descends(4, 2, &parents));
        assert!(!descends(2, 4, &parents));
        assert!(!descends(8, 1, &parents));
    }
}
