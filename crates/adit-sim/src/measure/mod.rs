//! What this machine can do: a WireGuard tunnel between two engines over its loopback, and the floors beside it.
//!
//! Everything here takes the time it is given, and counts the CPU time of the threads that did the work: on a machine
//! that does other things too, that is the steadier of the two.

mod cipher;
mod cpu;
mod tunnel;
mod udp;

use std::time::Duration;

pub use cipher::cipher;
pub use tunnel::{Direction, Loopback, Transfer};
pub use udp::loopback_udp;

/// The largest packet inside a tunnel over Ethernet (wg-quick's default MTU).
pub const PACKET: usize = 1420;

/// What was moved, in which time, by how much work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Bytes that arrived.
    pub bytes: u64,
    /// From the first to the last of them.
    pub wall: Duration,
    /// CPU time of whoever moved them.
    pub cpu: Duration,
}

impl Figure {
    /// 10⁹ bits in a second; 0 where nothing arrived.
    pub fn gbit_per_s(&self) -> f64 {
        let seconds = self.wall.as_secs_f64();
        if seconds > 0.0 { self.bytes as f64 * 8.0 / seconds / 1e9 } else { 0.0 }
    }

    /// CPU seconds for 10⁹ bytes; 0 where nothing arrived.
    pub fn cpu_s_per_gb(&self) -> f64 {
        if self.bytes > 0 { self.cpu.as_secs_f64() / (self.bytes as f64 / 1e9) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gigabyte_in_two_seconds_with_one_of_work() {
        let figure =
            Figure { bytes: 1_000_000_000, wall: Duration::from_secs(2), cpu: Duration::from_secs(1) };
        assert_eq!((figure.gbit_per_s(), figure.cpu_s_per_gb()), (4.0, 1.0));
        let nothing = Figure { bytes: 0, wall: Duration::ZERO, cpu: Duration::ZERO };
        assert_eq!((nothing.gbit_per_s(), nothing.cpu_s_per_gb()), (0.0, 0.0));
    }
}
