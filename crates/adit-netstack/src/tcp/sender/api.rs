//! What a connection says to its sender and hears from it.

use std::time::{Duration, Instant};

use crate::CongestionControl;

/// What a sender is made of. It is made when the handshake is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SenderConfig {
    /// Payload bytes of a full packet: what the peer takes, less the options that every packet carries.
    pub(crate) mss: u16,
    /// Payload bytes that every path takes, by the smallest MTU that it may have.
    pub(crate) least: u16,
    /// The congestion control.
    pub(crate) control: CongestionControl,
    /// The peer reports what it has received beyond a gap (RFC 2018).
    pub(crate) sack: bool,
    /// Initial congestion window in packets: 10 (RFC 6928), or 1 after a lost SYN (RFC 5681, section 3.1).
    pub(crate) initial_window: u16,
    /// Bytes that the peer takes from offset 0, scaled.
    pub(crate) window: u64,
    /// Round trip of the handshake, unless a SYN was sent twice or waited for the tunnel.
    pub(crate) handshake: Option<Duration>,
}

/// What an acceptable segment of the peer says about our data. Offsets count payload bytes from 0; a FIN is one
/// unit after the last byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack<'a> {
    /// Everything before it has arrived. More than was ever sent is ignored together with the rest.
    pub(crate) acknowledged: u64,
    /// Bytes that the peer takes beyond `acknowledged`, scaled; `None` if the segment is too old to say so
    /// (RFC 9293, section 3.10.7.4).
    pub(crate) window: Option<u64>,
    /// Blocks of a SACK option in any order, without the block of a D-SACK; senseless ones are ignored.
    pub(crate) sacked: &'a [(u64, u64)],
    /// The first block of the SACK option if it is a D-SACK (RFC 2883): it ends at or before `acknowledged`, or
    /// lies in the second block.
    pub(crate) duplicate: Option<(u64, u64)>,
    /// When the timestamp that the segment echoes was current, rounded down to [`TICK`].
    pub(crate) echo: Option<Instant>,
    /// The segment has neither payload nor FIN, so that it may be a duplicate ACK (RFC 5681, section 2).
    pub(crate) bare: bool,
}

/// Resolution of the timestamps that a connection writes, and so of [`Ack::echo`].
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Why a segment leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It has not been sent before.
    New,
    /// It has been sent before and is taken for lost.
    Retransmit,
    /// The last data again, or new data, to hear whether the tail arrived (RFC 8985, section 7).
    TailProbe,
    /// New data in one packet that is larger than [`Sender::mss`](super::Sender::mss), to see whether such packets pass
    /// (RFC 4821, section 7.1). The connection does not cut it.
    SizeProbe,
    /// Without data, one unit before `start`, so that the peer says its window (RFC 9293, section 3.8.6.1).
    WindowProbe,
}

/// What has to be sent now: payload bytes and perhaps the FIN between two offsets. The connection cuts it every
/// [`Sender::mss`](super::Sender::mss) bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) kind: Kind,
}

/// What keeps a sender from sending more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// There is no more data.
    #[default]
    Application,
    /// The congestion window is full.
    Congestion,
    /// The peer's window is full.
    Peer,
    /// Data is let out at the pacing rate.
    Pacing,
    /// The rest waits until it makes a larger segment.
    Deferred,
}

/// Counters and state of a sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SenderStats {
    /// Bytes that were sent again.
    pub(crate) retransmitted: u64,
    /// Bytes that were taken for lost.
    pub(crate) lost: u64,
    /// Expiries of the retransmission timer.
    pub(crate) timeouts: u32,
    /// Tail loss probes.
    pub(crate) probes: u32,
    /// Reductions of the window that turned out to be wrong and were taken back.
    pub(crate) undone: u32,
    /// What keeps it from sending more.
    pub(crate) blocked: Blocked,
}
