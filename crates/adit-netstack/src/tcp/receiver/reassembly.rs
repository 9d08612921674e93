//! Which parts of a stream have arrived.

/// More gaps than this are not remembered; what would make another one is dropped and comes again.
const MAX_RANGES: usize = 256;

/// The part of a stream that is complete, and the ranges beyond its end.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    /// Everything before it has arrived.
    next: u64,
    /// Sorted; neither overlapping nor touching each other or `next`.
    ranges: Vec<Range>,
    /// Counts changes.
    changes: u32,
    /// The change up to which the peer knows.
    known: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    from: u64,
    to: u64,
    /// The change that touched it last.
    change: u32,
}

impl Reassembly {
    /// Everything before it has arrived.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Nothing has arrived beyond it.
    pub(super) fn furthest(&self) -> u64 {
        self.ranges.last().map_or(self.next, |range| range.to)
    }

    pub(super) fn has_gap(&self) -> bool {
        !self.ranges.is_empty()
    }

    /// The first part of what lies between two offsets that has arrived beyond a gap.
    pub(super) fn overlap(&self, from: u64, to: u64) -> Option<(u64, u64)> {
        let range = self.ranges.get(self.ranges.partition_point(|range| range.to <= from))?;
        (range.from < to).then_some((range.from.max(from), range.to.min(to)))
    }

    /// Takes note of bytes between two offsets, of which the first is not before [`next`](Self::next). `false` if there are
    /// too many ranges already.
    pub(super) fn add(&mut self, from: u64, to: u64) -> bool {
        if from == self.next && self.ranges.is_empty() {
            self.next = to;
            return true;
        }
        // All that overlap or touch.
        let first = self.ranges.partition_point(|range| range.to < from);
        let last = self.ranges.partition_point(|range| range.from <= to);
        let touched = self.ranges.get(first..last).unwrap_or_default();
        let from = touched.first().map_or(from, |range| range.from.min(from));
        let to = touched.last().map_or(to, |range| range.to.max(to));
        if from <= self.next {
            self.next = self.next.max(to);
            self.ranges.drain(first..last);
            return true;
        }
        self.changes = self.changes.wrapping_add(1);
        let range = Range { from, to, change: self.changes };
        if let Some(place) = self.ranges.get_mut(first).filter(|_| first < last) {
            *place = range;
            self.ranges.drain(first + 1..last);
        } else if self.ranges.len() < MAX_RANGES {
            self.ranges.insert(first, range);
        } else {
            return false;
        }
        true
    }

    /// How many ranges have changed since the peer was told.
    pub(super) fn untold(&self) -> usize {
        let since = self.changes.wrapping_sub(self.known) as usize;
        // Each change touches one range.
        since.min(self.ranges.len())
    }

    /// The peer was told of all changes.
    pub(super) fn told(&mut self) {
        self.known = self.changes;
    }

    /// Hands up to `count` ranges to `take`, the one that changed last first.
    pub(super) fn recent(&self, count: usize, mut take: impl FnMut((u64, u64))) {
        let mut before = None;
        for _ in 0..count {
            let age = |range: &Range| self.changes.wrapping_sub(range.change);
            let next =
                self.ranges.iter().filter(|range| before.is_none_or(|age_before| age(range) > age_before));
            let Some(range) = next.min_by_key(|range| age(range)) else { return };
            before = Some(age(range));
            take((range.from, range.to));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn recent(reassembly: &Reassembly, count: usize) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        reassembly.recent(count, |range| all.push(range));
        all
    }

    #[test]
    fn ranges_are_told_by_how_recently_they_changed() {
        let mut reassembly = Reassembly::default();
        for (from, to) in [(10, 20), (30, 40), (50, 60), (70, 80), (40, 42)] {
            assert!(reassembly.add(from, to));
        }
        assert_eq!(recent(&reassembly, 3), [(30, 42), (70, 80), (50, 60)]);
        assert_eq!(recent(&reassembly, 9).len(), 4);
        assert_eq!(reassembly.untold(), 4);
        reassembly.told();
        assert_eq!(reassembly.untold(), 0);
        assert!(reassembly.add(0, 30));
        assert_eq!((reassembly.next(), recent(&reassembly, 3)), (42, vec![(70, 80), (50, 60)]));
    }

    #[test]
    fn what_came_before_is_found() {
        let mut reassembly = Reassembly::default();
        assert!(reassembly.add(10, 20));
        assert_eq!(reassembly.overlap(5, 10), None);
        assert_eq!(reassembly.overlap(5, 12), Some((10, 12)));
        assert_eq!(reassembly.overlap(15, 30), Some((15, 20)));
        assert_eq!(reassembly.overlap(20, 30), None);
    }

    #[test]
    fn there_are_only_so_many_ranges_and_gaps_can_still_be_filled() {
        let mut reassembly = Reassembly::default();
        let added = (1..10_000).filter(|n| reassembly.add(n * 10, n * 10 + 5)).count();
        assert_eq!(added, MAX_RANGES);
        assert!(reassembly.add(0, 10) && reassembly.add(15, 20));
        assert_eq!(reassembly.next(), 25);
    }

    proptest! {
        #[test]
        fn ranges_agree_with_a_map_of_bytes(adds in proptest::collection::vec((0u64..300, 1u64..40), 1..80)) {
            let mut reassembly = Reassembly::default();
            let mut model = [false; 400];
            for (from, len) in adds {
                let (from, to) = (from.max(reassembly.next()), (from + len).max(reassembly.next()));
                if from == to {
                    continue;
                }
                prop_assert_eq!(reassembly.overlap(from, to).is_some(), model[from as usize..to as usize].contains(&true));
                prop_assert!(reassembly.add(from, to));
                model[from as usize..to as usize].fill(true);
                let next = model.iter().position(|known| !known).unwrap();
                prop_assert_eq!(reassembly.next(), next as u64);
                let mut beyond = [false; 400];
                let all = recent(&reassembly, 1000);
                for (from, to) in &all {
                    beyond[*from as usize..*to as usize].fill(true);
                }
                prop_assert_eq!(all.len(), reassembly.ranges.len());
                prop_assert_eq!(&beyond[next..], &model[next..]);
                prop_assert!(reassembly.ranges.windows(2).all(|pair| pair[0].to < pair[1].from));
            }
        }
    }
}
