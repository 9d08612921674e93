//! One direction of a network path: what happens to a datagram on the way.

use std::time::{Duration, Instant};

use crate::net::Rng;

/// IPv4 and UDP headers around a datagram, for the MTU.
const HEADERS: usize = 28;

/// The properties of one direction.
#[derive(Clone, Debug)]
pub struct Link {
    /// Propagation delay.
    pub delay: Duration,
    /// Up to this much is added to the delay; order is kept.
    pub jitter: Duration,
    /// The share of datagrams that are lost.
    pub loss: f64,
    /// Of the next datagrams those are lost whose bit is set, the first by the lowest bit; each one shifts it.
    pub lose: u64,
    /// The share of datagrams that arrive twice.
    pub duplicate: f64,
    /// The share of datagrams that are overtaken: they arrive up to `reorder_delay` late.
    pub reorder: f64,
    /// How late an overtaken datagram is at most.
    pub reorder_delay: Duration,
    /// Bits per second; `None` is unlimited.
    pub rate: Option<u64>,
    /// Bytes that wait for a rate-limited link before the tail is dropped.
    pub queue: usize,
    /// The largest IP packet; larger ones vanish without a word.
    pub mtu: Option<usize>,
    /// Whether everything is lost for now.
    pub cut: bool,
}

/// A link at work.
#[derive(Clone, Debug, Default)]
pub struct Pipe {
    /// Its properties, which may change at any time.
    pub link: Link,
    /// When the last bit of what waits will have been sent.
    busy_until: Option<Instant>,
    /// The latest arrival handed out, which keeps order under jitter.
    latest: Option<Instant>,
}

impl Default for Link {
    /// Ten milliseconds, nothing lost.
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0.0,
            lose: 0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_delay: Duration::from_millis(20),
            rate: None,
            queue: 256 * 1024,
            mtu: None,
            cut: false,
        }
    }
}

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Lost, by chance or because the link is cut.
    Lost,
    /// The queue was full.
    QueueFull,
    /// Larger than the MTU.
    TooBig,
    /// Arrives, perhaps twice.
    Arrives(Instant, Option<Instant>),
}

impl Pipe {
    /// An idle link with these properties.
    pub fn new(link: Link) -> Self {
        Self { link, ..Self::default() }
    }

    /// Decides about a datagram of `len` bytes that is sent now.
    pub fn send(&mut self, now: Instant, len: usize, rng: &mut Rng) -> Fate {
        // All draws happen in every case, so that one changed property does not shift all that follows.
        let (lost, twice, late) =
            (rng.chance(self.link.loss), rng.chance(self.link.duplicate), rng.chance(self.link.reorder));
        let jitter = share(self.link.jitter, rng);
        let lateness = share(self.link.reorder_delay, rng);
        let chosen = self.link.lose & 1 == 1;
        self.link.lose >>= 1;
        if self.link.cut || lost || chosen {
            return Fate::Lost;
        }
        if self.link.mtu.is_some_and(|mtu| len + HEADERS > mtu) {
            return Fate::TooBig;
        }
        let Some(sent) = self.transmit(now, len + HEADERS) else { return Fate::QueueFull };
        let mut arrival = sent + self.link.delay + jitter;
        if late {
            arrival += lateness;
        } else {
            arrival = self.latest.map_or(arrival, |latest| latest.max(arrival));
            self.latest = Some(arrival);
        }
        Fate::Arrives(arrival, twice.then(|| arrival + lateness))
    }

    /// When the last bit leaves; `None` if the queue is full.
    fn transmit(&mut self, now: Instant, len: usize) -> Option<Instant> {
        let Some(rate) = self.link.rate else { return Some(now) };
        let start = self.busy_until.map_or(now, |busy| busy.max(now));
        let waiting = (start - now).as_secs_f64() * rate as f64 / 8.0;
        if waiting as usize + len > self.link.queue {
            return None;
        }
        let end = start + Duration::from_secs_f64(len as f64 * 8.0 / rate as f64);
        self.busy_until = Some(end);
        Some(end)
    }
}

fn share(most: Duration, rng: &mut Rng) -> Duration {
    Duration::from_nanos(rng.below(most.as_nanos() as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(link: &mut Pipe, count: usize, len: usize) -> Vec<Fate> {
        let (now, mut rng) = (Instant::now(), Rng::new(1));
        (0..count).map(|_| link.send(now, len, &mut rng)).collect()
    }

    #[test]
    fn a_rate_spreads_datagrams_and_a_full_queue_drops_the_tail() {
        // 1000 bytes on the wire at 8 kbit/s are one second each.
        let mut link =
            Pipe::new(Link { rate: Some(8000), queue: 3000, delay: Duration::ZERO, ..Link::default() });
        let start = Instant::now();
        let mut rng = Rng::new(1);
        let fates: Vec<_> = (0..4).map(|_| link.send(start, 1000 - HEADERS, &mut rng)).collect();
        let at = |seconds| Fate::Arrives(start + Duration::from_secs(seconds), None);
        assert_eq!(fates, [at(1), at(2), at(3), Fate::QueueFull]);
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let times = |fates: Vec<Fate>| -> Vec<Instant> {
            fates
                .into_iter()
                .filter_map(|fate| if let Fate::Arrives(at, _) = fate { Some(at) } else { None })
                .collect()
        };
        let mut link = Pipe::new(Link { jitter: Duration::from_millis(50), ..Link::default() });
        assert!(times(arrivals(&mut link, 200, 100)).is_sorted());
        let mut link = Pipe::new(Link { reorder: 0.2, ..Link::default() });
        assert!(!times(arrivals(&mut link, 200, 100)).is_sorted());
    }

    #[test]
    fn loss_duplication_and_the_mtu_do_what_they_say() {
        let mut link = Pipe::new(Link { loss: 0.3, duplicate: 0.2, ..Link::default() });
        let fates = arrivals(&mut link, 10_000, 100);
        let lost = fates.iter().filter(|fate| **fate == Fate::Lost).count();
        let twice = fates.iter().filter(|fate| matches!(fate, Fate::Arrives(_, Some(_)))).count();
        assert!((2800..3200).contains(&lost) && (1250..1550).contains(&twice), "{lost} lost, {twice} twice");
        let mut link = Pipe::new(Link { mtu: Some(1280), ..Link::default() });
        assert_eq!(arrivals(&mut link, 1, 1253), [Fate::TooBig]);
        assert!(matches!(arrivals(&mut link, 1, 1252)[0], Fate::Arrives(..)));
    }
}
