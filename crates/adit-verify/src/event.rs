//! What happens while it happens: progress for people, NDJSON for programs.

use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::{Failure, Stage, StageReport, Verified};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The connection is being made.
    Connecting {
        /// The profile.
        #[serde(skip_serializing_if = "Option::is_none")]
        profile: Option<String>,
        /// The provider.
        #[serde(skip_serializing_if = "Option::is_none")]
        provider: Option<String>,
    },
    /// Somebody must open a page.
    AuthRequired {
        /// The page.
        url: String,
        /// The page as a QR code in text.
        #[serde(skip_serializing_if = "Option::is_none")]
        qr: Option<String>,
        /// How long it can be used, in milliseconds, where that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    },
    /// Somebody must do something elsewhere, such as approve this machine; it goes on by itself then.
    ActionRequired {
        /// The class of what is missing.
        class: String,
        /// What is missing.
        summary: String,
        /// What to do, the likeliest first.
        fix: Vec<String>,
        /// How long it is waited for, in milliseconds.
        wait_ms: u64,
    },
    /// The server accepted us.
    Authenticated,
    /// Packets pass.
    Connected {
        /// Our addresses.
        addresses: Vec<IpAddr>,
    },
    /// A stage ended.
    Verifying(StageReport),
    /// A stage still runs; comes every five seconds.
    Waiting {
        /// Which stage.
        id: Stage,
        /// The target, for the stages that have one.
        #[serde(skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        /// How long it has been running, in milliseconds.
        elapsed_ms: u64,
        /// How long it may take, in milliseconds.
        limit_ms: u64,
    },
    /// A stage failed in a way that may heal by itself while the network spreads its names, routes and permissions; it is
    /// tried again.
    Provisional {
        /// Which stage.
        id: Stage,
        /// The target, for the stages that have one.
        #[serde(skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        /// The class that the failure would have.
        class: String,
        /// Its sentence.
        summary: String,
        /// How long it is tried again at most, in milliseconds.
        wait_ms: u64,
    },
    /// Everything that was asked for is proved.
    Verified {
        /// How much that is.
        verified: Verified,
        /// How long it took, in milliseconds.
        duration_ms: u64,
    },
    /// The verification failed.
    Failed(Failure),
    /// Checks of a running session fail.
    Degraded(Failure),
    /// Checks of a running session succeed again.
    Recovered,
    /// A key or certificate will expire.
    KeyExpiring {
        /// When (RFC 3339).
        at: String,
    },
    /// The session ended.
    Disconnected,
}

impl Event {
    /// One line of NDJSON, without line feed. `time` is RFC 3339.
    pub fn ndjson(&self, time: &str) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            #[serde(flatten)]
            event: &'a Event,
            time: &'a str,
        }
        serde_json::to_string(&Line { event: self, time }).unwrap_or_default()
    }
}

/// Whoever wants to know what happens. Called from the verification's task: it must not block.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn notice(&self, event: Event);

    /// A stage begins that may take `limit`. Its end is an [`Event::Verifying`], unless the run's own deadline ends it.
    fn began(&self, stage: Stage, target: Option<&str>, limit: Duration) {
        let _ = (stage, target, limit);
    }
}

impl<F: Fn(Event) + Send + Sync> Observer for F {
    fn notice(&self, event: Event) {
        self(event);
    }
}

/// Milliseconds, saturating.
pub(crate) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StageStatus;

    #[test]
    fn a_stage_event_is_the_stage_object_with_its_event_and_time() {
        let stage = StageReport::new(Stage::Dns, StageStatus::Ok, 44).seen("name", "db.internal");
        assert_eq!(
            Event::Verifying(stage).ndjson("2026-11-23T08:00:00Z"),
            r#"{"event":"verifying","id":"dns","status":"ok","ms":44,"evidence":{"name":"db.internal"},"time":"2026-11-23T08:00:00Z"}"#
        );
        assert_eq!(
            Event::Disconnected.ndjson("2026-11-23T08:00:00Z"),
            r#"{"event":"disconnected","time":"2026-11-23T08:00:00Z"}"#
        );
    }
}
