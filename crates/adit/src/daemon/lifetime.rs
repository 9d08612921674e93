//! What ends a daemon besides `adit down`: signals, the end of another process, idleness.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::Daemon;

/// How often idleness is looked at, at most.
const IDLE_CHECK: Duration = Duration::from_secs(5);

/// Waits for SIGINT or SIGTERM; returns its number. SIGHUP, which a closing terminal sends, counts too.
pub async fn termination() -> io::Result<i32> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => Ok(SignalKind::interrupt().as_raw_value()),
        _ = terminate.recv() => Ok(SignalKind::terminate().as_raw_value()),
        _ = hangup.recv() => Ok(SignalKind::hangup().as_raw_value()),
    }
}

/// Waits for the end of a process, which need not be a child. One that is gone already ends at once.
pub async fn exit_of_process(pid: i32) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(pid) else { return Err(io::ErrorKind::InvalidInput.into()) };
    let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(descriptor) => descriptor,
        Err(Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let (over, end) = oneshot::channel();
    // A thread of its own, which nobody waits for: a runtime could not end before its blocking tasks.
    thread::Builder::new().name("adit-exit-with".to_owned()).spawn(move || {
        let mut polled = [PollFd::new(&descriptor, PollFlags::IN)];
        while matches!(poll(&mut polled, None), Err(Errno::INTR)) {}
        // Nobody waits any more when the daemon has ended for another reason.
        let _ended = over.send(());
    })?;
    end.await.map_err(io::Error::other)
}

/// Waits until nothing has used the network for `limit`: no connection and no endpoint, other than those of
/// the daemon's own checks.
pub async fn idle(daemon: &Daemon, limit: Duration) {
    let mut since = Instant::now();
    loop {
        let left = limit.saturating_sub(since.elapsed());
        if left.is_zero() {
            return;
        }
        sleep(left.min(IDLE_CHECK)).await;
        let busy = {
            let status = daemon.network().status();
            let counters = &status.borrow().counters;
            counters.tcp_flows + counters.udp_flows > 0
        };
        if busy && !daemon.is_verifying() {
            since = Instant::now();
        }
    }
}
