//! What tells that the machine's own network may be another one: changed addresses and routes, a resume.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use rustix::time::{ClockId, clock_gettime};

use super::token::Source;

/// Changes come in bursts; the tunnel hears of them once, this long after the first.
const SETTLE: Duration = Duration::from_millis(500);
/// A sleep this much longer than asked for was a suspended machine or a frozen container.
const OVERSLEPT: Duration = Duration::from_secs(30);
/// `RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE` (rtnetlink(7)).
const GROUPS: u32 = 0x10 | 0x40 | 0x100 | 0x400;

/// The watcher.
#[derive(Debug)]
pub(crate) struct Watch {
    socket: Option<OwnedFd>,
    changed: Option<Instant>,
    /// Boot time minus monotonic time at the last look: it grows by what the machine was suspended.
    suspended: Duration,
}

impl Watch {
    /// Watches where the system lets us; a sandbox without netlink is told by the tunnel's own timers.
    pub(crate) fn new(registry: &Registry) -> Self {
        let socket = open()
            .inspect_err(|error| tracing::debug!(%error, "changes of the network are not announced here"))
            .ok();
        let socket = socket.filter(|socket| {
            let token = Source::Watch.token();
            registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE).is_ok()
        });
        Self { socket, changed: None, suspended: suspended() }
    }

    /// Reads the announcements away and notes that there were some.
    pub(crate) fn ready(&mut self, now: Instant) {
        let Some(socket) = &self.socket else { return };
        let mut buffer = [0u8; 8192];
        // An overrun (ENOBUFS) is a change like any other.
        while !matches!(
            recv(socket, &mut buffer, RecvFlags::DONTWAIT),
            Err(rustix::io::Errno::AGAIN) | Err(rustix::io::Errno::BADF)
        ) {}
        self.changed.get_or_insert(now + SETTLE);
    }

    /// Notes how long a wait was in truth; `asked` is how long it should have been at most, `suspended` what
    /// [`suspended`] says now.
    pub(crate) fn waited(
        &mut self,
        now: Instant,
        asked: Option<Duration>,
        waited: Duration,
        suspended: Duration,
    ) {
        let slept = suspended.saturating_sub(self.suspended);
        self.suspended = suspended;
        let late = asked.map_or(Duration::ZERO, |asked| waited.saturating_sub(asked));
        if slept + late > OVERSLEPT {
            self.changed = Some(now);
        }
    }

    /// Whether the tunnel must hear of a change now.
    pub(crate) fn take_change(&mut self, now: Instant) -> bool {
        self.changed.take_if(|at| *at <= now).is_some()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.changed
    }
}

/// For how long the machine was suspended since it was started.
pub(crate) fn suspended() -> Duration {
    let since = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    since(ClockId::Boottime).saturating_sub(since(ClockId::Monotonic))
}

fn open() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Protocol 0 of the family is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Duration = Duration::from_secs(100);

    fn watch() -> Watch {
        Watch { socket: None, changed: None, suspended: BEFORE }
    }

    #[test]
    fn a_wait_that_took_much_longer_than_asked_is_a_resume() {
        let now = Instant::now();
        let mut watch = watch();
        watch.waited(now, Some(Duration::from_secs(1)), Duration::from_secs(20), BEFORE);
        assert!(!watch.take_change(now), "a loaded machine is late too");
        watch.waited(now, None, Duration::from_secs(3600), BEFORE);
        assert!(!watch.take_change(now), "an idle tunnel without a deadline waits for long");
        watch.waited(now, Some(Duration::from_secs(1)), Duration::from_secs(40), BEFORE);
        assert!(watch.take_change(now));
        assert!(!watch.take_change(now), "it is told once");
    }

    #[test]
    fn time_spent_in_suspend_is_a_resume_without_any_deadline() {
        let now = Instant::now();
        let mut watch = watch();
        watch.waited(now, None, Duration::ZERO, BEFORE + Duration::from_secs(31));
        assert!(watch.take_change(now));
        watch.waited(now, None, Duration::ZERO, BEFORE + Duration::from_secs(31));
        assert!(!watch.take_change(now), "the same sleep is not counted again");
    }
}
